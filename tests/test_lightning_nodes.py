"""What every Lightning node does, whichever it is: the contract of the port.

Whoever has another node writes a ``World`` for it, and a class that inherits ``NodeContract`` with
a fixture ``world`` of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from cln_server import ClnServer
from contexts import engine_on
from lnbits_server import LnbitsServer
from lnd_server import LndServer
from loopback import served
from node_server import NodeServer
from shared_ledger.apps.crowdfunding.lightning.cln import ClnNode
from shared_ledger.apps.crowdfunding.lightning.lnbits import LnbitsNode
from shared_ledger.apps.crowdfunding.lightning.lnd import LndNode
from shared_ledger.apps.crowdfunding.lightning.port import (
    LightningNode,
    NodeRefused,
    Payment,
    Settlement,
)
from shared_ledger.apps.crowdfunding.lightning.rest import Rest
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.apps.crowdfunding.lightning.tables import metadata
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster

SOON_S = 30
# So long a payment is waited for that does not end.
WAIT_S = 0.5
AMOUNT_MSAT = 10_000
MAX_FEE_MSAT = 5_000
UNKNOWN = "ab" * 32


class World(Protocol):
    """A node under test, and those around it, who do what a test tells them."""

    node: LightningNode
    keeps_order: bool
    """Whether settlements come in order, each once."""
    sees_overpayment: bool
    """Whether what was received is known if it is more than was asked for."""

    def another(self) -> LightningNode:
        """The same node as another process reaches it."""
        ...

    async def pay_in(self, payment_request: str, *, amount_msat: int) -> None:
        """Somebody else pays an invoice of the node's."""
        ...

    async def invoice(self, amount_msat: int, *, expires_in_s: int = 3_600) -> str:
        """Somebody else asks for something, and will take it."""
        ...

    async def costly_invoice(self, amount_msat: int) -> str:
        """Somebody else does, to whom no way is free."""
        ...

    async def held_invoice(self, amount_msat: int) -> str:
        """Somebody else does, and neither takes nor refuses it until he is told."""
        ...

    async def take(self, payment_hash: str) -> None:
        """He takes it."""
        ...

    async def refuse(self, payment_hash: str) -> None:
        """He refuses it."""
        ...


