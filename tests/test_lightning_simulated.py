"""The simulated node: told what happens in the world, and one node in however many processes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from conftest import Clock
from contexts import engine_on
from shared_ledger.apps.crowdfunding.lightning import bolt11, simulation
from shared_ledger.apps.crowdfunding.lightning.port import (
    InvalidInvoice,
    Network,
    NodeRefused,
    NodeUnavailable,
    Payment,
    Settlement,
)
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.apps.crowdfunding.lightning.tables import invoices, payments, plans
from shared_ledger.embedded import Cluster
from test_lightning_nodes import make_tables, told

HERE = Path(__file__).parent


@pytest.fixture
async def engine(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the node's tables, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


@pytest.fixture
def node(engine: AsyncEngine) -> SimulatedNode:
    return SimulatedNode(engine, poll_s=0.01)


async def asked_for(node: SimulatedNode, amount_msat: int = 10_000) -> str:
    made = await node.create_invoice(amount_msat=amount_msat, description="", expires_in_s=600)
    return made.payment_request


async def pay(node: SimulatedNode, request: str, *, max_fee_msat: int = 5_000) -> Payment:
    return await node.pay(request, max_fee_msat=max_fee_msat, timeout_s=10)


def hash_of(request: str) -> str:
    return bolt11.decode(request).payment_hash


# --- one node in all processes ---


async def test_key_is_made_once_however_many_begin(engine: AsyncEngine) -> None:
    nodes = [SimulatedNode(engine) for _ in range(8)]
    infos = await asyncio.gather(*(node.info() for node in nodes))
    assert len({info.node_id for info in infos}) == 1
    assert infos[0].network == "regtest"


async def test_another_schema_is_another_node(
    node: SimulatedNode, cluster: Cluster, schema: str
) -> None:
    make_tables(cluster.url, f"{schema}_other")
    async with engine_on(cluster.url, f"{schema}_other") as engine:
        other = SimulatedNode(engine)
        assert (await other.info()).node_id != (await node.info()).node_id
        with pytest.raises(NodeRefused, match="no such invoice"):
            await other.receive(await asked_for(node))


async def test_settlements_have_indexes_without_gaps_whoever_is_paid_at_once(
    node: SimulatedNode,
) -> None:
    requests = [await asked_for(node, number + 1) for number in range(30)]
    listening = asyncio.create_task(told(node, None, count=30))
    await asyncio.gather(*(node.receive(request) for request in requests))
    settlements = await listening
    assert [each.cursor for each in settlements] == [str(number) for number in range(1, 31)]
    assert {each.payment_hash for each in settlements} == {hash_of(each) for each in requests}


async def test_settlement_that_is_committed_late_is_not_passed_over(
    node: SimulatedNode, engine: AsyncEngine
) -> None:
    slow, quick = [bolt11.decode(await asked_for(node)) for _ in range(2)]
    async with engine.begin() as connection:
        first = await simulation.receive(connection, slow, None)
        hurrying = asyncio.create_task(node.receive(quick.payment_request))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(hurrying), 0.2)
    second = await hurrying
    assert (first.cursor, second.cursor) == ("1", "2")
    assert await told(node, None, count=2) == [first, second]


async def test_refused_payment_takes_no_index(node: SimulatedNode) -> None:
    request = await asked_for(node)
    for amount_msat in (9_999, 20_001):
        with pytest.raises(NodeRefused, match="or up to twice as much"):
            await node.receive(request, amount_msat)
    paid = await node.receive(request, 20_000)
    assert paid == Settlement(payment_hash=hash_of(request), received_msat=20_000, cursor="1")


PAYING = """
import asyncio, sys
from contexts import engine_on
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode

async def main(url, schema, request):
    async with engine_on(url, schema) as engine:
        await SimulatedNode(engine).pay(request, max_fee_msat=1000, timeout_s=60)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("outcome", ["succeed", "fail"])
