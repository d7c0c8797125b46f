"""Which application answers: each has a path of its own below ``/api/v1/``."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from shared_ledger.service.service import PREFIX


class Mounts:
    """ASGI middleware that hands a request on to the application whose path it begins with.

    One look into a dictionary, before the routes of the application at the root are tried.
    """

    def __init__(self, app: ASGIApp, mounted: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._mounted = {path.removeprefix(PREFIX): served for path, served in mounted.items()}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        if scope["type"] == "http" and self._mounted:
            root = scope.get("root_path", "")
            path = scope["path"].removeprefix(root)
            if path.startswith(PREFIX):
                name = path[len(PREFIX) :].partition("/")[0]
                served = self._mounted.get(name)
                if served is not None:
                    scope["root_path"] = root + PREFIX + name
                    return served(scope, receive, send)
        return self._app(scope, receive, send)
