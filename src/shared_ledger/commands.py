"""What may be asked of the book: requests, checked against their application's rules.

``command_of`` turns a posting into a command, which is complete and safe to write, or raises
``InvalidPosting`` naming the field that is wrong; ``command_of_request`` does the same for other
requests. What becomes of a command is decided when its accounts are locked (``decide``).

Every command says which accounts it touches (``keys``), and what it takes from which of them
(``spends``), so that they can be loaded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import msgspec

from shared_ledger.book import (
    AccountKey,
    CaptureHold,
    Entry,
    Group,
    Hold,
    PlaceHold,
    Posting,
    ReleaseHold,
    Request,
    Reversal,
    Transfer,
)
from shared_ledger.checks import (
    check_asset,
    check_id,
    check_nonce,
    check_owner_id,
    check_time,
    checked_amount,
    checked_lifetime,
    checked_metadata,
    checked_priority,
    checked_quantity,
)
from shared_ledger.errors import EntryNotFound, HoldNotFound, InvalidPosting, NotReversible
from shared_ledger.operations import (
    EXPIRY,
    TRANSFERS,
    Application,
    Once,
    Rule,
)

MAX_GROUP = 100


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
    """A checked reversal of entries, which never change: one, or the two of a transfer."""

    app: str
    owner_id: str
    nonce: str
    asset: str
    counterparty: str
    entries: tuple[Entry, ...]
    amount: int | None
    allow_debt: bool
    metadata: str | None = None

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


def command_of(application: Application[Any], posting: Posting[Any]) -> Command:
    """Check a posting against its application's rules.

    Raises
    ------
    InvalidPosting
        Naming the field that is wrong, and what to do about it.
    """
    operation = posting.operation
    rule = application.rules.get(operation) if isinstance(operation, str) else None
    if rule is None:
        raise application.unknown_operation(operation)
    owner_id = check_owner_id(posting.owner_id)
    nonce = check_nonce(posting.nonce)
    amount = posting.amount
    amount_given = amount is not None
    if amount is None and rule.minimum == rule.maximum:
        amount = rule.minimum
    else:
        amount = checked_amount(rule, amount)
    metadata = posting.metadata
    terms = None
    if not rule.plain or posting.expires_in is not None or posting.priority is not None:
        terms = _terms(rule, posting.expires_in, posting.priority, amount)
    return Command(
        application.name,
        str.__str__(operation),
        owner_id,
        nonce,
        amount,
        rule.counterparty,
        rule.asset,
        rule.once,
        amount_given,
        None if metadata is None else checked_metadata(metadata),
        terms,
    )


def _terms(rule: Rule, expires_in: Any, priority: Any, amount: int) -> Terms | None:
    given = (expires_in is not None, priority is not None)
    if any(given) and amount <= 0:
        field = "expires_in" if given[0] else "priority"
        raise InvalidPosting(field, "is for postings that give credits")
    if expires_in is not None:
        checked_lifetime(expires_in)
    elif rule.expires_in is not None:
        expires_in = rule.expires_in
    elif priority is not None:
        raise InvalidPosting("priority", "is for credits that expire: say expires_in too")
    if amount <= 0:
        return None
    return Terms(
        expires_in,
        rule.priority if priority is None else checked_priority(priority),
        *given,
        rule.budget,
        rule.daily_budget,
    )


Found = Mapping[int, Hold]
FoundEntries = Mapping[int, Sequence[Entry]]


def command_of_request(
    application: Application[Any], request: Request[Any], holds: Found, entries: FoundEntries
) -> AnyCommand:
    """Check any request against its application's rules.

    ``holds`` and ``entries`` are those that the requests name (``hold_of``, ``entry_of``), if they
    exist; of a transfer both entries, the source's first.

    Raises
    ------
    InvalidPosting
        Naming the field that is wrong, and what to do about it.
    HoldNotFound, EntryNotFound
        If this application has no such hold or entry.
    NotReversible
        If the entry is of a kind that cannot be reversed.
    """
    match request:
        case Posting():
            command: AnyCommand = command_of(application, request)
        case Group():
            command = _group(application, request)
        case Transfer():
            command = _transfer(application, request)
        case PlaceHold():
            command = _place(application, request)
        case CaptureHold():
            command = _capture(application, request, holds)
        case ReleaseHold():
            command = _release(application, request, holds)
        case Reversal():
            command = _reverse(application, request, entries)
        case _:
            kind = type(request).__name__
            raise InvalidPosting("request", f"is a posting or another request, not {kind}")
    return command


def hold_of(request: Request[Any]) -> int | None:
    """Return the hold that a request names."""
    if isinstance(request, CaptureHold | ReleaseHold):
        return check_id("hold_id", request.hold_id)
    return None


def entry_of(request: Request[Any]) -> int | None:
    """Return the entry that a request names."""
    if isinstance(request, Reversal):
        return check_id("entry_id", request.entry_id)
    return None


def atomic(commands: Sequence[AnyCommand]) -> AtomicCommand:
    """Make one command of many."""
    first = commands[0]
    return AtomicCommand(
        first.app, first.owner_id, "", first.asset, first.counterparty, tuple(commands)
    )


def _group(application: Application[Any], group: Group[Any]) -> GroupCommand:
    nonce = check_nonce(group.nonce)
    if not 1 <= len(group.parts) <= MAX_GROUP:
        raise InvalidPosting("parts", f"are 1 to {MAX_GROUP}, not {len(group.parts)}")
    members = []
    for number, part in enumerate(group.parts):
        posting = Posting(
            part.operation,
            part.owner_id,
            nonce,
            part.amount,
            part.metadata,
            part.expires_in,
            part.priority,
        )
        try:
            members.append(command_of(application, posting))
        except InvalidPosting as refusal:
            raise InvalidPosting(f"parts[{number}].{refusal.field}", refusal.problem) from None
    first = members[0]
    return GroupCommand(
        application.name, first.owner_id, nonce, first.asset, first.counterparty, tuple(members)
    )


def _transfer(application: Application[Any], transfer: Transfer) -> TransferCommand:
    source = check_owner_id(transfer.source, "source")
    destination = check_owner_id(transfer.destination, "destination")
    if source == destination:
        raise InvalidPosting("destination", "is the source: a transfer needs two owners")
    return TransferCommand(
        application.name,
        source,
        destination,
        check_nonce(transfer.nonce),
        checked_quantity(transfer.amount),
        check_asset(transfer.asset),
        None if transfer.metadata is None else checked_metadata(transfer.metadata),
    )


def _place(application: Application[Any], place: PlaceHold[Any]) -> PlaceCommand:
    operation = place.operation
    rule = application.rules.get(operation) if isinstance(operation, str) else None
    if rule is None:
        raise application.unknown_operation(operation)
    if rule.minimum >= 0:
        raise InvalidPosting("operation", f"{operation} takes no credits: there is nothing to hold")
    if rule.once is not None:
        raise InvalidPosting("operation", f"{operation} is allowed once per period, not to be held")
    owner_id = check_owner_id(place.owner_id)
    nonce = check_nonce(place.nonce)
    if place.amount is None and rule.minimum == rule.maximum:
        amount = -rule.minimum
    elif place.amount is None:
        raise InvalidPosting("amount", "is required: this operation has no fixed amount")
    else:
        amount = checked_quantity(place.amount)
        checked_amount(rule, -amount)
    if place.expires_in is not None and place.expires_at is not None:
        raise InvalidPosting("expires_at", "is given beside expires_in: say one of them")
    return PlaceCommand(
        application.name,
        str.__str__(operation),
        owner_id,
        nonce,
        amount,
        rule.counterparty,
        rule.asset,
        place.amount is not None,
        None if place.expires_in is None else checked_lifetime(place.expires_in),
        None if place.expires_at is None else check_time("expires_at", place.expires_at),
        None if place.metadata is None else checked_metadata(place.metadata),
    )


def _capture(application: Application[Any], capture: CaptureHold, holds: Found) -> CaptureCommand:
    hold = _found_hold(application, capture.hold_id, holds)
    if type(capture.final) is not bool:
        raise InvalidPosting("final", f"is true or false, not {type(capture.final).__name__}")
    return CaptureCommand(
        application.name,
        hold.id,
        hold.owner_id,
        check_nonce(capture.nonce),
        hold.asset,
        hold.counterparty,
        None if capture.amount is None else checked_quantity(capture.amount),
        capture.final,
        None if capture.metadata is None else checked_metadata(capture.metadata),
    )


def _release(application: Application[Any], release: ReleaseHold, holds: Found) -> ReleaseCommand:
    hold = _found_hold(application, release.hold_id, holds)
    nonce = check_nonce(release.nonce)
    return ReleaseCommand(
        application.name, hold.id, hold.owner_id, nonce, hold.asset, hold.counterparty
    )


def _found_hold(application: Application[Any], hold_id: int, holds: Found) -> Hold:
    hold = holds.get(check_id("hold_id", hold_id))
    if hold is None or hold.app != application.name:
        raise HoldNotFound(hold_id)
    return hold


def _reverse(
    application: Application[Any], reversal: Reversal, found: FoundEntries
) -> ReverseCommand:
    entry_id = check_id("entry_id", reversal.entry_id)
    nonce = check_nonce(reversal.nonce)
    if type(reversal.allow_debt) is not bool:
        kind = type(reversal.allow_debt).__name__
        raise InvalidPosting("allow_debt", f"is true or false, not {kind}")
    entries = found.get(entry_id, ())
    if not entries or entries[0].app != application.name:
        raise EntryNotFound(entry_id)
    if entries[0].reverses is not None:
        raise NotReversible(entry_id, reason="it is a reversal itself")
    if entries[0].operation == EXPIRY:
        raise NotReversible(entry_id, reason="it books what has expired")
    if entries[0].amount == 0:
        raise NotReversible(entry_id, reason="it moved nothing")
    first = entries[0]
    return ReverseCommand(
        application.name,
        first.owner_id,
        nonce,
        first.asset,
        first.counterparty,
        tuple(entries),
        None if reversal.amount is None else checked_quantity(reversal.amount),
        reversal.allow_debt,
        None if reversal.metadata is None else checked_metadata(reversal.metadata),
    )
