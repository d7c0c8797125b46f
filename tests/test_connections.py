"""What clients send over real sockets: too long, too slow, no HTTP at all."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from builders import eventually
from serving import OPERATOR, SECRET_KEY
from shared_ledger import SHARED
from shared_ledger.apps.content import SERVICE as CONTENT
from shared_ledger.embedded import Cluster
from shared_ledger.migrations import migrate, migrate_application
from shared_ledger.service import connection, create_app, server
from shared_ledger.service.connection import MAX_HEAD, MAX_URL
from shared_ledger.service.direct import MAX_BODY_BYTES
from shared_ledger.service.service import MAX_APPLICATION_BODY_BYTES
from shared_ledger.settings import Settings

KEY = f"x-token: {OPERATOR['x-token']}\r\n"
HEAD_S, BODY_S = 0.8, 1.1


class Answer(NamedTuple):
    """An answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def problem(self) -> str:
        assert self.headers["content-type"] == "application/problem+json", self.body
        return str(json.loads(self.body)["type"]).removeprefix("urn:shared-ledger:problem:")


class Client(socket.socket):
    """A connection that sends what it is told."""

    def send_text(self, text: str) -> None:
        self.sendall(text.encode("latin-1"))

    def answer(self) -> Answer:
        """Read one answer."""
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._more()
        head, _, body = received.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        while len(body) < int(headers["content-length"]):
            body += self._more()
        return Answer(int(status.split()[1]), headers, body)

    def is_closed(self) -> bool:
        """Whether the other side closes it, and sends nothing before that."""
        try:
            return self.recv(65_536) == b""
        except ConnectionResetError:
            return True

    def _more(self) -> bytes:
        piece = self.recv(65_536)
        assert piece, "closed without an answer"
        return piece


@pytest.fixture
def settings(cluster: Cluster, schema: str, engine: Engine) -> Settings:
    migrate(engine, schema, [SHARED, CONTENT.application])
    assert CONTENT.migrations is not None
    migrate_application(cluster.url, schema, CONTENT.migrations)
    return Settings(
        database_url=SecretStr(cluster.url),
        shared_ledger_schema=schema,
        environment="production",
        api_token=SecretStr(OPERATOR["x-token"]),
        secret_key=SecretStr(SECRET_KEY),
        sweep_interval_s=0,
    )


@pytest.fixture
def port(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """The port of a service with little patience."""
    monkeypatch.setattr(connection, "HEAD_TIMEOUT_S", HEAD_S)
    monkeypatch.setattr(connection, "BODY_TIMEOUT_S", BODY_S)
    monkeypatch.setattr(server, "CHECK_INTERVAL_S", 0.05)
    app = create_app(SHARED, settings, beside=[CONTENT])
    running = server._server_of(app, settings)
    with server.listen("127.0.0.1", 0) as listener:
        number: int = listener.getsockname()[1]
        thread = threading.Thread(target=asyncio.run, args=(server._serve(app, running, listener),))
        thread.start()
        eventually(lambda: running.started or not thread.is_alive())
        yield number
        running.should_exit = True
        thread.join()


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    with Client() as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", port))
        yield client


ASK = f"GET /health HTTP/1.1\r\nhost: x\r\nx-padding: {'y' * 900}\r\n\r\n"


def posting(nonce: str) -> str:
    return f'{{"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": "{nonce}"}}'


def post(body: str, path: str = "/ledger") -> str:
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{KEY}content-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}"


# Sizes.


