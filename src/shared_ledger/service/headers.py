"""What every answer says to browsers and caches, beside its content."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared_ledger.service.asked import HEADER, asked_of

SAFE = (
    # It is what it says it is, and nobody keeps it, shows it within another page or runs it.
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
)
HTTPS_ONLY = (b"strict-transport-security", b"max-age=31536000")
"""For a year browsers come by HTTPS only (RFC 6797); not in development, which has none."""
CLOSE = (b"connection", b"close")

_USUAL = 2


class SafeHeaders:
    """ASGI middleware that adds these headers to every answer, where it does not say otherwise.

    It notes of each request what is answered, and answers with its id. While the process is
    ``leaving`` each connection ends with its next answer, so that clients turn to another.
    """

    def __init__(self, app: ASGIApp, *, production: bool, leaving: Callable[[], bool]) -> None:
        self._app = app
        self._headers: Sequence[tuple[bytes, bytes]]
        self._headers = (*SAFE, HTTPS_ONLY) if production else SAFE
        self._leaving = leaving

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        asked = asked_of(scope)

        def safe(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = message["headers"]
                more = self._headers
                # Most answers say how long they are and, after that, of what type.
                if len(headers) != _USUAL or headers[0][0] != b"content-length":
                    said = dict(headers)
                    more = [header for header in more if header[0] not in said]
                message["headers"] = [*headers, *more]
                asked.status = message["status"]
                message["headers"].append((HEADER, asked.request_id.encode()))
                if self._leaving():
                    message["headers"].append(CLOSE)
            return send(message)

        return self._app(scope, receive, safe)
