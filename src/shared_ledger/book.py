"""The nouns of the book: accounts, entries, holds, grants, and what a caller asks for and gets.

They are ``msgspec.Struct`` classes, which behave as dataclasses and are made several
times faster: an entry is made for every posting (docs/decisions/0001).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from shared_ledger.errors import Refusal
from shared_ledger.operations import CREDITS, BaseLedgerOperation, OperationT

if TYPE_CHECKING:
    from typing import Never

    # Python's own has defaults from 3.13 on.
    from typing_extensions import TypeVar as DefaultTypeVar

    # A reversal that names no operation is one of any application's.
    OperationT_co = DefaultTypeVar(
        "OperationT_co", bound=BaseLedgerOperation, covariant=True, default=Never
    )
else:
    OperationT_co = TypeVar("OperationT_co", bound=BaseLedgerOperation, covariant=True)


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
        Signed, in whole units of the asset. May be left out where the rule has a default.
    metadata
        A JSON object of at most 8 KiB, kept with the entry.
    expires_in
        How long what it gives can be spent; by default what the rule says.
    priority
        Which expiring credits are spent first, the lowest first; by default what the rule says.
    """

    operation: OperationT
    owner_id: str
    nonce: str
    amount: int | None = None
    metadata: Mapping[str, Any] | None = None
    expires_in: timedelta | None = None
    priority: int | None = None


class Part(msgspec.Struct, Generic[OperationT], frozen=True):
    """One entry of a ``Group``: a posting without a nonce of its own."""

    operation: OperationT
    owner_id: str
    amount: int | None = None
    metadata: Mapping[str, Any] | None = None
    expires_in: timedelta | None = None
    priority: int | None = None


class Group(msgspec.Struct, Generic[OperationT], frozen=True):
    """Entries that happen together or not at all, under one nonce: the first owner's.

    1 to 100 parts; they are applied in order, so that one may spend what another gave before it.
    """

    nonce: str
    parts: Sequence[Part[OperationT]]


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """Move credits from one owner to another; expiring ones keep their expiry and priority.

    ``amount`` is positive; the nonce is the source's.
    """

    source: str
    destination: str
    amount: int
    nonce: str
    asset: str = CREDITS
    metadata: Mapping[str, Any] | None = None


class PlaceHold(msgspec.Struct, Generic[OperationT], frozen=True):
    """Reserve credits for an operation that takes some.

    Attributes
    ----------
    operation
        What a capture will post.
    amount
        Positive: how much is reserved. May be left out where the rule has a default.
    expires_in, expires_at
        When what was not captured becomes available again: one of the two, or 7 days.
    """

    operation: OperationT
    owner_id: str
    nonce: str
    amount: int | None = None
    expires_in: timedelta | None = None
    expires_at: datetime | None = None
    metadata: Mapping[str, Any] | None = None


class CaptureHold(msgspec.Struct, frozen=True):
    """Take what a hold reserves, all that is left of it or ``amount`` (positive).

    ``final`` ends the hold and releases the rest; without it the rest stays reserved.
    """

    hold_id: int
    nonce: str
    amount: int | None = None
    final: bool = True
    metadata: Mapping[str, Any] | None = None


class ReleaseHold(msgspec.Struct, frozen=True):
    """End a hold: what is left of it becomes available again."""

    hold_id: int
    nonce: str


class Reversal(msgspec.Struct, Generic[OperationT_co], frozen=True):
    """Take an entry back, all that is left of it or ``amount`` (positive).

    A spend goes back to the credits that paid for it. A gain that was spent already is refused, or
    with ``allow_debt`` taken into a negative balance. A transfer is reversed on both sides.

    Attributes
    ----------
    operation
        Which of the application's operations the entry shows; by default it is ``REVERSAL``. What
        comes back, or is taken back (negative), must be within the bounds of its rule, which has
        no ``once``, expiry or budget. The counterparty is that of the entry which is taken back.
    """

    entry_id: int
    nonce: str
    amount: int | None = None
    allow_debt: bool = False
    metadata: Mapping[str, Any] | None = None
    operation: OperationT_co | None = None


Request = (
    Posting[OperationT]
    | Group[OperationT]
    | Transfer
    | PlaceHold[OperationT]
    | CaptureHold
    | ReleaseHold
    | Reversal[OperationT]
)
"""Whatever a ledger can be asked to post."""


