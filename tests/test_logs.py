"""What the service logs: a line for each request, and one id for all that is logged of it."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import threading
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import uvicorn
from pydantic import ValidationError
from sqlalchemy.engine import Engine

from serving import OPERATOR, SERVICES, Served, kind, serving
from shared_ledger import Ledger
from shared_ledger.access.store import AccessStore
from shared_ledger.embedded import Cluster
from shared_ledger.service import logs
from shared_ledger.service.asked import Asked
from shared_ledger.service.logs import REQUESTS, configure
from shared_ledger.service.observed import TOGETHER_S, ObservedRequests
from shared_ledger.service.observers import Observers, observers_of
from shared_ledger.service.request_metrics import RequestMetrics
from shared_ledger.settings import Settings

PARTS = ("", "shared_ledger", "shared_ledger.messages", "shared_ledger.service", REQUESTS)
OTHERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "httpx", "httpcore", "nats")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Log:
    """What was logged in this process, once it was configured."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def lines(self) -> list[dict[str, Any]]:
        logging.getLogger().handlers[0].flush()
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def of_request(self) -> dict[str, Any]:
        """The line of the only request."""
        (line,) = [line for line in self.lines() if line["logger"] == REQUESTS]
        return line


@pytest.fixture
def log() -> Iterator[Log]:
    """What is logged goes here when it is configured; it is as before after the test."""
    names = [*PARTS, *OTHERS, *logs._OTHERS, "test"]
    before = {name: (logging.getLogger(name), logging.getLogger(name).level) for name in names}
    kept = {name: (logger.handlers, logger.propagate) for name, (logger, _) in before.items()}
    yield Log()
    for name, (logger, level) in before.items():
        logger.setLevel(level)
        logger.handlers, logger.propagate = kept[name]


def observed(log: Log, **settings: Any) -> Observers:
    return Observers(configure(Settings(log_format="json", **settings), log.stream))


@pytest.fixture
async def served(log: Log, cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Served]:
    """A service that logs at its finest."""
    observers = observed(log, log_level="debug")
    async with serving(cluster.url, schema, engine, beside=SERVICES, observers=observers) as served:
        yield served


# --- a line for each request ---


async def test_each_request_has_one_line(served: Served, log: Log) -> None:
    ada = served.user("ada")
    answer = await served.client.get(
        "/ledger/ada/entries?limit=5", headers=ada | {"x-request-id": "42.a_B-c"}
    )
    line = log.of_request()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("timestamp"))
    assert 0 < line.pop("duration_ms") < 10_000
    assert line == {
        "level": "info",
        "logger": REQUESTS,
        "event": "request",
        "method": "GET",
        "route": "/ledger/{owner_id}/entries",
        "status": 200,
        "caller": "user",
        "request_id": "42.a_B-c",
    }
    assert answer.headers["x-request-id"] == "42.a_B-c"


@pytest.mark.parametrize(
    ("method", "path", "route"),
    [
        ("GET", "/no/such/path?token=hunter2", "unknown"),
        ("GET", "/api/v1/content/balance/hunter2", "/api/v1/content/balance/{owner_id}"),
        ("GET", "/api/v1/content/content/7?x=hunter2", "/api/v1/content/content/{content_id}"),
        ("POST", "/ledger?x=hunter2", "/ledger"),
    ],
)
async def test_a_line_names_the_pattern_of_a_path_and_nothing_of_the_path(
    served: Served, log: Log, method: str, path: str, route: str
) -> None:
    await served.client.request(method, path)
    line = log.of_request()
    assert line["route"] == route
    assert "hunter2" not in log.stream.getvalue()


@pytest.mark.parametrize(
    ("who", "caller"),
    [("ada", "user"), ("root", "administrator"), ("", "service"), ("?", "anonymous")],
)
async def test_a_line_says_which_kind_of_caller_it_was(
    served: Served, log: Log, who: str, caller: str
) -> None:
    if who in ("", "?"):
        headers = {"x-token": "wrong"} if who else served.key()
    else:
        headers = served.user(who, is_admin=who == "root")
    await served.client.get("/auth/me", headers=headers)
    assert log.of_request()["caller"] == caller


