"""Post inside the caller's own transaction: the same rules and statements, over SQLAlchemy.

The caller's rows and the entries commit together or not at all. A refusal undoes nothing of the
caller's: all of it happens inside a savepoint. The accounts stay locked until the caller commits,
the system accounts included, which every other writer needs: commit soon.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import count
from typing import Any
from weakref import WeakKeyDictionary

import msgspec
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session
from sqlalchemy.sql.elements import TextClause

from shared_ledger.book import AccountKey, Entry, Held, Hold, Payment, Posted, Quote, Request
from shared_ledger.changes import Book, Changes
from shared_ledger.commands import AnyCommand
from shared_ledger.decide import Decided, Decision, decide
from shared_ledger.errors import Refusal
from shared_ledger.hand import burn_order
from shared_ledger.operations import EXPIRY, Application
from shared_ledger.requests import command_of_request, entry_of, hold_of
from shared_ledger.rows import (
    Rows,
    account_of,
    balance_of,
    new_grants,
    new_holds,
    utc,
)
from shared_ledger.schema import MAX_SCHEMAS, BookTables
from shared_ledger.sql import statements, text_array

_MORE_IDS = 10


Outcomes = Sequence[tuple[AnyCommand, Decided]]


class Announcer:
    """Tells what was posted in callers' transactions, right before each is committed."""

    def __init__(self, tell: Callable[[Outcomes], None]) -> None:
        self._tell = tell
        self._posted: WeakKeyDictionary[Connection, list[tuple[AnyCommand, Decided]]]
        self._posted = WeakKeyDictionary()

    def add(self, connection: Connection, command: AnyCommand, result: Decided) -> None:
        """Tell of this before the connection's next commit, unless all is rolled back before.

        Of a refusal it is told at once: nothing of it is committed. What only a savepoint takes
        back is told all the same.
        """
        if isinstance(result, Refusal):
            self._tell(((command, result),))
            return
        posted = self._posted.get(connection)
        if posted is None:
            posted = self._posted[connection] = []
            event.listen(connection, "commit", self._commit)
            event.listen(connection, "commit_twophase", self._commit)
            event.listen(connection, "rollback", self._rollback)
            event.listen(connection, "rollback_twophase", self._rollback)
        posted.append((command, result))

    def _commit(self, connection: Connection, *_: object) -> None:
        posted = self._posted[connection]
        if posted:
            self._tell(tuple(posted))
            posted.clear()

    def _rollback(self, connection: Connection, *_: object) -> None:
        self._posted[connection].clear()


def post_within(
    executor: Connection | Session,
    tables: BookTables,
    application: Application[Any],
    request: Request[Any],
    announcer: Announcer | None = None,
) -> Decided:
    """Decide and write one request in the executor's transaction; begins one if there is none.

    The ``announcer`` tells of it when it is committed.

    Raises
    ------
    Refusal
        If the request itself is wrong; what the book refuses is returned.
    """
    connection = executor.connection() if isinstance(executor, Session) else executor
    transaction = _Transaction(connection, tables)
    command = transaction.command_of(application, request)
    result = transaction.post(command)
    if announcer is not None:
        announcer.add(connection, command, result)
    return result


def rows_of(connection: Connection, tables: BookTables) -> Rows:
    """Return the book's rows over a connection of SQLAlchemy."""
    return _Transaction(connection, tables).rows


def quote_within(
    connection: Connection, tables: BookTables, application: Application[Any], request: Request[Any]
) -> tuple[Decided, Decision]:
    """Decide one request without writing anything, in a transaction with one snapshot.

    Raises
    ------
    Refusal
        If the request itself is wrong; what the book refuses is returned.
    """
    transaction = _Transaction(connection, tables)
    command = transaction.command_of(application, request)
    decision = Decision(transaction.look(command))
    return decision.take([command])[0], decision


def quote_of(result: Posted | Held, decision: Decision) -> Quote:
    """Make a quote of what was decided."""
    changes = decision.changes
    if result.replayed:
        entries = [] if isinstance(result, Held) else [result.entry, *result.group]
    else:
        entries = list(changes.entries)
    first = result.hold if isinstance(result, Held) else result.entry
    account = decision.account((first.owner_id, first.asset))
    taken: dict[int, int] = {}
    # What expires is not what the request takes.
    expiries = {entry.id for entry in changes.entries if entry.operation == EXPIRY}
    for (entry_id, grant_id), amount in changes.burns.items():
        if entry_id not in expiries:
            taken[grant_id] = taken.get(grant_id, 0) + amount
    if isinstance(result, Held) and not result.replayed:
        taken = dict(changes.holds[result.hold.id].grants)
    grants = sorted(map(decision.grant, taken), key=burn_order)
    burns = [Payment(grant.id, taken[grant.id], grant.expires_on) for grant in grants]
    return Quote(result.replayed, entries, balance_of(account), burns)


