"""Satoshi Spark as it is served: the world outside is simulated, and its work goes on by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import assert_sound, query
from serving import OPERATOR, Served, serving
from shared_ledger.apps.crowdfunding import SERVICE, running
from shared_ledger.apps.crowdfunding.common import waiting
from shared_ledger.apps.crowdfunding.contexts import TABLES
from shared_ledger.apps.crowdfunding.lightning.nodes import SIMULATED
from shared_ledger.apps.crowdfunding.lightning.port import LightningNode
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.apps.crowdfunding.lightning.tables import invoices, node
from shared_ledger.embedded import Cluster

SAT = 1_000
UNKNOWN = "0b0e7c1c-5d3e-5b7e-9d3f-2f1c7a6f5e4d"
"""A campaign that nobody has begun."""
NOBODYS = "00" * 32
"""The payment hash of no invoice."""
MAINNET = (
    "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqq"
    "qsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fk"
    "pmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh"
)
"""An invoice, as BOLT 11 has it for an example."""
WITHOUT_LIMITS: dict[str, Any] = {"rate_limit_anonymous": "", "rate_limit_user": ""}

_QUIET = " and ".join(
    f"not exists (select from {{book}}.{tables.outbox.name} where published_on is null) and "
    f"not exists (select from {{book}}.{tables.inbox.name} where state = 'new')"
    for tables in TABLES
)
# The simulated node has a key from the moment it is asked for the first time.
_NOTED = f"""
exists (select from {{book}}.{node.name}) and not exists (
    select from {{book}}.{invoices.name} as invoice
    join {{book}}.crowdfunding_bitcoin_deposits using (payment_hash)
    where settle_index is not null and state in ('open', 'expired')
) and not exists (
    select from {{book}}.crowdfunding_bitcoin_withdrawals
    where state in ('requested', 'reserved', 'paying')
)
"""


def simulate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the Lightning node be simulated, in production too."""

    async def opened(_: str, engine: AsyncEngine, *, production: bool) -> LightningNode:
        return SimulatedNode(engine, poll_s=0.02)

    monkeypatch.setenv("LIGHTNING_NODE", SIMULATED)
    monkeypatch.setattr(running, "open_node", opened)


def be_patient(monkeypatch: pytest.MonkeyPatch, patience_s: float = 60) -> None:
    """Let a caller wait for what is under way for as long as a busy machine takes."""
    monkeypatch.setattr(waiting, "PATIENCE_S", patience_s)


def is_quiet(url: str, schema: str) -> bool:
    """Whether no message is on its way, the node has told all, and no payment is under way."""
    text = f"select {_QUIET} and {_NOTED}".format(book=schema)
    quiet: bool = query(url, text)[0][0]
    return quiet


async def quiet(served: Served, *, within_s: float = 30) -> None:
    """Wait until nothing goes on by itself any more."""
    ends = time.monotonic() + within_s
    while not is_quiet(served.url, served.schema):
        assert time.monotonic() < ends, "it goes on and on"
        await asyncio.sleep(0.02)


async def funded(served: Served, owner_id: str, sat: int = 1_000_000) -> None:
    """Let an owner have so many sat, as if he had deposited them; the dashboard is not told."""
    answer = await served.post(OPERATOR, "DEPOSIT", owner_id, amount=sat * SAT)
    assert answer.status_code == 201, answer.text


def campaign_body(**more: Any) -> dict[str, Any]:
    """A good campaign, which ends tomorrow."""
    return {
        "title": "A bridge for toads",
        "description": "They cross the road every March.",
        "goal": 5_000,
        "deadline": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
    } | more


class Person:
    """A user, and what he is answered; paths are those of the service alone."""

    def __init__(self, served: Served, name: str, headers: dict[str, str]) -> None:
        self.name = name
        self._served = served
        self._headers = headers

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self._served.client.get(path, params=query, headers=self._headers)

    async def post(self, path: str, **body: Any) -> httpx.Response:
        return await self._served.client.post(path, json=body, headers=self._headers)

    async def begin(self, **more: Any) -> httpx.Response:
        """Begin a campaign."""
        return await self.post("/crowdfunding/campaign", **campaign_body(**more))

    async def campaign(self, **more: Any) -> str:
        """Begin a campaign, and return its id."""
        made = await self.begin(**more)
        assert made.status_code == 201, made.text
        return str(made.json()["campaign_id"])

    async def donate(self, campaign_id: str, amount: int, key: str) -> httpx.Response:
        body = {"idempotency_key": key, "campaign_id": campaign_id, "amount": amount}
        return await self.post("/crowdfunding/donate", **body)

    async def invoice(self, payment_hash: str) -> dict[str, Any]:
        """What is shown of one of his invoices."""
        shown = await self.get(f"/bitcoin/invoice/{payment_hash}")
        assert shown.status_code == 200, shown.text
        found: dict[str, Any] = shown.json()
        return found

    async def dashboard(self) -> dict[str, Any]:
        shown = await self.get("/dashboard")
        assert shown.status_code == 200, shown.text
        found: dict[str, Any] = shown.json()
        return found


def person(served: Served, name: str) -> Person:
    """Add a user, who takes part from his first call on."""
    return Person(served, name, served.user(name))


async def rich(served: Served, name: str, sat: int = 1_000_000) -> Person:
    """Add a user who has so many sat."""
    await funded(served, name, sat)
    return person(served, name)


def available(served: Served, owner_id: str) -> int:
    """What an owner has that is not reserved, in msat."""
    return served.ledger.balance(owner_id, asset="msat").available


async def came_to(person: Person, payment_hash: str, state: str) -> dict[str, Any]:
    """Wait until an invoice is in a state, and return what is shown of it."""
    for _ in range(1_000):
        shown = await person.invoice(payment_hash)
        if shown["state"] == state:
            return shown
        await asyncio.sleep(0.02)
    raise AssertionError(f"it is still {shown['state']}")


def let_it_end(served: Served, campaign_id: str) -> None:
    """Let a campaign's deadline have passed."""
    query(
        served.url,
        f"update {served.schema}.crowdfunding_campaigns set deadline = clock_timestamp(), "
        "due_on = clock_timestamp() where campaign_id = %s",
        campaign_id,
    )


def dead(served: Served) -> list[tuple[Any, ...]]:
    """Messages that were given up, of all contexts."""
    names = query(
        served.url,
        "select tablename from pg_tables where schemaname = %s and tablename like '%%_inbox'",
        served.schema,
    )
    return [
        row
        for (name,) in names
        for row in query(
            served.url, f"select type, error from {served.schema}.{name} where state = 'dead'"
        )
    ]


@asynccontextmanager
async def spark_serving(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    """Satoshi Spark alone, as it is in production, but for the node; in the end all is sound."""
    simulate(monkeypatch)
    be_patient(monkeypatch)
    async with serving(
        cluster.url, schema, engine, application=SERVICE, **WITHOUT_LIMITS
    ) as served:
        yield served
        await quiet(served)
    assert_sound(cluster.url, schema)
    assert dead(served) == []
