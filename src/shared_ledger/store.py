"""Load and save a batch on one connection of the driver; the statements are in ``sql``.

A batch is one transaction in three steps: begin, lock and read; copy the new entries; change the
accounts and commit. A small one inserts its entries in the last step: COPY takes two round trips of
its own, and after each the thread waits for its turn with the interpreter.

Locks are taken in one order by everybody, so that no two batches can wait for each other:

1. existing accounts of owners, in order;
2. the budgets that the batch spends, in order;
3. new accounts, inserted in order: two writers that open the same one meet here, before either has
   copied an entry that the other could wait for;
4. system accounts, in order, last of all: every batch needs them, so they are held only for as long
   as the commit takes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any, cast

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row

from shared_ledger.book import Account, AccountKey, Entry, Hold, NonceKey, Reading
from shared_ledger.changes import Book, Changes
from shared_ledger.commands import AnyCommand, Command
from shared_ledger.copying import (
    copy_statement,
    copy_text,
    entry_columns,
    grant_line,
    hold_line,
)
from shared_ledger.errors import ConfigurationError, LedgerUnavailable
from shared_ledger.rows import (
    Rows,
    account_columns,
    account_of,
    balance_of,
    is_plain,
    new_grants,
    new_holds,
    utc,
)
from shared_ledger.schema import (
    BURN_COLUMNS,
    GRANT_COLUMNS,
    HOLD_COLUMNS,
    MAX_SCHEMAS,
    checked_schema,
)
from shared_ledger.sql import numbers_by_name, statements, text_array

MORE_IDS = 100
FEW = 250
"""The most plain entries that are inserted and not copied."""
# Of an account whose version is not asked for: no other is later.
LATEST = 2**53
# Statements that return no rows; in a pipeline nobody waits for them.
WRITES = frozenset(
    {
        "open",
        "open_empty",
        "insert",
        "save",
        "save_held",
        "save_whole",
        "open_system",
        "add",
        "change_holds",
        "change_grants",
        "spend_budgets",
    }
)
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 2_000


class StoreError(Exception):
    """The database did not do what the store asked; the transaction is rolled back."""


class Conflict(StoreError):
    """Another transaction was there first; the batch was rolled back and can be tried again."""


class Doubtful(Conflict):
    """A posting of the batch must be refused, or was made before: lock, read and decide first."""


class Rejected(StoreError):
    """The database refused the batch for what is in it; it was rolled back.

    ``busy`` tells that an account stayed locked by another transaction, ``system`` that it was one
    of the system accounts.
    """

    def __init__(self, reason: str, *, busy: bool, system: bool = False) -> None:
        super().__init__(reason)
        self.busy = busy
        self.system = system


class Unreachable(StoreError):
    """The connection is lost or useless; whether the batch was committed is not known."""


# What a new try can mend: a unique violation is an entry or an account that appeared meanwhile.
_CONFLICTS = (pg.UniqueViolation, pg.DeadlockDetected, pg.SerializationFailure)

# An account that would be overdrawn, or hold more than there are numbers.
_DOUBTS = (pg.CheckViolation, pg.NumericValueOutOfRange)

# What a new connection can mend: a shutdown, no disk or memory left, a broken disk, a primary that
# has become a standby; a feature that is not supported is a cached plan that met a migration.
_UNREACHABLE = (
    pg.FeatureNotSupported,
    pg.AdminShutdown,
    pg.CrashShutdown,
    pg.CannotConnectNow,
    pg.InsufficientResources,
    pg.DiskFull,
    pg.OutOfMemory,
    pg.TooManyConnections,
    pg.SystemError,
    pg.IoError,
    pg.ReadOnlySqlTransaction,
)


class Store:
    """One connection to one book, for one writer at a time.

    Raises
    ------
    ConfigurationError
        If the URL is not one of PostgreSQL.
    LedgerUnavailable
        If the database cannot be reached.
    """

    def __init__(self, url: str, schema: str) -> None:
        self._connection = connect(url)
        self._cursor = self._connection.cursor(binary=True)
        self._few = False
        self._waiting: list[Entry] = []
        self._copying: ExitStack | None = None
        self._copier: psycopg.Copy
        # Accounts whose rows have the balances of after the batch.
        self._stored: set[AccountKey] = set()
        self.plain = True
        """Whether the batch in hand is of plain postings to accounts without holds or grants."""
        self.opens = False
        """Whether the batch in hand may open accounts."""
        self.advanced = False
        """Whether the batch in hand was taken for possible: all of it must be new entries."""
        self._book = book = checked_schema(schema)
        self._sql = driver_statements(schema)
        self._rows = Rows(self._run)
        self._settings = {advance: local_settings(advance=advance) for advance in (True, False)}
        self._busy = (
            f"with free as (select owner_id from {book}.accounts where asset = %(asset)s "
            "and owner_id = any(%(owners)s::text[]) for no key update skip locked) "
            f"select owner_id from {book}.accounts where asset = %(asset)s "
            "and owner_id = any(%(owners)s::text[]) and owner_id not in (select owner_id from free)"
        ).encode()
        self._copies = {plain: copy_statement(book, plain=plain) for plain in (True, False)}

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def balances(self, keys: Collection[AccountKey]) -> dict[AccountKey, Reading]:
        """Read the balances of accounts, those of none as zero; what has expired is not counted."""
        found: dict[AccountKey, Reading] = {}
        with _Translated(self._connection):
            for key, reading in self._rows.balances(keys).items():
                found[key] = reading or self._settled(key)
        return found

    def _settled(self, key: AccountKey) -> Reading:
        # Of an account and its grants at one moment.
        self._cursor.execute(b"begin isolation level repeatable read read only")
        account = self._rows.settled(key)
        self._cursor.execute(b"commit")
        return Reading(balance_of(account), LATEST, 0)

    def holds(self, ids: Collection[int]) -> dict[int, Hold]:
        """Read holds by id."""
        with _Translated(self._connection):
            return self._rows.holds(ids)

    def entries(self, ids: Collection[int]) -> dict[int, list[Entry]]:
        """Read entries by id; of a transfer both."""
        with _Translated(self._connection):
            return self._rows.entries(ids)

    def load(self, commands: Sequence[AnyCommand], *, careful: bool, advance: bool = False) -> Book:
        """Begin a transaction, lock the owners' accounts and read what the commands need.

        Without ``careful`` nonces are taken for new, which their unique index checks when the batch
        is saved: a new entry is then written without a lookup. To ``advance`` takes plain postings
        for possible, too: one statement locks the accounts, adds what they gain, and gives what
        they had. Whoever decides then must roll back unless every posting is a new entry.

        Raises
        ------
        Doubtful
            If accounts were to be advanced, and one has not enough.
        """
        plain = all(map(is_plain, commands))
        advance = advance and plain and not careful
        if plain:
            gains = _gains_of(cast("Sequence[Command]", commands))
        else:
            gains = {}
            for command in commands:
                for owner_id, asset in command.keys:
                    gains.setdefault(asset, {})[owner_id] = 0
        accounts: dict[AccountKey, Account] = {}
        with _Translated(self._connection, doubts=advance):
            with self._connection.pipeline():
                self._cursor.execute(b"begin")
                self._cursor.execute(self._settings[advance])
                locks = {
                    asset: self._locked(asset, gains[asset], advance=advance)
                    for asset in sorted(gains)
                }
                count = len(commands) if plain else sum(map(ids_for, commands))
                reserved = self._reader("reserve", {"count": str(count)})
            clock, began, ids = reserved.fetchall()[0]
            now = utc(began if advance else clock)
            for asset, lock in locks.items():
                of_asset = gains[asset]
                for row in lock.fetchall():
                    gain = of_asset[row[0]] if advance else 0
                    accounts[row[0], asset] = account_of(row, asset, gain)
            book = Book(now, self._ids(ids), accounts, ours=plain)
            self._rows.complete(book, commands, careful=careful, plain=plain)
        self.advanced = advance
        self._stored = set(accounts) if advance else set()
        self.plain = (
            plain and not book.holds and not any(account.whole for account in accounts.values())
        )
        # COPY takes round trips of its own, and these go with the commit.
        self._few = self.plain and len(commands) <= FEW and not any(map(_has_metadata, commands))
        self._waiting = []
        self.opens = len(accounts) < sum(map(len, gains.values()))
        return book

    def _locked(
        self, asset: str, gains: Mapping[str, int], *, advance: bool
    ) -> psycopg.Cursor[Any]:
        """Lock the accounts of owners, in order."""
        if advance:
            return self._reader("advance", {"asset": asset, "gains": numbers_by_name(gains)})
        return self._reader("lock", {"asset": asset, "owners": text_array(sorted(gains))})

    def _ids(self, reserved: Iterable[int]) -> Iterator[int]:
        """Give the ids that were reserved, and more if they do not last."""
        yield from reserved
        while True:
            with _Translated(self._connection):
                ((_, _, more),) = self._run("reserve", {"count": str(MORE_IDS)})
            yield from more

    def open_accounts(self, book: Book, changes: Changes) -> None:
        """Insert new accounts with their balances; to be called before any entry is appended."""
        opened = changes.accounts.keys() - book.accounts.keys()
        if not opened:
            return
        self._stored |= opened
        new = [changes.accounts[key] for key in sorted(opened)]
        with _Translated(self._connection):
            self._run("open", {"now": book.now.isoformat(), **account_columns(new)})

    def append(self, entries: Sequence[Entry]) -> None:
        """Send entries to the database, which stores them while the caller goes on."""
        if self._few:
            self._waiting += entries
            return
        with _Translated(self._connection):
            if self._copying is None:
                self._copying = ExitStack()
                self._copier = self._copying.enter_context(
                    self._cursor.copy(self._copies[self.plain])
                )
            self._copier.write(copy_text(entries, plain=self.plain))

    def find(self, commands: Sequence[AnyCommand]) -> dict[NonceKey, Entry]:
        """Return the entries that hold these commands' nonces, when all entries are appended."""
        with _Translated(self._connection):
            self._insert()
            self._end_copy()
            return self._rows.entries_by_nonce(commands)

    def busy(self, commands: Sequence[AnyCommand]) -> set[AccountKey]:
        """Return the owners' accounts that other transactions keep locked at this moment."""
        locked: set[AccountKey] = set()
        keys = {key for command in commands for key in command.keys}
        with _Translated(self._connection):
            for asset in {asset for _, asset in keys}:
                owners = sorted(owner_id for owner_id, kind in keys if kind == asset)
                named = {"asset": asset, "owners": text_array(owners)}
                locked.update((row[0], asset) for row in self._cursor.execute(self._busy, named))
        return locked

    def commit(self, book: Book, changes: Changes) -> None:
        """Change what the entries changed, the system accounts last, and commit."""
        with _Translated(self._connection, system=True):
            self._end_copy()
            if not self.plain:
                self._copy_credits(book, changes)
            with self._connection.pipeline():
                self._insert()
                if not self.plain:
                    self._rows.change_credits(book, changes)
                self._rows.save_accounts(book, changes, self._stored)
                self._cursor.execute(b"commit")

    def _insert(self) -> None:
        """Insert the entries that wait for the commit."""
        entries, self._waiting = self._waiting, []
        if entries:
            self._run("insert", entry_columns(entries))

    def _copy_credits(self, book: Book, changes: Changes) -> None:
        """Insert new holds, grants and burns."""
        for table, columns, lines in (
            ("holds", HOLD_COLUMNS, [hold_line(hold) for hold in new_holds(book, changes)]),
            ("grants", GRANT_COLUMNS, [grant_line(grant) for grant in new_grants(changes)]),
            ("burns", BURN_COLUMNS, [f"{e}\t{g}\t{n}\n" for (e, g), n in changes.burns.items()]),
        ):
            if lines:
                statement = f"copy {self._book}.{table} ({', '.join(columns)}) from stdin"
                with self._cursor.copy(statement.encode()) as copy:
                    copy.write("".join(lines).encode())

    def rollback(self) -> None:
        """Undo the batch in hand."""
        with _Translated(self._connection):
            self._end_copy()
            self._connection.rollback()

    def _end_copy(self) -> None:
        if self._copying is not None:
            copying, self._copying = self._copying, None
            copying.close()

    def _run(self, name: str, parameters: Mapping[str, str | None]) -> list[Any]:
        cursor = self._cursor.execute(self._sql[name], parameters)
        return [] if name in WRITES else cursor.fetchall()

    def _reader(self, name: str, parameters: Mapping[str, str]) -> psycopg.Cursor[Any]:
        cursor = self._connection.cursor(binary=True)
        cursor.execute(self._sql[name], parameters)
        return cursor


