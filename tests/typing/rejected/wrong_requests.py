"""Each marked line must be an error for both type checkers, and no other line."""

from datetime import UTC, datetime, timedelta

from shared_ledger import (
    SHARED,
    Application,
    BaseLedgerOperation,
    CaptureHold,
    Group,
    Ledger,
    Part,
    PlaceHold,
    Posting,
    ReleaseHold,
    Reversal,
    Rule,
    SharedOperation,
    Transfer,
)
from shared_ledger.client import LedgerClient


class BookingOperation(BaseLedgerOperation):
    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    BOOKING = "BOOKING"


BOOKINGS = Application(
    "bookings", BookingOperation, rules={BookingOperation.BOOKING: Rule.fixed(-1)}
)


def another_applications_operation(ledger: Ledger[BookingOperation]) -> None:
    ledger.post(PlaceHold(SharedOperation.CREDIT_SPEND, "user1", "n1"))  # expect-error
    ledger.post(Group("n1", [Part(SharedOperation.CREDIT_ADD, "user1")]))  # expect-error
    ledger.quote(Posting(SharedOperation.CREDIT_ADD, "user1", "n1"))  # expect-error
    ledger.post(Reversal(1, "n1", operation=SharedOperation.CREDIT_ADD))  # expect-error
    ledger.quote(Reversal(1, "n1", operation=SharedOperation.CREDIT_ADD))  # expect-error


async def another_applications_operation_in_a_coroutine(ledger: Ledger[BookingOperation]) -> None:
    await ledger.apost(PlaceHold(SharedOperation.CREDIT_SPEND, "user1", "n1"))  # expect-error
    await ledger.apost(Group("n1", [Part(SharedOperation.CREDIT_ADD, "user1")]))  # expect-error


def own_operation_to_another_applications_ledger() -> None:
    with Ledger(SHARED) as ledger:
        ledger.post(PlaceHold(BookingOperation.BOOKING, "user1", "n1"))  # expect-error
        ledger.post(Group("n1", [Part(BookingOperation.BOOKING, "user1")]))  # expect-error


def operation_that_is_a_bare_string(ledger: Ledger[BookingOperation]) -> None:
    ledger.post(PlaceHold("BOOKING", "user1", "n1"))  # expect-error
    ledger.post(Group("n1", [Part("BOOKING", "user1")]))  # expect-error
    ledger.post(Reversal(1, "n1", operation="BOOKING"))  # expect-error


def operation_of_a_reversal_that_is_sent(client: LedgerClient[BookingOperation]) -> None:
    client.post(Reversal(1, "n1"))
    client.post(Reversal(1, "n1", operation=BookingOperation.BOOKING))  # expect-error


def results_of_another_kind(ledger: Ledger[BookingOperation]) -> None:
    placed = ledger.post(PlaceHold(BookingOperation.BOOKING, "user1", "n1"))
    _ = placed.entry  # expect-error
    _ = ledger.post(ReleaseHold(1, "n2")).entry  # expect-error
    _ = ledger.post(CaptureHold(1, "n3")).hold  # expect-error
    _ = ledger.post(Reversal(1, "n4")).hold  # expect-error


def wrong_types_of_fields() -> None:
    CaptureHold("1", "n1")  # expect-error
    CaptureHold(1, "n1", 1.5)  # expect-error
    CaptureHold(1, "n1", final="no")  # expect-error
    ReleaseHold(1)  # expect-error
    Reversal(1, "n1", allow_debt="yes")  # expect-error
    Transfer("user1", "user2", 5, "n1")  # expect-error
    Transfer(source="user1", destination="user2", nonce="n1")  # expect-error
    PlaceHold(BookingOperation.BOOKING, "user1", "n1", expires_in=60)  # expect-error
    PlaceHold(BookingOperation.BOOKING, "user1", "n1", expires_at=timedelta(1))  # expect-error
    Posting(BookingOperation.CREDIT_ADD, "user1", "n1", priority="high")  # expect-error
    Rule.fixed(1, expires_in=30)  # expect-error
    Rule.fixed(1, budget="100")  # expect-error


def wrong_times(ledger: Ledger[BookingOperation]) -> None:
    ledger.balance("user1", at="2026-01-01")  # expect-error
    ledger.statement("user1", datetime(2026, 1, 1, tzinfo=UTC))  # expect-error
