"""Accounts, and what of them is reserved. How much there is, is the ledger's to say."""

from __future__ import annotations

from typing import Literal

from shared_ledger.apps.crowdfunding.messages import (
    AccountOpened,
    ReservationCaptured,
    ReservationMade,
    ReservationReleased,
)
from shared_ledger.messages import Aggregate


class Account(Aggregate):
    """An account of somebody who takes part."""

    username: str

    @classmethod
    def open(cls, account_id: str, username: str) -> Account:
        """Open an account."""
        account = cls(entity_id=account_id, username=username)
        account.raise_event(AccountOpened(account_id=account_id, username=username))
        return account


class Reservation(Aggregate):
    """What a withdrawal may cost: a hold for its amount, and one for its highest fee.

    Its id is the payment hash.
    """

    account_id: str
    amount_hold_id: int
    fee_hold_id: int
    state: Literal["held", "captured", "released"] = "held"

    def announce(self) -> None:
        """Tell that it is made."""
        self.raise_event(ReservationMade(payment_hash=self.entity_id))

    def capture(self) -> None:
        """Take what the withdrawal has cost."""
        self._end("captured")
        self.raise_event(ReservationCaptured(payment_hash=self.entity_id))

    def release(self) -> None:
        """Free it all."""
        self._end("released")
        self.raise_event(ReservationReleased(payment_hash=self.entity_id))

    def _end(self, state: Literal["captured", "released"]) -> None:
        if self.state != "held":
            raise ValueError(f"the reservation {self.entity_id} was {self.state} before")
        self.state = state
