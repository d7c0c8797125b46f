"""What the accounting context does: entries on the ledger, once for each thing that happened.

Each entry's nonce names what it is for, so that a message that comes twice moves nothing twice
even if all that is known of it were lost. What the ledger refuses for good is answered by an event;
what it cannot do now (an account that is busy, a database that is away) fails, and is tried again.
"""

from __future__ import annotations

from datetime import timedelta

from shared_ledger import (
    BalanceOutOfRange,
    CaptureHold,
    Group,
    InsufficientCredits,
    NonceReused,
    Part,
    PlaceHold,
    Posted,
    Posting,
    ReleaseHold,
)
from shared_ledger.apps.crowdfunding.accounting.model import Account, Reservation
from shared_ledger.apps.crowdfunding.accounting.operations import SparkOperation
from shared_ledger.apps.crowdfunding.accounting.store import (
    TABLES,
    AccountingUnitOfWork,
    SparkLedger,
)
from shared_ledger.apps.crowdfunding.common.escrow import is_escrow
from shared_ledger.apps.crowdfunding.messages import (
    DepositCredited,
    DepositReceived,
    EntriesPosted,
    PostedEntry,
    RefundsMade,
    RequestRefunds,
    RequestReservation,
    RequestTransfer,
    ReservationRefused,
    SignupEvent,
    TransferRejectedEvent,
    TransferSucceededEvent,
    WithdrawalFailed,
    WithdrawalPaid,
)
from shared_ledger.messages import Context, handles

# A payment may stay unknown for as long as its node is away: only its end ends a reservation.
RESERVED = timedelta(days=3_650)

SIDES = {
    "donation": (SparkOperation.DONATION, SparkOperation.DONATION_RECEIVED),
    "payout": (SparkOperation.PAYOUT, SparkOperation.PAYOUT_RECEIVED),
}
"""Of each purpose of a transfer: what the one who pays is shown, and the one who is paid."""

FINAL = (InsufficientCredits, BalanceOutOfRange, NonceReused)
"""What the ledger says and will say again."""


@handles(SignupEvent)
async def open_account(event: SignupEvent, uow: AccountingUnitOfWork) -> None:
    """Open the account of somebody who takes part."""
    if await uow.accounts.find(event.account_id) is None:
        uow.accounts.add(Account.open(event.account_id, event.username))


@handles(DepositReceived)
async def credit_deposit(event: DepositReceived, uow: AccountingUnitOfWork) -> None:
    """Credit what was received."""
    nonce = f"@deposit:{event.payment_hash}"
    posting = Posting(SparkOperation.DEPOSIT, event.account_id, nonce, event.amount)
    _tell(uow, await uow.ledger.apost_in(uow.connection, posting), event.payment_hash)
    uow.emit(
        DepositCredited(
            payment_hash=event.payment_hash, account_id=event.account_id, amount=event.amount
        )
    )


@handles(RequestTransfer)
async def transfer(command: RequestTransfer, uow: AccountingUnitOfWork) -> None:
    """Move an amount from one account to another."""
    paid, received = SIDES[command.purpose]
    group = Group(
        f"@transfer:{command.idempotency_key}",
        [
            Part(paid, command.from_account_id, -command.amount),
            Part(received, command.to_account_id, command.amount),
        ],
    )
    try:
        posted = await uow.ledger.apost_in(uow.connection, group)
    except FINAL as refused:
        uow.emit(
            TransferRejectedEvent(
                idempotency_key=command.idempotency_key,
                from_account_id=command.from_account_id,
                to_account_id=command.to_account_id,
                amount=command.amount,
                metadata=command.metadata,
                reason=refused.code,
            )
        )
        return
    _tell(uow, posted, command.metadata.get("campaign_id", command.idempotency_key))
    uow.emit(
        TransferSucceededEvent(
            idempotency_key=command.idempotency_key,
            from_account_id=command.from_account_id,
            to_account_id=command.to_account_id,
            amount=command.amount,
            metadata=command.metadata,
        )
    )


