"""What happens in the simulated world: the simulated node's rules, in the caller's transaction.

Its time is the database's, so that all processes have the same.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.apps.crowdfunding.lightning import bolt11
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    Invoice,
    Network,
    NodeRefused,
    Payment,
    Settlement,
)
from shared_ledger.apps.crowdfunding.lightning.tables import (
    Lost,
    Outcome,
    invoices,
    node,
    payments,
    plans,
)

NETWORK: Network = "regtest"

DEFAULT_FEE_MSAT = 1_000
"""What a payment costs that no plan says more of, or less if less is allowed."""

NO_ROUTE = "no_route"

_PAGE = 500
_NOW = sa.func.clock_timestamp()


class Plan(NamedTuple):
    """How a payment is to go. Without a fee it costs ``DEFAULT_FEE_MSAT`` at most."""

    outcome: Outcome = "succeed"
    lost: Lost | None = None
    fee_msat: int | None = None
    delay_s: float = 0
    reason: str | None = None


class Keys(NamedTuple):
    """Private keys: the node's, and that of everybody else."""

    own: bytes
    outsider: bytes


async def find_keys(connection: AsyncConnection) -> Keys:
    """Return the keys, which are made at first use."""
    chosen = sa.select(node.c.key, node.c.outsider_key)
    row = (await connection.execute(chosen)).one_or_none()
    if row is None:
        made = {"id": 1, "key": bolt11.new_key(), "outsider_key": bolt11.new_key()}
        await connection.execute(insert(node).values(made).on_conflict_do_nothing())
        row = (await connection.execute(chosen)).one()
    return Keys(*row)


async def make_invoice(
    connection: AsyncConnection,
    *,
    is_own: bool,
    amount_msat: int | None,
    description: str,
    expires_in_s: int,
) -> DecodedInvoice:
    """Make an invoice of the node, or of somebody else.

    Raises
    ------
    NodeRefused
        If BOLT 11 has no invoice like this.
    """
    keys = await find_keys(connection)
    preimage = secrets.token_bytes(32)
    try:
        request = bolt11.encode(
            network=NETWORK,
            amount_msat=amount_msat,
            payment_hash=hashlib.sha256(preimage).hexdigest(),
            payment_secret=secrets.token_bytes(32),
            description=description,
            created_on=await _now(connection),
            expires_in_s=expires_in_s,
            key=keys.own if is_own else keys.outsider,
        )
    except ValueError as error:
        raise NodeRefused(str(error)) from None
    invoice = bolt11.decode(request)
    row = {
        "payment_hash": invoice.payment_hash,
        "payment_request": request,
        "preimage": preimage,
        "is_own": is_own,
        "amount_msat": amount_msat,
        "expires_on": invoice.expires_on,
    }
    await connection.execute(sa.insert(invoices).values(row))
    return invoice


async def find_invoice(connection: AsyncConnection, payment_hash: str) -> Invoice | None:
    """Return an invoice of the node's own."""
    chosen = sa.select(invoices, (invoices.c.expires_on <= _NOW).label("is_late")).where(
        invoices.c.payment_hash == payment_hash, invoices.c.is_own
    )
    row = (await connection.execute(chosen)).one_or_none()
    if row is None:
        return None
    return Invoice(
        payment_request=row.payment_request,
        payment_hash=row.payment_hash,
        amount_msat=row.amount_msat,
        state="settled" if row.settle_index else "expired" if row.is_late else "open",
        received_msat=row.received_msat,
        expires_on=row.expires_on,
    )


async def settled_after(connection: AsyncConnection, index: int) -> Sequence[Settlement]:
    """Return what was settled next."""
    chosen = (
        sa.select(invoices.c.payment_hash, invoices.c.received_msat, invoices.c.settle_index)
        .where(invoices.c.settle_index > index)
        .order_by(invoices.c.settle_index)
        .limit(_PAGE)
    )
    return [
        Settlement(payment_hash=payment_hash, received_msat=received_msat, cursor=str(index))
        for payment_hash, received_msat, index in await connection.execute(chosen)
    ]


async def receive(
    connection: AsyncConnection, invoice: DecodedInvoice, amount_msat: int | None
) -> Settlement:
    """Have somebody else pay an invoice of the node's own: what it asks for, or another amount.

    Raises
    ------
    NodeRefused
        If it is none, was settled before, has expired, or asks for another amount: at most twice
        as much may be paid, as BOLT 4 advises.
    """
    # Locked until the end, so that whoever sees an index has seen all before it.
    counted = sa.update(node).values(settle_index=node.c.settle_index + 1)
    index = await connection.scalar(counted.returning(node.c.settle_index))
    found = await find_invoice(connection, invoice.payment_hash)
    if found is None or found.payment_request != invoice.payment_request or index is None:
        raise NodeRefused("the simulated node has made no such invoice")
    if found.state != "open":
        raise NodeRefused(f"the invoice is {found.state} already")
    paid_msat = found.amount_msat if amount_msat is None else amount_msat
    if not found.amount_msat <= paid_msat <= 2 * found.amount_msat:
        raise NodeRefused(
            f"the invoice asks for {found.amount_msat} msat, or up to twice as much, "
            f"and not for {paid_msat}"
        )
    await connection.execute(
        sa.update(invoices)
        .where(invoices.c.payment_hash == invoice.payment_hash)
        .values(received_msat=paid_msat, settle_index=index)
    )
    return Settlement(payment_hash=invoice.payment_hash, received_msat=paid_msat, cursor=str(index))


