"""How often who may ask: counted in memory or in Redis, and answered 429."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from redis_server import RedisServer
from serving import OPERATOR, Served, kind, serving
from shared_ledger import SHARED
from shared_ledger.access import counts as counting
from shared_ledger.access.counts import CALL_TIMEOUT_S, RETRY_S, Counts, Limit
from shared_ledger.apps.content import SERVICE as CONTENT
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError
from shared_ledger.service import create_app
from shared_ledger.settings import Settings

BALANCE = "/balance/bob"


@pytest.fixture
async def start(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Any]:
    """Start a service with some limits; the first one migrates."""
    async with AsyncExitStack() as stack:
        migrated = False

        async def start(redis: RedisServer | None = None, **more: Any) -> Served:
            nonlocal migrated
            if redis is not None:
                more["redis_url"] = SecretStr(redis.url)
            running = serving(cluster.url, schema, None if migrated else engine, **more)
            migrated = True
            return await stack.enter_async_context(running)

        yield start


async def statuses(served: Served, count: int, path: str = BALANCE, **more: Any) -> list[int]:
    return [(await served.client.get(path, **more)).status_code for _ in range(count)]


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the log says of limits."""
    return [r.getMessage() for r in caplog.records if r.name == "shared_ledger.access"]


# Counting.


class Clock:
    """A clock that stands until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now + 1_700_000_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(counting, "time", clock)
    return clock


async def test_a_window_begins_with_the_first_and_is_forgotten_when_it_has_passed(
    clock: Clock,
) -> None:
    counts, limit = Counts(), Limit("2/10seconds")
    assert await counts.take(limit, "ada") == 0
    clock.now += 3.5
    assert await counts.take(limit, "ada") == 0
    assert await counts.take(limit, "ada") == 7  # of 6.5 seconds that are left
    assert await counts.take(limit, "bob") == 0
    clock.now += 6.5
    assert [await counts.take(limit, "ada") for _ in range(3)] == [0, 0, 10]


async def test_what_is_given_back_makes_room(clock: Clock) -> None:
    counts, limit = Counts(), Limit("1/minute")
    assert await counts.take(limit, "ada") == 0
    await counts.give_back(limit, "ada")
    assert [await counts.take(limit, "ada") for _ in range(2)] == [0, 60]


async def test_what_is_given_back_too_late_makes_no_room(clock: Clock) -> None:
    counts, limit = Counts(), Limit("1/minute")
    await counts.take(limit, "ada")
    clock.now += 60
    await counts.give_back(limit, "ada")
    assert [await counts.take(limit, "ada") for _ in range(2)] == [0, 60]


async def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "MAX_REMEMBERED", 3)
    counts, limit = Counts(), Limit("1/minute")
    for number in range(10):
        await counts.take(limit, f"name {number}")
    # The one that began last is refused, and the one that began first is forgotten.
    assert await counts.take(limit, "name 9") == 60
    assert await counts.take(limit, "name 0") == 0
    assert len(counts._memory._windows) == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "many",
        "5",
        "5/fortnight",
        "-5/minute",
        "0/minute",
        "1/second;5/minute",
        "1/2days",
        "\u0665/day",
    ],
)
def test_what_is_no_limit_is_one_line_at_the_start(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not"):
        Limit(text)
    if text:
        with pytest.raises(ConfigurationError, match=r"^RATE_LIMIT_SERVICE: '.*' is not"):
            create_app(SHARED, Settings(rate_limit_service=text))


# Asking.


async def test_who_asks_too_often_is_429_with_the_limit_and_when_to_come_again(start: Any) -> None:
    served = await start(rate_limit_user="3/minute")
    bob = served.user("bob")
    assert await statuses(served, 3, headers=bob) == [200] * 3
    answer = await served.client.get(BALANCE, headers=bob)
    assert (answer.status_code, kind(answer)) == (429, "too_many_requests")
    assert answer.json()["limit"] == "3/minute"
    assert 58 <= answer.json()["retry_after_s"] <= 60
    assert answer.headers["retry-after"] == str(answer.json()["retry_after_s"])


async def test_limits_are_each_callers_and_each_routes_own(start: Any) -> None:
    served = await start(
        rate_limit_user="2/minute", rate_limit_service="2/minute", beside=[CONTENT]
    )
    bob, root, key = served.user("bob"), served.user("root", is_admin=True), served.key(None)
    mounted = f"{CONTENT.path}{BALANCE}"
    for headers in (bob, root, key, OPERATOR):
        assert await statuses(served, 3, headers=headers) == [200, 200, 429]
        assert await statuses(served, 3, "/auth/me", headers=headers) == [200, 200, 429]
        assert await statuses(served, 3, mounted, headers=headers) == [200, 200, 429]
        # One route, whatever is asked of it.
        assert (await served.client.get("/balance/zoe", headers=headers)).status_code == 429


async def test_who_asks_too_often_is_refused_before_his_body_is_read_and_writes_nothing(
    start: Any,
) -> None:
    served = await start(rate_limit_user="1/minute", rate_limit_service="1/minute")
    for headers in (served.user("bob"), served.key()):
        assert (await served.post(headers, "DAILY_REWARD", "bob")).status_code in (201, 409)
        before = served.written()
        assert (await served.post(headers, "CREDIT_SPEND", "bob")).status_code == 429
        answer = await served.client.post("/ledger", content=b"{", headers=headers)
        assert answer.status_code == 429
        assert served.written() == before


async def test_what_is_refused_is_counted_too(start: Any) -> None:
    served = await start(rate_limit_user="2/minute")
    bob = served.user("bob")
    assert await statuses(served, 3, "/balance/alice", headers=bob) == [404, 404, 429]


async def test_who_needs_no_credentials_is_counted_by_his_network(start: Any) -> None:
    served = await start(rate_limit_anonymous="2/minute")
    assert [(await served.log_in("nobody")).status_code for _ in range(3)] == [401, 401, 429]
    body = {"username": "x", "password": "short"}
    registered = [await served.client.post("/auth/register", json=body) for _ in range(3)]
    assert [answer.status_code for answer in registered] == [422, 422, 429]
    elsewhere = httpx.ASGITransport(app=served.app, client=("192.0.2.7", 1))
    async with httpx.AsyncClient(transport=elsewhere, base_url="http://ledger") as client:
        assert (await client.post("/auth/register", json=body)).status_code == 422


async def test_very_many_wrong_credentials_are_429_and_right_ones_from_there_pass(
    start: Any, caplog: pytest.LogCaptureFixture
) -> None:
    served = await start(rate_limit_anonymous="3/minute")
    wrong: list[dict[str, str]] = [
        {"x-token": "wrong"},
        {"authorization": "Bearer a.b.c"},
        {"authorization": "Basic YTpi"},
        {"x-token": "slk_000000000000_" + "A" * 43},
        {"x-token": "wrong again"},
    ]
    answers = [await served.client.get(BALANCE, headers=headers) for headers in wrong]
    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    refused = [record for record in caplog.records if "refused" in record.getMessage()]
    assert len(refused) == 3  # whoever tries very many does not fill the log
    assert await statuses(served, 5, headers=OPERATOR) == [200] * 5
    # Who sends none has tried nothing.
    assert await statuses(served, 5) == [401] * 5


async def test_what_says_how_the_service_is_has_no_limit(start: Any) -> None:
    served = await start(
        rate_limit_anonymous="1/minute", rate_limit_user="1/minute", rate_limit_service="1/minute"
    )
    for path in ("/health", "/health/ready", "/metrics", "/docs", "/redoc", "/openapi.json"):
        assert await statuses(served, 3, path) == [200] * 3, path


async def test_an_empty_setting_is_no_limit(start: Any) -> None:
    served = await start(rate_limit_user="", rate_limit_service="", rate_limit_anonymous="")
    assert set(await statuses(served, 20, headers=served.user("bob"))) == {200}
    assert set(await statuses(served, 20, headers={"x-token": "wrong"})) == {401}


# Redis.


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for Redis, however busy the machine is."""
    monkeypatch.setattr(counting, "CALL_TIMEOUT_S", 10.0)