@handles(RequestRefunds)
async def refund(command: RequestRefunds, uow: AccountingUnitOfWork) -> None:
    """Give the donors of a batch back what they gave."""
    total = sum(refund.amount for refund in command.refunds)
    parts = [Part(SparkOperation.DONATION_RETURNED, command.from_account_id, -total)]
    parts += [
        Part(SparkOperation.DONATION_REFUND, refund.account_id, refund.amount)
        for refund in command.refunds
    ]
    group = Group(f"@refund:{command.batch_id}", parts)
    posted = await uow.ledger.apost_in(uow.connection, group)
    _tell(uow, posted, command.campaign_id)
    uow.emit(
        RefundsMade(
            batch_id=command.batch_id,
            campaign_id=command.campaign_id,
            donation_ids=[refund.donation_id for refund in command.refunds],
        )
    )


@handles(RequestReservation)
async def reserve(command: RequestReservation, uow: AccountingUnitOfWork) -> None:
    """Reserve what a withdrawal may cost: its amount, and its highest fee."""

    async def place(operation: SparkOperation, amount: int, name: str) -> int:
        hold = PlaceHold(
            operation,
            command.account_id,
            f"@{name}:{command.payment_hash}",
            amount,
            expires_in=RESERVED,
        )
        return (await uow.ledger.apost_in(uow.connection, hold)).hold.id

    try:
        # Both or none.
        async with uow.connection.begin_nested():
            reservation = Reservation(
                entity_id=command.payment_hash,
                account_id=command.account_id,
                amount_hold_id=await place(SparkOperation.WITHDRAWAL, command.amount, "withdrawal"),
                fee_hold_id=await place(
                    SparkOperation.WITHDRAWAL_FEE, command.max_fee, "withdrawal-fee"
                ),
            )
    except FINAL as refused:
        uow.emit(ReservationRefused(payment_hash=command.payment_hash, reason=refused.code))
        return
    reservation.announce()
    uow.reservations.add(reservation)


@handles(WithdrawalPaid)
async def capture(event: WithdrawalPaid, uow: AccountingUnitOfWork) -> None:
    """Take the amount and the fee of what was paid, and free the rest."""
    reservation = await _reservation(uow, event.payment_hash)
    reservation.capture()
    taken = CaptureHold(reservation.amount_hold_id, f"@capture:{event.payment_hash}")
    _tell(uow, await uow.ledger.apost_in(uow.connection, taken), event.payment_hash)
    if event.fee:
        fee = CaptureHold(reservation.fee_hold_id, f"@fee:{event.payment_hash}", event.fee)
        _tell(uow, await uow.ledger.apost_in(uow.connection, fee), event.payment_hash)
    else:
        free = ReleaseHold(reservation.fee_hold_id, f"@fee:{event.payment_hash}")
        await uow.ledger.apost_in(uow.connection, free)


@handles(WithdrawalFailed)
async def release(event: WithdrawalFailed, uow: AccountingUnitOfWork) -> None:
    """Free what was reserved for what was not paid."""
    reservation = await _reservation(uow, event.payment_hash)
    reservation.release()
    for hold_id, name in (
        (reservation.amount_hold_id, "release"),
        (reservation.fee_hold_id, "release-fee"),
    ):
        free = ReleaseHold(hold_id, f"@{name}:{event.payment_hash}")
        await uow.ledger.apost_in(uow.connection, free)


async def _reservation(uow: AccountingUnitOfWork, payment_hash: str) -> Reservation:
    reservation = await uow.reservations.find(payment_hash)
    if reservation is None:
        raise LookupError(f"nothing is reserved for {payment_hash}")
    return reservation


def _tell(uow: AccountingUnitOfWork, posted: Posted, about: str) -> None:
    """Tell what a posting has changed of people's accounts; what is in escrow is nobody's yet."""
    entries = [
        PostedEntry(
            entry_id=entry.id,
            account_id=entry.owner_id,
            operation=entry.operation,
            amount=entry.amount,
            balance=entry.balance_after,
            created_on=entry.created_on,
        )
        for entry in (posted.entry, *posted.group)
        if not is_escrow(entry.owner_id)
    ]
    uow.emit(EntriesPosted(posting_id=str(posted.entry.id), about=about, entries=entries))


def accounting(ledger: SparkLedger) -> Context[AccountingUnitOfWork]:
    """Make the context over a ledger."""
    return Context(
        name="accounting",
        tables=TABLES,
        unit_of_work=lambda source: AccountingUnitOfWork(source, ledger),
        handlers=[open_account, credit_deposit, transfer, refund, reserve, capture, release],
    )
