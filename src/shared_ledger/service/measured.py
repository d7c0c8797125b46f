"""What the database is asked for metrics: when somebody asks for them, but not each time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from shared_ledger.connections import make_async_engine
from shared_ledger.messages.failures import described

EVERY_S = 5.0
"""How often the database is asked at most."""
WAIT_S = 1.0
"""How long somebody who asks for metrics waits for the database."""
MEASURE_TIMEOUT_S = 10.0

Question = Callable[[AsyncConnection], Awaitable[Iterable[Metric]]]
"""Asks the database something, beside the book's tables, and gives the answer as metrics."""

_log = logging.getLogger("shared_ledger.service")


class Measured(Collector):
    """The answers to some questions, as far as they are known.

    Nothing is known while the database cannot be asked.
    """

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions
        self._engine: AsyncEngine | None = None
        self._measuring: asyncio.Task[None] | None = None
        self._due_at = 0.0
        self._latest: Sequence[Metric] = ()

    def collect(self) -> Iterable[Metric]:
        """Give what was measured last."""
        return self._latest

    @asynccontextmanager
    async def of(self, url: str, schema: str) -> AsyncIterator[None]:
        """Measure in the database of a book while the block runs."""
        engine = make_async_engine(url, pool_size=1, wait_s=WAIT_S)
        self._engine = engine.execution_options(schema_translate_map={None: schema})
        try:
            yield
        finally:
            self._engine = None
            if self._measuring is not None:
                self._measuring.cancel()
                await asyncio.wait({self._measuring})
            await engine.dispose()

    async def refresh(self) -> None:
        """Measure, unless that was done a moment ago; what takes too long is known the next time.

        What goes wrong is logged.
        """
        if self._engine is None:
            return
        if self._measuring is None and time.monotonic() >= self._due_at:
            self._measuring = asyncio.create_task(self._measure(self._engine))
        if self._measuring is not None:
            await asyncio.wait({self._measuring}, timeout=WAIT_S)

    async def _measure(self, engine: AsyncEngine) -> None:
        try:
            async with asyncio.timeout(MEASURE_TIMEOUT_S), engine.connect() as connection:
                self._latest = [
                    metric for question in self._questions for metric in await question(connection)
                ]
        except Exception as error:  # noqa: BLE001  # Metrics of other things are shown all the same.
            self._latest = ()
            _log.warning("what metrics ask the database is not known: %s", described(error))
        finally:
            self._due_at = time.monotonic() + EVERY_S
            self._measuring = None