class _Transaction:
    """The caller's transaction on one book."""

    def __init__(self, connection: Connection, tables: BookTables) -> None:
        self._connection = connection
        self._tables = tables
        self._texts = alchemy_statements(tables.schema)
        self.rows = Rows(self._run)

    def command_of(self, application: Application[Any], request: Request[Any]) -> AnyCommand:
        hold_id, entry_id = hold_of(request), entry_of(request)
        holds = {} if hold_id is None else self.rows.holds([hold_id])
        entries = {} if entry_id is None else self.rows.entries([entry_id])
        return command_of_request(application, request, holds, entries)

    def look(self, command: AnyCommand) -> Book:
        """Load what a command needs without locking it."""
        ((now,),) = self._run("clock", {})
        book = Book(utc(now), count(1), self._accounts("look", sorted(set(command.keys))))
        self.rows.complete(book, [command], careful=True, locked=False)
        return book

    def post(self, command: AnyCommand) -> Decided:
        with self._connection.begin_nested() as savepoint:
            book = self._load(command)
            (result,), changes = decide(book, [command])
            if isinstance(result, Refusal) or not changes.entries:
                savepoint.rollback()
            else:
                self._save(book, changes)
        return result

    def _load(self, command: AnyCommand) -> Book:
        keys = sorted(set(command.keys), key=lambda key: (key[1], key[0]))
        accounts = self._accounts("lock", keys)
        missing = [key for key in keys if key not in accounts]
        if missing:
            # Opened before it is decided, so that two transactions that open them wait for each
            # other here; a refusal takes it back with the savepoint.
            self._run(
                "open_empty",
                {
                    "owners": text_array([owner_id for owner_id, _ in missing]),
                    "assets": text_array([asset for _, asset in missing]),
                },
            )
            accounts |= self._accounts("lock", missing)
        ((now, _, ids),) = self._run("reserve", {"count": "1"})
        book = Book(utc(now), self._ids(ids), accounts)
        self.rows.complete(book, [command], careful=True)
        return book

    def _accounts(self, name: str, keys: Sequence[AccountKey]) -> dict[AccountKey, Any]:
        accounts: dict[AccountKey, Any] = {}
        for kind in sorted({asset for _, asset in keys}):
            owners = [owner_id for owner_id, asset in keys if asset == kind]
            for row in self._run(name, {"asset": kind, "owners": text_array(owners)}):
                accounts[row[0], kind] = account_of(row, kind)
        return accounts

    def _ids(self, reserved: Iterable[int]) -> Iterator[int]:
        yield from reserved
        while True:
            ((_, _, more),) = self._run("reserve", {"count": str(_MORE_IDS)})
            yield from more

    def _save(self, book: Book, changes: Changes) -> None:
        tables = self._tables
        for table, rows in (
            (tables.entries, [_entry_values(entry) for entry in changes.entries]),
            (tables.holds, [_hold_values(hold) for hold in new_holds(book, changes)]),
            (tables.grants, [msgspec.structs.asdict(grant) for grant in new_grants(changes)]),
            (
                tables.burns,
                [
                    {"entry_id": entry_id, "grant_id": grant_id, "amount": amount}
                    for (entry_id, grant_id), amount in changes.burns.items()
                ],
            ),
        ):
            if rows:
                self._connection.execute(sa.insert(table), rows)
        self.rows.change_credits(book, changes)
        self.rows.save_accounts(book, changes)

    def _run(self, name: str, parameters: Mapping[str, str | None]) -> Sequence[Any]:
        result = self._connection.execute(self._texts[name], dict(parameters))
        return result.all() if result.returns_rows else []


def _entry_values(entry: Entry) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    # Nothing is stored where nothing is held, or expires.
    values["held_after"] = entry.held_after or None
    values["expiring_after"] = entry.expiring_after or None
    return values


def _hold_values(hold: Hold) -> dict[str, Any]:
    values = msgspec.structs.asdict(hold)
    pieces = values.pop("grants")
    values["grant_ids"] = [grant_id for grant_id, _ in pieces]
    values["grant_amounts"] = [amount for _, amount in pieces]
    return values


@lru_cache(maxsize=MAX_SCHEMAS)
def alchemy_statements(schema: str) -> Mapping[str, TextClause]:
    """Return the book's statements for SQLAlchemy, with every parameter a text for any driver."""
    return {
        name: sa.text(re.sub(r":(\w+)::(\w+(?:\[\])?)", r"cast(cast(:\1 as text) as \2)", text))
        for name, text in statements(schema).items()
    }
