"""A simulated node in PostgreSQL, the default: real invoices, and money that nobody has.

As far as the port tells it does what a real node does, and it is told what happens in the world:
``receive`` pays an invoice of its own, ``outside_invoice`` makes one to withdraw to, ``plan`` and
``resolve`` say how payments go. All that it is stands in its tables: any number of processes are
one node, and none of them loses anything by being killed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared_ledger.apps.crowdfunding.lightning import bolt11, simulation
from shared_ledger.apps.crowdfunding.lightning.paying import payable
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    Invoice,
    NodeInfo,
    NodeUnavailable,
    Payment,
    Settlement,
)
from shared_ledger.apps.crowdfunding.lightning.simulation import NETWORK, Plan
from shared_ledger.apps.crowdfunding.lightning.tables import Lost, Outcome
from shared_ledger.errors import LedgerUnavailable


class SimulatedNode:
    """A ``LightningNode`` without a network.

    Parameters
    ----------
    engine
        Where its tables are.
    poll_s
        How often ``settlements`` and ``pay`` look at what has happened meanwhile.
    """

    def __init__(self, engine: AsyncEngine, *, poll_s: float = 0.1) -> None:
        self._engine = engine
        self._poll_s = poll_s

    # --- what every node does; see the port ---

    async def info(self) -> NodeInfo:
        """Tell which node it is."""
        async with self._transaction() as connection:
            keys = await simulation.find_keys(connection)
        return NodeInfo(node_id=bolt11.node_id_of(keys.own), network=NETWORK, is_synced=True)

    async def create_invoice(
        self, *, amount_msat: int, description: str, expires_in_s: int
    ) -> Invoice:
        """Make an invoice; raise ``NodeRefused`` if BOLT 11 has none like this."""
        async with self._transaction() as connection:
            made = await simulation.make_invoice(
                connection,
                is_own=True,
                amount_msat=amount_msat,
                description=description,
                expires_in_s=expires_in_s,
            )
        return Invoice(
            payment_request=made.payment_request,
            payment_hash=made.payment_hash,
            amount_msat=amount_msat,
            state="open",
            received_msat=0,
            expires_on=made.expires_on,
        )

    async def lookup_invoice(self, payment_hash: str) -> Invoice | None:
        """Return an invoice of the node's own."""
        async with self._transaction() as connection:
            return await simulation.find_invoice(connection, payment_hash)

    async def settlements(self, cursor: str | None) -> AsyncIterator[Settlement]:
        """Give each settled invoice once, in order, after ``cursor``."""
        index = int(cursor or 0)
        while True:
            async with self._transaction() as connection:
                settled = await simulation.settled_after(connection, index)
            for settlement in settled:
                index = int(settlement.cursor)
                yield settlement
            if not settled:
                await asyncio.sleep(self._poll_s)

    async def pay(self, payment_request: str, *, max_fee_msat: int, timeout_s: float) -> Payment:
        """Pay an invoice as its plan says."""
        invoice = payable(payment_request)
        async with self._transaction() as connection:
            plan = await simulation.find_plan(connection, invoice.payment_hash)
            if plan.lost == "request":
                raise _lost(plan.lost)
            await simulation.begin_payment(connection, invoice, plan, max_fee_msat=max_fee_msat)
        # Committed: whatever becomes of this process, another can follow the payment.
        if plan.lost == "answer":
            raise _lost(plan.lost)
        return await self._outcome(invoice.payment_hash, within_s=timeout_s)

    async def track(self, payment_hash: str) -> Payment | None:
        """Return what has become of a payment."""
        async with self._transaction() as connection:
            return await simulation.find_payment(connection, payment_hash)

    def decode(self, payment_request: str) -> DecodedInvoice:
        """Read a payment request."""
        return bolt11.decode(payment_request)

    async def close(self) -> None:
        """Do nothing: the engine is its owner's."""

    # --- what happens in the world ---

    async def receive(self, payment_request: str, amount_msat: int | None = None) -> Settlement:
        """Have somebody pay an invoice of the node's own: what it asks for, or another amount.

        Raises
        ------
        InvalidInvoice
            If it is no payment request.
        NodeRefused
            If a node would not take this payment.
        """
        invoice = bolt11.decode(payment_request)
        async with self._transaction() as connection:
            return await simulation.receive(connection, invoice, amount_msat)

    async def outside_invoice(
        self,
        amount_msat: int | None,
        *,
        description: str = "somebody else's invoice",
        expires_in_s: int = bolt11.DEFAULT_EXPIRES_IN_S,
    ) -> str:
        """Make an invoice of somebody else, to be paid by the node; return its payment request."""
        async with self._transaction() as connection:
            made = await simulation.make_invoice(
                connection,
                is_own=False,
                amount_msat=amount_msat,
                description=description,
                expires_in_s=expires_in_s,
            )
        return made.payment_request

    async def plan(
        self,
        payment_hash: str,
        *,
        outcome: Outcome = "succeed",
        lost: Lost | None = None,
        fee_msat: int | None = None,
        delay_s: float = 0,
        reason: str | None = None,
    ) -> None:
        """Say how a payment is to go that was not begun yet.

        Parameters
        ----------
        outcome
            What becomes of it: it can ``"hang"`` until ``resolve`` is called.
        lost
            Whether ``pay`` raises ``NodeUnavailable``, because its request never arrives and the
            node does not know of it, or because only its answer is lost.
        fee_msat
            What it costs; left out, something small within the limit.
        delay_s
            How long it is in flight.
        reason
            Why it fails.
        """
        plan = Plan(outcome, lost, fee_msat, delay_s, reason)
        async with self._transaction() as connection:
            await simulation.set_plan(connection, payment_hash, plan)

    async def resolve(
        self,
        payment_hash: str,
        *,
        outcome: Literal["succeed", "fail"] = "succeed",
        reason: str | None = None,
    ) -> None:
        """End a payment that is in flight; raise ``NodeRefused`` if it is not."""
        async with self._transaction() as connection:
            await simulation.resolve_payment(connection, payment_hash, outcome, reason)

    async def _outcome(self, payment_hash: str, *, within_s: float) -> Payment:
        now = asyncio.get_running_loop().time
        ends_at = now() + within_s
        while True:
            payment = await self.track(payment_hash)
            if payment is None:
                raise LookupError(f"the payment {payment_hash} was taken out of the tables")
            if payment.state != "in_flight" or now() >= ends_at:
                return payment
            await asyncio.sleep(min(self._poll_s, ends_at - now()))

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with self._engine.begin() as connection:
                yield connection
        except (LedgerUnavailable, OperationalError, InterfaceError, NoConnection) as error:
            raise NodeUnavailable("the simulated node's database does not answer") from error


def _lost(what: Lost) -> NodeUnavailable:
    return NodeUnavailable(f"the {what} was lost, as it was planned")
