"""An HTTP load generator: ``python -m shared_ledger.bench.load PORT KIND SECONDS MARK``.

128 connections, each with one request under way; KIND is ``post``, ``bare`` or ``balance``, or
``staged``, which has one connection. It runs in a process of its own and does as little as HTTP/1.1
allows, to leave the processor to the service. It prints one line of JSON: requests per second, p50
and p99 in milliseconds.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Callable
from itertools import count
from typing import cast

from shared_ledger.bench.work import ACCOUNTS
from shared_ledger.settings import DEVELOPMENT_TOKEN

CONNECTIONS = 128
PATHS = {"bare": "/bare", "staged": "/staged"}
HOST = "127.0.0.1"


class Connection(asyncio.Protocol):
    """One connection that asks again as soon as it is answered, until it is told to stop."""

    def __init__(
        self, make: Callable[[], bytes], done: asyncio.Future[None], stop_at: float
    ) -> None:
        self.seconds: list[float] = []
        self._make = make
        self._done = done
        self._stop_at = stop_at
        self._asked_at = 0.0
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast("asyncio.Transport", transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        """Take a response; when it is whole, ask again."""
        self._received += data
        head, separator, body = self._received.partition(b"\r\n\r\n")
        if not separator:
            return
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r")[0]
        if len(body) < int(length):
            return
        if not head.startswith(b"HTTP/1.1 20"):
            self._fail(RuntimeError(f"the service answered {self._received.decode()}"))
            return
        now = time.perf_counter()
        self.seconds.append(now - self._asked_at)
        self._received = b""
        if now < self._stop_at:
            self._ask()
        else:
            self._transport.close()
            if not self._done.done():
                self._done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail if it was lost in the middle."""
        self._fail(exc or RuntimeError("the service closed the connection"))

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        self._transport.write(self._make())

    def _fail(self, error: Exception) -> None:
        if not self._done.done():
            self._done.set_exception(error)


def requests(kind: str, mark: str) -> Callable[[], bytes]:
    """Return what makes the requests of a kind."""
    numbers = count()
    chosen = random.Random(1)  # noqa: S311  # Chosen owners, not secrets.
    token = f"x-token: {DEVELOPMENT_TOKEN}"

    def balance() -> bytes:
        owner = f"user-{chosen.randrange(ACCOUNTS)}"
        return f"GET /balance/{owner} HTTP/1.1\r\nhost: bench\r\n{token}\r\n\r\n".encode()

    path = PATHS.get(kind, "/ledger")
    head = f"POST {path} HTTP/1.1\r\nhost: bench\r\n{token}\r\ncontent-type: application/json"

    def post() -> bytes:
        body = (
            f'{{"operation":"CREDIT_ADD","owner_id":"user-{chosen.randrange(ACCOUNTS)}",'
            f'"nonce":"{mark}-{next(numbers)}"}}'
        )
        return f"{head}\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode()

    return balance if kind == "balance" else post


async def run(port: int, kind: str, seconds: float, mark: str) -> dict[str, float]:
    """Ask for that long and return the figures."""
    loop = asyncio.get_running_loop()
    make = requests(kind, mark)
    began = time.perf_counter()
    waiting: list[asyncio.Future[None]] = []
    connections: list[Connection] = []
    for _ in range(1 if kind == "staged" else CONNECTIONS):
        done: asyncio.Future[None] = loop.create_future()
        connection = Connection(make, done, began + seconds)
        await loop.create_connection(lambda it=connection: it, HOST, port)  # type: ignore[misc]  # the loop's variable, bound now
        connections.append(connection)
        waiting.append(done)
    await asyncio.gather(*waiting)
    took = sorted(second for connection in connections for second in connection.seconds)
    return {
        "per_s": len(took) / (time.perf_counter() - began),
        "p50_ms": 1_000 * took[len(took) // 2],
        "p99_ms": 1_000 * took[len(took) * 99 // 100],
    }


def main() -> None:
    """Run with the arguments of the command line."""
    import uvloop

    port, kind, seconds, mark = sys.argv[1:]
    print(json.dumps(uvloop.run(run(int(port), kind, float(seconds), mark))))  # noqa: T201


if __name__ == "__main__":
    main()
