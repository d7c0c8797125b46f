"""The read side: an owner's history, holds, grants and statements, now and at any time.

The functions take a connection of SQLAlchemy in a transaction, and turn rows into the book's nouns.
A time is found in an account by halving its range of ids, in which later entries have larger ones:
some twenty looks into the index that orders an owner's history, however long that is, and nothing
for the write path to maintain.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared_ledger.book import (
    AccountKey,
    Balance,
    Entry,
    Grant,
    Hold,
    Page,
    Statement,
    Total,
)
from shared_ledger.errors import InvalidPosting
from shared_ledger.operations import INT64_MAX
from shared_ledger.rows import balance_of, entry_of, grant_of, hold_of
from shared_ledger.schema import (
    GRANT_COLUMNS,
    HOLD_COLUMNS,
    BookTables,
    select_entries,
)
from shared_ledger.transaction import rows_of

MAX_PAGE = 1_000
MAX_STATEMENT = 100_000

_INSTANT = timedelta(microseconds=1)
_EARLIEST = datetime.min.replace(tzinfo=UTC)

# low: an entry that took effect by then, or none; nothing after high did. Ids between are halved.
# Compared as rows, so that whatever the statistics say no other index than the history's will do.
_LAST_BY = """
with recursive search (low, high) as (
    select
        (select min(id) - 1 from {entries} where owner_id = :owner_id and asset = :asset),
        (select max(id) from {entries} where owner_id = :owner_id and asset = :asset)
    union all
    select case when at <= :at then probe.id else low end,
        case when at <= :at then high else (low + high + 1) / 2 - 1 end
    from search
    left join lateral (
        select id, coalesce(effective_on, created_on) as at
        from {entries}
        where (owner_id, asset, id) >= (:owner_id, :asset, (low + high + 1) / 2)
            and (owner_id, asset, id) <= (:owner_id, :asset, high)
        order by owner_id, asset, id
        limit 1
    ) as probe on true
    where low < high
)
select id, balance_after, coalesce(held_after, 0), coalesce(expiring_after, 0),
    (select max(id) from {entries} where owner_id = :owner_id and asset = :asset)
from {entries}
where owner_id = :owner_id and asset = :asset and id = (select max(low) from search)
"""


def check_page(limit: int, cursor: int | None) -> None:
    """Raise ``InvalidPosting`` if there can be no such page."""
    if type(limit) is not int or not 1 <= limit <= MAX_PAGE:
        raise InvalidPosting("limit", f"is 1 to {MAX_PAGE} entries, not {limit!r}")
    if cursor is not None and (type(cursor) is not int or not 0 < cursor <= INT64_MAX):
        raise InvalidPosting("cursor", "is one that a page gave")


def check_period(start: datetime, end: datetime) -> None:
    """Raise ``InvalidPosting`` if a period ends before it begins."""
    if end < start:
        raise InvalidPosting("to", "is before from")


def book_id(connection: Connection, tables: BookTables) -> str | None:
    """Return what no other book has, in any database; ``None`` if our role may not ask.

    A copy of a database has it as well, made by ``pg_basebackup`` for instance.
    """
    allowed = "select has_function_privilege('pg_catalog.pg_control_system()', 'execute')"
    if not connection.execute(sa.text(allowed)).scalar_one():
        return None
    row = connection.execute(
        sa.text(
            "select system_identifier, (select oid from pg_database "
            "where datname = current_database()), cast(:accounts as regclass)::oid "
            "from pg_control_system()"
        ),
        {"accounts": f"{tables.schema}.accounts"},
    ).one()
    return "-".join(map(str, row))


def history(
    connection: Connection,
    tables: BookTables,
    key: AccountKey,
    *,
    limit: int,
    cursor: int | None = None,
    at: datetime | None = None,
) -> Page:
    """Read a page of an owner's history, newest first; with ``at`` what had happened by then."""
    entries = tables.entries
    select = _of_account(tables, key)
    if at is not None:
        last = _last_by(connection, tables, key, at)
        select = select.where(entries.c.id <= (0 if last is None else last[0]))
    if cursor is not None:
        select = select.where(entries.c.id < cursor)
    rows = connection.execute(select.order_by(entries.c.id.desc()).limit(limit + 1))
    page = [entry_of(row) for row in rows]
    more = len(page) > limit
    return Page(page[:limit], cursor=page[limit - 1].id if more else None)


def balance_at(
    connection: Connection, tables: BookTables, key: AccountKey, at: datetime
) -> Balance:
    """Return what an owner had, or will have if nothing happens but expiry, at a time.

    In a transaction with one snapshot.
    """
    last = _last_by(connection, tables, key, at)
    if last is None:
        return Balance(key[0], 0, 0, 0, key[1])
    if last[0] == last[4]:
        # Nothing was written since: what has expired is not either.
        return balance_of(rows_of(connection, tables).settled(key, at))
    _, posted, held, expiring, _ = last
    available = posted - held
    return Balance(key[0], posted, max(0, available), held, key[1], expiring, max(0, -available))


