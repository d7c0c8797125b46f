"""An application whose operations are a class body: every type is known."""

from typing import assert_type

from shared_ledger import (
    SHARED,
    Application,
    BaseLedgerOperation,
    Entry,
    Ledger,
    Outcome,
    Posted,
    Posting,
    Refusal,
    Rule,
    SharedOperation,
)


class BookingOperation(BaseLedgerOperation):
    """The operations of bookings."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    BOOKING = "BOOKING"


BOOKINGS = Application(
    "bookings",
    BookingOperation,
    rules={BookingOperation.BOOKING: Rule.variable(minimum=-100, maximum=-1)},
)
assert_type(BOOKINGS, Application[BookingOperation])
assert_type(BOOKINGS.operation("BOOKING"), BookingOperation)
assert_type(BookingOperation("BOOKING"), BookingOperation)
assert_type(BookingOperation["BOOKING"], BookingOperation)
assert_type(SHARED, Application[SharedOperation])


def post(ledger: Ledger[BookingOperation]) -> Entry:
    """Post one operation, and read its entry."""
    posted = ledger.post(Posting(BookingOperation.BOOKING, "user1", "n1", -3, {"room": 7}))
    assert_type(posted, Posted)
    return posted.entry


def post_many(ledger: Ledger[BookingOperation]) -> list[int]:
    """Post several operations, and tell the answers apart."""
    outcomes = ledger.post_batch([Posting(BookingOperation.CREDIT_ADD, "user1", "n1")])
    assert_type(outcomes, list[Outcome])
    return [outcome.entry.id for outcome in outcomes if not isinstance(outcome, Refusal)]


async def apost(ledger: Ledger[BookingOperation]) -> Posted:
    """Post one operation in a coroutine."""
    async with ledger:
        return await ledger.apost(Posting(BookingOperation.CREDIT_SPEND, "user1", "n1"))


def open_ledger() -> Ledger[BookingOperation]:
    """Open a ledger of the application."""
    with Ledger(BOOKINGS) as ledger:
        assert_type(ledger, Ledger[BookingOperation])
        return ledger