class Entry(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One movement between an owner and a system account; it never changes.

    The owner gains ``amount`` (negative: loses it) and the counterparty loses it; the owner's
    balance is ``balance_after`` then. Within an account, a later entry has a larger ``id`` and a
    ``created_on`` (UTC) that is not earlier. Placing, releasing and expiring a hold are entries
    that move nothing.

    Attributes
    ----------
    period
        For an operation that is allowed once per period, ``"ever"`` or the last UTC day of it.
    held_after, expiring_after
        What of the balance was held then, and what of it would expire.
    effective_on
        When it took effect, if not at ``created_on``: an expiry is booked after its own time.
    group_id
        The first entry of those that were posted together or not at all.
    reverses
        The entry that this one takes back, in part or whole.
    hold_id
        The hold that it places, captures, releases or ends; a hold has the id of its first entry.
    expires_on, priority
        Of credits that expire: when, and which are spent first.
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
    held_after: int = 0
    expiring_after: int = 0
    effective_on: datetime | None = None
    group_id: int | None = None
    reverses: int | None = None
    hold_id: int | None = None
    expires_on: datetime | None = None
    priority: int | None = None


HoldState = Literal["open", "captured", "released", "expired"]


class Hold(msgspec.Struct, gc=False):
    """Credits that are reserved for one operation until they are captured, released or expire.

    Attributes
    ----------
    amount, captured
        What was reserved at first, and what of it was captured since; both positive.
    state
        ``captured`` if it was captured, in part too.
    expires_on
        When what is left of it becomes available again.
    closed_on, closed_by
        When it ended, and the entry that ended it at its caller's wish.
    grants
        The expiring credits it reserves now: (grant's id, amount) in the order they are spent.
    """

    id: int
    app: str
    operation: str
    owner_id: str
    counterparty: str
    asset: str
    amount: int
    nonce: str
    created_on: datetime
    expires_on: datetime
    captured: int = 0
    state: HoldState = "open"
    closed_on: datetime | None = None
    closed_by: int | None = None
    grants: tuple[tuple[int, int], ...] = ()

    @property
    def remaining(self) -> int:
        """What it reserves now."""
        return self.amount - self.captured if self.state == "open" else 0


class Grant(msgspec.Struct, gc=False):
    """What is left of credits that expire.

    ``remaining`` of ``amount`` can be spent until ``expires_on``; what holds reserve is not in it.
    ``expired`` was booked to ``@expired``. ``entry_id`` gave it, ``app`` wrote that.
    """

    id: int
    entry_id: int
    app: str
    owner_id: str
    asset: str
    amount: int
    remaining: int
    priority: int
    granted_on: datetime
    expires_on: datetime
    expired: int = 0


class Burn(msgspec.Struct, frozen=True, gc=False):
    """What an entry took of a grant; negative, what it gave back."""

    entry_id: int
    grant_id: int
    amount: int


class Posted(msgspec.Struct, frozen=True, gc=False):
    """The ledger's yes: the entry, and whether it had been posted before (``replayed``).

    ``group`` holds the other entries that happened with it, such as a transfer's second.
    """

    entry: Entry
    replayed: bool = False
    group: tuple[Entry, ...] = ()


class Held(msgspec.Struct, frozen=True, gc=False):
    """The ledger's yes to a hold: as it was placed, or as it was released."""

    hold: Hold
    replayed: bool = False


Outcome = Posted | Refusal
"""What became of one posting of a batch."""

Result = Posted | Held | Refusal
"""What became of one request of a batch."""


class Account(msgspec.Struct, gc=False):
    """An owner's holding of one asset.

    Attributes
    ----------
    posted, held, expiring
        The sum of the entries; what holds reserve of it; and what of it will expire, reserved or
        not.
    floor
        The lowest allowed ``posted - held``; ``None``: none.
    changed_on
        The last entry's ``created_on``, in any time zone.
    due_on
        Nothing of it expires before; ``None``: nothing expires at all.
    whole
        Whether more of it than ``posted`` is to be saved: it has holds, grants or debt, or had.
    """

    owner_id: str
    asset: str
    posted: int = 0
    held: int = 0
    floor: int | None = 0
    changed_on: datetime | None = None
    expiring: int = 0
    due_on: datetime | None = None
    whole: bool = False

    @property
    def available(self) -> int:
        """What can be spent: nothing while there is debt."""
        return max(0, self.posted - self.held - (self.floor or 0))

    @property
    def debt(self) -> int:
        """How far it is below its floor."""
        return 0 if self.floor is None else max(0, self.floor - (self.posted - self.held))


class Balance(msgspec.Struct, frozen=True):
    """What an owner has of an asset at one time.

    Attributes
    ----------
    balance
        In all; negative while there is debt.
    available
        To spend of it.
    held
        Reserved by holds.
    expiring
        What of the balance will expire if it is not spent.
    debt
        What is owed: credits that were taken back after they had been spent.
    """

    owner_id: str
    balance: int
    available: int
    held: int
    asset: str
    expiring: int = 0
    debt: int = 0


class Reading(msgspec.Struct, frozen=True, gc=False):
    """A balance as it was read.

    ``version`` is the account's, larger after each change, and -1 if there is none; nothing of it
    expires for ``lasts_s`` (seconds; ``None``: nothing expires at all).
    """

    balance: Balance
    version: int = -1
    lasts_s: float | None = None


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

BudgetKey = tuple[str, str, str]
"""What a budget is for: (app, operation, "ever" or a UTC day)."""


class Total(msgspec.Struct, frozen=True):
    """What one operation of an application came to in a statement."""

    app: str
    operation: str
    count: int
    amount: int


class Statement(msgspec.Struct, frozen=True):
    """An owner's entries of a period: those that took effect at ``start`` or later, before ``end``.

    ``opening`` and the amounts of the ``lines``, oldest first, add up to ``closing``.
    """

    owner_id: str
    asset: str
    start: datetime = msgspec.field(name="from")
    end: datetime = msgspec.field(name="to")
    opening: int
    closing: int
    lines: list[Entry]
    totals: list[Total]


class Payment(msgspec.Struct, frozen=True):
    """What an entry would take of a grant."""

    grant_id: int
    amount: int
    expires_on: datetime


class Quote(msgspec.Struct, frozen=True):
    """What a request would do now; nothing was written.

    Attributes
    ----------
    replayed
        Whether its nonce has been used, for the same: posting it would change nothing.
    entries
        What it would write, or wrote then; of what is not written yet ids are from 1 up.
    balance
        What its first owner would have after it.
    burns
        Which expiring credits would pay, or be reserved, in the order they are spent.
    """

    replayed: bool
    entries: list[Entry]
    balance: Balance
    burns: list[Payment]
