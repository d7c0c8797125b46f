"""The ledger: what users of the library hold."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Generic, Self

import sqlalchemy.exc
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session

from shared_ledger import migrations
from shared_ledger.book import Balance, Outcome, Page, Posted, Posting
from shared_ledger.connections import Database, make_engine
from shared_ledger.decide import Command, check_asset, check_owner_id, command_of
from shared_ledger.errors import LedgerUnavailable, Refusal
from shared_ledger.operations import CREDITS, Application, OperationT
from shared_ledger.queries import check_page, page_of, select_history
from shared_ledger.reader import Reader
from shared_ledger.schema import DEFAULT_SCHEMA, book_tables
from shared_ledger.transaction import post_within
from shared_ledger.writer import LANES, MAX_BATCH, MAX_QUEUE, BatchReport, Writer


class Ledger(Generic[OperationT]):
    """One application's access to a book: post, and read what was posted.

    Open one per process and application and share it: its methods may be called from any thread and
    any event loop. Each has an asynchronous twin whose name begins with ``a``.

    Parameters
    ----------
    application
        Whose operations are posted.
    url
        A PostgreSQL URL. Without one, ``DATABASE_URL``; without that, an embedded PostgreSQL whose
        files are in ``data`` (else ``SHARED_LEDGER_DATA``, else ``./data``).
    schema
        The PostgreSQL schema that holds the book.
    migrate
        Whether to bring the book up to date first; by default only an embedded one.
    lanes, max_batch, max_queue
        How many connections write, how many postings one transaction takes, and how many may wait
        in each lane before ``LedgerOverloaded``.
    observe
        Called after each batch by the thread that wrote it, for metrics.

    Raises
    ------
    ConfigurationError, EmbeddedUnavailable, LedgerUnavailable
        If the database cannot be used.
    SchemaNotMigrated, SchemaTooNew
        If the book does not fit this program.
    """

    def __init__(
        self,
        application: Application[OperationT],
        url: str | None = None,
        *,
        data: Path | str | None = None,
        schema: str = DEFAULT_SCHEMA,
        migrate: bool | None = None,
        lanes: int = LANES,
        max_batch: int = MAX_BATCH,
        max_queue: int = MAX_QUEUE,
        observe: Callable[[BatchReport], None] | None = None,
    ) -> None:
        self.application = application
        self._process = os.getpid()
        self.tables = book_tables(schema)
        self._database = Database(url, data=data)
        try:
            self._engine = make_engine(self._database.url)
            with _Reading():
                if self._database.embedded if migrate is None else migrate:
                    migrations.migrate(self._engine, schema, [application])
                with self._engine.connect() as connection:
                    migrations.check(connection, schema, application)
        except BaseException:
            self._database.close()
            raise
        self._writer = Writer(
            lambda: self._database.store(schema),
            lanes=lanes,
            max_batch=max_batch,
            max_queue=max_queue,
            observe=observe,
        )
        self._reader = Reader(lambda: self._database.store(schema))

    @property
    def url(self) -> str:
        """The URL of the database; it may hold a password."""
        return self._database.url

    @property
    def queued(self) -> int:
        """How many postings wait or are being written."""
        return self._writer.queued

    def post(self, posting: Posting[OperationT]) -> Posted:
        """Post one operation and return its entry when it is committed.

        Posting the same again returns the first entry, marked as replayed.

        Raises
        ------
        Refusal
            ``InvalidPosting``, ``InsufficientCredits``, ``NonceReused``, ``AlreadyClaimed`` …:
            nothing was recorded.
        LedgerOverloaded
            The queue is full: nothing was recorded.
        LedgerUnavailable
            The database cannot be reached: whether it was recorded is not known, and posting again
            with the same nonce is safe.
        """
        return _posted(self._writer.submit((command_of(self.application, posting),)).result()[0])

    async def apost(self, posting: Posting[OperationT]) -> Posted:
        """``post`` for coroutines. A cancelled call may still be recorded."""
        return _posted(await self._writer.submit_async(command_of(self.application, posting)))

    def post_batch(self, postings: Sequence[Posting[OperationT]]) -> list[Outcome]:
        """Post many operations, each on its own, and return an outcome for each, in order.

        A refusal is a value in the answer, and does not hurt its neighbours. Postings of one owner
        are applied in the order given.

        Raises
        ------
        LedgerOverloaded, LedgerUnavailable
            As ``post``; with the latter, some may have been recorded.
        """
        commands, outcomes = self._commands_of(postings)
        return _merged(outcomes, self._writer.submit(commands).result())

    async def apost_batch(self, postings: Sequence[Posting[OperationT]]) -> list[Outcome]:
        """``post_batch`` for coroutines."""
        commands, outcomes = self._commands_of(postings)
        return _merged(outcomes, await asyncio.wrap_future(self._writer.submit(commands)))

    def post_in(self, connection: Connection | Session, posting: Posting[OperationT]) -> Posted:
        """Post one operation in the caller's transaction: it commits with the caller's rows.

        The owner's account and the system account stay locked until then: commit soon. A refusal
        leaves the transaction as it was, and usable.

        Raises
        ------
        Refusal
            As ``post``.
        sqlalchemy.exc.DBAPIError
            What the database raises in the caller's transaction.
        """
        command = command_of(self.application, posting)
        return _posted(post_within(connection, self.tables, command))

    async def apost_in(
        self, connection: AsyncConnection | AsyncSession, posting: Posting[OperationT]
    ) -> Posted:
        """``post_in`` for SQLAlchemy's asynchronous connections and sessions."""
        command = command_of(self.application, posting)
        if isinstance(connection, AsyncSession):
            connection = await connection.connection()
        return _posted(await connection.run_sync(post_within, self.tables, command))

    def balance(self, owner_id: str, *, asset: str = CREDITS) -> Balance:
        """Return what an owner has; zero if the book has never heard of him.

        Raises
        ------
        InvalidPosting
            If ``owner_id`` cannot be an owner's, or ``asset`` an asset's name.
        LedgerUnavailable
            If the database cannot be reached.
        """
        return self._reader.submit((check_owner_id(owner_id), check_asset(asset))).result()

    async def abalance(self, owner_id: str, *, asset: str = CREDITS) -> Balance:
        """``balance`` for coroutines."""
        return await self._reader.submit_async((check_owner_id(owner_id), check_asset(asset)))

    def history(
        self,
        owner_id: str,
        *,
        asset: str = CREDITS,
        limit: int = 50,
        cursor: int | None = None,
    ) -> Page:
        """Return a page of an owner's entries, newest first, of all applications.

        ``limit`` is 1 to 1,000 entries; ``cursor`` is the one that the page before gave.

        Raises
        ------
        InvalidPosting
            If ``owner_id``, ``asset``, ``limit`` or ``cursor`` cannot be used.
        LedgerUnavailable
            If the database cannot be reached.
        """
        owner_id = check_owner_id(owner_id)
        asset = check_asset(asset)
        check_page(limit, cursor)
        self._writer.check_open()
        select = select_history(self.tables, owner_id, asset, limit=limit, cursor=cursor)
        with _Reading(), self._engine.connect() as connection:
            rows = connection.execute(select).all()
        return page_of(rows, limit)

    async def ahistory(
        self,
        owner_id: str,
        *,
        asset: str = CREDITS,
        limit: int = 50,
        cursor: int | None = None,
    ) -> Page:
        """``history`` for coroutines."""
        return await asyncio.to_thread(
            self.history, owner_id, asset=asset, limit=limit, cursor=cursor
        )

    def close(self) -> None:
        """Write and answer what was taken, then let go of the database."""
        self._writer.close()
        self._reader.close()
        # A forked child must not say goodbye on its parent's connections.
        self._engine.dispose(close=os.getpid() == self._process)
        self._database.close()

    async def aclose(self) -> None:
        """``close`` for coroutines."""
        await asyncio.to_thread(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _commands_of(
        self, postings: Sequence[Posting[OperationT]]
    ) -> tuple[list[Command], list[Outcome | None]]:
        """Return the commands of the valid postings, and a refusal in the place of the others."""
        commands: list[Command] = []
        outcomes: list[Outcome | None] = []
        for posting in postings:
            try:
                commands.append(command_of(self.application, posting))
                outcomes.append(None)
            except Refusal as refusal:
                outcomes.append(refusal)
        return commands, outcomes


def _posted(outcome: Outcome) -> Posted:
    if isinstance(outcome, Refusal):
        raise outcome
    return outcome


def _merged(outcomes: list[Outcome | None], written: list[Outcome]) -> list[Outcome]:
    if len(written) == len(outcomes):
        return written
    rest = iter(written)
    return [next(rest) if outcome is None else outcome for outcome in outcomes]


class _Reading:
    """Turns the database's absence into one clear error."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
            reason = " ".join(str(error.orig).split())
            raise LedgerUnavailable(f"the database cannot be reached: {reason}") from None
