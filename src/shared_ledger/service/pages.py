"""The documentation pages, which run their own scripts and nobody else's, and load nothing more.

Where they are, their scripts are too: they work where there is no internet.
"""

from __future__ import annotations

import base64
import hashlib
import re

from fastapi import FastAPI, Request
from fastapi.openapi.docs import (
    get_redoc_html,
    get_swagger_ui_html,
    get_swagger_ui_oauth2_redirect_html,
)
from starlette.responses import HTMLResponse

DOCS = "/docs"
REDIRECT = "/docs/oauth2-redirect"
REDOC = "/redoc"
OPENAPI = "/openapi.json"
STATIC = "/static-offline-docs"
"""Where ``FastAPIOffline`` serves the scripts and styles."""

# Both pages write styles of their own; Redoc searches in a worker, which it makes of a blob.
_POLICY = (
    "default-src 'none'; script-src 'self' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_SCRIPT = re.compile(r"<script>(.+?)</script>", re.DOTALL)


def add_pages(app: FastAPI) -> None:
    """Serve the pages of an application that ``FastAPIOffline`` made without them."""

    @app.get(DOCS, include_in_schema=False)
    async def swagger(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return _page(
            get_swagger_ui_html(
                openapi_url=root + OPENAPI,
                title=app.title,
                oauth2_redirect_url=root + REDIRECT,
                swagger_js_url=f"{root}{STATIC}/swagger-ui-bundle.js",
                swagger_css_url=f"{root}{STATIC}/swagger-ui.css",
                swagger_favicon_url=f"{root}{STATIC}/favicon.png",
            )
        )

    @app.get(REDIRECT, include_in_schema=False)
    async def swagger_redirect() -> HTMLResponse:
        return _page(get_swagger_ui_oauth2_redirect_html())

    @app.get(REDOC, include_in_schema=False)
    async def redoc(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        return _page(
            get_redoc_html(
                openapi_url=root + OPENAPI,
                title=app.title,
                redoc_js_url=f"{root}{STATIC}/redoc.standalone.js",
                redoc_favicon_url=f"{root}{STATIC}/favicon.png",
                with_google_fonts=False,
            )
        )


def _page(page: HTMLResponse) -> HTMLResponse:
    """Let a page run the scripts that are written in it (CSP level 3, 2.3.1)."""
    scripts = _SCRIPT.findall(bytes(page.body).decode())
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()) for script in scripts]
    sources = " ".join(f"'sha256-{each.decode()}'" for each in hashes)
    page.headers["content-security-policy"] = _POLICY.format(hashes=sources)
    return page
