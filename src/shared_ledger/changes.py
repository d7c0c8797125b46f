"""What is loaded of a book for a list of commands, and the changes to write when it is decided."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shared_ledger.book import (
    Account,
    AccountKey,
    BudgetKey,
    ClaimKey,
    Entry,
    Grant,
    Hold,
    NonceKey,
)


@dataclass(slots=True)
class Book:
    """What was loaded for a list of commands, after the accounts were locked.

    Attributes
    ----------
    now
        The database's clock, UTC.
    ids
        New ids, increasing; as many as are asked for.
    accounts
        The existing owners' accounts; one that is missing has nothing yet.
    entries
        Entries that already hold one of the commands' nonces.
    claims
        Until when an owner has had an operation that is allowed once per period: ``"ever"`` or the
        last UTC day.
    budgets
        What operations that have a budget have given in all, and on the day.
    holds
        Those that the commands or the entries name, and those of the accounts that are due.
    grants
        Of each account those that are due, those that its holds or the entries name, and of the
        others as many, in the order they are spent, as the commands may take.
    next_due
        When the next of an account expires that is not due now.
    groups
        The entries that were written together with one of ``entries``, by the group's id.
    reversed
        How much of an entry was reversed before.
    burned
        What an entry that is to be reversed took of each grant, given back or not.
    ours
        Whether the accounts may be changed in place, because nobody else needs them as they were.
    """

    now: datetime
    ids: Iterable[int]
    accounts: Mapping[AccountKey, Account] = field(default_factory=dict)
    entries: Mapping[NonceKey, Entry] = field(default_factory=dict)
    claims: Mapping[ClaimKey, str] = field(default_factory=dict)
    budgets: Mapping[BudgetKey, int] = field(default_factory=dict)
    holds: Mapping[int, Hold] = field(default_factory=dict)
    grants: Mapping[AccountKey, Sequence[Grant]] = field(default_factory=dict)
    next_due: Mapping[AccountKey, datetime] = field(default_factory=dict)
    groups: Mapping[int, Sequence[Entry]] = field(default_factory=dict)
    reversed: Mapping[int, int] = field(default_factory=dict)
    burned: Mapping[int, Mapping[int, int]] = field(default_factory=dict)
    ours: bool = False


@dataclass(slots=True)
class Changes:
    """What to write, all of it or nothing: new entries in order, and what they change.

    ``accounts`` are those of owners as they are now; ``system`` is what system accounts gain,
    ``budgets`` what operations gave of theirs; ``burns`` is what entries took of grants. ``given``
    names those of the grants that are new; a hold is new if it was not loaded.
    """

    entries: list[Entry] = field(default_factory=list)
    accounts: dict[AccountKey, Account] = field(default_factory=dict)
    system: dict[AccountKey, int] = field(default_factory=dict)
    holds: dict[int, Hold] = field(default_factory=dict)
    grants: dict[int, Grant] = field(default_factory=dict)
    burns: dict[tuple[int, int], int] = field(default_factory=dict)
    budgets: dict[BudgetKey, int] = field(default_factory=dict)
    given: set[int] = field(default_factory=set)

    def absorb(self, later: Changes) -> None:
        """Add what was changed after this."""
        self.entries += later.entries
        self.accounts |= later.accounts
        self.holds |= later.holds
        self.grants |= later.grants
        self.burns |= later.burns
        self.given |= later.given
        for own, more in ((self.system, later.system), (self.budgets, later.budgets)):
            add_all(own, more)


def add_all(sums: dict[Any, int], more: Mapping[Any, int]) -> None:
    """Add amounts to sums."""
    for key, amount in more.items():
        sums[key] = sums.get(key, 0) + amount
