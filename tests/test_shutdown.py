"""A service that is told to end answers what it took, over real sockets, and is gone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest

from builders import assert_sound, eventually, nonces
from shared_ledger import SHARED, Ledger, Posting, SharedOperation
from shared_ledger.embedded import Cluster
from shared_ledger.service.connection import LEAVING_TIMEOUT_S
from shared_ledger.service.server import GRACE_S

pytestmark = pytest.mark.slow

CONNECTIONS = 128
EACH = 10
TOKEN = "x-token: secret-token\r\n"
HEAD = f"POST /ledger HTTP/1.1\r\nhost: x\r\n{TOKEN}content-type: application/json\r\n"
# What uvicorn takes to notice a signal, and what closing the ledger takes.
MARGIN_S = 4

Start = Callable[..., "Service"]


class Service:
    """A service that runs in a process of its own."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "shared_ledger.cli", "serve", "--port", "0", "--json"],
            env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
            | {"LOG_LEVEL": "warning"}
            | environment,
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.url: str = json.loads(self.process.stdout.readline())["url"]
        self.port = urlsplit(self.url).port or 0

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=GRACE_S)

    def get(self, path: str) -> tuple[int, dict[str, str], Any]:
        """Ask on a connection of its own; status, headers and body."""
        request = urllib.request.Request(self.url + path, headers={"x-token": "secret-token"})
        try:
            with urllib.request.urlopen(request, timeout=GRACE_S) as answer:
                return answer.status, dict(answer.headers.items()), json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers.items()), json.load(error)

    def end(self) -> float:
        """Tell it to end; the time."""
        self.process.send_signal(signal.SIGTERM)
        return time.monotonic()

    def ended(self, within_s: float) -> None:
        """Wait until it has ended well, and has said nothing."""
        assert self.process.communicate(timeout=within_s) == ("", "")
        assert self.process.returncode == 0


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start services; they are killed after the test if they still run."""
    services: list[Service] = []

    def start(**environment: str) -> Service:
        services.append(Service(tmp_path, **environment))
        return services[-1]

    yield start
    for service in services:
        service.process.kill()
        service.process.communicate()


@pytest.fixture
def service(start: Start, cluster: Cluster, schema: str) -> Service:
    """A service over a new book."""
    return start(**book(cluster, schema))


def book(cluster: Cluster, schema: str) -> dict[str, str]:
    """The environment of a new book."""
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True):
        return {
            "DATABASE_URL": cluster.url,
            "SHARED_LEDGER_SCHEMA": schema,
            "SHARED_LEDGER_SERVICES": "",
        }


def posting(owner_id: str, nonce: str) -> bytes:
    body = f'{{"operation": "CREDIT_ADD", "owner_id": "{owner_id}", "nonce": "{nonce}"}}'
    return f"{HEAD}content-length: {len(body)}\r\n\r\n{body}".encode()


def assert_last_of_its_connection(client: socket.socket) -> None:
    """A posting is answered, and the connection closed after that."""
    received = b""
    while piece := client.recv(65_536):
        received += piece
    assert received.startswith(b"HTTP/1.1 201 ")
    assert b"connection: close" in received
    assert received.endswith(b"}")


@dataclass
class Seen:
    """What the clients saw, by owner: which nonces were acknowledged, and which were not."""

    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    unanswered: dict[str, str] = field(default_factory=dict)
    told_to_close: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)


async def post_until_closed(port: int, owner_id: str, seen: Seen) -> None:
    """Post on one connection, again as soon as it is answered, until the service ends it."""
    acknowledged = seen.acknowledged.setdefault(owner_id, [])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            nonce = f"{len(acknowledged)}"
            try:
                writer.write(posting(owner_id, nonce))
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                length = head.lower().partition("content-length: ")[2].partition("\r")[0]
                await reader.readexactly(int(length))
            except (ConnectionError, asyncio.IncompleteReadError):
                seen.unanswered[owner_id] = nonce
                return
            assert head.startswith("HTTP/1.1 201 "), head
            acknowledged.append(nonce)
            if len(acknowledged) == EACH:
                seen.enough.set()
            if "connection: close" in head:
                seen.told_to_close += 1
                return
    finally:
        writer.close()


async def post_and_end(service: Service, seen: Seen) -> float:
    """Let many clients post, end the service meanwhile; when that was."""
    clients = [
        asyncio.create_task(post_until_closed(service.port, f"owner{number}", seen))
        for number in range(CONNECTIONS)
    ]
    await seen.enough.wait()
    ended_at = service.end()
    await asyncio.gather(*clients)
    return ended_at


def test_what_was_acknowledged_while_it_ended_is_there_and_what_was_not_can_be_repeated(
    start: Start, data: Path
) -> None:
    service = start(SHARED_LEDGER_DATA=str(data))
    seen = Seen()
    ended_at = asyncio.run(post_and_end(service, seen))
    service.ended(GRACE_S)
    assert time.monotonic() - ended_at < GRACE_S
    assert seen.told_to_close + len(seen.unanswered) == CONNECTIONS
    assert seen.told_to_close > 0
    with Ledger(SHARED, data=data) as ledger:
        for owner_id, acknowledged in seen.acknowledged.items():
            # All that was taken was answered: of what was not answered nothing is there.
            assert nonces(ledger.url, "ledger", owner_id) == acknowledged
        again = [
            Posting(SharedOperation.CREDIT_ADD, owner_id, nonce)
            for owner_id, nonce in seen.unanswered.items()
        ]
        for posting in again:
            assert not ledger.post(posting).replayed
        assert_sound(ledger.url, "ledger")
    verified = subprocess.run(
        [sys.executable, "-m", "shared_ledger.cli", "verify", "--json"],
        env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        | {"SHARED_LEDGER_DATA": str(data)},
        capture_output=True,
        check=False,
    )
    assert verified.returncode == 0, verified.stdout


def test_a_request_that_is_being_answered_is_answered(
    service: Service, cluster: Cluster, schema: str
) -> None:
    with service.connect() as client, service.connect() as idle:
        idle.sendall(f"GET /health HTTP/1.1\r\nhost: x\r\n{TOKEN}\r\n".encode())
        answer = b""
        while not answer.endswith(b"}"):
            answer += idle.recv(65_536)
        assert answer.startswith(b"HTTP/1.1 200 ")
        with psycopg.connect(cluster.url) as holder:
            holder.execute(f"lock table {schema}.accounts".encode())
            client.sendall(posting("ada", "1"))
            time.sleep(0.3)
            service.end()
            # A connection on which nobody asks anything is closed at once.
            assert idle.recv(1) == b""
            time.sleep(0.5)
        assert_last_of_its_connection(client)
    service.ended(MARGIN_S)


def test_a_client_that_hangs_is_not_waited_for_for_ever(service: Service) -> None:
    with service.connect() as client, service.connect():
        client.sendall(posting("ada", "1")[:-5])
        time.sleep(0.3)
        service.end()
        assert client.recv(65_536).startswith(b"HTTP/1.1 408 ")
        service.ended(LEAVING_TIMEOUT_S + MARGIN_S)


def test_before_it_ends_it_says_so_for_a_while_and_answers(
    start: Start, cluster: Cluster, schema: str
) -> None:
    delay_s = 2.0
    service = start(**book(cluster, schema), SHUTDOWN_DELAY_S=f"{delay_s}")
    assert service.get("/health/ready")[0] == 200
    ended_at = service.end()
    eventually(lambda: service.get("/health/ready")[0] == 503, within_s=1)
    status, headers, body = service.get("/health/ready")
    assert (status, body["part"]) == (503, "shutdown")
    with service.connect() as client:
        client.sendall(posting("ada", "1"))
        assert_last_of_its_connection(client)
    assert service.get("/health")[2]["status"] == "ok"
    assert headers["connection"] == "close"
    service.ended(delay_s + MARGIN_S)
    assert time.monotonic() - ended_at >= delay_s
