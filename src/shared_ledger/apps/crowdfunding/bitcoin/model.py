"""Deposits and withdrawals: what becomes of an invoice, in which order, and nothing else.

The states of each are drawn in docs/satoshi-spark.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from shared_ledger.apps.crowdfunding.messages import (
    DepositReceived,
    RequestReservation,
    RequestWithdrawal,
    WithdrawalFailed,
    WithdrawalPaid,
)
from shared_ledger.messages import Aggregate

DepositState = Literal["open", "received", "credited", "expired"]
WithdrawalState = Literal[
    "requested", "reserved", "paying", "paid", "succeeded", "failing", "failed", "refused"
]

# A payer whose payment is under way when the invoice expires may still be let in by the node.
GRACE = timedelta(minutes=1)

LONGEST_UNHEARD = timedelta(days=1)
MIN_FEE_MSAT = 5_000
FEE_PERCENT = 1


def highest_fee(amount: int) -> int:
    """Return what may be paid for the way of an amount at most, both in msat."""
    return max(MIN_FEE_MSAT, amount * FEE_PERCENT // 100)


class Deposit(Aggregate):
    """An invoice of ours, whose id is its payment hash. Amounts are in msat.

    ``due_on`` is when the node is to be asked what has become of it, if nobody has heard before.
    """

    account_id: str
    payment_request: str
    amount: int
    expires_on: datetime
    created_on: datetime
    received: int = 0
    state: DepositState = "open"
    due_on: datetime | None = None

    def __post_init__(self) -> None:
        if self.state == "open" and self.due_on is None:
            self.due_on = self.expires_on + GRACE

    def receive(self, amount: int) -> None:
        """Note that somebody has paid, who may have paid more than was asked; once.

        What comes after the end counts too: it was received.
        """
        if self.state not in ("open", "expired"):
            return
        self.state = "received"
        self.received = amount
        self.due_on = None
        self.raise_event(
            DepositReceived(payment_hash=self.entity_id, account_id=self.account_id, amount=amount)
        )

    def expire(self) -> None:
        """Note that the node takes no payment for it any more."""
        if self.state == "open":
            self.state = "expired"
            self.due_on = None

    def look_again(self, at: datetime) -> None:
        """Ask the node again later."""
        if self.state == "open":
            self.due_on = at

    def be_credited(self) -> None:
        """Note that what was received is on the account."""
        if self.state == "received":
            self.state = "credited"


class Withdrawal(Aggregate):
    """An invoice of somebody else that an account pays, whose id is its payment hash.

    Amounts are in msat. ``reason`` is why it was refused or has failed. ``due_on`` is when to pay,
    or to ask the node what has become of the payment.
    """

    account_id: str
    payment_request: str
    amount: int
    max_fee: int
    expires_on: datetime
    created_on: datetime
    fee: int = 0
    state: WithdrawalState = "requested"
    reason: str | None = None
    begun_on: datetime | None = None
    due_on: datetime | None = None

    @classmethod
    def request(
        cls,
        command: RequestWithdrawal,
        payment_request: str,
        *,
        expires_on: datetime,
        at: datetime,
    ) -> Withdrawal:
        """Ask the accounting for a reservation."""
        withdrawal = cls(
            entity_id=command.payment_hash,
            account_id=command.account_id,
            payment_request=payment_request,
            amount=command.amount,
            max_fee=command.max_fee,
            expires_on=expires_on,
            created_on=at,
        )
        withdrawal.raise_event(
            RequestReservation(
                payment_hash=command.payment_hash,
                account_id=command.account_id,
                amount=command.amount,
                max_fee=command.max_fee,
            )
        )
        return withdrawal

    @property
    def is_decided(self) -> bool:
        """Whether it is known what becomes of it; the accounting may have something to do yet."""
        return self.state in ("paid", "succeeded", "failing", "failed", "refused")

    def be_refused(self, reason: str) -> None:
        """Note that the account cannot pay."""
        if self.state == "requested":
            self.state = "refused"
            self.reason = reason

    def be_reserved(self, at: datetime) -> None:
        """Note that it can be paid now."""
        if self.state == "requested":
            self.state = "reserved"
            self.due_on = at

    def begin(self, at: datetime, *, look_on: datetime) -> None:
        """Note that the node is asked to pay from now on, by whoever saves this.

        From here on nobody else asks it: whatever happens, it is only tracked.
        """
        if self.state != "reserved":
            raise ValueError(f"the withdrawal {self.entity_id} is {self.state}")
        self.state = "paying"
        self.begun_on = at
        self.due_on = look_on

    def look_again(self, at: datetime) -> None:
        """Ask the node again later."""
        if self.state == "paying":
            self.due_on = at

    def was_never_sent(self, at: datetime) -> bool:
        """Tell whether a payment that the node has never heard of cannot be begun any more.

        No node pays an invoice that has expired. Of one that lasts for very long it is enough that
        a day has gone by since whoever asked the node was about to.
        """
        if self.state != "paying" or self.begun_on is None:
            return False
        return at > min(self.expires_on + GRACE, self.begun_on + LONGEST_UNHEARD)

    def succeed(self, fee: int) -> None:
        """Note that the node has paid, once."""
        if self.state == "paying":
            self.state = "paid"
            self.fee = fee
            self.due_on = None
            self.raise_event(WithdrawalPaid(payment_hash=self.entity_id, fee=fee))

    def fail(self, reason: str) -> None:
        """Note that the node has not paid, and never will, once."""
        if self.state == "paying":
            self.state = "failing"
            self.reason = reason
            self.due_on = None
            self.raise_event(WithdrawalFailed(payment_hash=self.entity_id, reason=reason))

    def end(self) -> None:
        """Note that the accounting has done its part."""
        if self.state == "paid":
            self.state = "succeeded"
        elif self.state == "failing":
            self.state = "failed"
