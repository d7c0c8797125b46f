"""The relay: publishes what a context's outbox has, in order, and notes that it has.

However many processes run one, only one publishes at a time: it holds a lock for the transaction
of one batch. If it dies between publishing and noting, the batch is published again; the inboxes
drop what they have.
"""

from __future__ import annotations

import asyncio
import logging

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.messages.bell import Bell
from shared_ledger.messages.failures import described
from shared_ledger.messages.faults import reached
from shared_ledger.messages.outbox import TransactionalOutbox
from shared_ledger.messages.retries import Retries
from shared_ledger.messages.tables import MessageTables
from shared_ledger.messages.transport import Transport

BATCH = 100
PUBLISH_TIMEOUT_S = 30.0

_END_IF_IDLE = sa.text("select set_config('idle_in_transaction_session_timeout', :ends, true)")
_PAUSES = Retries(first_s=0.5, longest_s=30)

_log = logging.getLogger("shared_ledger.messages")


class Relay:
    """Publishes one context's outbox.

    ``bell`` tells that there is something; without it, it looks every ``poll_s`` seconds.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        tables: MessageTables,
        transport: Transport,
        *,
        bell: Bell | None = None,
        poll_s: float = 1,
        batch: int = BATCH,
        timeout_s: float = PUBLISH_TIMEOUT_S,
        pauses: Retries = _PAUSES,
    ) -> None:
        self._engine = engine
        self._name = tables.prefix
        self._outbox = TransactionalOutbox(tables)
        self._transport = transport
        self._bell = bell or Bell()
        self._poll_s = poll_s
        self._batch = batch
        self._timeout_s = timeout_s
        self._pauses = pauses

    async def run(self) -> None:
        """Publish until the bell is closed."""
        failures = 0
        while not self._bell.closed:
            try:
                published = await self.publish()
            except Exception as error:  # noqa: BLE001  # What is unpublished waits for its return.
                failures += 1
                _log.warning(
                    "messages of %s cannot be published for now: %s", self._name, described(error)
                )
                await self._bell.pause(self._pauses.delay_s(failures))
                continue
            failures = 0
            if published < self._batch:
                await self._bell.wait(self._poll_s)

    async def publish(self) -> int:
        """Publish one batch, and return how many messages it had; none if another relay does.

        Raises what the transport raises: nothing is noted then, and all is published again.
        """
        async with self._engine.begin() as connection:
            if not await self._outbox.lead(connection):
                return 0
            batch = await self._outbox.unpublished(connection, limit=self._batch)
            if not batch:
                return 0
            # A machine that has gone away must not keep the lock.
            await connection.execute(_END_IF_IDLE, {"ends": f"{2 * self._timeout_s:.3f}s"})
            reached("relay.before_publish")
            async with asyncio.timeout(self._timeout_s):
                await self._transport.publish([row.envelope for row in batch])
            reached("relay.after_publish")
            await self._outbox.mark_published(connection, [row.id for row in batch])
            reached("relay.after_mark")
        reached("relay.after_commit")
        return len(batch)
