"""Load and save a batch: the only SQL of the write path.

A batch is one transaction in three round trips: begin, lock and read; copy the new entries; change
the accounts and commit. Locks are taken in one order by everybody, so that no two batches can wait
for each other:

1. existing accounts of owners, in order;
2. new accounts, inserted in order: two writers that open the same one meet here, before either has
   copied an entry that the other could wait for;
3. system accounts, in order, last of all: every batch needs them, so they are held only for as long
   as the commit takes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.rows import tuple_row

from shared_ledger.book import Account, AccountKey, Balance, ClaimKey, Entry, NonceKey
from shared_ledger.decide import Book, Changes, Command, json_text
from shared_ledger.errors import ConfigurationError, LedgerUnavailable
from shared_ledger.schema import ENTRIES_ID_SEQUENCE, ENTRY_COLUMNS, checked_schema

_COLUMNS = ", ".join(ENTRY_COLUMNS)
# As text: the driver does not know the enum, and its labels may be another application's.
_READ_COLUMNS = _COLUMNS.replace("operation", "operation::text")
NULL = "\\N"
CONNECT_TIMEOUT_S = 5
LOCK_TIMEOUT_MS = 2_000


class StoreError(Exception):
    """The database did not do what the store asked; the transaction is rolled back."""


class Conflict(StoreError):
    """Another transaction was there first; the batch was rolled back and can be tried again."""


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
        self._copying: ExitStack | None = None
        self._copier: psycopg.Copy
        book = checked_schema(schema)
        # Local to the transaction: poolers and coordinators may hand each one another connection.
        # The plans are for lookups by key, whatever the tables' statistics say of a young book.
        self._settings = (
            "select set_config('enable_seqscan', 'off', true), "
            "set_config('enable_hashjoin', 'off', true), "
            "set_config('enable_mergejoin', 'off', true), "
            f"set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', true)"
        ).encode()
        self._lock = (
            "select owner_id, posted, held, floor, changed_on "
            f"from {book}.accounts where asset = %s and owner_id = any(%s::text[]) "
            "order by owner_id for no key update"
        ).encode()
        self._busy = (
            f"with free as (select owner_id from {book}.accounts where asset = %(asset)s "
            "and owner_id = any(%(owners)s::text[]) for no key update skip locked) "
            f"select owner_id from {book}.accounts where asset = %(asset)s "
            "and owner_id = any(%(owners)s::text[]) and owner_id not in (select owner_id from free)"
        ).encode()
        self._reserve = (
            f"select clock_timestamp(), array_agg(nextval('{book}.{ENTRIES_ID_SEQUENCE}')) "
            "from generate_series(1, %s::int)"
        ).encode()
        self._find_entries = (
            f"select {_READ_COLUMNS} from {book}.entries "
            "join unnest(%s::text[], %s::text[], %s::text[]) as wanted (owner, application, once) "
            "on owner_id = owner and app = application and nonce = once"
        ).encode()
        self._find_claims = (
            "select owner, application, wanted.operation, newest.period "
            "from unnest(%s::text[], %s::text[], %s::text[]) "
            "as wanted (owner, application, operation) "
            f"cross join lateral (select period from {book}.entries "
            "where owner_id = owner and app = application "
            f"and entries.operation = wanted.operation::{book}.operation and period is not null "
            "order by period desc limit 1) as newest"
        ).encode()
        self._balances = (
            f"select owner_id, asset, posted, held from {book}.accounts "
            "where asset = any(%s::text[]) and owner_id = any(%s::text[])"
        ).encode()
        self._open = (
            f"insert into {book}.accounts (owner_id, asset, posted, floor, changed_on) "
            "select owner, kind, balance, 0, %s "
            "from unnest(%s::text[], %s::text[], %s::bigint[]) as new (owner, kind, balance)"
        ).encode()
        self._copy = copy_statement(book)
        self._save = (
            f"update {book}.accounts set posted = balance, version = version + 1, "
            "changed_on = greatest(changed_on, %s) "
            "from unnest(%s::text[], %s::text[], %s::bigint[]) as new (owner, kind, balance) "
            "where owner_id = owner and asset = kind"
        ).encode()
        self._add = (
            f"insert into {book}.accounts as a (owner_id, asset, posted, changed_on) "
            "select owner, kind, gain, %s "
            "from unnest(%s::text[], %s::text[], %s::bigint[]) as new (owner, kind, gain) "
            "on conflict (owner_id, asset) do update set posted = a.posted + excluded.posted, "
            "version = a.version + 1, changed_on = greatest(a.changed_on, excluded.changed_on)"
        ).encode()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def balances(self, keys: Collection[AccountKey]) -> dict[AccountKey, Balance]:
        """Read the balances of accounts, those of none as zero, in one statement."""
        assets = text_array(sorted({asset for _, asset in keys}))
        owners = text_array(sorted({owner_id for owner_id, _ in keys}))
        found = {(owner_id, asset): Balance(owner_id, 0, 0, 0, asset) for owner_id, asset in keys}
        with _Translated(self._connection):
            for owner_id, asset, posted, held in self._cursor.execute(
                self._balances, (assets, owners)
            ):
                found[owner_id, asset] = Balance(owner_id, posted, posted - held, held, asset)
        return found

    def load(self, commands: Sequence[Command], *, careful: bool) -> Book:
        """Begin a transaction, lock the owners' accounts and read what the commands need.

        Without ``careful`` nonces and claims are taken for new, which their unique indexes check
        when the batch is saved: a new entry is then written without a lookup.
        """
        owners: dict[str, set[str]] = {}
        for command in commands:
            owners.setdefault(command.asset, set()).add(command.owner_id)
        accounts: dict[AccountKey, Account] = {}
        entries: Mapping[NonceKey, Entry] = {}
        claims: dict[ClaimKey, str] = {}
        with _Translated(self._connection):
            with self._connection.pipeline():
                self._cursor.execute(b"begin")
                self._cursor.execute(self._settings)
                locks = {
                    asset: self._reader(self._lock, (asset, text_array(sorted(owners[asset]))))
                    for asset in sorted(owners)
                }
                reserved = self._reader(self._reserve, (len(commands),))
            for asset, lock in locks.items():
                for owner_id, posted, held, floor, changed_on in lock.fetchall():
                    accounts[owner_id, asset] = Account(
                        owner_id, asset, posted, held, floor, changed_on
                    )
            now, ids = reserved.fetchall()[0]
            if careful:
                # A statement of its own after the locks: a lock wait does not refresh the snapshot
                # of the statement that waited.
                entries = self._find(commands)
                once = [c for c in commands if c.once is not None]
                if once:
                    for owner_id, app, operation, period in self._cursor.execute(
                        self._find_claims,
                        (
                            text_array([c.owner_id for c in once]),
                            text_array([c.app for c in once]),
                            text_array([c.operation for c in once]),
                        ),
                    ):
                        claims[owner_id, app, operation] = period
        return Book(utc(now), ids, accounts, entries, claims)

    def open_accounts(self, book: Book, opened: Mapping[AccountKey, int]) -> None:
        """Insert new accounts with their balances; to be called before any entry is appended."""
        with _Translated(self._connection):
            self._cursor.execute(self._open, (book.now, *_columns(dict(sorted(opened.items())))))

    def append(self, entries: Sequence[Entry]) -> None:
        """Send entries to the database, which stores them while the caller goes on."""
        with _Translated(self._connection):
            if self._copying is None:
                self._copying = ExitStack()
                self._copier = self._copying.enter_context(self._cursor.copy(self._copy))
            self._copier.write(copy_text(entries))

    def find(self, commands: Sequence[Command]) -> dict[NonceKey, Entry]:
        """Return the entries that hold these commands' nonces, when all entries are appended."""
        with _Translated(self._connection):
            self._end_copy()
            return self._find(commands)

    def busy(self, commands: Sequence[Command]) -> set[AccountKey]:
        """Return the owners' accounts that other transactions keep locked at this moment."""
        locked: set[AccountKey] = set()
        with _Translated(self._connection):
            for asset in {command.asset for command in commands}:
                owners = {command.owner_id for command in commands if command.asset == asset}
                named = {"asset": asset, "owners": text_array(sorted(owners))}
                locked.update((row[0], asset) for row in self._cursor.execute(self._busy, named))
        return locked

    def commit(self, book: Book, changes: Changes) -> None:
        """Change the existing accounts and the system accounts, and commit."""
        with _Translated(self._connection, system=True):
            self._end_copy()
            with self._connection.pipeline():
                if changes.posted:
                    self._cursor.execute(self._save, (book.now, *_columns(changes.posted)))
                if changes.system:
                    system = dict(sorted(changes.system.items()))
                    self._cursor.execute(self._add, (book.now, *_columns(system)))
                self._cursor.execute(b"commit")

    def _end_copy(self) -> None:
        if self._copying is not None:
            copying, self._copying = self._copying, None
            copying.close()

    def _find(self, commands: Sequence[Command]) -> dict[NonceKey, Entry]:
        rows = self._cursor.execute(
            self._find_entries,
            (
                text_array([command.owner_id for command in commands]),
                text_array([command.app for command in commands]),
                text_array([command.nonce for command in commands]),
            ),
        )
        return {(row[3], row[1], row[8]): entry_of(row) for row in rows}

    def _reader(self, query: bytes, parameters: tuple[Any, ...]) -> psycopg.Cursor[Any]:
        cursor = self._connection.cursor(binary=True)
        cursor.execute(query, parameters)
        return cursor


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection[Any]:
    """Open a connection; with ``autocommit`` transactions are begun and ended by statements.

    Raises
    ------
    ConfigurationError
        If the URL cannot be read.
    LedgerUnavailable
        If the database cannot be reached, or does not let us in.
    """
    try:
        return psycopg.connect(
            url,
            autocommit=autocommit,
            prepare_threshold=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            row_factory=tuple_row,
            application_name="shared-ledger",
            keepalives_idle=30,
            tcp_user_timeout=30_000,
        )
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(f"the database URL cannot be read: {_line(error)}") from None
    except psycopg.OperationalError as error:
        raise LedgerUnavailable(f"the database cannot be reached: {_line(error)}") from None


