"""Running contexts: a relay and a worker for each, and one connection that listens for all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.messages.bell import Bell
from shared_ledger.messages.inbox import Inbox
from shared_ledger.messages.listener import listen
from shared_ledger.messages.relay import Relay
from shared_ledger.messages.retries import Retries
from shared_ledger.messages.transport import Transport
from shared_ledger.messages.worker import CONCURRENCY, HANDLER_TIMEOUT_S, Worker

STOP_S = 10


@asynccontextmanager
async def running(
    inboxes: Sequence[Inbox],
    transport: Transport,
    *,
    concurrency: int = CONCURRENCY,
    timeout_s: float = HANDLER_TIMEOUT_S,
    retries: Retries | None = None,
    poll_s: float = 1,
    listens: bool = True,
) -> AsyncIterator[None]:
    """Publish and handle the messages of these contexts while the block runs.

    Several processes may do so for the same contexts at once. The engine needs a connection that
    listens, and for each context one to publish, one to receive (over NATS two), and up to
    ``concurrency`` to handle.

    Parameters
    ----------
    concurrency
        How many messages of each context are handled at once.
    timeout_s
        How long a handler may take.
    retries
        How often a message is tried, and how long it waits in between.
    poll_s
        How long something may lie there if its notification is lost.
    listens
        Whether to hold a connection that hears notifications; of no use behind a pooler that hands
        out connections by transaction.
    """
    parts: list[Relay | Worker] = []
    bells: dict[AsyncEngine, dict[str, list[Bell]]] = {}
    async with AsyncExitStack() as leaving:
        for inbox in inboxes:
            engine, tables = inbox.engine, inbox.context.tables
            to_publish, to_handle = Bell(), Bell()
            channels = bells.setdefault(engine, {})
            channels.setdefault(tables.outbox_channel, []).append(to_publish)
            channels.setdefault(tables.inbox_channel, []).append(to_handle)
            parts.append(Relay(engine, tables, transport, bell=to_publish, poll_s=poll_s))
            parts.append(
                Worker(
                    inbox,
                    bell=to_handle,
                    poll_s=poll_s,
                    concurrency=concurrency,
                    timeout_s=timeout_s,
                    retries=retries,
                )
            )
            await leaving.enter_async_context(transport.delivering(inbox))
        tasks = [asyncio.create_task(part.run()) for part in parts]
        listeners = [
            asyncio.create_task(listen(engine, channels))
            for engine, channels in (bells.items() if listens else ())
        ]
        try:
            yield
        finally:
            for bell in _all(bells):
                bell.close()
            # What is in hand may end; what hangs is rolled back, and handled the next time.
            _, hanging = await asyncio.wait(tasks, timeout=STOP_S)
            for task in (*hanging, *listeners):
                task.cancel()
            await asyncio.gather(*tasks, *listeners, return_exceptions=True)


def _all(bells: dict[AsyncEngine, dict[str, list[Bell]]]) -> list[Bell]:
    return [bell for channels in bells.values() for rung in channels.values() for bell in rung]
