"""The ledger: what users of the library hold."""

from __future__ import annotations

import asyncio
import logging
import os
from collections import ChainMap
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Self, overload

import sqlalchemy.exc
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
from sqlalchemy.orm import Session
from sqlalchemy.util import await_only

from shared_ledger import migrations, queries
from shared_ledger.book import (
    AccountKey,
    Balance,
    CaptureHold,
    Entry,
    Grant,
    Group,
    Held,
    Hold,
    Outcome,
    Page,
    PlaceHold,
    Posted,
    Posting,
    Quote,
    ReleaseHold,
    Request,
    Result,
    Reversal,
    Statement,
    Transfer,
)
from shared_ledger.cache import CacheCounts
from shared_ledger.checks import check_asset, check_id, check_owner_id, check_time
from shared_ledger.commands import AnyCommand, SweepCommand
from shared_ledger.commands import atomic as atomic_of
from shared_ledger.connections import Database, make_engine
from shared_ledger.decide import Decided, Swept, Together
from shared_ledger.errors import (
    BatchRefused,
    ConfigurationError,
    HoldNotFound,
    LedgerClosed,
    LedgerUnavailable,
    Refusal,
    RejectedByDatabase,
)
from shared_ledger.operations import CREDITS, Application, OperationT
from shared_ledger.reader import Answer, Question, Reader
from shared_ledger.requests import command_of, command_of_request, entry_of, hold_of
from shared_ledger.schema import DEFAULT_SCHEMA, book_tables
from shared_ledger.transaction import (
    Announcer,
    Outcomes,
    post_within,
    quote_of,
    quote_within,
)
from shared_ledger.writer import LANES, MAX_BATCH, MAX_QUEUE, BatchReport, Writer

if TYPE_CHECKING:
    from shared_ledger.cache.balances import Cache

# What is answered by an entry; the other requests are answered by their hold.
_Moving = Posting[OperationT] | Group[OperationT] | Transfer | CaptureHold | Reversal[OperationT]
_Found = tuple[Mapping[int, Hold], Mapping[int, list[Entry]]]

REMEMBERED = 20_000
"""Of how many placed holds at most a ledger knows whose they are without asking."""

SWEEP = 10_000
"""How many accounts one sweep takes."""

