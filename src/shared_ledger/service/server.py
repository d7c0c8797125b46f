"""Run the service until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import uvicorn
import uvloop
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from shared_ledger.errors import LedgerError
from shared_ledger.ledger import Ledger
from shared_ledger.operations import Application
from shared_ledger.service.app import create_app
from shared_ledger.service.connection import BoundedConnection
from shared_ledger.service.observers import observers_of
from shared_ledger.service.service import Service
from shared_ledger.settings import Settings, levels_of
from shared_ledger.writer import SWITCH_INTERVAL_S

# Postings leave no cycles behind, but all that are under way are more objects than the default of
# 700 by far: the collector would walk through them again and again, for a tenth of all the time.
COLLECTOR = (50_000, 20, 20)
GRACE_S = 10
BACKLOG = 2_048
CHECK_INTERVAL_S = 1.0
TICK_S = 0.1


def listen(host: str, port: int) -> socket.socket:
    """Open the port that is to be served; port 0 is any free one.

    Raises
    ------
    LedgerError
        If that cannot be: the port is in use, or the host is not this one.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:
        # Python adds to the reason, in brackets, what the sentence says already.
        reason = str(getattr(error, "strerror", None) or error).partition(" (")[0]
        raise LedgerError(f"cannot listen on {host} port {port}: {reason}") from None


def serve(
    application: Service | Application[Any],
    settings: Settings,
    *,
    beside: Sequence[Service] = (),
    on_ready: Callable[[Ledger[Any]], None] = lambda _: None,
    listener: socket.socket | None = None,
) -> None:
    """Serve on the settings' host and port; SIGINT and SIGTERM end it, and answer what was taken.

    ``listener`` is the port, if ``listen`` has opened it already. What this process logs goes where
    the settings say from then on.

    Raises
    ------
    LedgerError
        If the port or the ledger cannot be opened.
    """
    observers = observers_of(settings)
    app = create_app(application, settings, beside=beside, on_ready=on_ready, observers=observers)
    run(app, settings, listener=listener)


def run(app: FastAPI, settings: Settings, *, listener: socket.socket | None = None) -> None:
    """Serve an application that ``create_app`` made, as ``serve`` does."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What is loaded by now stays: the collector need not walk through it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR)
    server = _server_of(app, settings)
    with (
        listener or listen(settings.host, settings.port) as port,
        _signals(app, server),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        runner.run(_serve(app, server, port))


def _server_of(app: FastAPI, settings: Settings) -> _Server:
    config = uvicorn.Config(
        _entrance(app),
        interface="asgi3",
        http=BoundedConnection,
        lifespan="off",
        access_log=False,
        server_header=False,
        # Said in any case: uvicorn would believe whoever is on this machine.
        proxy_headers=bool(settings.forwarded_allow_ips),
        forwarded_allow_ips=settings.forwarded_allow_ips,
        log_config=None,
        log_level=levels_of(settings.log_levels).get("uvicorn", "warning"),
        backlog=BACKLOG,
        timeout_graceful_shutdown=GRACE_S,
    )
    return _Server(config, app.state.leaving, settings.shutdown_delay_s)


def _entrance(app: FastAPI) -> ASGIApp:
    """Return the way into an application that leads past what FastAPI awaits around it."""
    app.middleware_stack = inner = app.build_middleware_stack()

    def enter(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["app"] = app
        return inner(scope, receive, send)

    return enter


class _Server(uvicorn.Server):
    """Uvicorn's server, which says that it leaves, and waits for no client for ever."""

    def __init__(self, config: uvicorn.Config, leaving: threading.Event, delay_s: float) -> None:
        super().__init__(config)
        self._leaving = leaving
        self._delay_s = delay_s

    async def watch(self) -> None:
        """End requests that take too long to arrive, until cancelled."""
        while True:
            await asyncio.sleep(CHECK_INTERVAL_S)
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedConnection):
                    connection.check(leaving=self._leaving.is_set())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let those know who send requests here, then answer what was taken and close."""
        self._leaving.set()
        until = time.monotonic() + self._delay_s
        while time.monotonic() < until and not self.force_exit:
            await self.on_tick(0)  # which keeps the date that is sent
            await asyncio.sleep(TICK_S)
        await super().shutdown(sockets)


async def _serve(app: FastAPI, server: _Server, port: socket.socket) -> None:
    # Not left to uvicorn, which would log as a traceback why the ledger cannot be opened.
    async with app.router.lifespan_context(app):
        watch = asyncio.create_task(server.watch(), name="shared-ledger-connections")
        try:
            await server.serve(sockets=[port])
        finally:
            watch.cancel()


@contextmanager
def _signals(app: FastAPI, server: uvicorn.Server) -> Iterator[None]:
    """Let a signal end the server in order once the ledger is open, and us at once before that.

    Uvicorn handles signals only while it serves, and raises them once more when it has ended.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, _: FrameType | None) -> None:
        if hasattr(app.state, "ledger"):
            server.should_exit = True
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
