"""How entries are shown: one after it was posted, and many in a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from shared_ledger.cli.output import Justify, exact, print_facts, print_table, second

if TYPE_CHECKING:
    from shared_ledger.book import Entry, Posted

Facts = list[tuple[str, object]]

ENTRY_COLUMNS: list[tuple[str, Justify]] = [
    ("When (UTC)", "left"),
    ("App", "left"),
    ("Operation", "left"),
    ("What", "left"),
    ("Amount", "right"),
    ("Balance", "right"),
    ("Nonce", "left"),
    ("Id", "right"),
]
_WHAT = 3


def print_entries(
    entries: Iterable[Entry],
    *,
    before: Sequence[Sequence[object]] = (),
    after: Sequence[Sequence[object]] = (),
) -> None:
    """Print a table of entries, between other rows of the same columns.

    Each stands at the time when it took effect, which is their order too.
    """
    columns, rows = ENTRY_COLUMNS, [*before, *map(_row, entries), *after]
    if not any(row[_WHAT] for row in rows):
        columns = [*columns[:_WHAT], *columns[_WHAT + 1 :]]
        rows = [[*row[:_WHAT], *row[_WHAT + 1 :]] for row in rows]
    print_table(columns, rows, spare=("Nonce", "App"))


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        second(entry.effective_on or entry.created_on),
        entry.app,
        entry.operation,
        what(entry),
        signed(entry.amount),
        entry.balance_after,
        entry.nonce,
        entry.id,
    )


def what(entry: Entry) -> str:
    """Say what an entry did beside moving its amount; nothing of a plain one."""
    from shared_ledger.replays import kind_of

    kind = kind_of(entry)
    ends = {"hold": "placed", "capture": "captured", "release": "released", "expiry": "expired"}
    if entry.hold_id is not None:
        return f"hold {entry.hold_id} {ends[kind]}"
    if entry.reverses is not None:
        return f"reverses {entry.reverses}"
    if entry.expires_on is not None:
        return f"until {second(entry.expires_on)[:10]}"
    if kind == "group":
        return f"group {entry.group_id}"
    return "expired" if kind == "expiry" else ""


def print_posted(title: str, posted: Posted) -> None:
    """Print what was posted just now, or had been before."""
    facts = [*moved(posted.entry), *map(_other_side, posted.group), *recorded(posted.entry)]
    print_facts(done(title, replayed=posted.replayed), facts)


def done(title: str, *, replayed: bool) -> str:
    """Say what was done, or that it had been."""
    return f"Had been {title.lower()} before; nothing moved now" if replayed else title


def _other_side(entry: Entry) -> tuple[str, object]:
    way = "from" if entry.amount < 0 else "to"
    amount = f"{signed(entry.amount)} {entry.asset} {way} {entry.owner_id}"
    return "other side", f"{amount}, balance {entry.balance_after}, entry {entry.id}"


def moved(entry: Entry) -> Facts:
    """Tell what an entry does, whether it is written or not."""
    way = "to" if entry.amount < 0 else "from"
    held = f", {entry.held_after} of it held" if entry.held_after else ""
    facts: Facts = [
        ("operation", entry.operation),
        ("owner", entry.owner_id),
        ("amount", f"{signed(entry.amount)} {entry.asset} {way} {entry.counterparty}"),
        ("balance", f"{entry.balance_after}{held}"),
    ]
    if entry.hold_id is not None:
        facts.append(("hold", entry.hold_id))
    if entry.reverses is not None:
        facts.append(("reverses", f"entry {entry.reverses}"))
    if entry.expires_on is not None:
        priority = f", priority {entry.priority}" if entry.priority else ""
        facts.append(("expires", f"{exact(entry.expires_on)}{priority}"))
    return facts


def recorded(entry: Entry) -> Facts:
    """Tell how an entry is found again."""
    facts: Facts = [
        ("nonce", entry.nonce),
        ("entry", f"{entry.id} of {entry.app}"),
        ("created", exact(entry.created_on)),
    ]
    if entry.metadata is not None:
        import msgspec

        facts.append(("metadata", msgspec.json.encode(entry.metadata).decode()))
    return facts


def entry_document(posted: Posted) -> dict[str, Any]:
    """Return an entry as the service answers with it."""
    import msgspec

    return {**msgspec.to_builtins(posted.entry), "replayed": posted.replayed}


def entries_document(posted: Posted) -> dict[str, Any]:
    """Return what was written together as the service answers with it."""
    return {"entries": [posted.entry, *posted.group], "replayed": posted.replayed}


def signed(amount: int) -> str:
    """Write an amount with its sign; nothing has none."""
    return f"{amount:+d}" if amount else "0"
