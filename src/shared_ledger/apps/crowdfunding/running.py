"""Running the contexts: their messages, and their own work in the background."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.bitcoin.payments import Patience, pay_next
from shared_ledger.apps.crowdfunding.bitcoin.receipts import ask_next, hear
from shared_ledger.apps.crowdfunding.common.due import repeat
from shared_ledger.apps.crowdfunding.common.site import Site
from shared_ledger.apps.crowdfunding.contexts import NAMES, TABLES, contexts
from shared_ledger.apps.crowdfunding.crowdfunding.commands import proceed_next
from shared_ledger.apps.crowdfunding.lightning.missing import MissingNode
from shared_ledger.apps.crowdfunding.lightning.nodes import SIMULATED, open_node
from shared_ledger.apps.crowdfunding.lightning.port import LightningNode
from shared_ledger.apps.crowdfunding.messages import RegisterAccount
from shared_ledger.apps.crowdfunding.settings import SparkSettings
from shared_ledger.connections import make_async_engine
from shared_ledger.errors import ConfigurationError, LedgerError
from shared_ledger.messages import (
    Inbox,
    InProcess,
    TransactionalOutbox,
    Transport,
    UnitOfWork,
    running,
)
from shared_ledger.messages.jetstream import JetStream
from shared_ledger.service import Serving
from shared_ledger.settings import load

CONNECTIONS = 40
CONNECTION_WAIT_S = 5
CONCURRENCY = 3
# So many names are remembered; one that is forgotten is told once more, which changes nothing.
KNOWN = 10_000

_log = logging.getLogger("shared_ledger.crowdfunding")


@asynccontextmanager
async def site(serving: Serving) -> AsyncIterator[Site]:
    """Run the configured contexts while the block runs."""
    settings = load(SparkSettings)
    chosen = chosen_contexts(serving.settings.shared_ledger_contexts)
    async with AsyncExitStack() as leaving:
        engine = make_async_engine(
            serving.ledger.url, pool_size=CONNECTIONS, wait_s=CONNECTION_WAIT_S
        )
        leaving.push_async_callback(engine.dispose)
        engine = engine.execution_options(
            schema_translate_map={None: serving.settings.shared_ledger_schema}
        )
        node = await _node(
            settings.lightning_node.get_secret_value(),
            engine,
            production=serving.settings.environment == "production",
        )
        leaving.push_async_callback(node.close)
        everything = [Inbox(engine, context) for context in contexts(serving.ledger)]
        mine = [inbox for inbox in everything if inbox.context.name in chosen]
        transport: Transport = InProcess(everything)
        if settings.nats_url is not None and settings.nats_url.get_secret_value():
            transport = await leaving.enter_async_context(
                JetStream(
                    settings.nats_url.get_secret_value(),
                    [inbox.context for inbox in everything],
                    stream=serving.settings.shared_ledger_schema,
                )
            )
        await leaving.enter_async_context(running(mine, transport, concurrency=CONCURRENCY))
        patience = Patience(pay_s=settings.pay_timeout_s)
        await leaving.enter_async_context(working(_work(chosen, engine, node, patience)))
        yield Site(
            engine=engine,
            node=node,
            contexts=frozenset(chosen),
            take_part=_Introduction(engine, chosen[0]),
            leaving=serving.leaving,
        )


async def _node(url: str, engine: AsyncEngine, *, production: bool) -> LightningNode:
    """Open the configured node; without one it is simulated, or in production there is none."""
    if not url and production:
        return MissingNode()
    return await open_node(url or SIMULATED, engine, production=production)


def chosen_contexts(named: str) -> Sequence[str]:
    """Return the contexts that are named, or all.

    Raises
    ------
    ConfigurationError
        If there is no context of a name.
    """
    chosen = [name.strip() for name in named.split(",") if name.strip()]
    if unknown := [name for name in chosen if name not in NAMES]:
        raise ConfigurationError(
            f"Satoshi Spark has no context {unknown[0]!r}: choose from {', '.join(NAMES)}"
        )
    return chosen or NAMES


def _work(
    chosen: Sequence[str], engine: AsyncEngine, node: LightningNode, patience: Patience
) -> list[Coroutine[Any, Any, None]]:
    """Return what the contexts do on their own."""
    work: list[Coroutine[Any, Any, None]] = []
    if "bitcoin" in chosen and not isinstance(node, MissingNode):
        work += [
            hear(engine, node),
            repeat("paying", [partial(pay_next, engine, node, patience)]),
            repeat("asking for deposits", [partial(ask_next, engine, node)]),
        ]
    if "crowdfunding" in chosen:
        work.append(repeat("closing campaigns", [partial(proceed_next, engine)]))
    return work


@asynccontextmanager
async def working(work: Sequence[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Do work in the background while the block runs; whatever is cut off goes on the next time."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Introduction:
    """Tells the auth context, by a message, of each user who calls."""

    def __init__(self, engine: AsyncEngine, context: str) -> None:
        self._engine = engine
        self._tables = TABLES[NAMES.index(context)]
        self._known: OrderedDict[str, None] = OrderedDict()

    async def __call__(self, username: str) -> None:
        """Tell of a user, if that was not done from here."""
        if username in self._known:
            return
        async with UnitOfWork(self._engine, TransactionalOutbox(self._tables)) as uow:
            uow.emit(RegisterAccount(account_id=username, username=username))
        self._known[username] = None
        if len(self._known) > KNOWN:
            self._known.popitem(last=False)


async def registered(at: Site, username: str) -> None:
    """Let a user who has just registered take part."""
    try:
        await at.take_part(username)
    except LedgerError as error:
        # He is registered; his first call tells it again.
        _log.warning("%s takes part from his first call on: %s", username, error)