def ids_for(command: AnyCommand) -> int:
    """Return how many ids a command takes, if it takes no more than usual."""
    if type(command) is Command:
        return 1 if command.terms is None else 2
    return len(command.keys)


def _gains_of(postings: Sequence[Command]) -> dict[str, dict[str, int]]:
    """Return what postings give to owners together, by asset and owner."""
    gains: dict[str, dict[str, int]] = {}
    for posting in postings:
        of_asset = gains.get(posting.asset)
        if of_asset is None:
            of_asset = gains[posting.asset] = {}
        owner_id = posting.owner_id
        of_asset[owner_id] = of_asset.get(owner_id, 0) + posting.amount
    return gains


def local_settings(*, advance: bool) -> bytes:
    """Return the statement that sets what a batch's transaction needs.

    Local to the transaction: poolers and coordinators may hand each one another connection. The
    plans are for lookups by key, whatever the tables' statistics say of a young book.
    """
    settings = {
        "enable_seqscan": "off",
        "enable_hashjoin": "off",
        "enable_mergejoin": "off",
        "lock_timeout": str(LOCK_TIMEOUT_MS),
    }
    if advance:
        # It would lock accounts in the order in which they are stored.
        settings["enable_bitmapscan"] = "off"
    calls = (f"set_config('{name}', '{value}', true)" for name, value in settings.items())
    return f"select {', '.join(calls)}".encode()


