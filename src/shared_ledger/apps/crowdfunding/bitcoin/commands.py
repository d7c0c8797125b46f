"""What the bitcoin context does when it is asked, and when others tell it something.

What it does at the node is not here: ``payments`` pays what is reserved, ``receipts`` hears of what
was paid to us.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.bitcoin.model import Deposit, Withdrawal, highest_fee
from shared_ledger.apps.crowdfunding.bitcoin.refusals import (
    InvoiceRefused,
    InvoiceUsed,
    NodeAway,
    NodeSaysNo,
)
from shared_ledger.apps.crowdfunding.bitcoin.store import (
    TABLES,
    BitcoinUnitOfWork,
    make_unit_of_work,
)
from shared_ledger.apps.crowdfunding.common.clock import now
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    InvalidInvoice,
    LightningNode,
    NodeInfo,
    NodeRefused,
    NodeUnavailable,
)
from shared_ledger.apps.crowdfunding.messages import (
    DepositCredited,
    RequestWithdrawal,
    ReservationCaptured,
    ReservationMade,
    ReservationRefused,
    ReservationReleased,
)
from shared_ledger.messages import ConcurrentChange, Context, handles

DEPOSIT_EXPIRES_IN_S = 3_600
# So much has to be left of an invoice's time that the node can find a way.
NEEDED_S = 10
OURS = "is one of ours: a node does not pay itself"


async def make_deposit(
    engine: AsyncEngine, node: LightningNode, *, account_id: str, amount: int
) -> Deposit:
    """Have the node make an invoice, and remember whose it is; the amount is in msat.

    The invoice is made first: one that nobody remembers was shown to nobody.

    Raises
    ------
    NodeAway, NodeSaysNo
        If there is no invoice.
    """
    try:
        invoice = await node.create_invoice(
            amount_msat=amount,
            description=f"Satoshi Spark: deposit for {account_id}",
            expires_in_s=DEPOSIT_EXPIRES_IN_S,
        )
    except NodeUnavailable as error:
        raise NodeAway from error
    except NodeRefused as refused:
        raise NodeSaysNo(str(refused)) from refused
    async with make_unit_of_work(engine) as uow:
        deposit = Deposit(
            entity_id=invoice.payment_hash,
            account_id=account_id,
            payment_request=invoice.payment_request,
            amount=invoice.amount_msat,
            created_on=await now(uow.connection),
            expires_on=invoice.expires_on,
        )
        uow.deposits.add(deposit)
    return deposit


async def request_withdrawal(
    engine: AsyncEngine, node: LightningNode, *, account_id: str, payment_request: str
) -> Withdrawal:
    """Take an invoice that an account wants to pay, and ask for the reservation.

    Raises
    ------
    InvoiceRefused
        If it cannot be paid from here.
    InvoiceUsed
        If it was given before, by whomever: an invoice is paid once.
    NodeAway
        If nobody can tell whether it can be paid.
    """
    try:
        invoice = node.decode(payment_request)
        info = await node.info()
    except InvalidInvoice as error:
        raise InvoiceRefused(f"cannot be read: {error}") from None
    except NodeUnavailable as error:
        raise NodeAway from error
    try:
        async with make_unit_of_work(engine) as uow:
            at = await now(uow.connection)
            amount = check_payable(invoice, info, at=at)
            command = RequestWithdrawal(
                payment_hash=invoice.payment_hash,
                account_id=account_id,
                amount=amount,
                max_fee=highest_fee(amount),
            )
            if await uow.withdrawals.find(invoice.payment_hash) is not None:
                raise InvoiceUsed(invoice.payment_hash)
            # A node that keeps books of its own would pay it, and tell of it as a receipt.
            if await uow.deposits.find(invoice.payment_hash) is not None:
                raise InvoiceRefused(OURS)
            withdrawal = Withdrawal.request(
                command, payment_request, expires_on=invoice.expires_on, at=at
            )
            uow.withdrawals.add(withdrawal)
    except ConcurrentChange:
        raise InvoiceUsed(invoice.payment_hash) from None
    return withdrawal


def check_payable(invoice: DecodedInvoice, node: NodeInfo, *, at: datetime) -> int:
    """Return what an invoice asks for, in msat.

    Raises
    ------
    InvoiceRefused
        If the node cannot pay it, or should not.
    """
    if invoice.network != node.network:
        raise InvoiceRefused(f"is of {invoice.network}, and this is {node.network}")
    if invoice.amount_msat is None:
        raise InvoiceRefused("names no amount: ask the payee for one that does")
    if (invoice.expires_on - at).total_seconds() < NEEDED_S:
        raise InvoiceRefused(f"has expired, on {invoice.expires_on:%Y-%m-%d %H:%M:%S} UTC")
    if invoice.payee_id == node.node_id:
        raise InvoiceRefused(OURS)
    return invoice.amount_msat


@handles(DepositCredited)
async def finish_deposit(event: DepositCredited, uow: BitcoinUnitOfWork) -> None:
    """Note that what was received is on the account."""
    deposit = await uow.deposits.find(event.payment_hash)
    if deposit is not None:
        deposit.be_credited()


@handles(ReservationMade)
async def pay_soon(event: ReservationMade, uow: BitcoinUnitOfWork) -> None:
    """Let the invoice be paid."""
    at = await now(uow.connection)
    (await _withdrawal(uow, event.payment_hash)).be_reserved(at)


@handles(ReservationRefused)
async def refuse_withdrawal(event: ReservationRefused, uow: BitcoinUnitOfWork) -> None:
    """Note that the account cannot pay."""
    (await _withdrawal(uow, event.payment_hash)).be_refused(event.reason)


@handles(ReservationCaptured)
async def finish_paid(event: ReservationCaptured, uow: BitcoinUnitOfWork) -> None:
    """Note that what was paid is taken from the account."""
    (await _withdrawal(uow, event.payment_hash)).end()


@handles(ReservationReleased)
async def finish_failed(event: ReservationReleased, uow: BitcoinUnitOfWork) -> None:
    """Note that what was not paid is free again."""
    (await _withdrawal(uow, event.payment_hash)).end()


async def _withdrawal(uow: BitcoinUnitOfWork, payment_hash: str) -> Withdrawal:
    withdrawal = await uow.withdrawals.find(payment_hash)
    if withdrawal is None:
        raise LookupError(f"there is no withdrawal {payment_hash}")
    return withdrawal


BITCOIN = Context(
    name="bitcoin",
    tables=TABLES,
    unit_of_work=make_unit_of_work,
    handlers=[finish_deposit, pay_soon, refuse_withdrawal, finish_paid, finish_failed],
)