async def comes_true(fact: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(SOON_S):
        while not await fact():  # noqa: ASYNC110  # It is not of this process.
            await asyncio.sleep(0.02)


async def told(node: LightningNode, cursor: str | None, *, count: int) -> list[Settlement]:
    """The next settlements of different invoices, so many."""
    found: dict[str, Settlement] = {}
    async with asyncio.timeout(SOON_S):
        settlements = node.settlements(cursor)
        async for settlement in settlements:
            found.setdefault(settlement.payment_hash, settlement)
            if len(found) == count:
                break
        await settlements.aclose()  # type: ignore[attr-defined]  # All are generators.
    return list(found.values())


class NodeContract:
    """What is true of every node."""

    async def asked_for(self, world: World, amount_msat: int = AMOUNT_MSAT) -> str:
        made = await world.node.create_invoice(
            amount_msat=amount_msat, description="a donation", expires_in_s=600
        )
        return made.payment_request

    async def paid(self, world: World, amount_msat: int = AMOUNT_MSAT) -> str:
        """The hash of an invoice of the node's that was paid."""
        request = await self.asked_for(world, amount_msat)
        await world.pay_in(request, amount_msat=amount_msat)
        return world.node.decode(request).payment_hash

    async def is_settled(self, world: World, payment_hash: str) -> bool:
        found = await world.node.lookup_invoice(payment_hash)
        assert found is not None
        return found.state == "settled"

    async def ended(self, world: World, payment_hash: str) -> Payment:
        """A payment, when it is no longer in flight."""

        async def is_over() -> bool:
            payment = await world.node.track(payment_hash)
            assert payment is not None
            return payment.state != "in_flight"

        await comes_true(is_over)
        payment = await world.node.track(payment_hash)
        assert payment is not None
        return payment

    async def test_node_says_who_it_is(self, world: World) -> None:
        info = await world.node.info()
        assert len(bytes.fromhex(info.node_id)) == 33
        assert info.is_synced
        assert await world.another().info() == info

    # --- being paid ---

    async def test_invoice_says_what_it_was_made_for(self, world: World) -> None:
        info = await world.node.info()
        made = await world.node.create_invoice(
            amount_msat=21_000, description="für Ünïcode ⚡", expires_in_s=120
        )
        said = world.node.decode(made.payment_request)
        assert (said.payee_id, said.network) == (info.node_id, info.network)
        assert (said.amount_msat, said.description) == (21_000, "für Ünïcode ⚡")
        assert (said.payment_hash, said.expires_on) == (made.payment_hash, made.expires_on)
        assert (said.expires_on - said.created_on).total_seconds() == 120
        assert (made.state, made.received_msat, made.amount_msat) == ("open", 0, 21_000)
        assert await world.node.lookup_invoice(made.payment_hash) == made

    async def test_invoice_of_nobody_is_not_found(self, world: World) -> None:
        await self.asked_for(world)
        assert await world.node.lookup_invoice(UNKNOWN) is None

    async def test_paid_invoice_is_settled_with_what_was_received(self, world: World) -> None:
        payment_hash = await self.paid(world)
        await comes_true(lambda: self.is_settled(world, payment_hash))
        found = await world.another().lookup_invoice(payment_hash)
        assert found is not None
        assert (found.received_msat, found.amount_msat) == (AMOUNT_MSAT, AMOUNT_MSAT)

    async def test_more_than_was_asked_for_is_received(self, world: World) -> None:
        if not world.sees_overpayment:
            pytest.skip("this node does not know of it")
        request = await self.asked_for(world)
        payment_hash = world.node.decode(request).payment_hash
        await world.pay_in(request, amount_msat=AMOUNT_MSAT + 1_234)
        await comes_true(lambda: self.is_settled(world, payment_hash))
        found = await world.node.lookup_invoice(payment_hash)
        assert found is not None
        assert (found.received_msat, found.amount_msat) == (AMOUNT_MSAT + 1_234, AMOUNT_MSAT)
        assert [each.received_msat for each in await told(world.node, None, count=1)] == [
            AMOUNT_MSAT + 1_234
        ]

    async def test_invoice_expires(self, world: World) -> None:
        made = await world.node.create_invoice(
            amount_msat=AMOUNT_MSAT, description="", expires_in_s=1
        )

        async def has_expired() -> bool:
            found = await world.node.lookup_invoice(made.payment_hash)
            assert found is not None
            return found.state == "expired"

        await comes_true(has_expired)

    async def test_settlements_are_told_from_the_beginning_or_where_it_was_left(
        self, world: World
    ) -> None:
        await self.asked_for(world)
        hashes = [await self.paid(world, 1_000 * number) for number in (1, 2, 3)]
        everything = await told(world.node, None, count=3)
        assert {(each.payment_hash, each.received_msat) for each in everything} == {
            (payment_hash, 1_000 * number) for number, payment_hash in enumerate(hashes, start=1)
        }
        hashes.append(await self.paid(world, 4_000))
        [newest] = [
            each
            for each in await told(
                world.another(), everything[-1].cursor, count=1 if world.keeps_order else 4
            )
            if each.payment_hash == hashes[3]
        ]
        assert newest.received_msat == 4_000
        if world.keeps_order:
            assert [each.payment_hash for each in everything] == hashes[:3]
            after = await told(world.node, everything[0].cursor, count=3)
            assert [each.payment_hash for each in after] == hashes[1:]

    @pytest.mark.parametrize("has_been_paid", [True, False])
    async def test_settlement_is_told_as_soon_as_it_is(
        self, world: World, has_been_paid: bool
    ) -> None:
        before = 1 if has_been_paid else 0
        cursor = None
        if has_been_paid:
            await self.paid(world)
            cursor = (await told(world.node, None, count=1))[0].cursor
        listening = asyncio.create_task(
            told(world.node, cursor, count=1 if world.keeps_order else before + 1)
        )
        await asyncio.sleep(0.1)
        assert not listening.done()
        payment_hash = await self.paid(world, 7_000)
        settlements = await listening
        assert (settlements[-1].payment_hash, settlements[-1].received_msat) == (
            payment_hash,
            7_000,
        )

    # --- paying ---

    async def test_payment_reaches_whom_it_is_for(self, world: World) -> None:
        request = await world.invoice(AMOUNT_MSAT)
        payment_hash = world.node.decode(request).payment_hash
        assert await world.node.track(payment_hash) is None
        await world.node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=SOON_S)
        payment = await self.ended(world, payment_hash)
        assert (payment.payment_hash, payment.state) == (payment_hash, "succeeded")
        assert 0 <= payment.fee_msat <= MAX_FEE_MSAT
        assert payment.preimage is not None
        assert hashlib.sha256(bytes.fromhex(payment.preimage)).hexdigest() == payment_hash
        assert await world.another().track(payment_hash) == payment

    async def test_payment_of_nobody_is_not_found(self, world: World) -> None:
        assert await world.node.track(UNKNOWN) is None

    async def test_payment_is_made_once_however_often_it_is_asked_for(self, world: World) -> None:
        request = await world.invoice(AMOUNT_MSAT)
        payment_hash = world.node.decode(request).payment_hash
        first, second = await asyncio.gather(
            *(
                node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=SOON_S)
                for node in (world.node, world.another())
            )
        )
        payment = await self.ended(world, payment_hash)
        assert payment.state == "succeeded"
        assert {first.state, second.state} <= {"succeeded", "in_flight"}
        again = await world.node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=SOON_S)
        assert again == payment

    async def test_payment_in_flight_is_waited_for_no_longer_than_was_said(
        self, world: World
    ) -> None:
        request = await world.held_invoice(AMOUNT_MSAT)
        payment_hash = world.node.decode(request).payment_hash
        async with asyncio.timeout(SOON_S):
            payment = await world.node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=WAIT_S)
        assert (payment.payment_hash, payment.state) == (payment_hash, "in_flight")
        assert await world.another().track(payment_hash) == payment
        await world.take(payment_hash)
        assert (await self.ended(world, payment_hash)).state == "succeeded"

    async def test_failed_payment_is_final(self, world: World) -> None:
        request = await world.held_invoice(AMOUNT_MSAT)
        payment_hash = world.node.decode(request).payment_hash
        await world.node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=WAIT_S)
        await world.refuse(payment_hash)
        payment = await self.ended(world, payment_hash)
        assert (payment.state, payment.fee_msat, payment.preimage) == ("failed", 0, None)
        assert await world.node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=WAIT_S) == payment

    async def test_payment_ends_while_it_is_waited_for(self, world: World) -> None:
        request = await world.held_invoice(AMOUNT_MSAT)
        payment_hash = world.node.decode(request).payment_hash
        paying = asyncio.create_task(
            world.node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=SOON_S)
        )

        async def is_in_flight() -> bool:
            return await world.another().track(payment_hash) is not None

        await comes_true(is_in_flight)
        await world.take(payment_hash)
        payment = await paying
        assert payment.state == "succeeded"
        assert await world.node.track(payment_hash) == payment

    async def test_fee_is_not_higher_than_was_allowed(self, world: World) -> None:
        request = await world.costly_invoice(AMOUNT_MSAT)
        try:
            payment = await world.node.pay(request, max_fee_msat=0, timeout_s=SOON_S)
        except NodeRefused:
            assert await world.node.track(world.node.decode(request).payment_hash) is None
        else:
            assert payment.state == "failed"
            assert payment.reason

    async def test_expired_invoice_is_refused(self, world: World) -> None:
        request = await world.invoice(AMOUNT_MSAT, expires_in_s=1)
        await asyncio.sleep(1.5)
        with pytest.raises(NodeRefused):
            await world.node.pay(request, max_fee_msat=MAX_FEE_MSAT, timeout_s=SOON_S)
        assert await world.node.track(world.node.decode(request).payment_hash) is None

    async def test_what_is_no_invoice_is_refused(self, world: World) -> None:
        with pytest.raises(NodeRefused, match="Bech32"):
            await world.node.pay("lnbc1nothing", max_fee_msat=MAX_FEE_MSAT, timeout_s=WAIT_S)


