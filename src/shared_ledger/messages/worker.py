"""The worker: has messages of an inbox handled, several at once, those of a key one by one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.messages.bell import Bell
from shared_ledger.messages.errors import HandlerTimedOut
from shared_ledger.messages.failures import described
from shared_ledger.messages.faults import reached
from shared_ledger.messages.inbox import INTERRUPTED, Inbox, Taken
from shared_ledger.messages.retries import Retries, retried
from shared_ledger.messages.unit_of_work import UnitOfWork

CONCURRENCY = 4
HANDLER_TIMEOUT_S = 30.0

_NOW = sa.text("select clock_timestamp()")
_PAUSES = Retries(first_s=0.5, longest_s=30)

_log = logging.getLogger("shared_ledger.messages")


class Worker:
    """Handles one context's messages, up to ``concurrency`` at once.

    A message and its effect are one transaction. A handler that raises, or takes longer than
    ``timeout_s``, is called again later as ``retries`` say, until the message is dead.

    A try that ends with its process cannot be counted when it ends, so it is when it begins, in a
    transaction of its own: of every message that has failed before, or was there before this worker
    and may have ended another. One whose last try ended so is handled alone, so that no other is
    taken for the cause.
    """

    def __init__(
        self,
        inbox: Inbox,
        *,
        bell: Bell | None = None,
        poll_s: float = 1,
        concurrency: int = CONCURRENCY,
        timeout_s: float = HANDLER_TIMEOUT_S,
        retries: Retries | None = None,
    ) -> None:
        self._inbox = inbox
        self._context: Any = inbox.context
        self._bell = bell or Bell()
        self._poll_s = poll_s
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._retries = retries or Retries()
        self._since: datetime | None = None
        self._taking = asyncio.Lock()
        self._busy: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Handle messages until the bell is closed; those in hand are finished."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._concurrency):
                group.create_task(self._run())

    async def _run(self) -> None:
        failures = 0
        while not self._bell.closed:
            try:
                await self._turn(waits=True)
                failures = 0
            except Exception as error:  # noqa: BLE001  # Messages wait for the database's return.
                failures += 1
                _log.warning(
                    "messages of %s cannot be handled for now: %s",
                    self._context.name,
                    described(error),
                )
                await self._bell.pause(_PAUSES.delay_s(failures))

    async def handle_next(self) -> bool:
        """Handle a message, or fail to, and return true; false if there is none to handle now."""
        return await self._turn(waits=False)

    async def _turn(self, *, waits: bool) -> bool:
        async with AsyncExitStack() as leaving:
            # One looks at a time, and if he finds nothing, he waits for all of them.
            async with self._taking:
                connection = await leaving.enter_async_context(self._inbox.engine.connect())
                taken = await self._inbox.take(
                    connection,
                    busy=self._busy,
                    since=await self._here_since(connection),
                    idle_s=2 * self._timeout_s,
                )
                if taken is None:
                    due_s = await self._inbox.due_in_s(connection)
                    await leaving.aclose()
                    if waits:
                        await self._bell.wait(
                            self._poll_s if due_s is None else min(self._poll_s, due_s)
                        )
                    return False
                if taken.is_suspect:
                    await self._idle.wait()
                leaving.enter_context(self._in_hand(taken.envelope.key))
                if taken.is_suspect:
                    await self._try(connection, taken)
                    return True
            await self._try(connection, taken)
        return True

    async def _here_since(self, connection: AsyncConnection) -> datetime:
        if self._since is None:
            # By the database's clock, as the times that it is compared with.
            now: datetime = (await connection.execute(_NOW)).scalar_one()
            self._since = now
        return self._since

    @contextmanager
    def _in_hand(self, key: str) -> Iterator[None]:
        self._busy.add(key)
        self._idle.clear()
        try:
            yield
        finally:
            self._busy.discard(key)
            if not self._busy:
                self._idle.set()
            # There may be another of this key.
            self._bell.ring()

    async def _try(self, connection: AsyncConnection, taken: Taken) -> None:
        if taken.attempts >= self._retries.attempts:
            # Its last try was counted when it began, and nobody could say more of it.
            await self._mark_failed(connection, taken, taken.attempts, INTERRUPTED)
            await connection.commit()
            return
        if taken.is_late:
            begun = await self._inbox.begin(
                connection,
                taken,
                delay_s=self._retries.delay_s(taken.attempts + 1),
                idle_s=2 * self._timeout_s,
            )
            reached("worker.after_begin")
            if begun is None:
                return
            taken = begun
        timeout = asyncio.timeout(self._timeout_s)
        try:
            async with timeout:
                uow = await retried(lambda: self._handle(connection, taken))
                reached("worker.before_commit")
                await connection.commit()
        except Exception as raised:  # noqa: BLE001  # Whatever it was, the message is tried again.
            overdue = HandlerTimedOut(taken.envelope.type, self._timeout_s)
            await self._record(connection, taken, overdue if timeout.expired() else raised)
        else:
            reached("worker.after_commit")
            if uow.has_messages:
                await uow.outbox.announce(connection)

    async def _handle(self, connection: AsyncConnection, taken: Taken) -> UnitOfWork:
        # A savepoint: the row stays locked when a try fails, so nobody else comes in between.
        async with connection.begin_nested():
            reached("worker.before_handling")
            message = self._context.catalogue.decode(taken.envelope)
            uow: UnitOfWork = self._context.unit_of_work(connection)
            async with uow:
                await self._context.handle(message, uow)
            reached("worker.after_handling")
            await self._inbox.mark_handled(connection, taken)
        return uow

    async def _record(self, connection: AsyncConnection, taken: Taken, error: Exception) -> None:
        failures, text = taken.attempts + 1, described(error)
        transaction = connection.get_transaction()
        if transaction is not None and transaction.is_active and not connection.invalidated:
            await self._mark_failed(connection, taken, failures, text)
            await connection.commit()
        else:
            # Neither the connection nor the lock is left; somebody else may have tried since.
            await connection.close()
            async with self._inbox.engine.begin() as another:
                await self._mark_failed(another, taken, failures, text)
        reached("worker.after_failure")

    async def _mark_failed(
        self, connection: AsyncConnection, taken: Taken, failures: int, text: str
    ) -> None:
        reached("worker.before_failure")
        is_dead = await self._inbox.mark_failed(
            connection,
            taken,
            error=text,
            attempts=failures,
            limit=self._retries.attempts,
            delay_s=self._retries.delay_s(failures),
        )
        _log.log(
            logging.ERROR if is_dead else logging.WARNING,
            "%s failed to handle %s %s of %s, attempt %d%s: %s",
            self._context.name,
            taken.envelope.type,
            taken.envelope.id,
            taken.envelope.key,
            failures,
            ", and it is dead now" if is_dead else "",
            text,
        )
