"""The inbox: what a context was told, each message once, and in which order it is handled.

Of one key only the first message that is neither handled nor dropped may be handled: the first in
line. The others wait, also while that one waits for its next try, or is dead: a dead letter stops
its key, and only its key, until an operator retries or drops it. ``handled`` and ``dropped`` are
final, so what was first in line in anybody's snapshot still is or is done; and a row is handled
under its lock. That is why any number of workers may take messages at once.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared_ledger.messages.faults import reached
from shared_ledger.messages.handlers import Context
from shared_ledger.messages.message import Envelope
from shared_ledger.messages.notices import notify
from shared_ledger.messages.tables import about, book_of

# In the order given: positions are given out row by row, after sorting.
_RECEIVE = """
insert into {table} (message_id, key, type, version, payload)
select message_id, key, type, version, payload::jsonb
from unnest(
    cast(:ids as uuid[]), cast(:keys as text[]), cast(:types as text[]),
    cast(:versions as integer[]), cast(:payloads as text[])
) with ordinality as given (message_id, key, type, version, payload, place)
order by place
on conflict (message_id) do nothing
"""

# The keys whose first in line has failed are few and have an index of their own. Without looking
# at them first, each search would go through all that waits behind one dead letter. Of the row
# itself the time is asked again, because that is asked of what it has become when it is locked.
_TAKE = """
select message_id, key, type, version, payload::text, attempts,
    coalesce(error = :interrupted, false) as is_suspect,
    error is not null or available_on < :since as is_late
from {table} as message
where state = 'new'
    and available_on <= now()
    and key <> all(cast(:busy as text[]))
    and key not in (
        select key
        from {table}
        where state in ('new', 'dead') and attempts > 0
            and (state = 'dead' or available_on > now())
    )
    and position = (
        select min(position)
        from {table} as line
        where line.key = message.key and line.state in ('new', 'dead')
    )
order by position
limit 1
for update of message skip locked
"""

# The search goes by the index of what is new, whatever statistics say of a table that was empty a
# moment ago. What the handler asks is planned as usual again.
_BY_INDEX = sa.text(
    "select set_config('enable_seqscan', 'off', true), "
    "set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true), "
    "set_config('idle_in_transaction_session_timeout', :ends, true)"
)
_AS_USUAL = sa.text(
    "select set_config('enable_seqscan', null, true), "
    "set_config('enable_bitmapscan', null, true), set_config('enable_sort', null, true)"
)

# A try that is counted before it begins. Nobody takes the message until its row is locked again,
# since it seems to wait for its next try. Without a flush: a power failure may take the count back.
_BEGIN = """
update {table}
set attempts = attempts + 1,
    available_on = clock_timestamp() + make_interval(secs => :delay_s),
    error = :interrupted
where message_id = :id
returning set_config('synchronous_commit', 'off', true)
"""

_LOCK_AGAIN = """
select set_config('idle_in_transaction_session_timeout', :ends, true)
from {table}
where message_id = :id and state = 'new' and attempts = :counted
for update skip locked
"""

_LEAD = sa.text(
    "select pg_try_advisory_xact_lock(hashtextextended(:name, 0)), "
    "set_config('idle_in_transaction_session_timeout', :ends, true)"
)

_DUE = """
select extract(epoch from min(available_on) - now())::float
from {table}
where state in ('new', 'dead') and attempts > 0 and state = 'new' and available_on > now()
"""

_HANDLED = """
update {table}
set state = 'handled', handled_on = clock_timestamp(), error = null, attempts = :attempts
where message_id = :id
"""

_FAILED = """
update {table}
set attempts = :attempts,
    state = case when :attempts >= :limit then 'dead' else 'new' end,
    available_on = clock_timestamp() + make_interval(secs => :delay_s),
    error = :error
where message_id = :id and state = 'new' and attempts = :counted
returning state
"""

INTERRUPTED = "the process ended, or lost the database, while it was handled"
"""What is written down of a try that has begun, until more is known."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A message that is being handled: its row is locked."""

    envelope: Envelope
    attempts: int
    """How often it has failed before."""
    is_late: bool = False
    """Whether its try is to be counted before it begins: it is not the first, or may not be."""
    is_suspect: bool = False
    """Whether the last try ended with its process."""
    is_counted: bool = False
    """Whether this try is counted already."""

    @property
    def counted(self) -> int:
        """What the row says of tries."""
        return self.attempts + self.is_counted


