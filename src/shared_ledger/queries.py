"""The read side: selects over the book, for any connection that SQLAlchemy knows.

The functions return statements and turn rows into the book's nouns; who executes them, and whether
synchronously, is the caller's affair.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from shared_ledger.book import Page
from shared_ledger.errors import InvalidPosting
from shared_ledger.operations import INT64_MAX
from shared_ledger.schema import BookTables, select_entries
from shared_ledger.store import entry_of

MAX_PAGE = 1_000


def check_page(limit: int, cursor: int | None) -> None:
    """Raise ``InvalidPosting`` if there can be no such page."""
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise InvalidPosting("limit", f"is 1 to {MAX_PAGE} entries, not {limit!r}")
    if cursor is not None and (type(cursor) is not int or not 0 < cursor <= INT64_MAX):
        raise InvalidPosting("cursor", "is one that a page gave")


def select_history(
    tables: BookTables, owner_id: str, asset: str, *, limit: int, cursor: int | None
) -> sa.Select[*tuple[Any, ...]]:
    """Select one entry more than a page of an owner's history, newest first."""
    entries = tables.entries
    select = select_entries(tables).where(entries.c.owner_id == owner_id, entries.c.asset == asset)
    if cursor is not None:
        select = select.where(entries.c.id < cursor)
    return select.order_by(entries.c.id.desc()).limit(limit + 1)


def page_of(rows: Iterable[Any], limit: int) -> Page:
    """Make a page of the rows that ``select_history`` gave."""
    entries = [entry_of(row) for row in rows]
    more = len(entries) > limit
    return Page(entries[:limit], cursor=entries[limit - 1].id if more else None)