async def set_plan(connection: AsyncConnection, payment_hash: str, plan: Plan) -> None:
    """Say how a payment is to go, if it is not under way."""
    values = plan._asdict()
    written = insert(plans).values(payment_hash=payment_hash, **values)
    await connection.execute(
        written.on_conflict_do_update(index_elements=[plans.c.payment_hash], set_=values)
    )


async def find_plan(connection: AsyncConnection, payment_hash: str) -> Plan:
    """Return how a payment is to go."""
    chosen = sa.select(*(plans.c[name] for name in Plan._fields))
    row = await connection.execute(chosen.where(plans.c.payment_hash == payment_hash))
    return Plan(*(row.one_or_none() or ()))


async def begin_payment(
    connection: AsyncConnection, invoice: DecodedInvoice, plan: Plan, *, max_fee_msat: int
) -> None:
    """Begin what was not begun before.

    Raises
    ------
    NodeRefused
        If the node does not pay this.
    """
    if await find_payment(connection, invoice.payment_hash) is not None:
        return
    fee_msat = min(DEFAULT_FEE_MSAT, max_fee_msat) if plan.fee_msat is None else plan.fee_msat
    now = await _now(connection)
    if fee_msat > max_fee_msat:
        raise NodeRefused(f"it costs {fee_msat} msat to pay this, more than {max_fee_msat}")
    if invoice.network != NETWORK:
        raise NodeRefused(f"the invoice is on {invoice.network}, the simulated node on {NETWORK}")
    if invoice.expires_on <= now:
        raise NodeRefused("the invoice has expired")
    if invoice.payee_id == bolt11.node_id_of((await find_keys(connection)).own):
        raise NodeRefused("the invoice is the node's own")
    if plan.outcome == "succeed" and not await _is_outsiders(connection, invoice.payment_hash):
        plan = plan._replace(outcome="fail", reason=NO_ROUTE)
    resolves_on = None if plan.outcome == "hang" else now + timedelta(seconds=plan.delay_s)
    row = {
        "payment_hash": invoice.payment_hash,
        "amount_msat": invoice.amount_msat,
        "fee_msat": fee_msat,
        "outcome": plan.outcome,
        "reason": plan.reason,
        "resolves_on": resolves_on,
    }
    # Another process may have begun it in this moment.
    await connection.execute(insert(payments).values(row).on_conflict_do_nothing())


async def find_payment(connection: AsyncConnection, payment_hash: str) -> Payment | None:
    """Return a payment; if its time has come, it has its outcome from now on."""
    of_hash = payments.c.payment_hash == payment_hash
    state = sa.case((payments.c.outcome == "succeed", "succeeded"), else_="failed")
    await connection.execute(
        sa.update(payments)
        .where(of_hash, payments.c.state == "in_flight", payments.c.resolves_on <= _NOW)
        .values(state=state)
    )
    chosen = sa.select(payments, invoices.c.preimage).outerjoin(
        invoices, invoices.c.payment_hash == payments.c.payment_hash
    )
    row = (await connection.execute(chosen.where(of_hash))).one_or_none()
    if row is None:
        return None
    paid = row.state == "succeeded"
    return Payment(
        payment_hash=payment_hash,
        state=row.state,
        fee_msat=row.fee_msat if paid else 0,
        preimage=row.preimage.hex() if paid else None,
        reason=(row.reason or NO_ROUTE) if row.state == "failed" else None,
    )


async def resolve_payment(
    connection: AsyncConnection,
    payment_hash: str,
    outcome: Literal["succeed", "fail"],
    reason: str | None,
) -> None:
    """End a payment that is in flight.

    Raises
    ------
    NodeRefused
        If there is none, or it cannot succeed: whoever is to be paid is not of this world.
    """
    payment = await find_payment(connection, payment_hash)
    if payment is None or payment.state != "in_flight":
        raise NodeRefused("the simulated node has no such payment in flight")
    if outcome == "succeed" and not await _is_outsiders(connection, payment_hash):
        raise NodeRefused("nobody in the simulated world has asked for this payment")
    await connection.execute(
        sa.update(payments)
        .where(payments.c.payment_hash == payment_hash, payments.c.state == "in_flight")
        .values(outcome=outcome, reason=reason, resolves_on=_NOW)
    )


async def _is_outsiders(connection: AsyncConnection, payment_hash: str) -> bool:
    is_there = sa.exists().where(invoices.c.payment_hash == payment_hash, ~invoices.c.is_own)
    return bool(await connection.scalar(sa.select(is_there)))


async def _now(connection: AsyncConnection) -> datetime:
    now: datetime = (await connection.execute(sa.select(_NOW))).scalar_one()
    return now