async def test_process_that_is_killed_while_it_pays_changes_nothing(
    node: SimulatedNode, cluster: Cluster, schema: str, outcome: str
) -> None:
    request = await node.outside_invoice(10_000)
    await node.plan(hash_of(request), outcome="hang")
    program = [sys.executable, "-c", PAYING, cluster.url, schema, request]
    paying = await asyncio.create_subprocess_exec(*program, cwd=HERE)
    try:
        async with asyncio.timeout(60):
            while await node.track(hash_of(request)) is None:
                assert paying.returncode is None
                await asyncio.sleep(0.05)
    finally:
        paying.kill()
        await paying.wait()
    assert await node.track(hash_of(request)) == Payment(
        payment_hash=hash_of(request), state="in_flight"
    )
    await node.resolve(hash_of(request), outcome="succeed" if outcome == "succeed" else "fail")
    ended = await pay(node, request)
    assert ended.state == ("succeeded" if outcome == "succeed" else "failed")


# --- being paid ---


async def test_invoice_is_settled_once(node: SimulatedNode) -> None:
    request = await asked_for(node)
    await node.receive(request)
    with pytest.raises(NodeRefused, match="settled already"):
        await node.receive(request)
    assert len(await told(node, None, count=1)) == 1


async def test_invoice_that_is_paid_by_many_at_once_is_settled_once(node: SimulatedNode) -> None:
    request = await asked_for(node)
    answers = await asyncio.gather(
        *(node.receive(request) for _ in range(5)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["NodeRefused"] * 4 + [
        "Settlement"
    ]


async def test_expired_invoice_is_not_settled(cluster: Cluster, schema: str, clock: Clock) -> None:
    make_tables(cluster.url, schema)
    async with engine_on(clock.url, schema) as engine:
        node = SimulatedNode(engine)
        made = await node.create_invoice(amount_msat=1, description="", expires_in_s=60)
        clock.move(timedelta(seconds=61))
        with pytest.raises(NodeRefused, match="expired already"):
            await node.receive(made.payment_request)
        found = await node.lookup_invoice(made.payment_hash)
        assert found is not None
        assert (found.state, found.received_msat) == ("expired", 0)


async def test_settled_invoice_does_not_expire(cluster: Cluster, schema: str, clock: Clock) -> None:
    make_tables(cluster.url, schema)
    async with engine_on(clock.url, schema) as engine:
        node = SimulatedNode(engine)
        made = await node.create_invoice(amount_msat=1, description="", expires_in_s=60)
        await node.receive(made.payment_request)
        clock.move(timedelta(seconds=61))
        found = await node.lookup_invoice(made.payment_hash)
        assert found is not None
        assert found.state == "settled"


async def test_invoice_of_somebody_else_is_not_received(node: SimulatedNode) -> None:
    request = await node.outside_invoice(1_000)
    with pytest.raises(NodeRefused, match="no such invoice"):
        await node.receive(request)
    assert await node.lookup_invoice(hash_of(request)) is None
    with pytest.raises(InvalidInvoice):
        await node.receive("nothing")


async def test_hash_in_an_invoice_of_somebody_else_settles_nothing(
    node: SimulatedNode, engine: AsyncEngine
) -> None:
    mine = bolt11.decode(await asked_for(node))
    forged = bolt11.encode(
        network="regtest",
        amount_msat=1,
        payment_hash=mine.payment_hash,
        payment_secret=bytes(32),
        description="",
        created_on=mine.created_on,
        expires_in_s=600,
        key=bolt11.new_key(),
    )
    with pytest.raises(NodeRefused, match="no such invoice"):
        await node.receive(forged)


@pytest.mark.parametrize("amount_msat", [0, -1, bolt11.MAX_AMOUNT_MSAT + 1])
async def test_invoice_of_an_impossible_amount_is_refused(
    node: SimulatedNode, amount_msat: int
) -> None:
    with pytest.raises(NodeRefused, match="an amount is"):
        await node.create_invoice(amount_msat=amount_msat, description="", expires_in_s=60)


async def test_description_that_no_invoice_holds_is_refused(node: SimulatedNode) -> None:
    with pytest.raises(NodeRefused, match="639 bytes"):
        await node.create_invoice(amount_msat=1, description="x" * 640, expires_in_s=60)


# --- paying ---


async def test_payment_without_a_plan_succeeds_for_a_small_fee(node: SimulatedNode) -> None:
    payment = await pay(node, await node.outside_invoice(10_000))
    assert (payment.state, payment.fee_msat) == ("succeeded", simulation.DEFAULT_FEE_MSAT)
    free = await pay(node, await node.outside_invoice(10_000), max_fee_msat=0)
    assert (free.state, free.fee_msat) == ("succeeded", 0)


async def test_payment_goes_as_was_planned(node: SimulatedNode) -> None:
    request = await node.outside_invoice(10_000)
    await node.plan(hash_of(request), outcome="fail", reason="bad_mood")
    # The latest plan counts.
    await node.plan(hash_of(request), fee_msat=77, delay_s=0.3)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    payment = await pay(node, request)
    assert (payment.state, payment.fee_msat) == ("succeeded", 77)
    assert loop.time() - begun >= 0.3


async def test_plan_does_not_change_what_is_under_way(node: SimulatedNode) -> None:
    request = await node.outside_invoice(10_000)
    await node.plan(hash_of(request), outcome="hang")
    await node.pay(request, max_fee_msat=1_000, timeout_s=0)
    await node.plan(hash_of(request), outcome="fail")
    assert (await node.pay(request, max_fee_msat=1_000, timeout_s=0)).state == "in_flight"


async def test_planned_failure_says_why(node: SimulatedNode) -> None:
    request = await node.outside_invoice(10_000)
    await node.plan(hash_of(request), outcome="fail", reason="bad_mood", fee_msat=9)
    failed = Payment(payment_hash=hash_of(request), state="failed", reason="bad_mood")
    assert await pay(node, request) == failed
    await node.plan(hash_of(request), outcome="succeed")
    assert await pay(node, request) == failed


async def test_lost_answer_is_of_a_payment_that_was_made(node: SimulatedNode) -> None:
    request = await node.outside_invoice(10_000)
    await node.plan(hash_of(request), lost="answer")
    for _ in range(2):
        with pytest.raises(NodeUnavailable, match="answer was lost"):
            await pay(node, request)
    payment = await node.track(hash_of(request))
    assert payment is not None
    assert payment.state == "succeeded"


async def test_lost_request_is_of_a_payment_that_nobody_knows(node: SimulatedNode) -> None:
    request = await node.outside_invoice(10_000)
    await node.plan(hash_of(request), lost="request")
    with pytest.raises(NodeUnavailable, match="request was lost"):
        await pay(node, request)
    assert await node.track(hash_of(request)) is None
    await node.plan(hash_of(request))
    assert (await pay(node, request)).state == "succeeded"


async def test_fee_above_the_limit_is_refused(node: SimulatedNode) -> None:
    request = await node.outside_invoice(10_000)
    await node.plan(hash_of(request), fee_msat=101)
    with pytest.raises(NodeRefused, match="costs 101 msat"):
        await pay(node, request, max_fee_msat=100)
    assert await node.track(hash_of(request)) is None
    assert (await pay(node, request, max_fee_msat=101)).fee_msat == 101


async def test_payment_that_was_made_is_known_after_its_invoice_has_expired(
    cluster: Cluster, schema: str, clock: Clock
) -> None:
    make_tables(cluster.url, schema)
    async with engine_on(clock.url, schema) as engine:
        node = SimulatedNode(engine, poll_s=0.01)
        paid, late = [await node.outside_invoice(1_000, expires_in_s=60) for _ in range(2)]
        payment = await pay(node, paid)
        clock.move(timedelta(seconds=61))
        assert await pay(node, paid) == payment
        with pytest.raises(NodeRefused, match="expired"):
            await pay(node, late)


async def test_payment_ends_when_its_time_has_come_and_for_ever(
    cluster: Cluster, schema: str, clock: Clock
) -> None:
    make_tables(cluster.url, schema)
    async with engine_on(clock.url, schema) as engine:
        node = SimulatedNode(engine, poll_s=0.01)
        request = await node.outside_invoice(1_000)
        await node.plan(hash_of(request), delay_s=30)
        await node.pay(request, max_fee_msat=1_000, timeout_s=0)
        clock.move(timedelta(seconds=29))
        assert (await pay_state(node, request)) == "in_flight"
        clock.move(timedelta(seconds=1))
        assert (await pay_state(node, request)) == "succeeded"
        clock.move(timedelta(seconds=-10))
        assert (await pay_state(node, request)) == "succeeded"


async def pay_state(node: SimulatedNode, request: str) -> str:
    payment = await node.track(hash_of(request))
    assert payment is not None
    return payment.state


async def test_own_invoice_is_not_paid(node: SimulatedNode) -> None:
    with pytest.raises(NodeRefused, match="the node's own"):
        await pay(node, await asked_for(node))


async def test_invoice_without_an_amount_is_refused(node: SimulatedNode) -> None:
    with pytest.raises(NodeRefused, match="leaves its amount"):
        await pay(node, await node.outside_invoice(None))


async def foreign(node: SimulatedNode, network: Network) -> str:
    """An invoice of somebody who is not in the node's tables."""
    mine = bolt11.decode(await asked_for(node))
    return bolt11.encode(
        network=network,
        amount_msat=1_000,
        payment_hash="cd" * 32,
        payment_secret=bytes(32),
        description="",
        created_on=mine.created_on,
        expires_in_s=600,
        key=bolt11.new_key(),
    )


async def test_invoice_of_another_network_is_refused(node: SimulatedNode) -> None:
    with pytest.raises(NodeRefused, match="on mainnet"):
        await pay(node, await foreign(node, "mainnet"))


async def test_nobody_is_paid_who_is_not_of_this_world(node: SimulatedNode) -> None:
    request = await foreign(node, "regtest")
    payment = await pay(node, request)
    assert (payment.state, payment.reason) == ("failed", simulation.NO_ROUTE)


async def test_payment_to_nobody_cannot_be_made_to_succeed(node: SimulatedNode) -> None:
    request = await foreign(node, "regtest")
    await node.plan(hash_of(request), outcome="hang")
    await node.pay(request, max_fee_msat=1_000, timeout_s=0)
    with pytest.raises(NodeRefused, match="nobody"):
        await node.resolve(hash_of(request))
    await node.resolve(hash_of(request), outcome="fail", reason="enough")
    assert (await pay(node, request)).reason == "enough"
    with pytest.raises(NodeRefused, match="no such payment in flight"):
        await node.resolve(hash_of(request), outcome="fail")


# --- its tables ---


async def test_tables_keep_what_cannot_be_out(engine: AsyncEngine) -> None:
    impossible = [
        sa.insert(plans).values(payment_hash="a", outcome="explode", delay_s=0),
        sa.insert(plans).values(payment_hash="a", outcome="hang", delay_s=-1),
        sa.insert(payments).values(
            payment_hash="a", amount_msat=1, fee_msat=0, outcome="succeed", resolves_on=None
        ),
        sa.insert(invoices).values(
            payment_hash="a",
            payment_request="a",
            preimage=b"",
            is_own=False,
            expires_on=sa.func.now(),
            received_msat=1,
            settle_index=1,
        ),
    ]
    for statement in impossible:
        async with engine.connect() as connection:
            with pytest.raises(sa.exc.IntegrityError):
                await connection.execute(statement)


async def test_database_that_does_not_answer_is_a_node_that_does_not() -> None:
    async with engine_on("postgresql://127.0.0.1:1/nothing", "nowhere") as engine:
        node = SimulatedNode(engine)
        with pytest.raises(NodeUnavailable):
            await node.info()
        with pytest.raises(NodeUnavailable):
            await node.track("ab" * 32)
