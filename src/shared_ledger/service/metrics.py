"""Prometheus metrics of one process."""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared_ledger.book import Entry, Held, Posted
from shared_ledger.cache import CacheCounts
from shared_ledger.commands import (
    AnyCommand,
    AtomicCommand,
    CaptureCommand,
    Command,
    GroupCommand,
    PlaceCommand,
    ReleaseCommand,
    ReverseCommand,
    SweepCommand,
    TransferCommand,
)
from shared_ledger.decide import Decided, Swept, Together
from shared_ledger.errors import Refusal
from shared_ledger.operations import EXPIRY, REVERSAL, TRANSFER
from shared_ledger.writer import BatchReport

# When a series began is of no use here, and doubles what is scraped.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library left it untyped

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)


class Metrics:
    """The metrics of one service, in a registry of their own.

    ``queued`` tells how many postings wait, ``cached`` what each of the caches did.
    """

    def __init__(
        self, queued: Callable[[], int], cached: Callable[[], Iterable[CacheCounts]] = tuple
    ) -> None:
        self.registry = CollectorRegistry()
        self._entries = Counter(
            "shared_ledger_entries",
            "Entries written.",
            ["app", "operation"],
            registry=self.registry,
        )
        self._replays = Counter(
            "shared_ledger_replays",
            "Postings that had been posted before.",
            ["app", "operation"],
            registry=self.registry,
        )
        self._refusals = Counter(
            "shared_ledger_refusals",
            "Postings refused, by reason.",
            ["app", "operation", "reason"],
            registry=self.registry,
        )
        self._swept = Counter(
            "shared_ledger_swept_accounts",
            "Accounts of which what had expired was booked though nobody posted to them.",
            registry=self.registry,
        )
        self._batch_size = Histogram(
            "shared_ledger_batch_size",
            "Postings in one transaction.",
            buckets=_SIZES,
            registry=self.registry,
        )
        self._batch_seconds = Histogram(
            "shared_ledger_batch_seconds",
            "Time to load, decide, save and commit one batch.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._requests = Counter(
            "shared_ledger_http_requests",
            "HTTP requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._request_seconds = Histogram(
            "shared_ledger_http_request_seconds",
            "Time to answer an HTTP request.",
            ["method", "route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        # Finding the series of its labels takes longer than counting a request in them.
        self._request_series = lru_cache(maxsize=1_000)(self._label_request)
        queue = Gauge(
            "shared_ledger_queue_depth",
            "Postings that wait or are being written.",
            registry=self.registry,
        )
        queue.set_function(queued)
        self.registry.register(_Caches(cached))

    def batch(self, report: BatchReport) -> None:
        """Count what a lane did: once per batch, not once per posting."""
        self._batch_size.observe(len(report.commands))
        self._batch_seconds.observe(report.seconds)
        tally: Tally[tuple[str, str, str]] = Tally()
        # A batch that failed has no outcome for some of its commands.
        for command, outcome in zip(report.commands, report.outcomes, strict=False):
            # First and shortest what happens most.
            if isinstance(command, Command) and isinstance(outcome, Posted):
                kind = "replay" if outcome.replayed else "entry"
                tally[command.app, command.operation, kind] += 1
            else:
                tally.update(_counted(command, outcome))
                if isinstance(outcome, Swept) and outcome.entries:
                    self._swept.inc()
        for (app, operation, kind), count in tally.items():
            if kind == "entry":
                self._entries.labels(app, operation).inc(count)
            elif kind == "replay":
                self._replays.labels(app, operation).inc(count)
            else:
                self._refusals.labels(app, operation, kind).inc(count)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one HTTP request; ``route`` is the path's pattern, not the path."""
        counter, histogram = self._request_series(method, route, status)
        counter.inc()
        histogram.observe(seconds)

    def _label_request(self, method: str, route: str, status: int) -> tuple[Counter, Histogram]:
        return (
            self._requests.labels(method, route, status),
            self._request_seconds.labels(method, route),
        )


def _counted(command: AnyCommand, outcome: Decided) -> Iterable[tuple[str, str, str]]:
    """Give the labels of all that a command did: app, operation, and what became of it."""
    if isinstance(command, AtomicCommand):
        results: Sequence[Decided] = (
            outcome.results
            if isinstance(outcome, Together)
            # Refused as a whole, so each of it.
            else [outcome] * len(command.members)
        )
        for member, result in zip(command.members, results, strict=True):
            yield from _counted(member, result)
    elif isinstance(outcome, Swept):
        yield from map(_entry, outcome.entries)
    elif isinstance(outcome, Posted) and not outcome.replayed:
        yield from map(_entry, (outcome.entry, *outcome.group))
    elif isinstance(outcome, Posted):
        yield outcome.entry.app, outcome.entry.operation, "replay"
    elif isinstance(outcome, Held):
        kind = "replay" if outcome.replayed else "entry"
        yield outcome.hold.app, outcome.hold.operation, kind
    else:
        kind = outcome.code if isinstance(outcome, Refusal) else "failed"
        yield command.app, _operation(command), kind


def _entry(entry: Entry) -> tuple[str, str, str]:
    return entry.app, entry.operation, "entry"


def _operation(command: AnyCommand) -> str:
    """Name what a refused command would have done."""
    match command:
        case Command() | PlaceCommand():
            operation = command.operation
        case GroupCommand() | AtomicCommand():
            # One refusal, by the operation that its nonce belongs to.
            operation = _operation(command.members[0])
        case TransferCommand():
            operation = TRANSFER
        case ReverseCommand():
            operation = command.operation or REVERSAL
        case SweepCommand():
            operation = EXPIRY
        case CaptureCommand():
            # The operation is the hold's, which a refusal does not tell.
            operation = "capture"
        case ReleaseCommand():
            operation = "release"
    return operation


class _Caches(Collector):
    """What the caches count themselves, asked for when it is scraped."""

    def __init__(self, cached: Callable[[], Iterable[CacheCounts]]) -> None:
        self._cached = cached

    def collect(self) -> Iterable[CounterMetricFamily]:
        counts = list(self._cached())
        for name, about, value in (
            ("hits", "Balances found in Redis.", sum(each.hits for each in counts)),
            ("misses", "Balances not found in Redis.", sum(each.misses for each in counts)),
            ("failures", "Calls of Redis that failed.", sum(each.failures for each in counts)),
        ):
            yield CounterMetricFamily(f"shared_ledger_cache_{name}", about, value=value)


class MeasuredRequests:
    """ASGI middleware that counts and times requests."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            # A path that no route knows has no pattern, and must not become a label of its own.
            found = scope.get("route")
            route = "unknown" if found is None else scope.get("root_path", "") + found.path
            seconds = time.perf_counter() - began
            self._metrics.request(scope["method"], route, status, seconds)