# --- the nodes that are here ---

Connect = Callable[[], LightningNode]


class SimulatedWorld:
    """The world of the simulated node, or of one that it stands behind."""

    def __init__(self, within: SimulatedNode, connect: Connect, *, is_lnbits: bool = False) -> None:
        self.node = connect()
        self.keeps_order = not is_lnbits
        self.sees_overpayment = not is_lnbits
        self._within = within
        self._connect = connect
        self._others: list[LightningNode] = []

    def another(self) -> LightningNode:
        self._others.append(self._connect())
        return self._others[-1]

    async def pay_in(self, payment_request: str, *, amount_msat: int) -> None:
        await self._within.receive(payment_request, amount_msat)

    async def invoice(self, amount_msat: int, *, expires_in_s: int = 3_600) -> str:
        return await self._within.outside_invoice(amount_msat, expires_in_s=expires_in_s)

    async def costly_invoice(self, amount_msat: int) -> str:
        request = await self.invoice(amount_msat)
        await self._within.plan(self._within.decode(request).payment_hash, fee_msat=1)
        return request

    async def held_invoice(self, amount_msat: int) -> str:
        request = await self.invoice(amount_msat)
        await self._within.plan(self._within.decode(request).payment_hash, outcome="hang")
        return request

    async def take(self, payment_hash: str) -> None:
        await self._within.resolve(payment_hash, outcome="succeed")

    async def refuse(self, payment_hash: str) -> None:
        await self._within.resolve(payment_hash, outcome="fail", reason="refused")

    async def close(self) -> None:
        for node in (self.node, *self._others):
            await node.close()


