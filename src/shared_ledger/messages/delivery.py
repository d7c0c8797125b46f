"""Delivery: from a context's stream in NATS into its inbox, in order.

However many processes deliver to a context, one at a time does: it holds a lock in the inbox's
database, for a transaction that does nothing else. The order does not depend on the lock. Whoever
delivers begins with the first message that is left in the stream, passes none over, and has a
message removed only after it was received; so all that is before a message has been received when
it is, or is received with it. What is received twice, the inbox drops.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.messages.errors import TransportUnavailable
from shared_ledger.messages.failures import described
from shared_ledger.messages.faults import reached
from shared_ledger.messages.inbox import Inbox
from shared_ledger.messages.message import Envelope
from shared_ledger.messages.retries import Retries

if TYPE_CHECKING:
    from shared_ledger.messages.streams import Connection, Stored, Stream

LOOK_S = 1.0
"""How often a process looks whether it is its turn to deliver."""
LEAD_IDLE_S = 60.0
"""After how long another takes the place of a process that stands still."""

_PAUSES = Retries(first_s=0.5, longest_s=30)
_STILL_HERE = sa.text("select 1")

_log = logging.getLogger("shared_ledger.messages")


class Delivering:
    """Delivers to one inbox."""

    def __init__(
        self, inbox: Inbox, stream: Stream, connect: Callable[[], Awaitable[Connection]]
    ) -> None:
        self._inbox = inbox
        self._stream = stream
        self._connect = connect
        self._failures = 0

    async def run(self) -> None:
        """Deliver whenever it is this process's turn, until cancelled."""
        while True:
            try:
                async with self._inbox.engine.connect() as connection:
                    if await self._inbox.lead(connection, idle_s=LEAD_IDLE_S):
                        await self._deliver(connection)
                pause_s = LOOK_S
            except Exception as error:  # noqa: BLE001  # Messages wait in the stream meanwhile.
                self._failures += 1
                pause_s = _PAUSES.delay_s(self._failures)
                _log.warning(
                    "messages for %s cannot be delivered for now: %s",
                    self._inbox.context.name,
                    described(error),
                )
            await asyncio.sleep(pause_s)

    async def _deliver(self, connection: AsyncConnection) -> None:
        async with aclosing(await self._connect()) as nats:
            delivery = await nats.deliver(self._stream)
            while True:
                # The lock is as old as its session: one that has ended is noticed here.
                await connection.execute(_STILL_HERE)
                messages = await delivery.pull()
                self._failures = 0
                if messages:
                    await self._inbox.receive([self._read(message) for message in messages])
                    reached("delivery.after_receive")
                    await delivery.done(messages)
                    reached("delivery.after_done")

    def _read(self, message: Stored) -> Envelope:
        try:
            return msgspec.json.decode(message.data, type=Envelope)
        except msgspec.MsgspecError as error:
            # It stops the context, as a dead letter stops its key: nobody knows what it was.
            raise TransportUnavailable(
                f"message {message.sequence} of the stream {self._stream.name} is none of ours: "
                f"{error}; find out who sent it, and delete it there"
            ) from None
