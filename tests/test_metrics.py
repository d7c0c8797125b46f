"""What Prometheus is shown: what was written, refused and answered, and nothing without end."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from builders import eventually, query
from contexts import engine_on
from prometheus_server import promtool
from redis_server import RedisServer
from serving import OPERATOR, SERVICES, Served, serving
from shared_ledger import __version__
from shared_ledger.apps.content import SERVICE as CONTENT
from shared_ledger.apps.content.operations import ContentOperation
from shared_ledger.apps.crowdfunding.bitcoin.store import deposits, withdrawals
from shared_ledger.book import Posting
from shared_ledger.embedded import Cluster
from shared_ledger.errors import InsufficientCredits, LedgerUnavailable
from shared_ledger.ledger import Ledger
from shared_ledger.service import measured
from shared_ledger.service.metrics import LOOK_EVERY_S
from shared_ledger.service.readiness import FRESH_S
from shared_ledger.store import Store
from spark_served import simulate
from test_cli import Run, empty, folder, run

__all__ = ["empty", "folder", "run"]  # the fixtures

SCRAPED = "/metrics"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """The database is asked each time."""
    monkeypatch.setattr(measured, "EVERY_S", 0.0)


@pytest.fixture
async def served(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """Everything, on one book."""
    simulate(monkeypatch)
    async with serving(cluster.url, schema, engine, beside=SERVICES) as served:
        yield served


async def shown(served: Served) -> dict[str, float]:
    """Each series with its value."""
    answer = await served.client.get(SCRAPED)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line for line in answer.text.splitlines() if not line.startswith("#")]
    return {series: float(value) for series, _, value in (line.rpartition(" ") for line in lines)}


async def use(served: Served, number: int = 0) -> None:
    """Ask for many different things, as owners and others that nobody has seen before."""
    client = served.client
    user = served.user(f"ada{number}")
    key = served.key(operations=("CREDIT_ADD",))
    for operation in ("CREDIT_ADD", "CREDIT_SPEND", "DAILY_REWARD", "NO_SUCH", f"ODD_{number}"):
        for headers in (OPERATOR, user, key, {"x-token": f"wrong {number}"}, {}):
            await served.post(headers, operation, f"ada{number}")
            await served.at(CONTENT.path).post(headers, operation, f"ada{number}")
    content = {"title": "t", "body": "b", "nonce": f"c{number}", "owner_id": f"ada{number}"}
    await client.post(f"{CONTENT.path}/content", json=content, headers=OPERATOR)
    transfer = {"source": f"ada{number}", "destination": f"ben{number}", "amount": 1, "nonce": "t"}
    assets = [transfer, transfer | {"nonce": "u", "asset": f"asset{number}"}]
    for body in assets:
        await client.post("/ledger/transfers", json=body, headers=OPERATOR)
    for path in (
        f"/ledger/ada{number}",
        f"/balance/ada{number}",
        f"/ledger/ada{number}/entries",
        f"/ledger/holds/{number + 1}",
        f"/no/such/{number}",
        f"/api/v1/nobody{number}/ledger",
        f"/api/v1/content/content/{number + 1}",
        f"/docs/{number}",
        f"/{number}",
    ):
        await client.get(path, headers=OPERATOR, params={"limit": str(number + 1)})
        await client.request(f"METHOD{number}", path)


async def test_promtool_finds_nothing_wrong_with_what_is_shown(served: Served) -> None:
    await use(served)
    await shown(served)
    text = (await served.client.get(SCRAPED)).text
    assert promtool("check", "metrics", given=text) == ""


async def test_whoever_asks_for_whatever_adds_no_series(served: Served) -> None:
    await use(served)
    await shown(served)
    before = set(await shown(served))
    for number in range(1, 6):
        await use(served, number)
    assert set(await shown(served)) == before
    assert not [series for series in before if re.search("ada|ben|asset0|METHOD|nobody", series)]


async def test_each_method_route_and_status_is_counted_and_timed(served: Served) -> None:
    for path in ("/health", "/health", "/no/such", "/balance/ada"):
        await served.client.get(path)
    await served.client.head("/health")
    await served.client.request("BREW", "/health")
    found = await shown(served)
    name = "shared_ledger_http_requests_total"
    assert found[f'{name}{{method="GET",route="/health",status="200"}}'] == 3
    assert found[f'{name}{{method="GET",route="unknown",status="404"}}'] == 1
    assert found[f'{name}{{method="GET",route="/balance/{{owner_id}}",status="401"}}'] == 1
    (other,) = [series for series in found if series.startswith(name) and '"other"' in series]
    assert found[other] == 1
    name = "shared_ledger_http_request_seconds"
    assert found[f'{name}_count{{method="GET",route="/health"}}'] == 3
    assert found[f'{name}_bucket{{le="+Inf",method="GET",route="/health"}}'] == 3
    assert 0 < found[f'{name}_sum{{method="GET",route="/health"}}'] < 10


async def test_nothing_is_counted_while_nobody_watches(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    watching = [False]
    async with serving(cluster.url, schema, engine, watched=lambda: watching[0]) as served:
        entries = 'shared_ledger_entries_total{app="shared",operation="CREDIT_ADD"}'
        requests = 'shared_ledger_http_requests_total{method="POST",route="/ledger",status="201"}'
        for counted in (0, 1):
            watching[0] = bool(counted)
            assert (await served.post(OPERATOR, "CREDIT_ADD", "ada")).status_code == 201
            found = await shown(served)
            assert found[entries] == found.get(requests, 0) == counted
            assert found["shared_ledger_batch_size_count"] == counted


async def test_a_time_is_counted_below_each_bound_that_it_is_below(served: Served) -> None:
    series = served.app.state.metrics.requests.series("GET", "/slow", 200)
    for seconds in (0.0005, 0.001, 0.0011, 0.3, 99.0):
        series.count(seconds)
    found = await shown(served)
    below = {
        bound: found[
            f'shared_ledger_http_request_seconds_bucket{{le="{bound}",method="GET",route="/slow"}}'
        ]
        for bound in ("0.001", "0.0025", "0.25", "0.5", "5.0", "+Inf")
    }
    assert below == {"0.001": 2, "0.0025": 3, "0.25": 3, "0.5": 4, "5.0": 4, "+Inf": 5}


# --- entries ---


def of(kind: str, app: str, operation: str, **more: str) -> str:
    labels = dict(sorted({"app": app, "operation": operation, **more}.items()))
    text = ",".join(f'{name}="{value}"' for name, value in labels.items())
    return f"shared_ledger_{kind}_total{{{text}}}"


async def test_what_owners_were_given_and_what_was_taken_is_counted(served: Served) -> None:
    for operation in ("CREDIT_ADD", "CREDIT_ADD", "CREDIT_SPEND"):
        assert (await served.post(OPERATOR, operation, "ada")).status_code == 201
    refund = await served.post(OPERATOR, "CREDIT_ADD", "ben")
    body = {"nonce": "r", "amount": 4}
    path = f"/ledger/entries/{refund.json()['id']}/reverse"
    assert (await served.client.post(path, json=body, headers=OPERATOR)).status_code == 201
    body = {"source": "ada", "destination": "ben", "amount": 7, "nonce": "t"}
    moved = await served.client.post("/ledger/transfers", json=body, headers=OPERATOR)
    assert moved.status_code == 201
    found = await shown(served)
    asset = {"asset": "credits"}
    assert found[of("entries", "shared", "CREDIT_ADD")] == 3
    assert found[of("credited", "shared", "CREDIT_ADD", **asset)] == 30
    assert found[of("debited", "shared", "CREDIT_SPEND", **asset)] == 1
    assert found[of("debited", "shared", "REVERSAL", **asset)] == 4
    assert found[of("credited", "shared", "TRANSFER", **asset)] == 7
    assert found[of("debited", "shared", "TRANSFER", **asset)] == 7
    assert of("debited", "shared", "CREDIT_ADD", **asset) not in found
    # What owners have together is what system accounts owe.
    balance = "shared_ledger_system_account_balance"
    assert found[f'{balance}{{account="@issued",asset="credits"}}'] == -26
    assert found[f'{balance}{{account="@spent",asset="credits"}}'] == 1
    assert found[f'{balance}{{account="@transfers",asset="credits"}}'] == 0


async def test_every_operation_is_there_from_the_beginning(served: Served) -> None:
    found = await shown(served)
    assert found[of("entries", "content", "CONTENT_CREATION")] == 0
    assert found[of("debited", "content", "CONTENT_CREATION", asset="credits")] == 0
    assert found[of("credited", "crowdfunding", "DEPOSIT", asset="msat")] == 0


async def test_what_is_posted_in_an_applications_transaction_is_counted(served: Served) -> None:
    content = served.at(CONTENT.path)
    body = {"title": "t", "body": "b", "owner_id": "ada"}
    refused = await content.client.post("/content", json=body | {"nonce": "1"}, headers=OPERATOR)
    assert refused.status_code == 402
    await served.post(OPERATOR, "CREDIT_ADD", "ada")
    for _ in range(2):
        again = await content.client.post("/content", json=body | {"nonce": "2"}, headers=OPERATOR)
    assert again.status_code == 200
    found = await shown(served)
    assert found[of("entries", "content", "CONTENT_CREATION")] == 1
    assert found[of("debited", "content", "CONTENT_CREATION", asset="credits")] == 5
    reason = {"reason": "insufficient_credits"}
    assert found[of("refusals", "content", "CONTENT_CREATION", **reason)] == 1


class Told:
    """What an observer of transactions was told."""

    def __init__(self) -> None:
        self.nonces: list[str] = []
        self.refused: list[str] = []

    def __call__(self, outcomes: Any) -> None:
        for command, result in outcomes:
            known = self.refused if isinstance(result, InsufficientCredits) else self.nonces
            known.append(command.nonce)


def watched(url: str, schema: str, observe_in: Any) -> Ledger[ContentOperation]:
    return Ledger(CONTENT.application, url, schema=schema, migrate=True, observe_in=observe_in)


def test_what_is_rolled_back_is_not_told(cluster: Cluster, schema: str, engine: Engine) -> None:
    told = Told()
    with watched(cluster.url, schema, told) as ledger, engine.connect() as connection:
        for nonce in ("a", "b"):
            ledger.post_in(connection, add(nonce))
        assert told.nonces == []
        connection.commit()
        assert told.nonces == ["a", "b"]
        ledger.post_in(connection, add("c"))
        connection.rollback()
        ledger.post_in(connection, add("d"))
        with pytest.raises(InsufficientCredits):
            ledger.post_in(connection, spend("e"))
        connection.commit()
    assert (told.nonces, told.refused) == (["a", "b", "d"], ["e"])


async def test_an_asynchronous_transaction_is_told_of_too(cluster: Cluster, schema: str) -> None:
    told = Told()
    with watched(cluster.url, schema, told) as ledger:
        async with engine_on(cluster.url, schema) as beside, beside.begin() as connection:
            await ledger.apost_in(connection, add("a"))
            assert told.nonces == []
    assert told.nonces == ["a"]


def test_an_observer_that_fails_undoes_no_transaction(
    cluster: Cluster, schema: str, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with watched(cluster.url, schema, fail) as ledger:
        with engine.begin() as connection:
            ledger.post_in(connection, add("a"))
        assert ledger.balance("ada").balance == 10
    assert "the observer of a transaction failed" in caplog.text


def add(nonce: str) -> Posting[ContentOperation]:
    return Posting(ContentOperation.CREDIT_ADD, "ada", nonce)


def spend(nonce: str) -> Posting[ContentOperation]:
    return Posting(ContentOperation.CONTENT_CREATION, "nobody", nonce)


# --- how it is with the service ---


async def test_what_the_service_needs_is_shown_to_be_there_or_not(
    cluster: Cluster, schema: str, engine: Engine, redis_server: RedisServer
) -> None:
    name = "shared_ledger_dependency_up"
    database, redis = (f'{name}{{dependency="{each}"}}' for each in ("database", "redis"))
    async with serving(
        cluster.url, schema, engine, redis_url=SecretStr(redis_server.url)
    ) as served:
        found = await shown(served)
        assert (found[database], found[redis]) == (1, 1)
        redis_server.kill()
        served.app.state.readiness._engine.pool._creator = away
        served.app.state.readiness._engine.dispose()
        await asyncio.sleep(FRESH_S)
        found = await shown(served)
        assert (found[database], found[redis]) == (0, 0)


def away() -> None:
    raise LedgerUnavailable("away")


async def test_a_service_without_redis_shows_none(served: Served) -> None:
    assert not [series for series in await shown(served) if "redis" in series]


async def test_a_queue_that_fills_is_shown(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = served.ledger._writer
    goes_on = threading.Event()
    written = Store.load

    def waiting(*arguments: Any, **more: Any) -> Any:
        goes_on.wait(30)
        return written(*arguments, **more)

    monkeypatch.setattr(Store, "load", waiting)
    monkeypatch.setattr(writer, "_max_queue", 10)
    posts = [asyncio.create_task(served.post(OPERATOR, "CREDIT_ADD", f"ada{n}")) for n in range(5)]
    await asyncio.to_thread(eventually, lambda: served.ledger.queued == 5)
    found = await shown(served)
    assert found["shared_ledger_queue_depth"] == 5
    assert found["shared_ledger_queue_fullness_ratio"] == 0.5
    goes_on.set()
    assert {answer.status_code for answer in await asyncio.gather(*posts)} == {201}
    found = await shown(served)
    assert found["shared_ledger_queue_fullness_ratio"] == 0
    assert found["shared_ledger_queue_wait_seconds_count"] >= 1
    assert found["shared_ledger_queue_wait_seconds_sum"] > 0


async def test_a_loop_that_is_kept_busy_is_shown_to_be_late(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = 'shared_ledger_event_loop_delay_seconds_bucket{le="0.5"}'
    every = 'shared_ledger_event_loop_delay_seconds_bucket{le="+Inf"}'
    await asyncio.sleep(1.2 * LOOK_EVERY_S)
    found = await shown(served)
    before = found[every] - found[late]
    time.sleep(LOOK_EVERY_S + 0.6)  # noqa: ASYNC251  # That is what is measured.
    await asyncio.sleep(0.05)
    found = await shown(served)
    assert found[every] - found[late] == before + 1


async def test_connections_in_use_are_shown(served: Served) -> None:
    assert (await shown(served))["shared_ledger_connections_used"] == 0
    engine: Engine = served.app.state.engine
    with engine.connect(), engine.connect():
        assert (await shown(served))["shared_ledger_connections_used"] == 2


async def test_it_is_shown_which_version_runs_and_what_the_process_uses(served: Served) -> None:
    found = await shown(served)
    assert found[f'shared_ledger_build_info{{version="{__version__}"}}'] == 1
    assert found["process_resident_memory_bytes"] > 1e7


# --- what the database knows ---


async def test_what_satoshi_spark_has_under_way_is_shown(served: Served) -> None:
    engine: Engine = served.app.state.engine
    names = (
        "deposits_awaited",
        "withdrawals_in_flight",
        "withdrawals_in_flight_msat",
        "oldest_payment_seconds",
    )

    async def spark() -> list[float]:
        found = await shown(served)
        return [found[f"shared_ledger_crowdfunding_{name}"] for name in names]

    assert await spark() == [0, 0, 0, 0]
    now = sa.func.clock_timestamp()
    with engine.begin() as connection:
        for number, state in enumerate(("open", "expired")):
            connection.execute(
                sa.insert(deposits).values(
                    payment_hash=f"d{number}",
                    version=1,
                    account_id="ada",
                    payment_request="lnbc1",
                    amount=1_000,
                    received=0,
                    state=state,
                    created_on=now,
                    expires_on=now,
                    due_on=now + timedelta(days=1) if state == "open" else None,
                )
            )
        for number, state in enumerate(("reserved", "paying", "succeeded")):
            connection.execute(
                sa.insert(withdrawals).values(
                    payment_hash=f"w{number}",
                    version=1,
                    account_id="ada",
                    payment_request="lnbc1",
                    amount=3_000,
                    max_fee=5_000,
                    expires_on=now + timedelta(days=1),
                    fee=0,
                    state=state,
                    created_on=now,
                    begun_on=None if state == "reserved" else now - timedelta(hours=1),
                    due_on=None if state == "succeeded" else now + timedelta(days=1),
                )
            )
    awaited, in_flight, msat, oldest = await spark()
    assert (awaited, in_flight, msat) == (1, 2, 6_000)
    assert 3_600 <= oldest < 3_700


async def test_a_figure_that_cannot_be_asked_hides_no_other_metric(
    served: Served, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    query(served.url, f"alter table {schema}.crowdfunding_bitcoin_deposits rename to away")
    found = await shown(served)
    assert found["shared_ledger_queue_depth"] == 0
    assert not [series for series in found if "crowdfunding_deposits" in series]
    assert "what metrics ask the database is not known" in caplog.text
    query(served.url, f"alter table {schema}.away rename to crowdfunding_bitcoin_deposits")
    assert "shared_ledger_crowdfunding_deposits_awaited" in await shown(served)


# --- what `verify` found ---


def test_verify_leaves_what_it_found_for_prometheus(
    run: Run, ledger: Ledger[Any], schema: str, tmp_path: Path
) -> None:
    run("post", "CREDIT_ADD", "ada")
    file = tmp_path / "verify.prom"
    began = time.time()
    assert run("verify", "--metrics", str(file)).exit_code == 0
    assert promtool("check", "metrics", given=file.read_text()) == ""

    def found() -> dict[str, float]:
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        words = [
            re.fullmatch(r'shared_ledger_verify_(\w+){schema="(\w+)"} (\S+)', each)
            for each in lines
        ]
        assert {word[2] for word in words if word} == {schema}
        return {word[1]: float(word[3]) for word in words if word}

    first = found()
    assert (first["agrees"], first["disagreements"], first["entries"]) == (1, 0, 1)
    assert began <= first["completed_timestamp_seconds"] <= time.time()
    assert 0 < first["duration_seconds"] < 100
    query(ledger.url, f"update {schema}.accounts set posted = posted + 1 where owner_id = 'ada'")
    assert run("verify", "--metrics", str(file)).exit_code == 1
    second = found()
    assert second["agrees"] == 0
    assert second["disagreements"] > 0


async def test_the_guide_names_every_metric_and_no_other(
    cluster: Cluster,
    schema: str,
    engine: Engine,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulate(monkeypatch)
    redis = SecretStr(redis_server.url)
    async with serving(cluster.url, schema, engine, beside=SERVICES, redis_url=redis) as served:
        await use(served)
        await served.client.get(SCRAPED)
        text = (await served.client.get(SCRAPED)).text
    shown = set(re.findall(r"^# TYPE shared_ledger_(\w+)", text, re.MULTILINE))
    guide = (Path(__file__).parent.parent / "docs" / "observability.md").read_text()
    table = guide.partition("| metric |")[2].partition("\n\n")[0]
    named = {
        name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    assert named == shown
