"""The unit of work: aggregates, messages and entries of the ledger commit together or not at all.

::

    async with make_unit_of_work() as uow:
        order = await uow.orders.find(order_id)
        order.pay()
        await ledger.apost_in(uow.connection, Posting(...))
        uow.emit(RequestShipment(order_id=order_id))

When the block ends, the aggregates that changed are saved, what they raised and what was emitted is
stored in the outbox, and all of it is committed; any exception rolls all of it back.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Protocol, Self, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared_ledger.errors import LedgerOverloaded, LedgerUnavailable
from shared_ledger.messages.errors import ConcurrentChange
from shared_ledger.messages.faults import reached
from shared_ledger.messages.message import Message
from shared_ledger.messages.outbox import TransactionalOutbox

LOCK_TIMEOUT_S = 2

Source = AsyncEngine | AsyncConnection
"""Where a unit of work gets its transaction: it begins one, or is part of the caller's."""

# A serialization failure and a deadlock: the transaction is undone, and a new try may succeed.
_CONFLICTS = frozenset({"40001", "40P01"})
_LOCK_TIMEOUT = sa.text(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'")


class Tracker(Protocol):
    """What a repository is for the unit of work: it knows which aggregates it gave out."""

    @property
    def place(self) -> str:
        """Where it saves; all units of work save in the order of their places."""
        ...

    async def save(self) -> None:
        """Save what changed."""
        ...

    def take_raised(self) -> list[Message]:
        """Return what its aggregates raised since the last time."""
        ...


class UnitOfWork:
    """One transaction of a context; a context's own has its repositories as attributes.

    Over an engine it begins a transaction and commits it. Over a connection it is part of the
    caller's transaction, who commits, and may ``outbox.announce`` it: that is how a message's
    effect and the mark that it is handled are one.

    Raises
    ------
    ConcurrentChange
        When it ends: an aggregate was changed by somebody else since it was found, or the database
        had to choose between two transactions. ``retried`` does the whole again.
    InvalidMessage
        When it ends: a message cannot be sent as it is.
    LedgerUnavailable
        If the database cannot be reached; whether all was committed or nothing is not known then.
    LedgerOverloaded
        If no connection becomes free; nothing was done.
    """

    def __init__(self, source: Source, outbox: TransactionalOutbox) -> None:
        self._source = source
        self.outbox = outbox
        self._connection: AsyncConnection | None = None
        self._leaving = AsyncExitStack()
        self._trackers: list[Tracker] = []
        self._messages: list[Message] = []

    @property
    def connection(self) -> AsyncConnection:
        """The transaction, for queries and for ``ledger.apost_in``; never commit it yourself."""
        if self._connection is None:
            raise RuntimeError("the unit of work is not open: use it in `async with`")
        return self._connection

    @property
    def has_messages(self) -> bool:
        """Whether there is something to send when it is committed."""
        return bool(self._messages)

    def track(self, tracker: Tracker) -> None:
        """Save what a repository gave out when the block ends."""
        self._trackers.append(tracker)

    def emit(self, *messages: Message) -> None:
        """Send messages if all is committed; after what the aggregates have raised until now."""
        self._collect()
        self._messages += messages

    async def __aenter__(self) -> Self:
        if isinstance(self._source, AsyncConnection):
            self._connection = self._source
            return self
        async with AsyncExitStack() as leaving:
            with _Translated():
                self._connection = await leaving.enter_async_context(self._source.connect())
                await self._connection.execute(_LOCK_TIMEOUT)
            # Opened; what closes it is for the block's end.
            self._leaving = leaving.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The connection is given back at the end, which rolls back what is not committed.
        async with self._leaving:
            with _Translated():
                if isinstance(error, DBAPIError):
                    raise error
                if error is None:
                    await self._finish()

    async def _finish(self) -> None:
        self._collect()
        reached("unit_of_work.before_save")
        # One order for everybody: opposite ones would deadlock.
        for tracker in sorted(self._trackers, key=lambda tracker: tracker.place):
            await tracker.save()
        await self.outbox.store(self.connection, self._messages)
        reached("unit_of_work.after_save")
        if self._connection is not self._source:
            reached("unit_of_work.before_commit")
            await self.connection.commit()
            reached("unit_of_work.after_commit")
            if self.has_messages:
                await self.outbox.announce(self.connection)

    def _collect(self) -> None:
        for tracker in self._trackers:
            self._messages += tracker.take_raised()


class _Translated:
    """Tells in this room's words what the database refused; what a constraint does stays so."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, _: object) -> None:
        if isinstance(error, PoolTimeout):
            raise LedgerOverloaded("too much is under way; try again later") from None
        if not isinstance(error, DBAPIError):
            return
        if sqlstate_of(error) in _CONFLICTS:
            raise ConcurrentChange("the same rows") from error
        if isinstance(error, OperationalError | InterfaceError):
            reason = " ".join(str(error.orig).split())
            raise LedgerUnavailable(f"the database did not carry it out: {reason}") from error


def sqlstate_of(error: DBAPIError) -> str | None:
    """Return PostgreSQL's code of an error, whatever the driver."""
    return getattr(error.orig, "sqlstate", None)


UnitOfWorkT = TypeVar("UnitOfWorkT", bound=UnitOfWork)
