"""Statements as CSV, for spreadsheets: the command line and the service write the same.

``statement_csv(statement)`` gives the text line by line: the columns' names, the opening balance,
an entry on each line, the closing balance. Times are RFC 3339 in UTC. ``effective_on`` is always
filled: when an entry took effect, which is when it was made if nothing else is said. The rows
``opening`` and ``closing`` have no id and no application; their ``effective_on`` is where the
period begins and ends.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from datetime import UTC, datetime

from shared_ledger.book import Entry, Statement

STATEMENT_COLUMNS = (
    "created_on",
    "effective_on",
    "id",
    "app",
    "operation",
    "amount",
    "balance_after",
    "nonce",
)

# A spreadsheet takes such a cell for a formula and runs it; some do for the full-width forms too.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")


class _Lines:
    """Stands for a file: what is written to it is returned."""

    def write(self, line: str) -> str:
        return line


def statement_csv(statement: Statement) -> Iterator[str]:
    """Write a statement as CSV (RFC 4180), a line at a time, each with its ending."""
    line = csv.writer(_Lines()).writerow
    yield line(STATEMENT_COLUMNS)
    yield line(_limit("opening", statement.start, statement.opening))
    for entry in statement.lines:
        yield line(_row(entry))
    yield line(_limit("closing", statement.end, statement.closing))


def _limit(name: str, at: datetime, balance: int) -> tuple[object, ...]:
    return ("", _time(at), "", "", name, "", balance, "")


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        _time(entry.created_on),
        _time(entry.effective_on or entry.created_on),
        entry.id,
        _harmless(entry.app),
        _harmless(entry.operation),
        entry.amount,
        entry.balance_after,
        _harmless(entry.nonce),
    )


def _harmless(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def _time(at: datetime) -> str:
    """Write a time as JSON has it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
