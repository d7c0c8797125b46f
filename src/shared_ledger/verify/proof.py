"""Compare everything in a book that can be computed twice, range of owners by range of owners."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from shared_ledger.errors import ConfigurationError
from shared_ledger.operations import TRANSFERS
from shared_ledger.schema import BookTables
from shared_ledger.verify.credits import ANYTHING, BY_OWNERS, WHOLE
from shared_ledger.verify.part import Part
from shared_ledger.verify.report import Disagreement, Progress, Report, Value

# Entries in one range of owners, and ids in one range of ids. Each range may cost a scan of the
# whole table, so that there are not many of them, however large the book.
RANGE_ENTRIES = 250_000
MAX_RANGES = 20
RANGE_IDS = 10_000_000
KEPT = 1_000
_FETCH = 1_000


def verify(
    engine_or_connection: Engine | Connection,
    tables: BookTables,
    *,
    progress: Progress = lambda *_: None,
    keep: int = KEPT,
) -> Report:
    """Compare everything in the book that can be computed twice.

    Parameters
    ----------
    engine_or_connection
        A connection that is in a transaction already must have the isolation level REPEATABLE READ
        or SERIALIZABLE.
    tables
        Which book.
    progress
        Called after each step.
    keep
        How many disagreements to return; all are counted.

    Raises
    ------
    ConfigurationError
        If the connection's transaction has no snapshot of its own.
    sqlalchemy.exc.DBAPIError
        If the book cannot be read.
    """
    with _snapshot(engine_or_connection) as connection:
        return _Verification(connection, tables, progress, keep).run()


@contextmanager
def _snapshot(source: Engine | Connection) -> Iterator[Connection]:
    if isinstance(source, Engine):
        with source.connect() as connection, _snapshot(connection) as snapshot:
            yield snapshot
    elif source.in_transaction():
        level = source.execute(sa.text("show transaction_isolation")).scalar_one()
        if level not in ("repeatable read", "serializable"):
            raise ConfigurationError(
                f"verify needs one snapshot, and a {level} transaction has many: "
                "begin it as REPEATABLE READ"
            )
        yield source
    else:
        with source.begin():
            source.execute(sa.text("set transaction isolation level repeatable read, read only"))
            yield source


# Local to the transaction. Statistics of a young book mislead a generic plan, and the ranges are
# too many for a compiler. A nested loop over rows that were thought to be few would never end.
_SETTINGS = """
select set_config('statement_timeout', '0', true),
    set_config('jit', 'off', true),
    set_config('plan_cache_mode', 'force_custom_plan', true),
    set_config('enable_nestloop', 'off', true),
    set_config('cursor_tuple_fraction', '1', true),
    set_config('work_mem', '32MB', true)
"""

# Each entry of a range of owners beside what it should be by the entries before it.
_ENTRIES = """
entry as (
    select owner_id, asset, counterparty, id, amount, balance_after, created_on,
        sum(amount) over account as running,
        lag(created_on) over account as before
    from {entries}
    where {range}
    window account as (partition by owner_id, asset order by id)
)
"""

# The sums of the counterparties, then the accounts of which something disagrees.
_ACCOUNTS = """
with {entry},
summed as (
    select grouping(owner_id) as by_counterparty, owner_id, counterparty, asset,
        count(*) as entries,
        sum(amount) as total,
        max(created_on) as last_on,
        count(*) filter (where balance_after <> running) as wrong_balances,
        count(*) filter (where created_on < before) as wrong_times
    from entry
    group by grouping sets ((owner_id, asset), (counterparty, asset))
),
compared as (
    select owner_id, asset, entries, total, last_on, wrong_balances, wrong_times,
        account.posted, held, floor, debt, changed_on
    from (select * from summed where by_counterparty = 0) as own
    full join (
        select owner_id, asset, posted, held, floor, debt, changed_on
        from {accounts}
        where {range} and left(owner_id, 1) <> '@'
    ) as account using (owner_id, asset)
)
select true as is_counterparty, counterparty as owner_id, asset, entries, total,
    null as last_on, 0 as wrong_balances, 0 as wrong_times,
    null as posted, null as held, null as floor, null as debt, null as changed_on
from summed
where by_counterparty = 1
union all
select false, compared.*
from compared
where entries is null and posted <> 0
    or posted is null
    or total <> posted
    or last_on <> changed_on
    or wrong_balances > 0
    or wrong_times > 0
    or held < 0
    or posted::numeric - held < floor::numeric - debt