_log = logging.getLogger("shared_ledger.ledger")


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
    observe_in
        The same for ``post_in``: called right before its transaction is committed, and when it
        refuses something.
    cache, cache_ttl_s
        The URL of a Redis in which present balances are kept, for so many seconds at most (3,600);
        needs the package ``redis``. What it promises is in ``docs/cache.md``.

    Notes
    -----
    A program that mainly posts is up to a tenth faster with ``sys.setswitchinterval(0.001)``. The
    service and the command line have it; it is the whole program's, so it is not set here.

    Raises
    ------
    ConfigurationError, EmbeddedUnavailable, LedgerUnavailable
        If the database cannot be used, or the cache is not one.
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
        observe_in: Callable[[Outcomes], None] | None = None,
        cache: str | None = None,
        cache_ttl_s: float = 5,
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
                    book = queries.book_id(connection, self.tables) if cache else None
            self._cache = _open_cache(cache, book, cache_ttl_s) if cache else None
        except BaseException:
            self._database.close()
            raise
        self._writer = Writer(
            lambda: self._database.store(schema),
            lanes=lanes,
            max_batch=max_batch,
            max_queue=max_queue,
            observe=observe,
            forget=self._cache.forget if self._cache else None,
        )
        self._reader = Reader(lambda: self._database.store(schema), self._cache)
        self._announcers = _announcers(self._cache, observe_in)
        # What never changes of the holds that were placed here: a capture need not look it up.
        self._placed: dict[int, Hold] = {}

    @property
    def url(self) -> str:
        """The URL of the database; it may hold a password."""
        return self._database.url

    @property
    def queued(self) -> int:
        """How many postings wait or are being written."""
        return self._writer.queued

    @property
    def queue_fullness(self) -> float:
        """How full the fullest queue of postings is, from 0 to 1, where more are refused."""
        return self._writer.fullness

    @property
    def closed(self) -> bool:
        """Whether nothing can be posted any more: it was closed, or opened by another process."""
        try:
            self._writer.check_open()
        except LedgerClosed:
            return True
        return False

    @property
    def cache_counts(self) -> CacheCounts:
        """What was found in the cache and what was not, and how often it failed, since opened."""
        return self._cache.counts if self._cache else CacheCounts()

    @overload
    def post(self, request: PlaceHold[OperationT] | ReleaseHold) -> Held: ...
    @overload
    def post(self, request: _Moving[OperationT]) -> Posted: ...
    def post(self, request: Request[OperationT]) -> Any:
        """Post one request and return its entry, or its hold, when it is committed.

        Posting the same again returns the first result, marked as replayed.

        Raises
        ------
        Refusal
            ``InvalidPosting``, ``InsufficientCredits``, ``NonceReused``, ``HoldExpired`` …:
            nothing was recorded.
        LedgerOverloaded
            The queue is full: nothing was recorded.
        LedgerUnavailable
            The database cannot be reached: whether it was recorded is not known, and posting again
            with the same nonce is safe.
        """
        command: AnyCommand
        if isinstance(request, Posting):
            command = command_of(self.application, request)
        else:
            command = command_of_request(self.application, request, *self._found([request]))
        return _done(self._remembered(self._writer.submit((command,)).result())[0])

    @overload
    async def apost(self, request: PlaceHold[OperationT] | ReleaseHold) -> Held: ...
    @overload
    async def apost(self, request: _Moving[OperationT]) -> Posted: ...
    async def apost(self, request: Request[OperationT]) -> Any:
        """``post`` for coroutines. A cancelled call may still be recorded."""
        command: AnyCommand
        if isinstance(request, Posting):
            command = command_of(self.application, request)
        else:
            found = await self._afound([request])
            command = command_of_request(self.application, request, *found)
        return _done(self._remembered([await self._writer.submit_async(command)])[0])

    @overload
    def post_batch(  # pyright: ignore[reportOverlappingOverload]  # postings alone give no holds
        self, requests: Sequence[Posting[OperationT]], *, atomic: bool = False
    ) -> list[Outcome]: ...
    @overload
    def post_batch(
        self, requests: Sequence[Request[OperationT]], *, atomic: bool = False
    ) -> list[Result]: ...
    def post_batch(self, requests: Sequence[Any], *, atomic: bool = False) -> Sequence[Any]:
        """Post many requests and return a result for each, in order.

        A refusal is a value in the answer, and does not hurt its neighbours; if the batch is
        ``atomic``, then nothing of it is written, and the others are ``BatchRefused``. Requests of
        one owner are applied in the order given.

        Raises
        ------
        LedgerOverloaded, LedgerUnavailable
            As ``post``; with the latter, some may have been recorded, or all if atomic.
        """
        commands, results = self._commands_of(requests, *self._found(requests))
        queued = self._submit(commands, results, atomic)
        written = [] if queued is None else queued.result()
        return self._remembered(_merged(results, written, atomic))

    @overload
    async def apost_batch(
        self, requests: Sequence[Posting[OperationT]], *, atomic: bool = False
    ) -> list[Outcome]: ...
    @overload
    async def apost_batch(
        self, requests: Sequence[Request[OperationT]], *, atomic: bool = False
    ) -> list[Result]: ...
    async def apost_batch(self, requests: Sequence[Any], *, atomic: bool = False) -> Sequence[Any]:
        """``post_batch`` for coroutines."""
        commands, results = self._commands_of(requests, *await self._afound(requests))
        queued = self._submit(commands, results, atomic)
        written = [] if queued is None else await asyncio.wrap_future(queued)
        return self._remembered(_merged(results, written, atomic))

    @overload
    def post_in(
        self, connection: Connection | Session, request: PlaceHold[OperationT] | ReleaseHold
    ) -> Held: ...
    @overload
    def post_in(self, connection: Connection | Session, request: _Moving[OperationT]) -> Posted: ...
    def post_in(self, connection: Connection | Session, request: Request[OperationT]) -> Any:
        """Post one request in the caller's transaction: it commits with the caller's rows.

        The owners' accounts and the system accounts stay locked until then: commit soon. A refusal
        leaves the transaction as it was, and usable.

        With a cache the accounts' balances are removed from it right before the commit, and read
        from the database for 5 seconds; a commit that takes longer is seen later. That needs a
        commit by SQLAlchemy: ``COMMIT`` as a statement is seen when what was kept before expires.

        Raises
        ------
        Refusal
            As ``post``.
        LedgerClosed
            If there is a cache, and the ledger is closed or was opened by another process.
        sqlalchemy.exc.DBAPIError
            What the database raises in the caller's transaction.
        """
        announcer, _ = self._announcers
        if self._cache is not None:
            self._writer.check_open()
        return _done(post_within(connection, self.tables, self.application, request, announcer))

    @overload
    async def apost_in(
        self,
        connection: AsyncConnection | AsyncSession,
        request: PlaceHold[OperationT] | ReleaseHold,
    ) -> Held: ...
    @overload
    async def apost_in(
        self, connection: AsyncConnection | AsyncSession, request: _Moving[OperationT]
    ) -> Posted: ...
    async def apost_in(
        self, connection: AsyncConnection | AsyncSession, request: Request[OperationT]
    ) -> Any:
        """``post_in`` for SQLAlchemy's asynchronous connections and sessions."""
        if isinstance(connection, AsyncSession):
            connection = await connection.connection()
        _, announcer = self._announcers
        if self._cache is not None:
            self._writer.check_open()
        return _done(
            await connection.run_sync(
                post_within, self.tables, self.application, request, announcer
            )
        )

    def quote(self, request: Request[OperationT]) -> Quote:
        """Tell what a request would do now; nothing is written.

        Raises
        ------
        Refusal
            As ``post`` would.
        LedgerUnavailable
            If the database cannot be reached.
        """
        with self._snapshot() as connection:
            decided, decision = quote_within(connection, self.tables, self.application, request)
        return quote_of(_done(decided), decision)

    async def aquote(self, request: Request[OperationT]) -> Quote:
        """``quote`` for coroutines."""
        return await asyncio.to_thread(self.quote, request)

    def balance(
        self, owner_id: str, *, asset: str = CREDITS, at: datetime | None = None
    ) -> Balance:
        """Return what an owner has; zero if the book has never heard of him.

        With ``at`` what he had then, or will have then if nothing happens but expiry.

        Raises
        ------
        InvalidPosting
            If ``owner_id`` cannot be an owner's, ``asset`` an asset's name, or ``at`` a time.
        LedgerUnavailable
            If the database cannot be reached.
        """
        key = (check_owner_id(owner_id), check_asset(asset))
        if at is None:
            return _balance(self._reader.submit(("balance", key)).result())
        at = check_time("at", at)
        with self._snapshot() as connection:
            return queries.balance_at(connection, self.tables, key, at)

    async def abalance(
        self, owner_id: str, *, asset: str = CREDITS, at: datetime | None = None
    ) -> Balance:
        """``balance`` for coroutines."""
        if at is not None:
            return await asyncio.to_thread(self.balance, owner_id, asset=asset, at=at)
        key = (check_owner_id(owner_id), check_asset(asset))
        return _balance(await self._reader.submit_async(("balance", key)))

    def history(
        self,
        owner_id: str,
        *,
        asset: str = CREDITS,
        limit: int = 50,
        cursor: int | None = None,
        at: datetime | None = None,
    ) -> Page:
        """Return a page of an owner's entries, newest first, of all applications.

        ``limit`` is 1 to 1,000 entries; ``cursor`` is the one that the page before gave; with
        ``at`` those that had taken effect by then.

        Raises
        ------
        InvalidPosting
            If ``owner_id``, ``asset``, ``limit``, ``cursor`` or ``at`` cannot be used.
        LedgerUnavailable
            If the database cannot be reached.
        """
        key = (check_owner_id(owner_id), check_asset(asset))
        queries.check_page(limit, cursor)
        at = None if at is None else check_time("at", at)
        with self._snapshot() as connection:
            return queries.history(connection, self.tables, key, limit=limit, cursor=cursor, at=at)

    async def ahistory(
        self,
        owner_id: str,
        *,
        asset: str = CREDITS,
        limit: int = 50,
        cursor: int | None = None,
        at: datetime | None = None,
    ) -> Page:
        """``history`` for coroutines."""
        return await asyncio.to_thread(
            self.history, owner_id, asset=asset, limit=limit, cursor=cursor, at=at
        )

    def hold(self, hold_id: int) -> Hold:
        """Return a hold of this application, as it is now.

        Raises
        ------
        HoldNotFound
            If this application has no such hold.
        LedgerUnavailable
            If the database cannot be reached.
        """
        hold = self._stored_hold(check_id("hold_id", hold_id))
        if hold.state == "open":
            with self._settled(hold.owner_id, hold.asset):
                hold = self._stored_hold(hold_id)
        return hold

    async def ahold(self, hold_id: int) -> Hold:
        """``hold`` for coroutines."""
        return await asyncio.to_thread(self.hold, hold_id)

    def holds(self, owner_id: str, *, asset: str = CREDITS) -> list[Hold]:
        """Return an owner's open holds of all applications, what expires first before others.

        At most 1,000. What has expired is booked first. Raises as ``balance``.
        """
        with self._settled(owner_id, asset) as (connection, key):
            return queries.open_holds(connection, self.tables, key)

    async def aholds(self, owner_id: str, *, asset: str = CREDITS) -> list[Hold]:
        """``holds`` for coroutines."""
        return await asyncio.to_thread(self.holds, owner_id, asset=asset)

    def grants(self, owner_id: str, *, asset: str = CREDITS) -> list[Grant]:
        """Return an owner's credits that expire, in the order they are spent.

        At most 1,000. What has expired is booked first. Raises as ``balance``.
        """
        with self._settled(owner_id, asset) as (connection, key):
            return queries.live_grants(connection, self.tables, key)

    async def agrants(self, owner_id: str, *, asset: str = CREDITS) -> list[Grant]:
        """``grants`` for coroutines."""
        return await asyncio.to_thread(self.grants, owner_id, asset=asset)

    def statement(
        self, owner_id: str, start: datetime, end: datetime, *, asset: str = CREDITS
    ) -> Statement:
        """Return an owner's entries from ``start`` up to but not at ``end``, and their sums.

        What has expired is booked first.

        Raises
        ------
        InvalidPosting
            If a field cannot be used, or there are more than 100,000 entries.
        LedgerUnavailable
            If the database cannot be reached.
        """
        start, end = check_time("from", start), check_time("to", end)
        queries.check_period(start, end)
        with self._settled(owner_id, asset) as (connection, key):
            return queries.statement(connection, self.tables, key, start, end)

    async def astatement(
        self, owner_id: str, start: datetime, end: datetime, *, asset: str = CREDITS
    ) -> Statement:
        """``statement`` for coroutines."""
        return await asyncio.to_thread(self.statement, owner_id, start, end, asset=asset)

    def sweep(self, *, limit: int = SWEEP) -> int:
        """Book what has expired of up to so many accounts; return of how many it was booked.

        Those that another transaction keeps locked are left for the next time. Nothing depends on
        it: what has expired does not count, whether it is booked or not.

        Raises
        ------
        LedgerOverloaded, LedgerUnavailable
            As ``post``; what was booked stays booked.
        """
        self._writer.check_open()
        with self._snapshot() as connection:
            keys = queries.due_accounts(connection, self.tables, limit)
        results = self._writer.submit([SweepCommand(*key) for key in keys]).result()
        for result in results:
            if isinstance(result, RejectedByDatabase):
                raise result
        return sum(isinstance(result, Swept) for result in results)

    async def asweep(self, *, limit: int = SWEEP) -> int:
        """``sweep`` for coroutines."""
        return await asyncio.to_thread(self.sweep, limit=limit)

    def close(self) -> None:
        """Write and answer what was taken, then let go of the database."""
        self._writer.close()
        self._reader.close()
        if self._cache is not None and os.getpid() == self._process:
            self._cache.close()
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
        self, requests: Sequence[Any], holds: Mapping[int, Hold], entries: Mapping[int, list[Entry]]
    ) -> tuple[list[AnyCommand], list[Refusal | None]]:
        """Return the commands of the valid requests, and a refusal in the place of the others."""
        commands: list[AnyCommand] = []
        results: list[Refusal | None] = []
        for request in requests:
            try:
                if type(request) is Posting:
                    commands.append(command_of(self.application, request))
                else:
                    commands.append(command_of_request(self.application, request, holds, entries))
                results.append(None)
            except Refusal as refusal:
                results.append(refusal)
        return commands, results

    def _submit(
        self, commands: list[AnyCommand], results: list[Refusal | None], atomic: bool
    ) -> Future[list[Decided]] | None:
        """Queue what is to be written, if anything is."""
        if not atomic:
            return self._writer.submit(commands)
        if not commands or len(commands) < len(results):
            self._writer.check_open()
            return None
        return self._writer.submit([atomic_of(commands)])

    def _stored_hold(self, hold_id: int) -> Hold:
        holds, _ = _sorted([self._reader.submit(("holds", (hold_id,))).result()])
        hold = holds.get(hold_id)
        if hold is None or hold.app != self.application.name:
            raise HoldNotFound(hold_id)
        return hold

    def _found(self, requests: Sequence[Any]) -> _Found:
        """Look up the holds and entries that requests name."""
        placed = self._placed
        questions = _questions(requests, placed)
        return _with(placed, [self._reader.submit(q).result() for q in questions])

    async def _afound(self, requests: Sequence[Any]) -> _Found:
        placed = self._placed
        questions = _questions(requests, placed)
        return _with(placed, [await self._reader.submit_async(q) for q in questions])

    def _remembered(self, results: list[Any]) -> list[Any]:
        """Return the results, and remember the holds in them."""
        placed = self._placed
        for result in results:
            if type(result) is Held:
                placed[result.hold.id] = result.hold
        if len(placed) > REMEMBERED:
            # Whose they are can be asked again; nobody knows which of them will be captured. Who is
            # looking some up keeps those that were known when he asked for the others.
            self._placed = {}
        return results

    @contextmanager
    def _snapshot(self) -> Iterator[Connection]:
        """Read the book at one moment."""
        self._writer.check_open()
        with _Reading(), self._engine.connect() as opened:
            connection = opened.execution_options(
                isolation_level="REPEATABLE READ", postgresql_readonly=True
            )
            with connection.begin():
                yield connection

    @contextmanager
    def _settled(self, owner_id: str, asset: str) -> Iterator[tuple[Connection, AccountKey]]:
        """Read the book at one moment, after what has expired of an account is booked."""
        key = (check_owner_id(owner_id), check_asset(asset))
        with self._snapshot() as connection:
            due = queries.is_due(connection, self.tables, key)
        if due:
            _done(self._writer.submit([SweepCommand(*key)]).result()[0])
        with self._snapshot() as connection:
            yield connection, key