async def test_lines_are_written_soon_and_together(
    served: Served, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[str] = []
    monkeypatch.setattr(log.stream, "write", writes.append)
    for _ in range(3):
        await served.client.get("/health")
    assert writes == []
    await asyncio.sleep(3 * TOGETHER_S)
    (together,) = writes
    assert together.count('"/health"') == 3


async def test_the_last_lines_are_written_at_the_end(
    log: Log, cluster: Cluster, schema: str, engine: Engine
) -> None:
    async with serving(cluster.url, schema, engine, observers=observed(log)) as served:
        await served.client.get("/health")
        assert log.stream.getvalue() == ""
    assert '"/health"' in log.stream.getvalue()


async def test_what_is_logged_comes_after_the_requests_before_it(served: Served, log: Log) -> None:
    await served.client.get("/health")
    logging.getLogger("test").info("after it")
    events = [line["event"] for line in log.lines()]
    assert events[-2:] == ["request", "after it"]


def test_lines_are_written_on_another_event_loop_too(log: Log) -> None:
    requests = observed(log).requests
    assert requests is not None
    observed_requests = ObservedRequests(RequestMetrics(), requests)

    async def serve() -> None:
        observed_requests.ended({"method": "GET"}, Asked("a"), 0.001)

    for _ in range(2):
        asyncio.run(serve())
        requests.flush()
    assert [line["request_id"] for line in log.lines()] == ["a", "a"]


def test_what_is_logged_while_lines_are_written_is_written_too(log: Log) -> None:
    """The garbage collector may run at any time, and what it finds may be worth a line."""
    requests = observed(log).requests
    assert requests is not None

    class Collected(deque[str]):
        said = False

        def popleft(self) -> str:
            if not self.said:
                self.said = True
                logging.getLogger("test").warning("found while lines are written")
            return super().popleft()

    requests.waiting = Collected(['{"event": "request"}\n'])
    writing = threading.Thread(target=requests.flush, daemon=True)
    writing.start()
    writing.join(10)
    assert not writing.is_alive()
    assert [line["event"] for line in log.lines()] == ["request", "found while lines are written"]


# --- the id of a request ---


@pytest.mark.parametrize(
    "given", ["", "-a", "a b", "a\tb", "a" * 65, "a\x7f", "ä", 'a","level":"error', "a;b", "a\\n"]
)
async def test_an_id_that_is_not_safe_is_replaced(served: Served, log: Log, given: str) -> None:
    headers = {b"x-request-id": given.encode()}
    answer = await served.client.get("/health", headers=httpx.Headers(headers))
    made = answer.headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", made)
    assert log.of_request()["request_id"] == made


async def test_no_two_requests_get_one_id(served: Served) -> None:
    ids = {(await served.client.get("/health")).headers["x-request-id"] for _ in range(50)}
    assert len(ids) == 50


async def test_every_line_of_a_request_has_its_id(
    served: Served, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = AccessStore.caller_of_key

    def logging_look_up(*arguments: Any) -> Any:
        logging.getLogger("test").info("in a thread")
        return look_up(*arguments)

    monkeypatch.setattr(AccessStore, "caller_of_key", logging_look_up)
    key = {"x-token": "slk_0123456789ab_" + "x" * 43, "x-request-id": "one"}
    both = (
        served.client.get("/auth/me", headers=key),
        served.client.get("/auth/me", headers={"x-token": "wrong", "x-request-id": "two"}),
    )
    await asyncio.gather(*both)
    found = [(line["event"].partition(":")[0], line["request_id"]) for line in log.lines()]
    assert sorted(found) == [
        ("credentials refused", "one"),
        ("credentials refused", "two"),
        ("in a thread", "one"),
        ("request", "one"),
        ("request", "two"),
    ]


async def test_what_is_logged_for_no_request_has_no_id(served: Served, log: Log) -> None:
    await served.client.get("/health")
    logging.getLogger("test").info("by itself")
    assert "request_id" not in log.lines()[-1]


async def test_a_failure_is_found_in_the_log_by_what_the_caller_was_told(
    served: Served, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("it broke\nin two lines")

    monkeypatch.setattr(Ledger, "abalance", broken)
    answer = await served.client.get("/balance/ada", headers=OPERATOR)
    assert kind(answer) == "internal_error"
    (line,) = [line for line in log.lines() if line["level"] == "error"]
    assert line["request_id"] == answer.json()["request_id"] == answer.headers["x-request-id"]
    assert line["exception"].endswith("RuntimeError: it broke\nin two lines")


async def test_the_log_names_the_requests_of_a_batch(served: Served, log: Log) -> None:
    one, two = OPERATOR | {"x-request-id": "one"}, OPERATOR | {"x-request-id": "two"}
    await served.post(one, "CREDIT_ADD", "ada")
    body = {"operation": "CREDIT_ADD", "owner_id": "ben"}
    entries = [body | {"nonce": nonce} for nonce in ("a", "b", "c")]
    await served.client.post("/ledger/batch", json={"entries": entries}, headers=two)
    batches = [line for line in log.lines() if line["event"] == "batch written"]
    assert {name for line in batches for name in line["request_ids"]} == {"one", "two"}
    assert sum(line["commands"] for line in batches) == 4
    assert all(line["duration_ms"] > 0 and "request_id" not in line for line in batches)


# --- what the settings say ---


def test_it_is_json_in_production_and_for_people_in_development(log: Log) -> None:
    def said(**settings: Any) -> str:
        stream = settings.pop("stream", io.StringIO())
        configure(Settings(**settings), stream)
        logging.getLogger("test").warning("it rains", extra={"drops": 3})
        text: str = stream.getvalue()
        return text

    production = {"environment": "production", "secret_key": "s" * 32}
    assert json.loads(said(**production))["drops"] == 3
    assert json.loads(said(log_format="json"))["event"] == "it rains"
    for people in (said(), said(**production, log_format="console")):
        assert re.fullmatch(r"\S+Z \[warning +\] it rains +\[test\] drops=3\n", people)
    assert "\x1b[" in said(stream=Terminal())


async def test_a_line_for_people_shows_the_request(
    log: Log, cluster: Cluster, schema: str, engine: Engine
) -> None:
    observers = Observers(configure(Settings(log_format="console"), log.stream))
    async with serving(cluster.url, schema, engine, observers=observers) as served:
        await served.client.get("/balance/ada", headers={"x-request-id": "one"})
    last = log.stream.getvalue().splitlines()[-1]
    assert re.search(
        r"Z \[info +\] GET /balance/\{owner_id\} 401 +caller=anonymous duration_ms=[\d.]+ "
        "request_id=one$",
        last,
    )


def test_each_part_has_the_level_that_it_is_given(log: Log) -> None:
    levels = "shared_ledger.messages=debug, shared_ledger=ERROR,uvicorn=info,"
    configure(Settings(log_level="Warning", log_levels=levels), log.stream)
    for name, level in {
        "anything": logging.WARNING,
        "shared_ledger.service": logging.ERROR,
        "shared_ledger.messages": logging.DEBUG,
        "uvicorn.error": logging.INFO,
        "httpx": logging.WARNING,
    }.items():
        assert logging.getLogger(name).getEffectiveLevel() == level, name


def test_what_others_say_of_themselves_is_logged_only_if_it_is_asked_for(log: Log) -> None:
    configure(Settings(log_level="debug"), log.stream)
    assert not logging.getLogger("httpcore.http11").isEnabledFor(logging.INFO)
    configure(Settings(log_level="error"), log.stream)
    assert not logging.getLogger("httpcore.http11").isEnabledFor(logging.WARNING)
    configure(Settings(log_levels="httpcore=debug"), log.stream)
    assert logging.getLogger("httpcore.http11").isEnabledFor(logging.DEBUG)


@pytest.mark.parametrize(
    "levels", [{"log_level": "warning"}, {"log_levels": f"{REQUESTS}=warning"}]
)
def test_requests_are_not_logged_where_the_level_is_higher(log: Log, levels: Any) -> None:
    assert configure(Settings(**levels), log.stream) is None


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("log_level", "loud", "'loud' is none of debug, info, warning, error, critical"),
        ("log_levels", "loud", "is PART=LEVEL, separated by commas, and not 'loud'"),
        ("log_levels", "a=info b=info", "'info b=info' is none of"),
        ("log_levels", "a=", "'' is none of"),
        ("log_levels", "=info", "is PART=LEVEL"),
        ("log_format", "xml", "'console' or 'json'"),
        ("otel_exporter_otlp_endpoint", "localhost:4318", "is an address without a password"),
        ("otel_exporter_otlp_endpoint", "http://me:hunter2@there", "is an address without"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name: str, value: str, says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        Settings(**{name: value})  # type: ignore[arg-type]  # wrong on purpose


def test_what_uvicorn_set_up_by_itself_is_undone(log: Log) -> None:
    access, error = logging.getLogger("uvicorn.access"), logging.getLogger("uvicorn.error")
    uvicorn.Config(lambda: None)
    assert access.handlers
    observers_of(Settings(log_level="warning"))
    # There is one line for each request already.
    assert not access.hasHandlers()
    assert not error.isEnabledFor(logging.INFO)
    assert error.hasHandlers()


def test_whoever_logs_what_cannot_be_shown_does_not_fail(
    log: Log, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: str) -> int:
        raise OSError(28, "No space left on device")

    configure(Settings(log_format="json"), log.stream)
    monkeypatch.setattr(log.stream, "write", full)
    logging.getLogger("test").warning("it rains")
    assert "No space left on device" in capsys.readouterr().err
