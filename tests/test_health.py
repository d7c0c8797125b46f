"""Whether a process lives, and whether it can answer; what every answer says to browsers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import psycopg
import pytest
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from builders import query
from redis_server import RedisServer
from serving import OPERATOR, Served, kind, serving
from shared_ledger import migrations
from shared_ledger.access.counts import CALL_TIMEOUT_S
from shared_ledger.apps.content import SERVICE as CONTENT
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster, temporary_cluster
from shared_ledger.ledger import Ledger
from shared_ledger.schema import REVISIONS
from shared_ledger.service.readiness import FRESH_S, TIMEOUT_S

READY = "/health/ready"


@pytest.fixture
async def served(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Served]:
    async with serving(cluster.url, schema, engine, beside=[CONTENT]) as served:
        yield served


async def wrong(served: Served) -> httpx.Response:
    """What is answered when it is not ready, looked at anew."""
    await asyncio.sleep(FRESH_S)
    answer = await served.client.get(READY)
    assert (answer.status_code, kind(answer)) == (503, "not_ready")
    assert answer.headers["retry-after"] == "1"
    return answer


async def ready_again(served: Served) -> None:
    await asyncio.sleep(FRESH_S)
    assert (await served.client.get(READY)).status_code == 200


# Readiness.


async def test_a_service_that_can_answer_says_of_what_it_is_made(served: Served) -> None:
    for path in (READY, CONTENT.path + READY):
        answer = await served.client.get(path)
        assert answer.status_code == 200
        assert answer.json() == {
            "status": "ready",
            "database": "ok",
            "migrations": {"book": REVISIONS[-1], "content": "0001"},
        }


async def test_what_lives_is_alive_though_it_is_not_ready(served: Served) -> None:
    served.app.state.leaving.set()
    assert (await wrong(served)).json()["part"] == "shutdown"
    for path in ("/health", CONTENT.path + "/health"):
        assert (await served.client.get(path)).json()["status"] == "ok"


@pytest.mark.parametrize(
    ("table", "revision", "sentence"),
    [
        ("version", "0001", "older than"),
        ("version", "9999", "upgrade the program"),
        ("content_version", "0000", "upgrade the program"),
    ],
)
async def test_tables_of_another_version_are_not_ready(
    served: Served, table: str, revision: str, sentence: str
) -> None:
    (before,) = query(served.url, f"select version_num from {served.schema}.{table}")[0]
    query(served.url, f"update {served.schema}.{table} set version_num = '{revision}'")
    answer = (await wrong(served)).json()
    assert (answer["part"], answer["database"]) == ("migrations", "ok")
    assert revision in answer["detail"]
    assert sentence in answer["detail"]
    assert (await served.client.get(CONTENT.path + READY)).status_code == 503
    query(served.url, f"update {served.schema}.{table} set version_num = '{before}'")
    await ready_again(served)


async def test_an_application_that_was_not_migrated_is_not_ready(served: Served) -> None:
    query(served.url, f"delete from {served.schema}.content_version")
    answer = (await wrong(served)).json()
    assert (answer["part"], "shared-ledger migrate" in answer["detail"]) == ("migrations", True)


async def test_a_ledger_that_was_closed_is_not_ready(served: Served) -> None:
    closed: Ledger[Any] = served.ledger
    closed.close()
    assert (await wrong(served)).json()["part"] == "ledger"


async def test_a_database_that_is_gone_is_not_ready_until_it_is_back(
    schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    with temporary_cluster() as fragile, contextmanager(_engine)(fragile.url) as engine:
        async with serving(fragile.url, schema, engine) as served:
            assert (await served.client.get(READY)).status_code == 200
            fragile.kill()
            for _ in range(2):
                answer = (await wrong(served)).json()
            assert (answer["part"], answer["database"]) == ("database", "down")
            # Where the database is, is nobody's affair; the log tells it, once.
            assert answer["detail"] == "the database cannot be reached"
            told = [r.getMessage() for r in caplog.records if r.getMessage().startswith("not rea")]
            assert len(told) == 1
            fragile.ensure_running()
            await ready_again(served)
            assert "ready again" in caplog.text


def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


async def test_a_database_that_does_not_answer_within_a_second_is_not_ready(
    served: Served, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    check = migrations.check

    def counted(*arguments: Any) -> str:
        nonlocal looks
        looks += 1
        return check(*arguments)

    monkeypatch.setattr(migrations, "check", counted)
    with psycopg.connect(cluster.url) as connection:
        connection.execute(f"lock table {served.schema}.version".encode())
        began = time.monotonic()
        answers = await asyncio.gather(*(served.client.get(READY) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert TIMEOUT_S <= time.monotonic() - began < TIMEOUT_S + 2
        assert (await wrong(served)).json()["part"] == "database"
        # The one that hangs is waited for; no other is sent after it.
        assert looks == 1
    await ready_again(served)
    assert looks == 2 + 2  # of two applications each


async def test_the_database_is_looked_at_once_in_a_second(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    check = migrations.check

    def counted(*arguments: Any) -> str:
        looks.append(arguments[2].name)
        return check(*arguments)

    monkeypatch.setattr(migrations, "check", counted)
    monkeypatch.setattr("shared_ledger.service.readiness.FRESH_S", fresh_s := 3.0)
    paths = [READY, CONTENT.path + READY]
    for _ in range(5):
        answers = await asyncio.gather(*(served.client.get(path) for path in paths * 10))
        assert {answer.status_code for answer in answers} == {200}
    assert looks == ["shared", "content"]
    await asyncio.sleep(fresh_s)
    await ready_again(served)
    assert looks == ["shared", "content"] * 2


async def test_without_redis_it_is_ready_and_says_so(
    cluster: Cluster, schema: str, engine: Engine, redis_server: RedisServer
) -> None:
    redis_url = SecretStr(redis_server.url)
    async with serving(cluster.url, schema, engine, redis_url=redis_url) as served:
        assert (await served.client.get(READY)).json()["cache"] == "ok"
        redis_server.pause()
        await asyncio.sleep(FRESH_S)
        began = time.monotonic()
        assert (await served.client.get(READY)).json()["cache"] == "down"
        assert time.monotonic() - began < CALL_TIMEOUT_S + 1
        redis_server.resume()
        await asyncio.sleep(FRESH_S)
        assert (await served.client.get(READY)).json()["cache"] == "ok"
        redis_server.kill()
        await asyncio.sleep(FRESH_S)
        answer = await served.client.get(READY)
        assert (answer.status_code, answer.json()["cache"]) == (200, "down")


# What every answer says.

SAFE = {
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "strict-transport-security": "max-age=31536000",
}


async def test_every_answer_is_safe_to_show_errors_too(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Ledger, "aholds", broken)
    for method, path, status in (
        ("GET", "/health", 200),
        ("GET", "/metrics", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/balance/bob", 200),
        ("GET", "/admin/keys", 403),
        ("GET", "/nothing", 404),
        ("GET", "/ledger/bob/holds", 500),
        ("PUT", "/ledger", 405),
        ("POST", "/ledger", 400),
        ("POST", "/auth/token", 422),
        ("GET", CONTENT.path + "/content", 200),
        ("POST", CONTENT.path + "/content", 422),
        ("GET", CONTENT.path + "/nothing", 404),
        ("GET", CONTENT.path + "/ledger/bob/holds", 500),
        ("HEAD", "/balance/bob", 200),
    ):
        answer = await served.client.request(method, path, headers=OPERATOR)
        assert answer.status_code == status, (method, path)
        told = answer.headers.multi_items()
        for name, value in SAFE.items():
            assert [v for n, v in told if n == name] == [value], (method, path, name)
        assert "server" not in answer.headers


async def test_in_development_nothing_is_said_of_https(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    async with serving(cluster.url, schema, engine, environment="development") as served:
        answer = await served.client.get("/health")
        assert answer.headers["x-frame-options"] == "DENY"
        assert "strict-transport-security" not in answer.headers


async def test_a_process_that_leaves_ends_each_connection_with_its_answer(served: Served) -> None:
    assert "connection" not in (await served.client.get("/health")).headers
    served.app.state.leaving.set()
    for path in ("/health", "/balance/bob", "/nothing", CONTENT.path + "/content"):
        answer = await served.client.get(path, headers=OPERATOR)
        assert answer.headers["connection"] == "close", path


@pytest.mark.parametrize("page", ["/docs", "/redoc", "/docs/oauth2-redirect"])
@pytest.mark.parametrize("root", ["", CONTENT.path])
async def test_a_page_runs_its_own_scripts_and_no_others(
    served: Served, root: str, page: str
) -> None:
    answer = await served.client.get(root + page)
    assert answer.status_code == 200
    (said,) = answer.headers.get_list("content-security-policy")
    policy = dict(part.strip().partition(" ")[::2] for part in said.split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    inline = answer.text.count("<script>")
    assert policy["script-src"].count("'sha256-") == inline == (page != "/redoc")
    assert "unsafe" not in policy["script-src"]