@pytest.mark.usefixtures("patient")
async def test_with_redis_a_limit_is_of_all_processes_together(
    start: Any, redis_server: RedisServer
) -> None:
    one = await start(redis_server, rate_limit_user="4/minute")
    other = await start(redis_server, rate_limit_user="4/minute")
    bob = one.user("bob")
    assert await statuses(one, 2, headers=bob) == [200, 200]
    assert await statuses(other, 3, headers=bob) == [200, 200, 429]
    answer = await one.client.get(BALANCE, headers=bob)
    assert answer.status_code == 429
    assert 55 <= int(answer.headers["retry-after"]) <= 60


@pytest.mark.usefixtures("patient")
async def test_many_at_once_do_not_pass_a_limit_in_redis(
    start: Any, redis_server: RedisServer
) -> None:
    services = [await start(redis_server, rate_limit_user="10/minute") for _ in range(2)]
    bob = services[0].user("bob")
    answers = await asyncio.gather(
        *(served.client.get(BALANCE, headers=bob) for served in services for _ in range(15))
    )
    codes = [answer.status_code for answer in answers]
    assert (codes.count(200), codes.count(429)) == (10, 20)


@pytest.mark.usefixtures("patient")
async def test_wrong_passwords_are_counted_over_all_processes_and_not_told_to_redis(
    start: Any, redis_server: RedisServer
) -> None:
    one, other = await start(redis_server), await start(redis_server)
    one.user("ada")
    guesses = [(await one.log_in("ada", "a wrong one")).status_code for _ in range(6)]
    # Right ones in between are not counted.
    assert (await other.log_in("ada")).status_code == 200
    guesses += [(await other.log_in("ada", "a wrong one")).status_code for _ in range(5)]
    assert guesses == [401] * 10 + [429]
    assert (await one.log_in("ada")).status_code == 429
    with redis_server.connect() as client:
        names = b" ".join(client.keys())
    assert b"log-in as" in names
    assert b"ada" not in names


