"""Requests, checked against their application's rules: each becomes a command.

``command_of`` turns a posting into a command, which is complete and safe to write, or raises
``InvalidPosting`` naming the field that is wrong; ``command_of_request`` does the same for other
requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from shared_ledger.book import (
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
from shared_ledger.commands import (
    AnyCommand,
    CaptureCommand,
    Command,
    GroupCommand,
    PlaceCommand,
    ReleaseCommand,
    ReverseCommand,
    Terms,
    TransferCommand,
)
from shared_ledger.errors import EntryNotFound, HoldNotFound, InvalidPosting, NotReversible
from shared_ledger.operations import EXPIRY, TRANSFER, Application, Rule

MAX_GROUP = 100

Found = Mapping[int, Hold]
FoundEntries = Mapping[int, Sequence[Entry]]


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
    if amount is None and rule.default is not None:
        amount = rule.default
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


def _rule_of(application: Application[Any], operation: object) -> Rule:
    rule = application.rules.get(operation) if isinstance(operation, str) else None
    if rule is None:
        raise application.unknown_operation(operation)
    return rule


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
    rule = _rule_of(application, operation)
    if rule.minimum >= 0:
        raise InvalidPosting("operation", f"{operation} takes no credits: there is nothing to hold")
    if rule.once is not None:
        raise InvalidPosting("operation", f"{operation} is allowed once per period, not to be held")
    owner_id = check_owner_id(place.owner_id)
    nonce = check_nonce(place.nonce)
    if place.amount is not None:
        amount = checked_quantity(place.amount)
        checked_amount(rule, -amount)
    elif rule.default is not None and rule.default >= 0:
        raise InvalidPosting("amount", f"is required: the default {rule.default} takes no credits")
    else:
        amount = -checked_amount(rule, rule.default)
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
    application: Application[Any], reversal: Reversal[Any], found: FoundEntries
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
    amount = None if reversal.amount is None else checked_quantity(reversal.amount)
    operation = rule = None
    if reversal.operation is not None:
        rule = _rule_of_reversal(application, reversal.operation, first)
        operation = str.__str__(reversal.operation)
        if amount is not None:
            checked_amount(rule, amount if first.amount < 0 else -amount)
    return ReverseCommand(
        application.name,
        first.owner_id,
        nonce,
        first.asset,
        first.counterparty,
        tuple(entries),
        amount,
        reversal.allow_debt,
        None if reversal.metadata is None else checked_metadata(reversal.metadata),
        operation,
        rule,
    )


def _rule_of_reversal(application: Application[Any], operation: str, entry: Entry) -> Rule:
    """Return the rule of the operation that is to show the reversal of an entry."""
    rule = _rule_of(application, operation)
    problem = None
    if entry.operation == TRANSFER:
        problem = "is for the reversal of a posting: that of a transfer is the ledger's own"
    elif rule.asset != entry.asset:
        problem = f"{operation} moves {rule.asset}, but the entry moved {entry.asset}"
    elif rule.once is not None:
        problem = f"{operation} is allowed once per period, which a reversal does not count in"
    elif not rule.plain:
        problem = f"{operation} has an expiry or a budget, which do not apply to a reversal"
    if problem is not None:
        raise InvalidPosting("operation", problem)
    return rule
