"""Accounts that are nobody's: they keep what is not decided yet.

No user can have such a name: usernames hold no colon.
"""

from __future__ import annotations

_PREFIX = "campaign:"


def escrow_of(campaign_id: str) -> str:
    """Return the account that keeps a campaign's donations until its deadline."""
    return f"{_PREFIX}{campaign_id}"


def is_escrow(account_id: str) -> bool:
    """Whether an account is nobody's."""
    return account_id.startswith(_PREFIX)
