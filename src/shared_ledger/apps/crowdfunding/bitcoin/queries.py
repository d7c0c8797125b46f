"""What the bitcoin context shows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.bitcoin.model import Deposit, Withdrawal
from shared_ledger.apps.crowdfunding.bitcoin.refusals import InvoiceNotFound
from shared_ledger.apps.crowdfunding.bitcoin.store import make_unit_of_work


@dataclass(frozen=True, slots=True, kw_only=True)
class InvoiceView:
    """An invoice that an account has made, or pays. Amounts are in msat."""

    kind: Literal["deposit", "withdrawal"]
    payment_hash: str
    payment_request: str
    account_id: str
    amount: int
    received: int
    fee: int
    state: str
    is_decided: bool
    reason: str | None
    created_on: datetime
    expires_on: datetime


async def view_invoice_query(
    engine: AsyncEngine, payment_hash: str, *, account_id: str
) -> InvoiceView:
    """Return an account's invoice; raise ``InvoiceNotFound`` if it has none with this hash."""
    async with make_unit_of_work(engine) as uow:
        found: Deposit | Withdrawal | None = await uow.deposits.find(payment_hash)
        if found is None:
            found = await uow.withdrawals.find(payment_hash)
    if found is None or found.account_id != account_id:
        raise InvoiceNotFound(payment_hash)
    return view_of(found)


def view_of(shown: Deposit | Withdrawal) -> InvoiceView:
    """Return what is shown of a deposit or a withdrawal."""
    deposit = shown if isinstance(shown, Deposit) else None
    withdrawal = shown if isinstance(shown, Withdrawal) else None
    return InvoiceView(
        kind="deposit" if deposit else "withdrawal",
        payment_hash=shown.entity_id,
        payment_request=shown.payment_request,
        account_id=shown.account_id,
        amount=shown.amount,
        received=deposit.received if deposit else 0,
        fee=withdrawal.fee if withdrawal else 0,
        state=shown.state,
        is_decided=withdrawal is None or withdrawal.is_decided,
        reason=withdrawal.reason if withdrawal else None,
        created_on=shown.created_on,
        expires_on=shown.expires_on,
    )
