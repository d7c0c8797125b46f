"""How far behind messages are, as Prometheus sees it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import SHOP, query
from contexts import (
    NOTES_TABLES,
    SHOP_TABLES,
    Note,
    engine_on,
    make_tables,
    notes_context,
    send,
    work_off,
)
from serving import Served, serving
from shared_ledger.embedded import Cluster
from shared_ledger.messages import Retries, UnitOfWork
from shared_ledger.service import Service, measured

SERVICE = Service(
    application=SHOP,
    title="The shop",
    description="It sells.",
    message_tables=[SHOP_TABLES, NOTES_TABLES],
)


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the contexts, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


@pytest.fixture
async def shop(
    tables: AsyncEngine, cluster: Cluster, schema: str, engine: Engine
) -> AsyncIterator[Served]:
    """The service over the contexts' tables."""
    async with serving(cluster.url, schema, engine, application=SERVICE) as served:
        yield served


async def shown(served: Served) -> dict[tuple[str, str], float]:
    """What metrics say of messages: by name and context."""
    answer = await served.client.get("/metrics")
    assert answer.status_code == 200
    assert "shared_ledger_queue_depth 0.0" in answer.text
    found = re.findall(
        r'^shared_ledger_messages_(\w+)\{context="(\w+)"\} (\S+)$', answer.text, re.MULTILINE
    )
    return {(name, context): float(value) for name, context, value in found}


async def test_metrics_tell_how_far_behind_each_context_is(
    shop: Served, tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    async def fail(note: Note, _: UnitOfWork) -> None:
        if note.number == 0:
            raise RuntimeError("no")

    await send(tables, *(Note(line="a", number=number) for number in range(4)))
    await work_off(tables, [notes_context(fail)], retries=Retries(attempts=1))
    await send(tables, *(Note(line="b", number=number) for number in range(2)))
    for table, column in (("shop_outbox", "created_on"), ("notes_inbox", "received_on")):
        text = f"update {schema}.{table} set {column} = {column} - interval '1 hour'"
        query(cluster.url, text)
    found = await shown(shop)
    ages = [value for (name, _), value in found.items() if name.startswith("oldest")]
    assert sorted(age // 60 for age in ages) == [0, 0, 60, 60]
    assert found["oldest_unpublished_seconds", "shop"] > 3_600
    assert found["oldest_unhandled_seconds", "notes"] > 3_600
    assert {key: value for key, value in found.items() if not key[0].startswith("oldest")} == {
        ("unpublished", "shop"): 2,
        ("waiting", "shop"): 0,
        ("dead", "shop"): 0,
        ("unpublished", "notes"): 0,
        ("waiting", "notes"): 3,
        ("dead", "notes"): 1,
    }


async def test_database_is_not_asked_each_time(
    shop: Served, tables: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "WAIT_S", 60)
    assert (await shown(shop))["unpublished", "shop"] == 0
    await send(tables, Note(line="a", number=0))
    assert (await shown(shop))["unpublished", "shop"] == 0
    # As if those seconds were over.
    shop.app.state.metrics.measured._due_at -= measured.EVERY_S
    assert (await shown(shop))["unpublished", "shop"] == 1


async def test_metrics_are_shown_without_the_database(
    shop: Served,
    cluster: Cluster,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(measured, "EVERY_S", 0.0)
    monkeypatch.setattr(measured, "WAIT_S", 60)
    assert len(await shown(shop)) == 10
    query(cluster.url, f"alter table {schema}.shop_outbox rename to away")
    assert await shown(shop) == {}
    assert "what metrics ask the database is not known" in caplog.text
    query(cluster.url, f"alter table {schema}.away rename to shop_outbox")
    assert len(await shown(shop)) == 10


async def test_metrics_do_not_wait_for_a_database_that_does_not_answer(
    shop: Served, tables: AsyncEngine, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured, "EVERY_S", 0.0)
    monkeypatch.setattr(measured, "WAIT_S", 60)
    assert len(await shown(shop)) == 10
    monkeypatch.setattr(measured, "WAIT_S", 0.2)
    await send(tables, Note(line="a", number=0))
    async with tables.connect() as locking:
        text = f"lock table {schema}.notes_inbox in access exclusive mode"
        await locking.execute(sa.text(text))
        for _ in range(2):
            began = time.monotonic()
            scraped = asyncio.create_task(shown(shop))
            # Others are answered meanwhile.
            assert (await shop.client.get("/health")).status_code == 200
            assert not scraped.done()
            # What was known before.
            assert (await scraped)["unpublished", "shop"] == 0
            assert 0.1 < time.monotonic() - began < 5
    monkeypatch.setattr(measured, "WAIT_S", 60)
    assert (await shown(shop))["unpublished", "shop"] == 1


async def test_service_without_contexts_shows_nothing_of_messages(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    async with serving(cluster.url, schema, engine, application=SHOP) as served:
        assert await shown(served) == {}