class _Translated:
    """Turns the driver's errors into the store's three, and rolls back."""

    __slots__ = ("_connection", "_system")

    def __init__(self, connection: psycopg.Connection[Any], *, system: bool = False) -> None:
        self._connection = connection
        self._system = system

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
        busy = isinstance(error, pg.LockNotAvailable)
        raise Rejected(_line(error), busy=busy, system=self._system) from error


def _line(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split())


def copy_statement(schema: str) -> bytes:
    """Return the statement that takes what ``copy_text`` writes."""
    return f"copy {schema}.entries ({_COLUMNS}) from stdin".encode()


def copy_text(entries: Iterable[Entry]) -> bytes:
    """Write entries in COPY's text format.

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
            owner_id = _escaped(owner_id)
        if "\\" in nonce:
            nonce = _escaped(nonce)
        metadata = NULL if entry.metadata is None else _escaped(json_text(entry.metadata))
        rows.append(
            f"{entry.id}\t{entry.app}\t{entry.operation}\t{owner_id}\t{entry.counterparty}\t"
            f"{entry.asset}\t{entry.amount}\t{entry.balance_after}\t{nonce}\t{created_on}\t"
            f"{metadata}\t{entry.period or NULL}\n"
        )
    return "".join(rows).encode()


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\")


def text_array(texts: Sequence[str]) -> str:
    """Write texts as the literal of a PostgreSQL array, several times faster than the driver."""
    joined = '","'.join(texts)
    if "\\" in joined or joined.count('"') != 2 * max(len(texts) - 1, 0):
        joined = '","'.join(_escaped(text).replace('"', '\\"') for text in texts)
    return '{"' + joined + '"}' if texts else "{}"


def _columns(balances: Mapping[AccountKey, int]) -> tuple[str, str, str]:
    return (
        text_array([owner_id for owner_id, _ in balances]),
        text_array([asset for _, asset in balances]),
        "{" + ",".join(map(str, balances.values())) + "}",
    )


def entry_of(row: Sequence[Any]) -> Entry:
    """Make an entry of a row with the columns ``ENTRY_COLUMNS``."""
    fields = list(row)
    fields[9] = utc(fields[9])
    return Entry(*fields)


def utc(at: datetime) -> datetime:
    """Show a time in UTC, whatever the session's time zone."""
    return at.astimezone(UTC)
