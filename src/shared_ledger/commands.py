"""What the ledger is told to do: requests that have passed their rules, complete and safe to write.

Every command says which accounts it touches (``keys``), and what it takes from which of them
(``spends``), so that they can be loaded. What becomes of it is decided when they are locked
(``decide``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

import msgspec

from shared_ledger.book import AccountKey, Entry
from shared_ledger.operations import TRANSFERS, Once, Rule


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What few postings have: an expiry of what they give, and budgets."""

    expires_in: timedelta | None
    priority: int
    expires_in_given: bool
    priority_given: bool
    budget: int | None
    daily_budget: int | None


class Command(msgspec.Struct, frozen=True, gc=False):
    """A posting that has passed its rule: complete, and safe to write."""

    app: str
    operation: str
    owner_id: str
    nonce: str
    amount: int
    counterparty: str
    asset: str
    once: Once | None = None
    amount_given: bool = False
    metadata: str | None = None
    terms: Terms | None = None

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The account."""
        return ((self.owner_id, self.asset),)

    @property
    def spends(self) -> int:
        """What it takes of the first account."""
        return max(0, -self.amount)


class GroupCommand(msgspec.Struct, frozen=True):
    """A checked group; its members have the group's nonce."""

    app: str
    owner_id: str
    nonce: str
    asset: str
    counterparty: str
    members: tuple[Command, ...]

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The members' accounts."""
        return tuple((member.owner_id, member.asset) for member in self.members)

    spends = 0


class AtomicCommand(msgspec.Struct, frozen=True):
    """Commands, each with its own nonce, of which all are written or none."""

    app: str
    owner_id: str
    nonce: str
    asset: str
    counterparty: str
    members: tuple[AnyCommand, ...]

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The members' accounts."""
        return tuple(key for member in self.members for key in member.keys)

    spends = 0


class TransferCommand(msgspec.Struct, frozen=True, gc=False):
    """A checked transfer; the source is its ``owner_id``."""

    app: str
    owner_id: str
    destination: str
    nonce: str
    amount: int
    asset: str
    metadata: str | None = None

    counterparty = TRANSFERS

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The source's account and the destination's."""
        return ((self.owner_id, self.asset), (self.destination, self.asset))

    @property
    def spends(self) -> int:
        """What it takes of the source."""
        return self.amount


class PlaceCommand(msgspec.Struct, frozen=True, gc=False):
    """A checked hold to be placed."""

    app: str
    operation: str
    owner_id: str
    nonce: str
    amount: int
    counterparty: str
    asset: str
    amount_given: bool
    expires_in: timedelta | None
    expires_at: datetime | None
    metadata: str | None = None

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The account."""
        return ((self.owner_id, self.asset),)

    @property
    def spends(self) -> int:
        """What it reserves."""
        return self.amount


class CaptureCommand(msgspec.Struct, frozen=True, gc=False):
    """A checked capture of a hold of this owner and application."""

    app: str
    hold_id: int
    owner_id: str
    nonce: str
    asset: str
    counterparty: str
    amount: int | None
    final: bool
    metadata: str | None = None

    spends = 0

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The account."""
        return ((self.owner_id, self.asset),)


class ReleaseCommand(msgspec.Struct, frozen=True, gc=False):
    """A checked release of a hold of this owner and application."""

    app: str
    hold_id: int
    owner_id: str
    nonce: str
    asset: str
    counterparty: str

    spends = 0

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The account."""
        return ((self.owner_id, self.asset),)


class ReverseCommand(msgspec.Struct, frozen=True, gc=False):
    """A checked reversal of entries, which never change: one, or the two of a transfer.

    It is shown as ``operation``, whose ``rule`` bounds it, or as the ledger's own.
    """

    app: str
    owner_id: str
    nonce: str
    asset: str
    counterparty: str
    entries: tuple[Entry, ...]
    amount: int | None
    allow_debt: bool
    metadata: str | None = None
    operation: str | None = None
    rule: Rule | None = None

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The accounts of the entries."""
        return tuple((entry.owner_id, entry.asset) for entry in self.entries)

    @property
    def spends(self) -> int:
        """What it takes at most of whoever gained."""
        return self.amount or max(abs(entry.amount) for entry in self.entries)


class SweepCommand(msgspec.Struct, frozen=True, gc=False):
    """Book what has expired of an account; nobody asked, so it has no nonce."""

    owner_id: str
    asset: str

    app = ""
    nonce = ""
    counterparty = ""
    spends = 0

    @property
    def keys(self) -> tuple[AccountKey, ...]:
        """The account."""
        return ((self.owner_id, self.asset),)


AnyCommand = (
    Command
    | GroupCommand
    | AtomicCommand
    | TransferCommand
    | PlaceCommand
    | CaptureCommand
    | ReleaseCommand
    | ReverseCommand
    | SweepCommand
)


def flat(commands: Iterable[AnyCommand]) -> Iterator[AnyCommand]:
    """Give the commands one by one, those of groups and atomic batches too."""
    for command in commands:
        if isinstance(command, GroupCommand | AtomicCommand):
            yield from flat(command.members)
        else:
            yield command


def atomic(commands: Sequence[AnyCommand]) -> AtomicCommand:
    """Make one command of many."""
    first = commands[0]
    return AtomicCommand(
        first.app, first.owner_id, "", first.asset, first.counterparty, tuple(commands)
    )
