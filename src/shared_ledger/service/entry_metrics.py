"""What was written to the book, and what was refused, by application and operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram

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
from shared_ledger.service.request_metrics import BUCKETS_S
from shared_ledger.writer import BatchReport

_SIZES = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000)


class EntryMetrics:
    """Counts batch by batch, not posting by posting.

    Applications and operations are as many as were declared, and assets as many as rules name.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._entries = Counter(
            "shared_ledger_entries",
            "Entries written.",
            ["app", "operation"],
            registry=registry,
        )
        self._credited = Counter(
            "shared_ledger_credited",
            "What owners were given, in units of the asset.",
            ["app", "operation", "asset"],
            registry=registry,
        )
        self._debited = Counter(
            "shared_ledger_debited",
            "What was taken from owners, in units of the asset.",
            ["app", "operation", "asset"],
            registry=registry,
        )
        self._replays = Counter(
            "shared_ledger_replays",
            "Postings that had been posted before.",
            ["app", "operation"],
            registry=registry,
        )
        self._refusals = Counter(
            "shared_ledger_refusals",
            "Postings refused, by reason.",
            ["app", "operation", "reason"],
            registry=registry,
        )
        self._swept = Counter(
            "shared_ledger_swept_accounts",
            "Accounts of which what had expired was booked though nobody posted to them.",
            registry=registry,
        )
        self._size = Histogram(
            "shared_ledger_batch_size",
            "Postings in one transaction.",
            buckets=_SIZES,
            registry=registry,
        )
        self._seconds = Histogram(
            "shared_ledger_batch_seconds",
            "Time to load, decide, save and commit one batch.",
            buckets=BUCKETS_S,
            registry=registry,
        )
        self._wait = Histogram(
            "shared_ledger_queue_wait_seconds",
            "How long the first posting of a batch had waited for it.",
            buckets=BUCKETS_S,
            registry=registry,
        )

    def begin(self, application: Application[Any]) -> None:
        """Begin the series of an application at 0: what is counted first is an increase, too."""
        for operation, rule in application.rules.items():
            self._entries.labels(application.name, operation)
            if rule.maximum > 0:
                self._credited.labels(application.name, operation, rule.asset)
            if rule.minimum < 0:
                self._debited.labels(application.name, operation, rule.asset)

    def batch(self, report: BatchReport) -> None:
        """Count what a lane did."""
        self._size.observe(len(report.commands))
        self._seconds.observe(report.seconds)
        self._wait.observe(report.began - report.jobs[0].queued_at)
        # A batch that failed has no outcome for some of its commands.
        self.posted(zip(report.commands, report.outcomes, strict=False))

    def posted(self, outcomes: Iterable[tuple[AnyCommand, Decided]]) -> None:
        """Count what became of commands."""
        counts: dict[tuple[str, str, str, int], int] = {}
        for command, outcome in outcomes:
            # First and shortest what happens most.
            if type(command) is Command and type(outcome) is Posted and not outcome.replayed:
                entries: Sequence[Entry] = (outcome.entry,)
            else:
                entries = self._others(command, outcome)
            for entry in entries:
                key = (entry.app, entry.operation, entry.asset, entry.amount)
                counts[key] = counts.get(key, 0) + 1
        sums: dict[tuple[str, str, str], _Sum] = {}
        for (app, operation, asset, amount), count in counts.items():
            sums.setdefault((app, operation, asset), _Sum()).add(amount, count)
        for (app, operation, asset), found in sums.items():
            self._entries.labels(app, operation).inc(found.entries)
            if found.credited:
                self._credited.labels(app, operation, asset).inc(found.credited)
            if found.debited:
                self._debited.labels(app, operation, asset).inc(found.debited)

    def _others(self, command: AnyCommand, outcome: Decided) -> Sequence[Entry]:
        """Return the entries of one command; count at once what has none."""
        entries: list[Entry] = []
        for each, result in _apart(command, outcome):
            if isinstance(result, Swept):
                self._swept.inc(bool(result.entries))
                entries += result.entries
            elif isinstance(result, Posted) and not result.replayed:
                entries += (result.entry, *result.group)
            elif isinstance(result, Posted):
                self._replays.labels(result.entry.app, result.entry.operation).inc()
            elif isinstance(result, Held):
                # Its entry moves nothing.
                counter = self._replays if result.replayed else self._entries
                counter.labels(result.hold.app, result.hold.operation).inc()
            else:
                reason = result.code if isinstance(result, Refusal) else "failed"
                self._refusals.labels(each.app, _operation(each), reason).inc()
        return entries


class _Sum:
    """What was written of one operation in one asset."""

    __slots__ = ("credited", "debited", "entries")

    def __init__(self) -> None:
        self.entries = self.credited = self.debited = 0

    def add(self, amount: int, count: int) -> None:
        self.entries += count
        if amount > 0:
            self.credited += count * amount
        else:
            self.debited -= count * amount


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
