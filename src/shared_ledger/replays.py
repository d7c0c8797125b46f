"""The answer to a nonce that was used before: the first result, or the first field that differs.

What was left out agrees with anything: it asks for what was decided then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal

from shared_ledger.book import Entry, Held, Hold, Posted, Result
from shared_ledger.checks import as_stored, comparable
from shared_ledger.commands import (
    AnyCommand,
    CaptureCommand,
    Command,
    GroupCommand,
    PlaceCommand,
    ReleaseCommand,
    ReverseCommand,
    TransferCommand,
)
from shared_ledger.errors import NonceReused
from shared_ledger.operations import EXPIRY, TRANSFER

Kind = Literal["posting", "group", "transfer", "hold", "capture", "release", "reversal", "expiry"]

_KINDS: Mapping[type[Any], Kind] = {
    Command: "posting",
    GroupCommand: "group",
    TransferCommand: "transfer",
    PlaceCommand: "hold",
    CaptureCommand: "capture",
    ReleaseCommand: "release",
    ReverseCommand: "reversal",
}

_Field = tuple[str, object, object]


def kind_of(entry: Entry) -> Kind:
    """Tell what kind of request wrote an entry."""
    if entry.reverses is not None:
        return "reversal"
    if entry.operation == EXPIRY:
        return "expiry"
    if entry.operation == TRANSFER:
        return "transfer"
    if entry.hold_id is not None:
        if entry.hold_id == entry.id:
            return "hold"
        return "capture" if entry.amount else "release"
    return "posting" if entry.group_id is None else "group"


def replay(
    recorded: Entry,
    command: AnyCommand,
    *,
    others: Sequence[Entry] = (),
    hold: Hold | None = None,
) -> Result:
    """Answer a command whose nonce was used before, by ``recorded``.

    ``others`` are the entries that were written together with it, ``hold`` the one it is about.
    """
    if type(command) is Command and _is_same(recorded, command):
        return Posted(recorded, replayed=True)
    kind, wanted = kind_of(recorded), _KINDS[type(command)]
    if kind != wanted:
        return _reused(command, ("kind", kind, wanted))
    for field in _fields(recorded, command, others, hold):
        if comparable(field[1]) != comparable(field[2]):
            return _reused(command, field)
    if hold is not None and kind == "hold":
        return Held(as_placed(hold), replayed=True)
    if hold is not None and kind == "release":
        return Held(hold, replayed=True)
    return Posted(recorded, True, tuple(others))


def _is_same(recorded: Entry, command: Command) -> bool:
    """Tell quickly that a plain posting is what was posted; another may be as well."""
    return (
        recorded.operation == command.operation
        and recorded.asset == command.asset
        and (recorded.amount == command.amount or not command.amount_given)
        and recorded.metadata is None
        and command.metadata is None
        and command.terms is None
        and recorded.hold_id is None
        and recorded.reverses is None
        and recorded.group_id is None
    )


def _reused(command: AnyCommand, field: _Field) -> NonceReused:
    name, before, now = field
    return NonceReused(command.owner_id, command.nonce, field=name, recorded=before, given=now)


def as_placed(hold: Hold) -> Hold:
    """Return a hold as its placing answers it, for ever."""
    return Hold(
        hold.id,
        hold.app,
        hold.operation,
        hold.owner_id,
        hold.counterparty,
        hold.asset,
        hold.amount,
        hold.nonce,
        hold.created_on,
        hold.expires_on,
    )


def _fields(  # noqa: C901, PLR0912  # one short case for each kind of command
    recorded: Entry, command: AnyCommand, others: Sequence[Entry], hold: Hold | None
) -> Iterable[_Field]:
    """Give the name of each field, what was recorded of it and what is given now."""
    match command:
        case Command():
            yield from _posting(recorded, command)
        case GroupCommand():
            yield "parts", 1 + len(others), len(command.members)
            for number, (entry, member) in enumerate(
                zip((recorded, *others), command.members, strict=False)
            ):
                yield f"parts[{number}].owner_id", entry.owner_id, member.owner_id
                for name, before, now in _posting(entry, member):
                    yield f"parts[{number}].{name}", before, now
        case TransferCommand():
            yield "destination", others[0].owner_id if others else None, command.destination
            yield "asset", recorded.asset, command.asset
            yield "amount", -recorded.amount, command.amount
            yield "metadata", recorded.metadata, _metadata(command.metadata)
        case PlaceCommand() if hold is not None:
            yield "operation", recorded.operation, command.operation
            yield "asset", recorded.asset, command.asset
            yield "amount", hold.amount, command.amount if command.amount_given else hold.amount
            if command.expires_in is not None:
                yield (
                    "expires_in",
                    _seconds(hold.expires_on - hold.created_on),
                    _seconds(command.expires_in),
                )
            if command.expires_at is not None:
                yield "expires_at", hold.expires_on.isoformat(), command.expires_at.isoformat()
            yield "metadata", recorded.metadata, _metadata(command.metadata)
        case CaptureCommand() if hold is not None:
            yield "hold_id", recorded.hold_id, command.hold_id
            if command.amount is not None:
                yield "amount", -recorded.amount, command.amount
            yield "final", hold.closed_by == recorded.id, command.final
            yield "metadata", recorded.metadata, _metadata(command.metadata)
        case ReleaseCommand():
            yield "hold_id", recorded.hold_id, command.hold_id
        case ReverseCommand():
            # Of a transfer either entry may be named; the first reversal is of the first.
            yield "entry_id", recorded.reverses, command.entries[0].id
            if command.operation is not None:
                yield "operation", recorded.operation, command.operation
            if command.amount is not None:
                yield "amount", abs(recorded.amount), command.amount
            yield "metadata", recorded.metadata, _metadata(command.metadata)


def _posting(recorded: Entry, command: Command) -> Iterable[_Field]:
    yield "operation", recorded.operation, command.operation
    yield "asset", recorded.asset, command.asset
    yield "amount", recorded.amount, command.amount if command.amount_given else recorded.amount
    yield "metadata", recorded.metadata, _metadata(command.metadata)
    terms = command.terms
    if terms is not None and terms.expires_in_given and terms.expires_in is not None:
        lasted = None
        if recorded.expires_on is not None:
            lasted = _seconds(recorded.expires_on - recorded.created_on)
        yield "expires_in", lasted, _seconds(terms.expires_in)
    if terms is not None and terms.priority_given:
        yield "priority", recorded.priority, terms.priority


def _metadata(text: str | None) -> Any:
    return None if text is None else as_stored(text)


def _seconds(lasting: timedelta) -> str:
    """Write a duration exactly: whole seconds, and microseconds if there are any."""
    seconds = lasting // timedelta(seconds=1)
    rest = lasting % timedelta(seconds=1) // timedelta(microseconds=1)
    return f"{seconds} s" + (f" {rest} us" if rest else "")