def _has_metadata(command: AnyCommand) -> bool:
    return isinstance(command, Command) and command.metadata is not None


@lru_cache(maxsize=MAX_SCHEMAS)
def driver_statements(schema: str) -> Mapping[str, bytes]:
    """Return the book's statements with the driver's placeholders."""
    return {
        name: re.sub(r":(\w+)::", r"%(\1)s::", text).encode()
        for name, text in statements(schema).items()
    }


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Open a connection; with ``autocommit`` transactions are begun and ended by statements.

    Raises
    ------
    ConfigurationError
        If the URL cannot be read.
    LedgerUnavailable
        If the database cannot be reached, or does not let us in.
    """
    with _connecting():
        return psycopg.connect(url, autocommit=autocommit, row_factory=tuple_row, **_settings())


async def connect_async(url: str) -> psycopg.AsyncConnection[Any]:
    """Open a connection for coroutines, without ``autocommit``. Raises as ``connect``."""
    with _connecting():
        return await psycopg.AsyncConnection.connect(url, row_factory=tuple_row, **_settings())


def _settings() -> dict[str, Any]:
    return {
        "prepare_threshold": 0,
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "shared-ledger",
        # A machine that is gone says nothing: whoever waits for it, also for a commit that it took,
        # is told after 10 seconds. Without the interval it is Linux's, and a minute more.
        "keepalives_idle": 5,
        "keepalives_interval": 5,
        "tcp_user_timeout": 10_000,
    }


@contextmanager
def _connecting() -> Iterator[None]:
    try:
        yield
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"the database URL cannot be read: {_line(error)}") from None
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(f"the database cannot be reached: {_line(error)}") from None


class _Translated:
    """Turns the driver's errors into the store's three, and rolls back."""

    __slots__ = ("_connection", "_doubts", "_system")

    def __init__(
        self, connection: psycopg.Connection[Any], *, system: bool = False, doubts: bool = False
    ) -> None:
        self._connection = connection
        self._system = system
        self._doubts = doubts

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if not isinstance(error, psycopg.Error):
            if error is not None:
                self._connection.close()
            return
        try:
            self._connection.rollback()
        except psycopg.Error:
            self._connection.close()
        if self._connection.closed or error.sqlstate is None or isinstance(error, _UNREACHABLE):
            self._connection.close()
            raise Unreachable(_line(error)) from error
        if isinstance(error, _CONFLICTS):
            raise Conflict(_line(error)) from error
        if self._doubts and isinstance(error, _DOUBTS):
            raise Doubtful(_line(error)) from error
        busy = isinstance(error, pg.LockNotAvailable)
        raise Rejected(_line(error), busy=busy, system=self._system) from error


def _line(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split())