"""

_WRONG_BALANCES = """
with {entry}
select owner_id, asset, id, running, balance_after
from entry
where balance_after <> running
order by owner_id, asset, id
limit :room
"""

_WRONG_TIMES = """
with {entry}
select owner_id, asset, id, before, created_on
from entry
where created_on < before
order by owner_id, asset, id
limit :room
"""

_NONCES = """
select owner_id, min(asset), max(id), count(*)
from {entries}
where {range}
group by owner_id, app, nonce
having count(*) > 1
"""

_CLAIMS = """
select owner_id, min(asset), max(id), count(*)
from {entries}
where {range} and period is not null
group by owner_id, app, operation, period
having count(*) > 1
"""

_BOUNDARY = """
select owner_id
from {accounts}
where {range}
order by owner_id
offset :step
limit 1
"""

_IDS = """
select min(owner_id), min(asset), id, count(*)
from {entries}
where id between :first and :last
group by id
having count(*) > 1
"""

_SYSTEM_ACCOUNTS = """
select owner_id, asset, posted, held, floor, expiring, debt
from {accounts}
where left(owner_id, 1) = '@'
"""


class _Verification:
    """One run over one snapshot."""

    def __init__(
        self, connection: Connection, tables: BookTables, progress: Progress, keep: int
    ) -> None:
        self._connection = connection
        self._names = {
            "accounts": tables.accounts.fullname,
            "entries": tables.entries.fullname,
            "holds": tables.holds.fullname,
            "grants": tables.grants.fullname,
            "burns": tables.burns.fullname,
            "budgets": tables.budgets.fullname,
            "operations": tables.operations.fullname,
            "sequence": f"{tables.schema}.{tables.entry_ids.name}",
        }
        self._progress = progress
        self._keep = keep
        self._report = Report()
        # What the owners' entries say that the system accounts lost, and in how many entries.
        self._lost: dict[tuple[str, str], int] = {}

    def run(self) -> Report:
        self._connection.execute(sa.text(_SETTINGS))
        count, first, last = self._select("select count(*), min(id), max(id) from {entries}").one()
        self._report.entries = count
        self._assets()
        if count:
            self._sequence(last)
            self._ids(first, last)
        parts = BY_OWNERS if self._select(ANYTHING).scalar_one() else ()
        self._owners(parts)
        self._system_accounts()
        if parts:
            for part in WHOLE:
                self._ask(part)
        return self._report

    def _select(
        self, query: str, *, within: _Range | None = None, **parameters: Any
    ) -> sa.CursorResult[*tuple[Any, ...]]:
        names = dict(self._names)
        if within is not None:
            names["range"] = within.condition
            parameters |= within.parameters
            names["entry"] = _ENTRIES.format(**names)
        return self._connection.execute(
            sa.text(query.format(**names)), parameters, execution_options={"yield_per": _FETCH}
        )

    def _add(
        self,
        kind: str,
        owner_id: str | None,
        asset: str | None,
        *,
        expected: Value,
        found: Value,
        entry_id: int | None = None,
    ) -> None:
        self._report.count += 1
        if self._room:
            self._report.disagreements.append(
                Disagreement(owner_id, asset, kind, expected, found, entry_id)
            )

    @property
    def _room(self) -> int:
        return self._keep - len(self._report.disagreements)

    def _assets(self) -> None:
        query = "select asset, count(*), sum(posted) from {accounts} group by asset"
        for asset, count, total in self._select(query):
            self._report.accounts += count
            if total != 0:
                kind = "sum_over_accounts_is_not_zero"
                self._add(kind, None, asset, expected=0, found=int(total))

    def _sequence(self, last: int) -> None:
        """A restored or damaged sequence would give ids again that entries have."""
        next_id = self._select(
            "select last_value + case when is_called then 1 else 0 end from {sequence}"
        ).scalar_one()
        if next_id <= last:
            kind = "next_id_is_not_after_the_last_entry"
            self._add(kind, None, None, expected=last + 1, found=next_id, entry_id=last)

    def _ids(self, first: int, last: int) -> None:
        """Look for ids that are used twice, by one sort for each range of ids."""
        ranges = -(-self._report.entries // RANGE_IDS)
        width = (last - first) // ranges + 1
        for number in range(ranges):
            low = first + number * width
            for owner_id, asset, entry_id, found in self._select(
                _IDS, first=low, last=min(low + width - 1, last)
            ):
                kind = "id_used_twice"
                self._add(kind, owner_id, asset, expected=1, found=found, entry_id=entry_id)
            self._progress(
                "ids", self._report.entries * (number + 1) // ranges, self._report.entries
            )

    def _owners(self, parts: Iterable[Part]) -> None:
        done = 0
        for within in self._ranges():
            done += self._accounts(within)
            for query, kind in ((_NONCES, "nonce_used_twice"), (_CLAIMS, "claimed_twice")):
                for owner_id, asset, entry_id, found in self._select(query, within=within):
                    self._add(kind, owner_id, asset, expected=1, found=found, entry_id=entry_id)
            for part in parts:
                self._ask(part, within)
            self._progress("accounts", done, self._report.entries)

    def _ask(self, part: Part, within: _Range | None = None) -> None:
        for row in self._select(part.statement(), within=within):
            expected, found = row.expected, row.found
            if row.kind in part.times:
                expected, found = map(_time, (expected, found))
            self._add(
                row.kind,
                row.owner_id,
                row.asset,
                expected=expected,
                found=found,
                entry_id=row.entry_id,
            )

    def _ranges(self) -> Iterator[_Range]:
        """Divide all possible owners at every so many accounts."""
        entries, accounts = self._report.entries, self._report.accounts
        size = max(RANGE_ENTRIES, entries // MAX_RANGES)
        step = max(1, size * accounts // max(entries, accounts, 1))
        low = None
        while True:
            beyond = _Range(low, None)
            high = self._select(_BOUNDARY, within=beyond, step=step - 1).scalar_one_or_none()
            yield _Range(low, high)
            if high is None:
                return
            low = high

    def _accounts(self, within: _Range) -> int:
        """Check the accounts of a range of owners; return how many entries they have."""
        entries = wrong_balances = wrong_times = 0
        for row in self._select(_ACCOUNTS, within=within):
            if row.is_counterparty:
                entries += row.entries
                key = (row.owner_id, row.asset)
                self._lost[key] = self._lost.get(key, 0) + int(row.total)
                continue
            wrong_balances += row.wrong_balances or 0
            wrong_times += row.wrong_times or 0
            self._account(row)
        for count, query, kind in (
            (wrong_balances, _WRONG_BALANCES, "balance_after_is_not_the_running_sum"),
            (wrong_times, _WRONG_TIMES, "created_on_runs_backwards"),
        ):
            room = min(count, self._room)
            self._report.count += count - room
            if room:
                for owner_id, asset, entry_id, *values in self._select(
                    query, within=within, room=room
                ):
                    expected, found = map(_value, values)
                    self._add(
                        kind, owner_id, asset, expected=expected, found=found, entry_id=entry_id
                    )
        return entries

    def _account(self, row: Any) -> None:
        """Say what disagrees about one account of an owner."""
        owner_id, asset = row.owner_id, row.asset
        total = int(row.total or 0)
        if owner_id.startswith("@"):
            kind = "system_account_owns_entries"
            self._add(kind, owner_id, asset, expected=0, found=row.entries)
        if row.posted is None:
            self._add("entries_without_account", owner_id, asset, expected=total, found=None)
            return
        if row.entries is None and row.posted != 0:
            self._add("posted_without_entries", owner_id, asset, expected=0, found=row.posted)
        elif total != row.posted:
            kind = "posted_differs_from_entries"
            self._add(kind, owner_id, asset, expected=total, found=row.posted)
        if row.last_on is not None and row.last_on != row.changed_on:
            self._add(
                "changed_on_is_not_that_of_the_last_entry",
                owner_id,
                asset,
                expected=_value(row.last_on),
                found=_value(row.changed_on),
            )
        self._bounds(row)

    def _bounds(self, row: Any) -> None:
        if row.held < 0:
            self._add("held_is_negative", row.owner_id, row.asset, expected=0, found=row.held)
        if row.floor is not None and row.posted - row.held < row.floor - row.debt:
            expected, found = row.floor - row.debt, row.posted - row.held
            kind = "available_is_below_the_floor"
            self._add(kind, row.owner_id, row.asset, expected=expected, found=found)

    def _system_accounts(self) -> None:
        for row in self._select(_SYSTEM_ACCOUNTS):
            lost = self._lost.pop((row.owner_id, row.asset), None)
            if lost is None and row.posted != 0:
                kind = "posted_without_entries"
                self._add(kind, row.owner_id, row.asset, expected=0, found=row.posted)
            elif lost is not None and row.posted != -lost:
                kind = "posted_differs_from_entries"
                self._add(kind, row.owner_id, row.asset, expected=-lost, found=row.posted)
            self._bounds(row)
            self._nothing_but_posted(row)
        for (owner_id, asset), lost in self._lost.items():
            if owner_id.startswith("@"):
                self._add("entries_without_account", owner_id, asset, expected=-lost, found=None)
            else:
                kind = "counterparty_is_not_a_system_account"
                self._add(kind, owner_id, asset, expected=None, found=-lost)

    def _nothing_but_posted(self, row: Any) -> None:
        """Nothing of a system account is held, expires or is owed; transfers leave nothing."""
        for name, found in (("held", row.held), ("expiring", row.expiring), ("debt", row.debt)):
            if found > 0:
                kind = f"{name}_of_a_system_account"
                self._add(kind, row.owner_id, row.asset, expected=0, found=found)
        if row.owner_id == TRANSFERS and row.posted != 0:
            kind = "transfers_do_not_net_to_zero"
            self._add(kind, row.owner_id, row.asset, expected=0, found=row.posted)


class _Range:
    """The owners after ``low``, up to and with ``high``; ``None`` is no bound."""

    def __init__(self, low: str | None, high: str | None) -> None:
        self.parameters = {
            name: bound for name, bound in (("low", low), ("high", high)) if bound is not None
        }
        conditions = []
        if low is not None:
            conditions.append("owner_id > :low")
        if high is not None:
            conditions.append("owner_id <= :high")
        self.condition = " and ".join(conditions) or "true"


def _value(value: Any) -> Value:
    """Return a number or a time of the database as Python's own, in UTC."""
    return value.astimezone(UTC) if isinstance(value, datetime) else int(value)


def _time(text: str | None) -> datetime | None:
    """Return a time that was written in JSON, in UTC."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
