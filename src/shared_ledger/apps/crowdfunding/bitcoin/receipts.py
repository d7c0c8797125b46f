"""Hearing of what was paid to us, once, whether the news comes twice, late or never.

The node tells of settled invoices in an order, and where we are in it is kept in the transaction
that notes the settlement. What is open is asked for at the start, and each deposit once more when
its invoice has expired: a node that forgot to tell is asked.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.bitcoin.store import deposits, make_unit_of_work
from shared_ledger.apps.crowdfunding.common.clock import now
from shared_ledger.apps.crowdfunding.common.due import claim_due
from shared_ledger.apps.crowdfunding.common.faults import reached
from shared_ledger.apps.crowdfunding.lightning.port import (
    LightningNode,
    NodeUnavailable,
    Settlement,
)
from shared_ledger.messages import Retries, retried

LEASE = timedelta(minutes=1)
PAGE = 500
_PAUSES = Retries(first_s=0.5, longest_s=30)

_log = logging.getLogger("shared_ledger.crowdfunding")


async def hear(engine: AsyncEngine, node: LightningNode) -> None:
    """Note what the node tells, until cancelled; what it told while nobody heard comes first."""
    failures = 0
    while True:
        try:
            await sweep(engine, node)
            node_id = (await node.info()).node_id
            async with make_unit_of_work(engine) as uow:
                cursor = await uow.cursor_of(node_id)
            async for settlement in node.settlements(cursor):
                reached("receipts.heard")
                await note(engine, node_id, settlement)
                reached("receipts.noted")
                failures = 0
            _log.warning("the node has stopped telling of settled invoices")
        except NodeUnavailable as error:
            _log.warning("the node cannot be heard for now: %s", error)
        except Exception:  # noqa: BLE001  # Whatever failed, it must be tried again.
            _log.exception("settled invoices cannot be noted for now")
        failures += 1
        await asyncio.sleep(_PAUSES.delay_s(failures))


async def note(engine: AsyncEngine, node_id: str, settlement: Settlement) -> None:
    """Note that an invoice was paid, and up to where that is known."""

    async def write() -> None:
        async with make_unit_of_work(engine) as uow:
            deposit = await uow.deposits.find(settlement.payment_hash)
            # The node may serve others as well.
            if deposit is not None:
                deposit.receive(settlement.received_msat)
            await uow.move_cursor(node_id, settlement.cursor)

    await retried(write)


async def sweep(engine: AsyncEngine, node: LightningNode) -> None:
    """Ask the node for every deposit that is open."""
    after = ""
    while True:
        async with engine.connect() as connection:
            chosen = (
                sa.select(deposits.c.payment_hash)
                .where(deposits.c.due_on.is_not(None), deposits.c.payment_hash > after)
                .order_by(deposits.c.payment_hash)
                .limit(PAGE)
            )
            page = list(await connection.scalars(chosen))
        for payment_hash in page:
            await ask(engine, node, payment_hash)
        if len(page) < PAGE:
            return
        after = page[-1]


async def ask_next(engine: AsyncEngine, node: LightningNode) -> bool:
    """Ask the node for a deposit whose invoice has expired; tell whether there was one."""
    payment_hash = await claim_due(engine, deposits, lease=LEASE)
    if payment_hash is None:
        return False
    await ask(engine, node, payment_hash)
    return True


async def ask(engine: AsyncEngine, node: LightningNode, payment_hash: str) -> None:
    """Ask the node what has become of a deposit, and note it."""
    invoice = await node.lookup_invoice(payment_hash)
    reached("receipts.asked")

    async def write() -> None:
        async with make_unit_of_work(engine) as uow:
            deposit = await uow.deposits.find(payment_hash)
            if deposit is None:
                raise LookupError(f"there is no deposit {payment_hash}")
            at = await now(uow.connection)
            is_over = at > deposit.expires_on
            if invoice is not None and invoice.state == "settled":
                deposit.receive(invoice.received_msat)
            elif invoice is not None and invoice.state == "open" and is_over:
                # A payment may be on its way in.
                deposit.look_again(at + LEASE)
            elif is_over:
                deposit.expire()

    await retried(write)
