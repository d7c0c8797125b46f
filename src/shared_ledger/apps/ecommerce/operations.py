"""What the e-commerce application may do to the book."""

from __future__ import annotations

from shared_ledger import Application, BaseLedgerOperation, Rule

SHOP = "@shop"
"""Buyers pay to it and are refunded from it; what stays is the shop's."""

MAX_TOTAL = 10**18
"""A billion pieces, the most of an order, of what costs a billion credits, the dearest there is."""


class EcommerceOperation(BaseLedgerOperation):
    """The shared operations, and those of a shop."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    PURCHASE = "PURCHASE"
    REFUND_ITEM = "REFUND_ITEM"


ECOMMERCE = Application(
    "ecommerce",
    EcommerceOperation,
    rules={
        EcommerceOperation.PURCHASE: Rule.variable(
            minimum=-MAX_TOTAL, maximum=-1, counterparty=SHOP
        ),
        EcommerceOperation.REFUND_ITEM: Rule.variable(
            minimum=1, maximum=MAX_TOTAL, counterparty=SHOP
        ),
    },
)
