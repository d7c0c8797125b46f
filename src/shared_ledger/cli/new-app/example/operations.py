"""What the application may do to the book, and what it costs."""

from __future__ import annotations

from shared_ledger import Application, BaseLedgerOperation, Rule


class RecordOperation(BaseLedgerOperation):
    """The four operations that every application has, and its own."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    RECORD = "RECORD"


RECORDS = Application(
    "example",
    RecordOperation,
    rules={
        RecordOperation.RECORD: Rule.fixed(-4),
    },
)