def make_tables(url: str, schema: str) -> None:
    engine = make_engine(url).execution_options(schema_translate_map={None: schema})
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema))
        metadata.create_all(connection)
    engine.dispose()


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the simulated node, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


class TestSimulatedNode(NodeContract):
    @pytest.fixture
    def world(self, tables: AsyncEngine) -> World:
        node = SimulatedNode(tables, poll_s=0.01)
        return SimulatedWorld(node, lambda: SimulatedNode(tables, poll_s=0.01))


class OverHttp(NodeContract):
    """Of an adapter: what it says and hears is what the documentation of the node's API says."""

    server: type[NodeServer]

    def made(self, rest: Rest) -> LightningNode:
        raise NotImplementedError

    @pytest.fixture
    async def world(
        self, tables: AsyncEngine, cluster: Cluster, schema: str
    ) -> AsyncIterator[World]:
        server = self.server(cluster.url, schema)
        with served(server.app) as place:

            def connect() -> LightningNode:
                header, secret = server.header, server.secret
                return self.made(Rest(f"http://{place}", header=header, secret=secret))

            world = SimulatedWorld(
                SimulatedNode(tables), connect, is_lnbits=self.server is LnbitsServer
            )
            yield world
            await world.close()


class TestLndNode(OverHttp):
    server = LndServer

    def made(self, rest: Rest) -> LightningNode:
        return LndNode(rest, poll_s=0.05)


class TestClnNode(OverHttp):
    server = ClnServer

    def made(self, rest: Rest) -> LightningNode:
        return ClnNode(rest)


class TestLnbitsNode(OverHttp):
    server = LnbitsServer

    def made(self, rest: Rest) -> LightningNode:
        return LnbitsNode(rest, poll_s=0.05)
