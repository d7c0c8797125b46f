"""Prometheus metrics of one process, in a registry of its own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from sqlalchemy.pool import Pool, QueuePool

from shared_ledger import __version__
from shared_ledger.ledger import Ledger
from shared_ledger.service.entry_metrics import EntryMetrics
from shared_ledger.service.measured import Measured, Question
from shared_ledger.service.request_metrics import BUCKETS_S, RequestMetrics

# When a series began is of no use here, and doubles what is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped

LOOK_EVERY_S = 0.5
"""How often it is measured how late the event loop is."""

Ledgers = Callable[[], Collection[Ledger[Any]]]


class Metrics:
    """The metrics of one service.

    Parameters
    ----------
    ledgers
        Those that are open.
    pool
        The connections of applications' own transactions, when there are any.
    questions
        What the database is asked.

    Attributes
    ----------
    entries, requests, measured
        What counts entries, what counts HTTP requests, and what asks the database.
    """

    def __init__(
        self,
        ledgers: Ledgers,
        pool: Callable[[], Pool | None] = lambda: None,
        questions: Sequence[Question] = (),
    ) -> None:
        self.registry = CollectorRegistry()
        self.measured = Measured(questions)
        self.registry.register(self.measured)
        self.entries = EntryMetrics()
        self.registry.register(self.entries)
        self.requests = RequestMetrics()
        self.registry.register(self.requests)
        self.registry.register(_Caches(ledgers))
        ProcessCollector(registry=self.registry)
        build = Info("shared_ledger_build", "Which version runs.", registry=self.registry)
        build.info({"version": __version__})
        self._gauge(
            "queue_depth",
            "Postings that wait or are being written.",
            lambda: sum(ledger.queued for ledger in ledgers()),
        )
        self._gauge(
            "queue_fullness_ratio",
            "How full the fullest queue of postings is: 1 is when postings are refused.",
            lambda: max((ledger.queue_fullness for ledger in ledgers()), default=0.0),
        )
        self._gauge(
            "connections_used",
            "Connections to the database that applications' own transactions use now.",
            lambda: _used(pool()),
        )
        self._up = Gauge(
            "shared_ledger_dependency_up",
            "Whether what the service needs answered when it was last asked.",
            ["dependency"],
            registry=self.registry,
        )
        self._delay = Histogram(
            "shared_ledger_event_loop_delay_seconds",
            "How late the event loop does what it was to do.",
            buckets=BUCKETS_S,
            registry=self.registry,
        )

    def saw(self, facts: Mapping[str, Any]) -> None:
        """Note what readiness found out about the database, and Redis if there is one."""
        for fact, dependency in (("database", "database"), ("cache", "redis")):
            if fact in facts:
                self._up.labels(dependency).set(facts[fact] == "ok")

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Measure how late the event loop is while the block runs."""
        task = asyncio.create_task(self._watch(), name="shared-ledger-event-loop")
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            due = time.monotonic() + LOOK_EVERY_S
            await asyncio.sleep(LOOK_EVERY_S)
            self._delay.observe(max(0.0, time.monotonic() - due))

    def _gauge(self, name: str, about: str, value: Callable[[], float]) -> None:
        Gauge(f"shared_ledger_{name}", about, registry=self.registry).set_function(value)


def _used(pool: Pool | None) -> int:
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


class _Caches(Collector):
    """What the caches count themselves, asked for when it is scraped."""

    def __init__(self, ledgers: Ledgers) -> None:
        self._ledgers = ledgers

    def collect(self) -> Iterable[CounterMetricFamily]:
        counts = [ledger.cache_counts for ledger in self._ledgers()]
        for name, about, value in (
            ("hits", "Balances found in Redis.", sum(each.hits for each in counts)),
            ("misses", "Balances not found in Redis.", sum(each.misses for each in counts)),
            ("failures", "Calls of Redis that failed.", sum(each.failures for each in counts)),
        ):
            yield CounterMetricFamily(f"shared_ledger_cache_{name}", about, value=value)
