"""Each marked line must be an error for both type checkers, and no other line."""

from shared_ledger import (
    SHARED,
    Application,
    BaseLedgerOperation,
    Ledger,
    Posting,
    Rule,
    SharedOperation,
)


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
    ledger.post(Posting(SharedOperation.CREDIT_ADD, "user1", "n1"))  # expect-error
    ledger.post_batch([Posting(SharedOperation.CREDIT_ADD, "user1", "n1")])  # expect-error


async def another_applications_operation_in_a_coroutine(ledger: Ledger[BookingOperation]) -> None:
    await ledger.apost(Posting(SharedOperation.CREDIT_ADD, "user1", "n1"))  # expect-error


def own_operation_to_another_applications_ledger() -> None:
    with Ledger(SHARED) as ledger:
        ledger.post(Posting(BookingOperation.BOOKING, "user1", "n1"))  # expect-error


def operation_that_is_a_bare_string(ledger: Ledger[BookingOperation]) -> None:
    ledger.post(Posting("BOOKING", "user1", "n1"))  # expect-error


def operation_that_does_not_exist(ledger: Ledger[BookingOperation]) -> None:
    ledger.post(Posting(BookingOperation.BOOKNIG, "user1", "n1"))  # expect-error


def wrong_types_of_fields() -> None:
    Posting(BookingOperation.BOOKING, "user1", "n1", "10")  # expect-error
    Posting(BookingOperation.BOOKING, "user1", "n1", 1.5)  # expect-error
    Posting(BookingOperation.BOOKING, 1, "n1")  # expect-error
    Posting(BookingOperation.BOOKING, "user1", None)  # expect-error
    Posting(BookingOperation.BOOKING, "user1", "n1", metadata=["tag"])  # expect-error
    Posting(BookingOperation.BOOKING, "user1")  # expect-error


def wrong_rules() -> None:
    shared = {SharedOperation.CREDIT_ADD: Rule.fixed(1)}
    Application("bookings", BookingOperation, rules=shared)  # expect-error
    named = {"BOOKING": Rule.fixed(-1)}
    Application("bookings", BookingOperation, rules=named)  # expect-error
    numbers = {BookingOperation.BOOKING: -1}
    Application("bookings", BookingOperation, rules=numbers)  # expect-error
    Rule.fixed("1")  # expect-error
    Rule.fixed(1, once="year")  # expect-error
    Rule.fixed(1, posted_by=frozenset({"anyone"}))  # expect-error
    Rule.variable(minimum=1)  # expect-error
    Rule.variable(minimum=1, maximum=2, default="1")  # expect-error


def what_never_changes(ledger: Ledger[BookingOperation]) -> None:
    entry = ledger.history("user1").entries[0]
    entry.amount = 5  # expect-error
    ledger.balance("user1").balance = 5  # expect-error