def live_grants(connection: Connection, tables: BookTables, key: AccountKey) -> list[Grant]:
    """Return an owner's grants that can be spent, in the order they are; at most 1,000."""
    rows = connection.execute(
        sa.text(
            f"select {', '.join(GRANT_COLUMNS)} from {tables.grants.fullname} "
            "where owner_id = :owner_id and asset = :asset and remaining > 0 "
            "order by priority, expires_on, granted_on, id limit :limit"
        ),
        {**_named(key), "limit": MAX_PAGE},
    )
    return [grant_of(row) for row in rows]


def open_holds(connection: Connection, tables: BookTables, key: AccountKey) -> list[Hold]:
    """Return an owner's open holds, those that expire first before others; at most 1,000."""
    columns = ", ".join(f"{c}::text" if c == "operation" else c for c in HOLD_COLUMNS)
    rows = connection.execute(
        sa.text(
            f"select {columns} from {tables.holds.fullname} "
            "where owner_id = :owner_id and asset = :asset and state = 'open' "
            "order by expires_on, id limit :limit"
        ),
        {**_named(key), "limit": MAX_PAGE},
    )
    return [hold_of(row) for row in rows]


def is_due(connection: Connection, tables: BookTables, key: AccountKey) -> bool:
    """Tell whether something of an account has expired that is not booked."""
    return bool(
        connection.scalar(
            sa.text(
                f"select due_on <= clock_timestamp() from {tables.accounts.fullname} "
                "where owner_id = :owner_id and asset = :asset"
            ),
            _named(key),
        )
    )


def due_accounts(connection: Connection, tables: BookTables, limit: int) -> list[AccountKey]:
    """Return accounts of which something has expired that is not booked, longest ago first."""
    rows = connection.execute(
        sa.text(
            f"select owner_id, asset from {tables.accounts.fullname} "
            "where due_on <= clock_timestamp() order by due_on limit :limit"
        ),
        {"limit": limit},
    )
    return [(owner_id, asset) for owner_id, asset in rows]


def statement(
    connection: Connection,
    tables: BookTables,
    key: AccountKey,
    start: datetime,
    end: datetime,
) -> Statement:
    """Read an owner's entries of a period, in a transaction with one snapshot.

    Raises
    ------
    InvalidPosting
        If there are more than 100,000.
    """
    entries = tables.entries
    before = _last_by(connection, tables, key, _just_before(start))
    last = _last_by(connection, tables, key, _just_before(end))
    opening, after = (0, 0) if before is None else (before[1], before[0])
    lines: list[Entry] = []
    if last is not None and last[0] > after:
        rows = connection.execute(
            _of_account(tables, key)
            .where(entries.c.id > after, entries.c.id <= last[0])
            .order_by(entries.c.id)
            .limit(MAX_STATEMENT + 1)
        )
        lines = [entry_of(row) for row in rows]
    if len(lines) > MAX_STATEMENT:
        raise InvalidPosting("to", f"leaves more than {MAX_STATEMENT} entries: ask for less time")
    counts: Counter[tuple[str, str]] = Counter()
    amounts: Counter[tuple[str, str]] = Counter()
    for entry in lines:
        operation = (entry.app, entry.operation)
        counts[operation] += 1
        amounts[operation] += entry.amount
    return Statement(
        owner_id=key[0],
        asset=key[1],
        start=start,
        end=end,
        opening=opening,
        closing=opening if last is None else last[1],
        lines=lines,
        totals=[Total(*name, counts[name], amounts[name]) for name in sorted(counts)],
    )


def _just_before(at: datetime) -> datetime:
    """Return the moment before, as far as the calendar goes: nothing happened in the year 1."""
    return max(at, _EARLIEST + _INSTANT) - _INSTANT


def _of_account(tables: BookTables, key: AccountKey) -> sa.Select[*tuple[Any, ...]]:
    entries = tables.entries
    return select_entries(tables).where(entries.c.owner_id == key[0], entries.c.asset == key[1])


def _last_by(
    connection: Connection, tables: BookTables, key: AccountKey, at: datetime
) -> tuple[int, int, int, int, int] | None:
    """Find the last entry of an account that had taken effect at a time.

    Return its id, what was posted, held and expiring after it, and the id of the last of all.
    """
    query = sa.text(_LAST_BY.format(entries=tables.entries.fullname))
    found = connection.execute(query, {**_named(key), "at": at}).one_or_none()
    return None if found is None else (found[0], found[1], found[2], found[3], found[4])


def _named(key: AccountKey) -> Mapping[str, str]:
    return {"owner_id": key[0], "asset": key[1]}
