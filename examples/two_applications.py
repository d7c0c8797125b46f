"""Two applications on one book: a bookings application and a shop share their owners' credits."""

from shared_ledger import (
    SHARED_OPERATION_VALUES,
    Application,
    BaseLedgerOperation,
    InsufficientCredits,
    Ledger,
    Posting,
    Rule,
)


# An application declares its operations in a class body, which type checkers understand fully …
class BookingOperation(BaseLedgerOperation):
    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    BOOKING = "BOOKING"


BOOKINGS = Application(
    "bookings", BookingOperation, rules={BookingOperation.BOOKING: Rule.fixed(-4)}
)

# … or by composing values.
ShopOperation = BaseLedgerOperation(
    "ShopOperation", {"PURCHASE": "PURCHASE", **SHARED_OPERATION_VALUES}
)
SHOP = Application(
    "shop",
    ShopOperation,
    rules={ShopOperation("PURCHASE"): Rule.variable(minimum=-1_000, maximum=-1)},
)


def main() -> None:
    """Earn in one application, spend in the other."""
    with Ledger(BOOKINGS) as bookings, Ledger(SHOP) as shop:
        bookings.post(Posting(BookingOperation.CREDIT_ADD, owner_id="ada", nonce="invoice-1"))
        bookings.post(Posting(BookingOperation.BOOKING, owner_id="ada", nonce="booking-1"))
        again = bookings.post(Posting(BookingOperation.BOOKING, owner_id="ada", nonce="booking-1"))
        print("replayed:", again.replayed)

        shop.post(Posting(ShopOperation("PURCHASE"), owner_id="ada", nonce="order-1", amount=-5))
        try:
            shop.post(
                Posting(ShopOperation("PURCHASE"), owner_id="ada", nonce="order-2", amount=-5)
            )
        except InsufficientCredits as refusal:
            print("refused:", refusal)

        print("balance:", shop.balance("ada").balance)
        for entry in shop.history("ada").entries:
            change = f"{entry.amount:>4} → {entry.balance_after}"
            print(f"{entry.id:>3} {entry.app:8} {entry.operation:10} {change}")


if __name__ == "__main__":
    main()