def _open_cache(url: str, book: str | None, ttl_s: float) -> Cache | None:
    try:
        from shared_ledger.cache.balances import Cache
    except ModuleNotFoundError as error:
        if error.name != "redis":
            raise
        raise ConfigurationError(
            "a cache needs the package redis: install shared-ledger[service]"
        ) from None
    if book is None:
        _log.warning(
            "Redis is not used: to name the book there, our role in the database must be allowed "
            "to execute pg_control_system()"
        )
        return None
    return Cache(url, book, ttl_s=ttl_s)


def _announcers(
    cache: Cache | None, observe: Callable[[Outcomes], None] | None
) -> tuple[Announcer | None, Announcer | None]:
    """Return who tells of what was posted before a commit, and who does so on an event loop."""
    if cache is None and observe is None:
        return None, None

    def telling(block: Callable[[Collection[AccountKey]], None] | None) -> Announcer:
        def tell(outcomes: Outcomes) -> None:
            if block is not None:
                done = [command for command, result in outcomes if not isinstance(result, Refusal)]
                if keys := {key for command in done for key in command.keys}:
                    block(tuple(keys))
            if observe is not None:
                try:
                    observe(outcomes)
                except Exception:  # noqa: BLE001  # Whoever only watches undoes no transaction.
                    _log.exception("the observer of a transaction failed")

        return Announcer(tell)

    if cache is None:
        return telling(None), telling(None)
    return telling(cache.block), telling(
        lambda keys: await_only(asyncio.to_thread(cache.block, keys))
    )


