"""The nouns of the book: accounts, entries, and what a caller asks for and gets.

They are frozen ``msgspec.Struct`` classes, which behave as frozen dataclasses and are made several
times faster: an entry is made for every posting (docs/decisions/0001).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic

import msgspec

from shared_ledger.errors import Refusal
from shared_ledger.operations import OperationT


class Posting(msgspec.Struct, Generic[OperationT], frozen=True, gc=False):
    """One credit operation to post.

    Attributes
    ----------
    operation
        One of the application's own operations.
    owner_id
        Whose account; 1 to 255 printable characters, not beginning with ``@``.
    nonce
        The caller's name for this posting, unique per application and owner, for ever. Posting it
        again returns the first result.
    amount
        Signed, in whole units of the asset. May be left out where the rule fixes it.
    metadata
        A JSON object of at most 8 KiB, kept with the entry.
    """

    operation: OperationT
    owner_id: str
    nonce: str
    amount: int | None = None
    metadata: Mapping[str, Any] | None = None


class Entry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One movement between an owner and a system account; it never changes.

    The owner gains ``amount`` (negative: loses it) and the counterparty loses it; the owner's
    balance is ``balance_after`` then. Within an account, a later entry has a larger ``id`` and a
    ``created_on`` (UTC) that is not earlier.
    """

    id: int
    app: str
    operation: str
    owner_id: str
    counterparty: str
    asset: str
    amount: int
    balance_after: int
    nonce: str
    created_on: datetime
    metadata: Mapping[str, Any] | None = None
    period: str | None = None


class Posted(msgspec.Struct, frozen=True, gc=False):
    """The ledger's yes: the entry, and whether it had been posted before (``replayed``)."""

    entry: Entry
    replayed: bool = False


Outcome = Posted | Refusal
"""What became of one posting of a batch."""


class Account(msgspec.Struct, frozen=True, gc=False):
    """An owner's holding of one asset.

    ``posted`` is the sum of the entries, ``held`` what is reserved of it, ``floor`` the lowest
    allowed ``posted - held`` (``None``: none). ``changed_on`` is the last entry's ``created_on``,
    in any time zone.
    """

    owner_id: str
    asset: str
    posted: int = 0
    held: int = 0
    floor: int | None = 0
    changed_on: datetime | None = None

    @property
    def available(self) -> int:
        """What can be spent."""
        return self.posted - self.held


class Balance(msgspec.Struct, frozen=True):
    """What an owner has of an asset now: ``balance`` in all, ``available`` to spend of it."""

    owner_id: str
    balance: int
    available: int
    held: int
    asset: str


class Page(msgspec.Struct, frozen=True):
    """A page of history, newest first; ``cursor`` fetches the next one, ``None`` at the end."""

    entries: list[Entry]
    cursor: int | None


AccountKey = tuple[str, str]
"""What names an account: (owner_id, asset)."""

NonceKey = tuple[str, str, str]
"""What names a posting, for ever: (owner_id, app, nonce)."""

ClaimKey = tuple[str, str, str]
"""What an owner may have once per period: (owner_id, app, operation)."""
