"""What is true of every Lightning node, of real ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from lightning.lnbits_server import LnbitsServer
from lightning.lnd import Hold, Lnd
from lightning.network import Network
from lightning.test_lnbits_adapter import node_of as lnbits_node_of
from lightning.test_lnd_adapter import node_of as lnd_node_of
from lightning.waiting import until
from shared_ledger.apps.crowdfunding.lightning.port import LightningNode
from test_lightning_nodes import NodeContract, World

BALANCE_SAT = 100_000


class RealWorld:
    """The world of a real node; ``payee`` is joined to it, ``distant`` takes a fee to reach."""

    def __init__(
        self,
        connect: Callable[[], LightningNode],
        *,
        payee: Lnd,
        distant: Lnd,
        is_lnbits: bool = False,
    ) -> None:
        self.node = connect()
        self.keeps_order = self.sees_overpayment = not is_lnbits
        self._connect = connect
        self._payee = payee
        self._distant = distant
        self._others: list[LightningNode] = []
        self._holds: dict[str, Hold] = {}

    def another(self) -> LightningNode:
        self._others.append(self._connect())
        return self._others[-1]

    async def pay_in(self, payment_request: str, *, amount_msat: int) -> None:
        asked = self.node.decode(payment_request).amount_msat
        if amount_msat == asked:
            await asyncio.to_thread(self._payee.pay, payment_request)
        else:
            more = self._payee.pay_more
            await asyncio.to_thread(more, payment_request, amount_msat=amount_msat)

    async def invoice(self, amount_msat: int, *, expires_in_s: int = 3_600) -> str:
        return self._payee.invoice(amount_msat=amount_msat, expires_in_s=expires_in_s)

    async def costly_invoice(self, amount_msat: int) -> str:
        return self._distant.invoice(amount_msat=amount_msat)

    async def held_invoice(self, amount_msat: int) -> str:
        hold = Hold(self._payee, amount_msat=amount_msat)
        self._holds[hold.payment_hash] = hold
        return hold.payment_request

    async def take(self, payment_hash: str) -> None:
        hold = self._holds[payment_hash]
        await until(lambda: asyncio.to_thread(lambda: hold.arrived), bool)
        hold.settle()

    async def refuse(self, payment_hash: str) -> None:
        hold = self._holds[payment_hash]
        await until(lambda: asyncio.to_thread(lambda: hold.arrived), bool)
        hold.cancel()

    async def close(self) -> None:
        for node in (self.node, *self._others):
            await node.close()


class TestLndNode(NodeContract):
    @pytest.fixture
    async def world(self, network: Network) -> AsyncIterator[World]:
        world = RealWorld(
            lambda: lnd_node_of(network.alice), payee=network.bob, distant=network.carol
        )
        yield world
        await world.close()


class TestLnbitsNode(NodeContract):
    @pytest.fixture
    async def world(
        self, network: Network, lnbits_over_carol: LnbitsServer
    ) -> AsyncIterator[World]:
        key = lnbits_over_carol.new_wallet(balance_sat=BALANCE_SAT).admin_key
        world = RealWorld(
            lambda: lnbits_node_of(lnbits_over_carol, key),
            payee=network.bob,
            distant=network.alice,
            is_lnbits=True,
        )
        yield world
        await world.close()


# These want a node that has never been paid. The tests of the adapters have them of one that has.
for contract, left_out in (
    (TestLndNode, "test_more_than_was_asked_for_is_received"),
    (TestLndNode, "test_settlements_are_told_from_the_beginning_or_where_it_was_left"),
    (TestLndNode, "test_settlement_is_told_as_soon_as_it_is"),
    (TestLnbitsNode, "test_settlements_are_told_from_the_beginning_or_where_it_was_left"),
    (TestLnbitsNode, "test_settlement_is_told_as_soon_as_it_is"),
):
    assert hasattr(contract, left_out), f"there is no {left_out} any more"
    setattr(contract, left_out, None)
