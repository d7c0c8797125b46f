"""What is written in bulk, as the database reads it: COPY's text format, and arrays for inserts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from shared_ledger.book import Entry, Grant, Hold
from shared_ledger.checks import json_text
from shared_ledger.schema import ENTRY_COLUMNS
from shared_ledger.sql import escaped, numbers, text_array, times

NULL = "\\N"
# Of an entry; the others are of holds, groups, reversals and credits that expire.
PLAIN_COLUMNS = 12


def copy_statement(schema: str, *, plain: bool = True) -> bytes:
    """Return the statement that takes what ``copy_text`` writes."""
    columns = ENTRY_COLUMNS[:PLAIN_COLUMNS] if plain else ENTRY_COLUMNS
    return f"copy {schema}.entries ({', '.join(columns)}) from stdin".encode()


def copy_text(entries: Iterable[Entry], *, plain: bool = True) -> bytes:
    """Write entries in COPY's text format; plain ones have only the first columns.

    Ids and nonces hold no control characters (``command_of`` refuses them), and JSON escapes them,
    so the backslash is the only character left that means something to COPY.
    """
    rows: list[str] = []
    last: datetime | None = None
    created_on = ""
    for entry in entries:
        if entry.created_on is not last:
            last = entry.created_on
            created_on = last.isoformat()
        owner_id, nonce = entry.owner_id, entry.nonce
        if "\\" in owner_id:
            owner_id = escaped(owner_id)
        if "\\" in nonce:
            nonce = escaped(nonce)
        metadata = NULL if entry.metadata is None else escaped(json_text(entry.metadata))
        more = "" if plain else _more_columns(entry)
        rows.append(
            f"{entry.id}\t{entry.app}\t{entry.operation}\t{owner_id}\t{entry.counterparty}\t"
            f"{entry.asset}\t{entry.amount}\t{entry.balance_after}\t{nonce}\t{created_on}\t"
            f"{metadata}\t{entry.period or NULL}{more}\n"
        )
    return "".join(rows).encode()


def entry_columns(entries: Sequence[Entry]) -> dict[str, str | None]:
    """Write plain entries without metadata as arrays, a column each."""
    return {
        "ids": numbers([entry.id for entry in entries]),
        "apps": text_array([entry.app for entry in entries]),
        "operations": text_array([entry.operation for entry in entries]),
        "owners": text_array([entry.owner_id for entry in entries]),
        "counterparties": text_array([entry.counterparty for entry in entries]),
        "assets": text_array([entry.asset for entry in entries]),
        "amounts": numbers([entry.amount for entry in entries]),
        "balances": numbers([entry.balance_after for entry in entries]),
        "nonces": text_array([entry.nonce for entry in entries]),
        "ats": times([entry.created_on for entry in entries]),
    }


def hold_line(hold: Hold) -> str:
    """Write a hold in COPY's text format."""
    grant_ids, grant_amounts = "{}", "{}"
    if hold.grants:
        grant_ids = numbers([grant_id for grant_id, _ in hold.grants])
        grant_amounts = numbers([amount for _, amount in hold.grants])
    return (
        f"{hold.id}\t{hold.app}\t{hold.operation}\t{escaped(hold.owner_id)}\t"
        f"{hold.counterparty}\t{hold.asset}\t{hold.amount}\t{escaped(hold.nonce)}\t"
        f"{hold.created_on.isoformat()}\t{hold.expires_on.isoformat()}\t{hold.captured}\t"
        f"{hold.state}\t{hold.closed_on.isoformat() if hold.closed_on else NULL}\t"
        f"{hold.closed_by or NULL}\t{grant_ids}\t{grant_amounts}\n"
    )


def grant_line(grant: Grant) -> str:
    """Write a grant in COPY's text format."""
    return (
        f"{grant.id}\t{grant.entry_id}\t{grant.app}\t{escaped(grant.owner_id)}\t{grant.asset}\t"
        f"{grant.amount}\t{grant.remaining}\t{grant.priority}\t{grant.granted_on.isoformat()}\t"
        f"{grant.expires_on.isoformat()}\t{grant.expired}\n"
    )


def _more_columns(entry: Entry) -> str:
    effective_on, expires_on = entry.effective_on, entry.expires_on
    return (
        f"\t{entry.held_after or NULL}\t{entry.expiring_after or NULL}"
        f"\t{effective_on.isoformat() if effective_on else NULL}"
        f"\t{entry.group_id or NULL}\t{entry.reverses or NULL}\t{entry.hold_id or NULL}"
        f"\t{expires_on.isoformat() if expires_on else NULL}"
        f"\t{NULL if entry.priority is None else entry.priority}"
    )
