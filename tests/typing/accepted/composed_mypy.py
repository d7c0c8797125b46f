"""mypy needs no cast. Pyright is not shown this file."""

from shared_ledger import (
    SHARED_OPERATION_VALUES,
    Application,
    BaseLedgerOperation,
    Posting,
    Rule,
)

TypeOperations = BaseLedgerOperation(
    "TypeOperations", {"BOOKING": "BOOKING", **SHARED_OPERATION_VALUES}
)
BOOKINGS = Application("bookings", TypeOperations, rules={TypeOperations.BOOKING: Rule.fixed(-1)})
posting = Posting(TypeOperations("BOOKING"), "user1", "n1")
