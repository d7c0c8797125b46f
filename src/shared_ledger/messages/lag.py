"""How far behind a context's messages are, for metrics."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.messages.tables import MessageTables, about

_OUTBOX = """
select count(*) as unpublished,
    coalesce(extract(epoch from clock_timestamp() - min(created_on)), 0)::float as oldest_s
from {table}
where published_on is null
"""

_INBOX = """
select count(*) filter (where state = 'new') as new,
    count(*) filter (where state = 'dead') as dead,
    coalesce(extract(epoch from clock_timestamp() - min(received_on)), 0)::float as oldest_s
from {table}
where state in ('new', 'dead')
"""


@dataclass(frozen=True, slots=True)
class Lag:
    """What of a context's messages is left to do.

    ``unpublished`` of its own wait in the outbox, the oldest for ``oldest_unpublished_s`` seconds.
    Of others', ``new`` wait to be handled and ``dead`` for an operator; the oldest of both since
    ``oldest_unhandled_s``. Nothing waits: 0 seconds.
    """

    unpublished: int
    oldest_unpublished_s: float
    new: int
    dead: int
    oldest_unhandled_s: float


async def lag_of(connection: AsyncConnection, tables: MessageTables) -> Lag:
    """Measure how far behind a context is."""
    outbox = (await connection.execute(about(connection, tables.outbox, _OUTBOX))).one()
    inbox = (await connection.execute(about(connection, tables.inbox, _INBOX))).one()
    return Lag(outbox.unpublished, outbox.oldest_s, inbox.new, inbox.dead, inbox.oldest_s)