@pytest.mark.usefixtures("patient")
async def test_what_is_counted_in_redis_is_forgotten_there(
    start: Any, redis_server: RedisServer
) -> None:
    served = await start(redis_server, rate_limit_user="1/2seconds")
    bob = served.user("bob")
    assert await statuses(served, 2, headers=bob) == [200, 429]
    await asyncio.sleep(2.1)
    assert await statuses(served, 2, headers=bob) == [200, 429]
    await asyncio.sleep(2.1)
    with redis_server.connect() as client:
        assert client.keys("*limits*") == []


async def test_limits_of_services_that_post_thousands_stay_in_memory(
    start: Any, redis_server: RedisServer
) -> None:
    served = await start(redis_server, rate_limit_service="60001/minute")
    assert await statuses(served, 3, headers=OPERATOR) == [200] * 3
    with redis_server.connect() as client:
        assert client.keys("*limits*") == []


@pytest.mark.usefixtures("patient")
async def test_without_redis_each_process_counts_and_the_log_says_so_once(
    start: Any, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    served = await start(redis_server, rate_limit_user="3/minute")
    bob, ada = served.user("bob"), served.user("ada")
    assert await statuses(served, 1, headers=bob) == [200]
    redis_server.kill()
    answers = await asyncio.gather(*(served.client.get(BALANCE, headers=bob) for _ in range(5)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 2
    await asyncio.sleep(RETRY_S)
    assert await statuses(served, 1, "/balance/ada", headers=ada) == [200]
    assert [line.partition(":")[0] for line in lines(caplog)] == [
        "Redis cannot be used, so each process counts for itself"
    ]
    redis_server.start()
    await asyncio.sleep(RETRY_S)
    assert await statuses(served, 3, "/balance/ada", headers=ada) == [200] * 3
    assert [line.partition(":")[0] for line in lines(caplog)[1:]] == ["Redis answers again"]
    with redis_server.connect() as client:
        (key,) = client.keys("*user ada GET*")
        assert client.get(key) == b"3"


async def test_a_redis_that_hangs_makes_nobody_wait_for_long(
    start: Any, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    served = await start(redis_server, rate_limit_user="100/minute")
    # Not a balance: that may be looked for in Redis, too.
    bob, path = served.user("bob"), "/auth/me"
    assert await statuses(served, 1, path, headers=bob) == [200]
    redis_server.pause()
    began = time.monotonic()
    answers = await asyncio.gather(*(served.client.get(path, headers=bob) for _ in range(50)))
    first = time.monotonic() - began
    assert {answer.status_code for answer in answers} == {200}
    began = time.monotonic()
    assert await statuses(served, 20, path, headers=bob) == [200] * 20
    assert first < CALL_TIMEOUT_S + 2
    assert time.monotonic() - began < CALL_TIMEOUT_S * 10  # nobody waits for it any more
    assert len(lines(caplog)) == 1


@pytest.mark.usefixtures("patient")
async def test_who_is_refused_costs_redis_nothing(start: Any, redis_server: RedisServer) -> None:
    served = await start(redis_server, rate_limit_user="1/minute")
    bob = served.user("bob")
    assert await statuses(served, 2, headers=bob) == [200, 429]
    with redis_server.connect() as client:
        before = client.info("commandstats")
        assert await statuses(served, 10, headers=bob) == [429] * 10
        after = client.info("commandstats")
    assert after["cmdstat_evalsha"]["calls"] == before["cmdstat_evalsha"]["calls"]


async def test_a_redis_url_without_a_port_is_the_usual_one() -> None:
    for url, meant in (
        ("redis://cache.internal", "async+redis://cache.internal:6379"),
        ("redis://:secret@cache.internal/2", "async+redis://:secret@cache.internal:6379/2"),
        ("rediss://[::1]/0?ssl_cert_reqs=none", "async+rediss://[::1]:6379/0?ssl_cert_reqs=none"),
        ("redis://cache.internal:7000", "async+redis://cache.internal:7000"),
        ("unix:///run/redis.sock?db=1", "async+redis+unix:///run/redis.sock?db=1"),
    ):
        assert counting._for_limits(url) == meant
        await Counts(url).close()


@pytest.mark.usefixtures("patient")
async def test_the_log_tells_no_password_of_redis(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    counts = Counts(redis_server.url.replace("redis://", "redis://nobody:hunter2@"))
    assert await counts.take(Limit("1/minute"), "ada") == 0
    await counts.close()
    assert len(lines(caplog)) == 1
    assert logging.getLogger("shared_ledger.access").isEnabledFor(logging.WARNING)
    assert "hunter2" not in caplog.text
