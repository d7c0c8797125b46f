"""What was written to the book, and what was refused, by application and operation."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shared_ledger.book import Entry, Held, Posted
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
from shared_ledger.operations import EXPIRY, REVERSAL, TRANSFER, Application
from shared_ledger.service.request_metrics import BUCKETS_S, Series
from shared_ledger.writer import BatchReport

_OPERATION = ("app", "operation")
_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)

_Counts = dict[tuple[str, ...], int]
"""By the values of labels."""

_kind = attrgetter("app", "operation", "asset", "amount")


class EntryMetrics(Collector):
    """Counts batch by batch, not posting by posting, and with one lock for each.

    Applications and operations are as many as were declared, and assets as many as rules name.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: _Counts = {}
        self._credited: _Counts = {}
        self._debited: _Counts = {}
        self._replays: _Counts = {}
        self._refusals: _Counts = {}
        self._swept = 0
        self._size = Series(_SIZES)
        self._seconds = Series(BUCKETS_S)
        self._wait = Series(BUCKETS_S)

    def begin(self, application: Application[Any]) -> None:
        """Begin the series of an application at 0: what is counted first is an increase, too."""
        for operation, rule in application.rules.items():
            self._entries[application.name, operation] = 0
            if rule.maximum > 0:
                self._credited[application.name, operation, rule.asset] = 0
            if rule.minimum < 0:
                self._debited[application.name, operation, rule.asset] = 0

    def batch(self, report: BatchReport) -> None:
        """Count what a lane did."""
        with self._lock:
            self._size.count(len(report.commands))
            self._seconds.count(report.seconds)
            self._wait.count(report.began - report.jobs[0].queued_at)
            self._count(report.commands, report.outcomes)

    def posted(self, outcomes: Iterable[tuple[AnyCommand, Decided]]) -> None:
        """Count what became of commands."""
        pairs = list(outcomes)
        with self._lock:
            self._count([command for command, _ in pairs], [outcome for _, outcome in pairs])

    def collect(self) -> Iterable[Metric]:
        """Give the metrics as they are now."""
        with self._lock:
            return [
                _counter("entries", "Entries written.", _OPERATION, self._entries),
                _counter(
                    "credited",
                    "What owners were given, in units of the asset.",
                    (*_OPERATION, "asset"),
                    self._credited,
                ),
                _counter(
                    "debited",
                    "What was taken from owners, in units of the asset.",
                    (*_OPERATION, "asset"),
                    self._debited,
                ),
                _counter(
                    "replays", "Postings that had been posted before.", _OPERATION, self._replays
                ),
                _counter(
                    "refusals",
                    "Postings refused, by reason.",
                    (*_OPERATION, "reason"),
                    self._refusals,
                ),
                _counter(
                    "swept_accounts",
                    "Accounts of which what had expired was booked though nobody posted to them.",
                    (),
                    {(): self._swept},
                ),
                _histogram("batch_size", "Postings in one transaction.", self._size),
                _histogram(
                    "batch_seconds",
                    "Time to load, decide, save and commit one batch.",
                    self._seconds,
                ),
                _histogram(
                    "queue_wait_seconds",
                    "How long the first posting of a batch had waited for it.",
                    self._wait,
                ),
            ]

    def _count(self, commands: Sequence[AnyCommand], outcomes: Sequence[Decided]) -> None:
        # First and shortest what happens most.
        entries = [
            outcome.entry
            for outcome in outcomes
            if type(outcome) is Posted and not outcome.replayed and not outcome.group
        ]
        if len(entries) < len(outcomes):
            entries = []
            # A batch that failed has no outcome for some of its commands.
            for command, outcome in zip(commands, outcomes, strict=False):
                entries += self._entries_of(command, outcome)
        # Most of a batch are of a few kinds.
        kinds = Counter(map(_kind, entries))
        for (app, operation, asset, amount), count in kinds.items():
            _add(self._entries, (app, operation), count)
            if amount > 0:
                _add(self._credited, (app, operation, asset), count * amount)
            elif amount < 0:
                _add(self._debited, (app, operation, asset), -count * amount)

    def _entries_of(self, command: AnyCommand, outcome: Decided) -> Sequence[Entry]:
        """Return the entries of one command; count at once what has none."""
        entries: list[Entry] = []
        for each, result in _apart(command, outcome):
            if isinstance(result, Swept):
                self._swept += bool(result.entries)
                entries += result.entries
            elif isinstance(result, Posted) and not result.replayed:
                entries += (result.entry, *result.group)
            elif isinstance(result, Posted):
                _add(self._replays, (result.entry.app, result.entry.operation), 1)
            elif isinstance(result, Held):
                # Its entry moves nothing.
                counts = self._replays if result.replayed else self._entries
                _add(counts, (result.hold.app, result.hold.operation), 1)
            else:
                reason = result.code if isinstance(result, Refusal) else "failed"
                _add(self._refusals, (each.app, _operation(each), reason), 1)
        return entries


def _add(counts: _Counts, labels: tuple[str, ...], more: int) -> None:
    counts[labels] = counts.get(labels, 0) + more


def _counter(name: str, about: str, labels: Sequence[str], counts: _Counts) -> Metric:
    counter = CounterMetricFamily(f"shared_ledger_{name}", about, labels=labels)
    for values, count in counts.items():
        counter.add_metric(values, count)
    return counter


def _histogram(name: str, about: str, series: Series) -> Metric:
    return HistogramMetricFamily(
        f"shared_ledger_{name}", about, buckets=series.buckets(), sum_value=series.sum
    )


def _apart(command: AnyCommand, outcome: Decided) -> Iterator[tuple[AnyCommand, Decided]]:
    """Give each command of an atomic batch with what became of it."""
    if not isinstance(command, AtomicCommand):
        yield command, outcome
        return
    results: Sequence[Decided] = (
        outcome.results
        if isinstance(outcome, Together)
        # Refused as a whole, so each of it.
        else [outcome] * len(command.members)
    )
    for member, result in zip(command.members, results, strict=True):
        yield from _apart(member, result)


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
