"""What the content application may do to the book."""

from __future__ import annotations

from shared_ledger import Application, BaseLedgerOperation, Rule

MAX_PRICE = 1_000_000
FEES = "@content"
"""Readers pay to it and creators are paid from it; what stays is the platform's share."""


class ContentOperation(BaseLedgerOperation):
    """The shared operations, and those of content."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    CONTENT_CREATION = "CONTENT_CREATION"
    CONTENT_ACCESS = "CONTENT_ACCESS"
    CONTENT_EARNING = "CONTENT_EARNING"


CONTENT = Application(
    "content",
    ContentOperation,
    rules={
        ContentOperation.CONTENT_CREATION: Rule.fixed(-5),
        ContentOperation.CONTENT_ACCESS: Rule.variable(
            minimum=-MAX_PRICE, maximum=0, default=0, counterparty=FEES
        ),
        ContentOperation.CONTENT_EARNING: Rule.variable(
            minimum=1, maximum=MAX_PRICE, counterparty=FEES
        ),
    },
)
