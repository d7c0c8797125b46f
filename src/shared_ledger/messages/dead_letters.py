"""Dead letters: messages that were tried often enough, for an operator to look at.

Each function works in the caller's transaction, who commits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.messages.errors import DeadLetterNotFound
from shared_ledger.messages.tables import MessageTables, about

_LIST = """
select message_id as id, key, type, version, payload, attempts, error, received_on,
    (
        select count(*)
        from {table} as line
        where line.key = message.key and line.state = 'new' and line.position > message.position
    ) as waiting
from {table} as message
where state in ('new', 'dead') and attempts > 0 and state = 'dead'
order by position
limit :limit
"""

_RETRY = """
update {table}
set state = 'new', attempts = 0, available_on = clock_timestamp()
where message_id = :id and state = 'dead'
"""

_RETRY_ALL = """
update {table}
set state = 'new', attempts = 0, available_on = clock_timestamp()
where state in ('new', 'dead') and attempts > 0 and state = 'dead'
returning message_id
"""

_DROP = """
update {table}
set state = 'dropped'
where message_id = :id and state = 'dead'
"""

_NOTIFY = sa.text("select pg_notify(:channel, '')")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead message; ``waiting`` is how many later ones of its key wait for it."""

    id: UUID
    key: str
    type: str
    version: int
    payload: Mapping[str, Any]
    attempts: int
    error: str
    received_on: datetime
    waiting: int


async def find(
    connection: AsyncConnection, tables: MessageTables, *, limit: int = 100
) -> list[DeadLetter]:
    """Return a context's dead letters, oldest first."""
    rows = await connection.execute(about(connection, tables.inbox, _LIST), {"limit": limit})
    return [DeadLetter(**row) for row in rows.mappings()]


async def retry(connection: AsyncConnection, tables: MessageTables, message_id: UUID) -> None:
    """Let a dead letter be handled as if it had just come; then those that wait for it.

    Raises
    ------
    DeadLetterNotFound
        If there is none with this id.
    """
    await _change(connection, tables, _RETRY, message_id)


async def retry_all(connection: AsyncConnection, tables: MessageTables) -> list[UUID]:
    """Retry all of a context's dead letters, and return their ids."""
    retried = await connection.execute(about(connection, tables.inbox, _RETRY_ALL))
    ids = [message_id for (message_id,) in retried]
    if ids:
        await connection.execute(_NOTIFY, {"channel": tables.inbox_channel})
    return ids


async def drop(connection: AsyncConnection, tables: MessageTables, message_id: UUID) -> None:
    """Let a dead letter never be handled, and those that wait for it be handled without it.

    Its row stays, so that the same message is not taken for a new one.

    Raises
    ------
    DeadLetterNotFound
        If there is none with this id.
    """
    await _change(connection, tables, _DROP, message_id)


async def _change(
    connection: AsyncConnection, tables: MessageTables, statement: str, message_id: UUID
) -> None:
    changed = await connection.execute(
        about(connection, tables.inbox, statement), {"id": message_id}
    )
    if not changed.rowcount:
        raise DeadLetterNotFound(message_id)
    await connection.execute(_NOTIFY, {"channel": tables.inbox_channel})
