"""What Satoshi Spark may do to the book. All amounts are in msat."""

from __future__ import annotations

from shared_ledger import Application, BaseLedgerOperation, Rule
from shared_ledger.apps.crowdfunding.common.amounts import MAX_MSAT

ASSET = "msat"
LIGHTNING = "@lightning"
"""What is outside: it owes what all accounts have together."""
GIVEN = "@donations"
"""What goes from one account to another goes through it; it is always at zero."""


class SparkOperation(BaseLedgerOperation):
    """The shared operations, and those of crowdfunding."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    DEPOSIT = "DEPOSIT"
    WITHDRAWAL = "WITHDRAWAL"
    WITHDRAWAL_FEE = "WITHDRAWAL_FEE"
    DONATION = "DONATION"
    DONATION_RECEIVED = "DONATION_RECEIVED"
    DONATION_RETURNED = "DONATION_RETURNED"
    DONATION_REFUND = "DONATION_REFUND"
    PAYOUT = "PAYOUT"
    PAYOUT_RECEIVED = "PAYOUT_RECEIVED"


def _gain(counterparty: str) -> Rule:
    return Rule.variable(minimum=1, maximum=MAX_MSAT, counterparty=counterparty, asset=ASSET)


def _loss(counterparty: str) -> Rule:
    return Rule.variable(minimum=-MAX_MSAT, maximum=-1, counterparty=counterparty, asset=ASSET)


CROWDFUNDING = Application(
    "crowdfunding",
    SparkOperation,
    rules={
        SparkOperation.DEPOSIT: _gain(LIGHTNING),
        SparkOperation.WITHDRAWAL: _loss(LIGHTNING),
        SparkOperation.WITHDRAWAL_FEE: _loss(LIGHTNING),
        SparkOperation.DONATION: _loss(GIVEN),
        SparkOperation.DONATION_RECEIVED: _gain(GIVEN),
        SparkOperation.DONATION_RETURNED: _loss(GIVEN),
        SparkOperation.DONATION_REFUND: _gain(GIVEN),
        SparkOperation.PAYOUT: _loss(GIVEN),
        SparkOperation.PAYOUT_RECEIVED: _gain(GIVEN),
    },
)
