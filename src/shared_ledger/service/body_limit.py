"""How long a body may be that FastAPI reads; the direct routes count what they read themselves."""

from __future__ import annotations

from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class LimitedBodies:
    """ASGI middleware that lets no application read more of a body than ``limit`` bytes.

    Whoever does is answered 413.
    """

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        left = self._limit

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise too_long(self._limit)
            return message

        await self._app(scope, counted if scope["type"] == "http" else receive, send)


def too_long(limit: int) -> HTTPException:
    """Return what is raised for a body that is longer than ``limit`` bytes."""
    return HTTPException(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is longer than {limit} bytes"
    )
