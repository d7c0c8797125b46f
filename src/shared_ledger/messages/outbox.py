"""The transactional outbox: messages are stored with the change that they tell of.

The order of publication is that of ids. Of two transactions that change one aggregate, the second
waits for the first to commit, and only then takes ids: the outbox is the last that a unit of work
writes. So whoever sees a message sees those before it of the same aggregate, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.messages.message import Envelope, Message
from shared_ledger.messages.notices import notify
from shared_ledger.messages.tables import MessageTables, about, book_of

_STORE = """
insert into {table} (message_id, key, type, version, payload)
values (:id, :key, :type, :version, cast(cast(:text as text) as jsonb))
"""

_UNPUBLISHED = """
select id, message_id, key, type, version, payload::text
from {table}
where published_on is null
order by id
limit :limit
"""

_MARK = """
update {table}
set published_on = clock_timestamp()
where id = any(cast(:ids as bigint[]))
"""

_LEAD = sa.text("select pg_try_advisory_xact_lock(hashtextextended(:name, 0))")


class Unpublished(NamedTuple):
    """A row of the outbox that nobody has confirmed yet."""

    id: int
    envelope: Envelope


class TransactionalOutbox:
    """One context's outbox, in whatever transaction it is given."""

    def __init__(self, tables: MessageTables) -> None:
        self._tables = tables

    async def store(self, connection: AsyncConnection, messages: Sequence[Message]) -> None:
        """Store messages in this order, to be published when the transaction has committed.

        Raises
        ------
        InvalidMessage
            If one of them cannot be sent; none is stored then.
        """
        if not messages:
            return
        envelopes = [Envelope.of(message) for message in messages]
        rows = [
            {
                "id": envelope.id,
                "key": envelope.key,
                "type": envelope.type,
                "version": envelope.version,
                "text": envelope.text,
            }
            for envelope in envelopes
        ]
        await connection.execute(about(connection, self._tables.outbox, _STORE), rows)

    async def announce(self, connection: AsyncConnection) -> None:
        """Wake the relays, over a connection that has committed and is given back next."""
        await notify(connection, self._tables.outbox_channel)

    async def lead(self, connection: AsyncConnection) -> bool:
        """Become the only one who publishes, until the transaction ends; false if another is."""
        name = f"relay of {book_of(connection)}.{self._tables.outbox.name}"
        return bool(await connection.scalar(_LEAD, {"name": name}))

    async def unpublished(self, connection: AsyncConnection, *, limit: int) -> list[Unpublished]:
        """Return the next messages to publish, in order."""
        rows = await connection.execute(
            about(connection, self._tables.outbox, _UNPUBLISHED), {"limit": limit}
        )
        return [
            Unpublished(
                row.id,
                Envelope(
                    id=row.message_id,
                    key=row.key,
                    type=row.type,
                    version=row.version,
                    payload=msgspec.Raw(row.payload.encode()),
                ),
            )
            for row in rows
        ]

    async def mark_published(self, connection: AsyncConnection, ids: Sequence[int]) -> None:
        """Note that the transport has these."""
        await connection.execute(about(connection, self._tables.outbox, _MARK), {"ids": list(ids)})
