"""Statements as CSV, for spreadsheets: the command line and the service write the same.

``statement_csv(statement)`` gives the text line by line: the columns' names, the opening balance,
an entry on each line, the closing balance. Times are RFC 3339 in UTC. ``effective_on`` is always
filled: when an entry took effect, which is when it was made if nothing else is said. The first and
the last row have no id, no application and no amount; their ``effective_on`` is where the period
begins and ends, and ``opening balance`` and ``closing balance`` stand where no operation can be
named so, for want of an underscore.
"""

from __future__ import annotations

import csv
import io
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

# What a spreadsheet takes for a formula if it stands first in a cell.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[+-]?[0-9]+")


def statement_csv(statement: Statement) -> Iterator[str]:
    """Write a statement as CSV (RFC 4180), a line at a time, each with its ending."""
    yield _line(STATEMENT_COLUMNS)
    yield _line(_edge("opening balance", statement.start, statement.opening))
    for entry in statement.lines:
        yield _line(_row(entry))
    yield _line(_edge("closing balance", statement.end, statement.closing))


def _edge(name: str, at: datetime, balance: int) -> tuple[object, ...]:
    return ("", _time(at), "", "", name, "", balance, "")


def _row(entry: Entry) -> tuple[object, ...]:
    return (
        _time(entry.created_on),
        _time(entry.effective_on or entry.created_on),
        entry.id,
        entry.app,
        entry.operation,
        entry.amount,
        entry.balance_after,
        entry.nonce,
    )


def _line(cells: tuple[object, ...]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow([_harmless(str(cell)) for cell in cells])
    return line.getvalue()


def _harmless(cell: str) -> str:
    """Return a cell that no spreadsheet takes for a formula."""
    if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell):
        return f"'{cell}"
    return cell


def _time(at: datetime) -> str:
    """Write a time as JSON has it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
