"""One service alone, at the root, under whatever server runs ASGI applications."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared_ledger.errors import ConfigurationError, LedgerError
from shared_ledger.service.app import create_app
from shared_ledger.service.observers import observers_of
from shared_ledger.service.service import Service
from shared_ledger.service.signals import calling_at_signals
from shared_ledger.settings import load_settings


def alone(service: Service) -> FastAPI:
    """Make the application of one service, as the environment says, for ``uvicorn module:app``.

    What the process logs goes where the environment says, too.

    What is wrong with the settings or the database ends the program with one line.
    """
    try:
        settings = load_settings()
        app = create_app(service, settings, observers=observers_of(settings))
    except ConfigurationError as error:
        raise SystemExit(f"shared-ledger: {error}") from None
    app.add_middleware(PlainStart, leave=app.state.leaving.set)
    return app


class PlainStart:
    """ASGI middleware that tells the server in one line why the ledger cannot be opened.

    Starlette would tell it with a traceback. A signal that ends the server calls ``leave`` at once.
    """

    def __init__(self, app: ASGIApp, leave: Callable[[], None]) -> None:
        self._app = app
        self._leave = leave

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or run the application from its start to its end."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        failed: Message | None = None

        async def told(message: Message) -> None:
            nonlocal failed
            if message["type"] == "lifespan.startup.failed":
                failed = message
            else:
                await send(message)

        try:
            with calling_at_signals(self._leave):
                await self._app(scope, receive, told)
        except LedgerError as error:
            if failed is None:
                raise
            await send({"type": failed["type"], "message": f"shared-ledger: {error}"})
        except BaseException:
            if failed is not None:
                await send(failed)
            raise
