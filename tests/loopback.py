"""HTTP servers of a test's own on this machine's loopback: real sockets, a thread each."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

START_TIMEOUT_S = 10


@contextmanager
def served(app: ASGIApp, *, certificate: Path | None = None) -> Iterator[str]:
    """Serve an application while the block runs; yields its host and port.

    ``certificate`` is a file with a private key and its certificate, for TLS.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        timeout_graceful_shutdown=1,
        # The client is who connects.
        proxy_headers=False,
        ssl_certfile=certificate,
        ssl_keyfile=certificate,
    )
    server = uvicorn.Server(config)
    with _listener() as listener:
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not server.started:
            assert thread.is_alive(), "the server ended at once"
            assert time.monotonic() < give_up_at, "the server does not start"
            time.sleep(0.005)
        try:
            yield _place(listener)
        finally:
            server.should_exit = True
            thread.join()


@contextmanager
def answered(answer: bytes | None) -> Iterator[str]:
    """Answer each connection's first bytes with these, and hang up; with ``None``, say nothing."""
    with _listener() as listener:
        open_ones: list[socket.socket] = []

        def answer_each() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:  # It was closed.
                    return
                open_ones.append(connection)
                connection.recv(65_536)
                if answer is not None:
                    connection.sendall(answer)
                    connection.close()

        thread = threading.Thread(target=answer_each, daemon=True)
        thread.start()
        try:
            yield _place(listener)
        finally:
            # Closing alone wakes nobody who waits in accept().
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in open_ones:
                connection.close()


@contextmanager
def refused() -> Iterator[str]:
    """Yield a host and a port that nobody listens on."""
    with _listener() as taken:
        place = _place(taken)
    yield place


def _listener() -> socket.socket:
    return socket.create_server(("127.0.0.1", 0))


def _place(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"