def _done(result: Any) -> Any:
    if isinstance(result, Refusal):
        raise result
    return result


def _merged(
    results: list[Refusal | None], written: list[Decided], atomic: bool = False
) -> list[Any]:
    """Put what was written where nothing was refused before."""
    if atomic:
        if written:
            (together,) = written
            if isinstance(together, Together):
                return list(together.results)
            return [together] * len(results)
        refused = next((number for number, one in enumerate(results) if one is not None), 0)
        return [
            one or BatchRefused(position=refused, reason=getattr(results[refused], "code", ""))
            for one in results
        ]
    if len(written) == len(results):
        return written
    rest = iter(written)
    return [next(rest) if result is None else result for result in results]


def _questions(requests: Sequence[Any], placed: Container[int]) -> list[Question]:
    """Return the questions after the holds and entries that requests name and nobody knows."""
    holds: set[int] = set()
    entries: set[int] = set()
    for request in requests:
        if type(request) is Posting:
            continue
        # What cannot be an id is refused in its own place.
        with suppress(Refusal):
            if (hold_id := hold_of(request)) is not None:
                if hold_id not in placed:
                    holds.add(hold_id)
            elif (entry_id := entry_of(request)) is not None:
                entries.add(entry_id)
    questions: list[Question] = []
    if holds:
        questions.append(("holds", tuple(holds)))
    if entries:
        questions.append(("entries", tuple(entries)))
    return questions


def _with(placed: dict[int, Hold], answers: Sequence[Answer]) -> _Found:
    """Return what was known, and what was looked up."""
    holds, entries = _sorted(answers)
    return ChainMap(holds, placed) if holds else placed, entries


def _sorted(answers: Sequence[Answer]) -> tuple[dict[int, Hold], dict[int, list[Entry]]]:
    holds: dict[int, Hold] = {}
    entries: dict[int, list[Entry]] = {}
    for answer in answers:
        if isinstance(answer, dict):
            for number, found in answer.items():
                if isinstance(found, Hold):
                    holds[number] = found
                else:
                    entries[number] = found
    return holds, entries


def _balance(answer: Answer) -> Balance:
    assert isinstance(answer, Balance)  # noqa: S101  # as was asked for
    return answer


class _Reading:
    """Turns the database's absence into one clear error."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.InterfaceError):
            reason = " ".join(str(error.orig).split())
            raise LedgerUnavailable(f"the database cannot be reached: {reason}") from None