def test_a_request_as_usual_is_answered_and_the_next_on_the_same_connection(
    client: Client,
) -> None:
    for number in range(3):
        client.send_text(post(posting(f"{number}")))
        answer = client.answer()
        assert answer.status == 201
        assert "server" not in answer.headers
        time.sleep(HEAD_S)  # A pause between two requests is not slowness.
    for _ in range(1 + MAX_HEAD // len(ASK)):  # Nor are many heads a long one.
        client.send_text(ASK)
        assert client.answer().status == 200


def test_a_long_url_is_taken_and_a_longer_one_is_414(client: Client) -> None:
    client.send_text(f"GET /nothing?{'x' * (MAX_URL - 20)} HTTP/1.1\r\nhost: x\r\n\r\n")
    assert client.answer().status == 404
    client.send_text(f"GET /nothing?{'x' * MAX_URL} HTTP/1.1\r\nhost: x\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.problem) == (414, "uri_too_long")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["connection"] == "close"
    assert client.is_closed()


def test_long_headers_are_taken_and_longer_ones_are_431(client: Client) -> None:
    lines = "".join(f"x-{number}: {'y' * 1_000}\r\n" for number in range(14))
    client.send_text(f"GET /health HTTP/1.1\r\nhost: x\r\n{lines}\r\n")
    assert client.answer().status == 200
    client.send_text(f"POST /ledger HTTP/1.1\r\nhost: x\r\n{lines * 4}content-length: 9\r\n\r\n")
    answer = client.answer()
    assert (answer.status, answer.problem) == (431, "headers_too_large")


@pytest.mark.parametrize("begin", ["GET /", "GET / HTTP/1.1\r\nx: ", "\r\n"])
def test_what_never_ends_is_refused_before_it_fills_the_memory(client: Client, begin: str) -> None:
    client.send_text(begin)
    sent = 0
    filling = b"\r\n" * 512 if begin == "\r\n" else b"z" * 1_024
    while sent < MAX_HEAD * 4:
        try:
            sent += client.send(filling)
        except (ConnectionResetError, BrokenPipeError):
            break
        time.sleep(0.001)
    assert sent < MAX_HEAD * 4


@pytest.mark.parametrize(
    "sent", ["hello\r\n\r\n", "GET / HTTP/1.1\r\nno header\r\n\r\n", "\x16\x03"]
)
def test_what_is_no_http_is_400_as_a_problem(client: Client, sent: str) -> None:
    client.send_text(sent)
    answer = client.answer()
    assert (answer.status, answer.problem) == (400, "bad_request")
    assert client.is_closed()


CONTENT_BODY = '{"title": "t", "nonce": "n", "owner_id": "ada", "body": "'


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/ledger", MAX_BODY_BYTES),
        ("/auth/register", MAX_BODY_BYTES),
        (f"{CONTENT.path}/ledger", MAX_BODY_BYTES),
        (f"{CONTENT.path}/content", MAX_APPLICATION_BODY_BYTES),
    ],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_that_is_too_long_is_413_on_every_route(
    client: Client, path: str, limit: int, *, chunked: bool
) -> None:
    body = CONTENT_BODY + "x" * limit
    if chunked:
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\n{KEY}content-type: application/json\r\n"
        client.send_text(f"{head}transfer-encoding: chunked\r\n\r\n")
        pieces = [body[start : start + 10_000] for start in range(0, len(body), 10_000)]
        client.send_text("".join(f"{len(piece):x}\r\n{piece}\r\n" for piece in pieces))
    else:
        client.send_text(post(body, path))
    answer = client.answer()
    assert (answer.status, answer.problem) == (413, "content_too_large")
    assert str(limit) in json.loads(answer.body)["detail"]


def test_too_many_parameters_are_422(client: Client) -> None:
    query = "&".join(f"at={number}" for number in range(500))
    client.send_text(f"GET /ledger/ada?{query} HTTP/1.1\r\nhost: x\r\n{KEY}\r\n")
    answer = client.answer()
    assert (answer.status, answer.problem) == (422, "invalid_posting")


# Slow clients.


def test_a_body_that_comes_too_slowly_is_408_and_nothing_is_written(client: Client) -> None:
    request = post(posting("s" * 200))
    began = time.monotonic()
    client.send_text(request[:-200])
    client.settimeout(0.1)
    for byte in request[-200:-1]:
        try:
            client.send_text(byte)
            answer = client.answer()
        except TimeoutError:
            continue
        break
    assert (answer.status, answer.problem) == (408, "request_timeout")
    assert BODY_S <= time.monotonic() - began < BODY_S + 2
    client.settimeout(5)
    assert client.is_closed()


def test_a_slow_body_of_an_application_is_408_too(client: Client) -> None:
    client.send_text(post(CONTENT_BODY + 'x"}', f"{CONTENT.path}/content")[:-1])
    assert client.answer().problem == "request_timeout"


def test_a_head_that_comes_too_slowly_is_408(client: Client) -> None:
    client.send_text("GET /health HTTP/1.1\r\nhost:")
    answer = client.answer()
    assert (answer.status, answer.problem) == (408, "request_timeout")
    assert client.is_closed()


def test_who_sends_nothing_is_let_go_without_a_word(client: Client) -> None:
    began = time.monotonic()
    assert client.is_closed()
    # On a busy machine both ends may be late.
    assert HEAD_S / 2 <= time.monotonic() - began < HEAD_S + 10


def test_a_body_that_comes_late_but_in_time_is_taken(client: Client) -> None:
    request = post(posting("late"))
    client.send_text(request[:-5])
    time.sleep(BODY_S / 2)
    client.send_text(request[-5:])
    assert client.answer().status == 201


@contextmanager
def nobody_posts(settings: Settings) -> Iterator[None]:
    """Keep the book's accounts locked."""
    assert settings.url is not None
    with psycopg.connect(settings.url) as holder:
        holder.execute(f"lock table {settings.shared_ledger_schema}.accounts".encode())
        yield


def test_an_answer_that_takes_long_is_waited_for(client: Client, settings: Settings) -> None:
    with nobody_posts(settings):
        client.send_text(post(posting("waits")))
        # Well below the two seconds after which the writer gives up.
        time.sleep(BODY_S + 0.2)
    assert client.answer().status == 201


def test_a_slow_request_after_another_does_not_spoil_its_answer(
    client: Client, settings: Settings
) -> None:
    with nobody_posts(settings):
        client.send_text(post(posting("first")) + "GET /health HT")
        time.sleep(HEAD_S + 0.3)
    assert client.answer().status == 201
    assert client.answer().problem == "request_timeout"


def test_who_leaves_in_the_middle_of_his_body_fills_no_log(
    port: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for path in ("/ledger", f"{CONTENT.path}/content"):
            with Client() as client:
                client.connect(("127.0.0.1", port))
                client.send_text(post(posting("left"), path)[:-5])
                time.sleep(0.2)
        time.sleep(0.3)
    assert not [record for record in caplog.records if record.exc_info]