class Inbox:
    """One context's inbox."""

    def __init__(self, engine: AsyncEngine, context: Context[Any]) -> None:
        self.engine = engine
        self.context = context
        self.types = frozenset(kind.__name__ for kind in context.kinds)
        """The types of messages that the context wants."""
        self._table = context.tables.inbox

    async def receive(self, envelopes: Sequence[Envelope]) -> int:
        """Keep messages in this order, if they are not kept already; return how many were new.

        When it has returned they are committed, and a transport may forget them.

        Raises
        ------
        sqlalchemy.exc.SQLAlchemyError, LedgerUnavailable
            If they may not be kept: give them again.
        """
        reached("inbox.before_receive")
        async with self.engine.connect() as connection:
            received = await connection.execute(
                about(connection, self._table, _RECEIVE),
                {
                    "ids": [envelope.id for envelope in envelopes],
                    "keys": [envelope.key for envelope in envelopes],
                    "types": [envelope.type for envelope in envelopes],
                    "versions": [envelope.version for envelope in envelopes],
                    "payloads": [envelope.text for envelope in envelopes],
                },
            )
            reached("inbox.before_commit")
            await connection.commit()
            reached("inbox.after_commit")
            if received.rowcount:
                await notify(connection, self.context.tables.inbox_channel)
        return received.rowcount

    async def lead(self, connection: AsyncConnection, *, idle_s: float) -> bool:
        """Become the only one who delivers here until the transaction ends; false if another is.

        If nothing is asked over the connection for ``idle_s``, the database ends it.
        """
        name = f"delivery to {book_of(connection)}.{self._table.name}"
        row = (await connection.execute(_LEAD, {"name": name, "ends": _interval(idle_s)})).one()
        return bool(row[0])

    async def take(
        self,
        connection: AsyncConnection,
        *,
        busy: Collection[str],
        since: datetime,
        idle_s: float,
    ) -> Taken | None:
        """Lock and return a message to handle now, none of the keys in ``busy``.

        It is late if it was there before ``since``. If the process then stands still for
        ``idle_s``, the database ends the session, and others may have the message.
        """
        await connection.execute(_BY_INDEX, {"ends": _interval(idle_s)})
        found = await connection.execute(
            about(connection, self._table, _TAKE),
            {"busy": list(busy), "interrupted": INTERRUPTED, "since": since},
        )
        row = found.one_or_none()
        if row is None:
            return None
        await connection.execute(_AS_USUAL)
        envelope = Envelope(
            id=row.message_id,
            key=row.key,
            type=row.type,
            version=row.version,
            payload=msgspec.Raw(row.payload.encode()),
        )
        return Taken(envelope, row.attempts, row.is_late, row.is_suspect)

    async def begin(
        self, connection: AsyncConnection, taken: Taken, *, delay_s: float, idle_s: float
    ) -> Taken | None:
        """Count a try that begins, and lock the message again; nothing if somebody else has it.

        If the try ends with its process, the next is no sooner than in ``delay_s``.
        """
        await connection.execute(
            about(connection, self._table, _BEGIN),
            {"id": taken.envelope.id, "delay_s": delay_s, "interrupted": INTERRUPTED},
        )
        await connection.commit()
        begun = replace(taken, is_counted=True)
        found = await connection.execute(
            about(connection, self._table, _LOCK_AGAIN),
            {"id": begun.envelope.id, "counted": begun.counted, "ends": _interval(idle_s)},
        )
        return None if found.one_or_none() is None else begun

    async def due_in_s(self, connection: AsyncConnection) -> float | None:
        """Return in how many seconds the next that failed is to be tried again."""
        due: float | None = await connection.scalar(about(connection, self._table, _DUE))
        return due

    async def mark_handled(self, connection: AsyncConnection, taken: Taken) -> None:
        """Note that a message is handled, in the transaction of its effect."""
        await connection.execute(
            about(connection, self._table, _HANDLED),
            {"id": taken.envelope.id, "attempts": taken.attempts},
        )

    async def mark_failed(
        self,
        connection: AsyncConnection,
        taken: Taken,
        *,
        error: str,
        attempts: int,
        limit: int,
        delay_s: float,
    ) -> bool:
        """Note that so many tries failed, unless there was another since; tell if it is dead."""
        state = await connection.scalar(
            about(connection, self._table, _FAILED),
            {
                "id": taken.envelope.id,
                "attempts": attempts,
                "counted": taken.counted,
                "limit": limit,
                "delay_s": delay_s,
                "error": error,
            },
        )
        return bool(state == "dead")


def _interval(seconds: float) -> str:
    return f"{seconds:.3f}s"
