"""An account: a user who takes part."""

from __future__ import annotations

from datetime import datetime

from shared_ledger.apps.crowdfunding.messages import SignupEvent
from shared_ledger.messages import Aggregate


class Account(Aggregate):
    """A user who takes part. Its id is his username, which he keeps for ever."""

    username: str
    registered_on: datetime

    @classmethod
    def register(cls, account_id: str, username: str, *, at: datetime) -> Account:
        """Let a user take part."""
        account = cls(entity_id=account_id, username=username, registered_on=at)
        account.raise_event(SignupEvent(account_id=account_id, username=username, registered_on=at))
        return account
