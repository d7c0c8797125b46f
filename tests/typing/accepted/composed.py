"""An application whose operations are composed: accepted, and not checked further."""

from typing import Any, cast

from shared_ledger import (
    SHARED_OPERATION_VALUES,
    Application,
    BaseLedgerOperation,
    Ledger,
    Posting,
    Rule,
)

APP_OPERATION_VALUES = {"BOOKING": "BOOKING"}

# Pyright takes what is composed for a member, whatever the enum: the cast tells it better.
TypeOperations = cast(
    "type[Any]",
    BaseLedgerOperation("TypeOperations", {**APP_OPERATION_VALUES, **SHARED_OPERATION_VALUES}),
)

BOOKINGS = Application("bookings", TypeOperations, rules={TypeOperations.BOOKING: Rule.fixed(-1)})


def post(ledger: Ledger[Any]) -> int:
    """Post one operation."""
    return ledger.post(Posting(TypeOperations.BOOKING, "user1", "n1")).entry.id
