"""HEAD, which asks what GET would answer without the body (RFC 9110, 9.3.2)."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class _Enough(Exception):
    """The head is sent: what comes after it need not be made."""


class HeadRequests:
    """ASGI middleware that has HEAD answered as GET.

    The server leaves the body out: it still knows what was asked. A body that comes in pieces is
    cut off, since one of events has no end.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return self._app(scope, receive, send)
        return self._head(scope, receive, send)

    async def _head(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def first(message: Message) -> None:
            if message["type"] == "http.response.body" and message.get("more_body", False):
                await send({"type": "http.response.body"})
                raise _Enough
            await send(message)

        try:
            await self._app({**scope, "method": "GET"}, receive, first)
        except _Enough:
            return
