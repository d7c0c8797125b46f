"""Group commit: the postings that wait are written together, and one commit serves them all.

A writer has lanes. A lane is a thread with a queue and a connection: it takes everything that is
waiting (up to a limit), loads, decides, saves, commits, and answers every caller. A posting goes to
the lane of its owner, so that two lanes seldom want the same account, and one decides while the
database works for another (docs/decisions/0002); what is submitted of an owner in batches is
written in that order. Lanes and processes need not know of each other: the database's locks decide
between them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from shared_ledger.book import AccountKey, Posted
from shared_ledger.commands import AnyCommand, AtomicCommand, GroupCommand
from shared_ledger.decide import Decided, Decision
from shared_ledger.errors import (
    AccountBusy,
    LedgerClosed,
    LedgerError,
    LedgerOverloaded,
    LedgerUnavailable,
    NonceReused,
    Refusal,
    RejectedByDatabase,
)
from shared_ledger.group import Queue
from shared_ledger.jobs import Job, Part, Single, Whole, answer_all
from shared_ledger.store import Conflict, Doubtful, Rejected, Store, Unreachable

_log = logging.getLogger("shared_ledger.writer")

SWITCH_INTERVAL_S = 0.001
"""What a program that does nothing but post gives to ``sys.setswitchinterval``.

A lane waits for the interpreter up to this long at each turn. Python's default of 5 ms is several
times what a whole batch takes; shorter than this costs more than it gains.
"""
LANES = 2
MAX_BATCH = 5_000
MAX_QUEUE = 50_000
PIECE = 250
# A transaction costs as much as a hundred commands; single ones are not spread until more wait.
SPREAD_FROM = 200
GIVE_UP_AFTER_S = 10.0
FIRST_PAUSE_S = 0.05
LAST_PAUSE_S = 1.0
MAX_CONFLICTS = 20
# After a replay more are likely, so nonces are looked up before writing for that many batches;
# after a refusal accounts are read before they are changed.
CAREFUL_BATCHES = 8


@dataclass(frozen=True, slots=True)
class BatchReport:
    """What a lane did with one batch, for metrics.

    The lane took the jobs at ``began``, by the monotonic clock, and had done with them ``seconds``
    later; ``queued`` commands are left.
    """

    outcomes: Sequence[Decided]
    commands: Sequence[AnyCommand]
    seconds: float
    queued: int
    jobs: Sequence[Job]
    began: float


_WHOLE = frozenset((GroupCommand, AtomicCommand))


class _Lane(threading.Thread):
    """One thread, one connection, one queue."""

    def __init__(
        self,
        number: int,
        connect: Callable[[], Store],
        gate: threading.Lock,
        *,
        max_batch: int,
        observe: Callable[[BatchReport], None] | None,
        forget: Callable[[Collection[AccountKey]], None] | None,
    ) -> None:
        super().__init__(name=f"shared-ledger-writer-{number}", daemon=True)
        self.queued = 0
        """How many commands wait or are being written; changed behind the writer's gate."""
        self._connect = connect
        self._store: Store | None = None
        self._gate = gate
        self._max_batch = max_batch
        self._observe = observe
        self._forget = forget
        self._jobs: Queue[Job] = Queue(weight=lambda job: len(job.commands))
        self._careful = 0
        self._reading = 0
        self._reachable = True

    def put(self, job: Job) -> None:
        """Let a job wait for this lane."""
        self.queued += len(job.commands)
        self._jobs.put(job)

    def end(self) -> None:
        """End when everything that waits is written."""
        self._jobs.end()

    def run(self) -> None:
        while jobs := self._jobs.take(self._max_batch):
            self._serve(jobs)
        if self._store is not None:
            self._store.close()

    def _serve(self, jobs: list[Job]) -> None:
        commands = [command for job in jobs for command in job.commands]
        began = time.monotonic()
        outcomes: list[Decided] = []
        failure: LedgerError | None = None
        try:
            for start in range(0, len(commands), self._max_batch):
                outcomes += self._write(commands[start : start + self._max_batch])
        except LedgerError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # A lane that died would leave its callers waiting.
            if self._store is not None:
                self._store.close()
                self._store = None
            failure = LedgerUnavailable(f"the writer failed: {type(error).__name__}: {error}")
            failure.__cause__ = error
        with self._gate:
            self.queued -= len(commands)
        if self._observe is not None:
            seconds = time.monotonic() - began
            try:
                self._observe(BatchReport(outcomes, commands, seconds, self.queued, jobs, began))
            except Exception:  # noqa: BLE001  # Whoever only watches leaves no caller waiting.
                _log.exception("the observer of the writer failed")
        if self._forget is not None:
            # Whoever is answered finds no older balance kept, whatever the answer is: a replay, or
            # a refusal, may be the first to tell of what another process wrote.
            try:
                self._forget({key for command in commands for key in command.keys})
            except Exception:  # noqa: BLE001  # It must leave no caller waiting either.
                _log.exception("what was written could not be removed from the cache")
        answer_all(jobs, outcomes, failure)

    def _write(self, commands: Sequence[AnyCommand]) -> list[Decided]:
        """Write one batch, retrying what can be retried: nonces make that safe."""
        give_up_at = time.monotonic() + (GIVE_UP_AFTER_S if self._reachable else 0)
        pause = FIRST_PAUSE_S
        conflicts = 0
        retry = lost = False
        while True:
            try:
                outcomes = self._try(commands, careful=retry or self._careful > 0)
            except Doubtful:
                self._reading = CAREFUL_BATCHES
            except Conflict as error:
                retry = True
                conflicts += 1
                if conflicts > MAX_CONFLICTS:
                    return self._split(commands, Rejected(str(error), busy=True))
            except Rejected as error:
                # It may be the lost transaction itself that holds the lock, still at its commit:
                # a refusal would say that nothing was recorded.
                if error.busy and lost:
                    raise LedgerUnavailable(f"the connection was lost: {error}") from error
                return self._split(commands, error)
            except (Unreachable, LedgerUnavailable) as error:
                self._store = None
                # Whether the batch was committed is not known: look its nonces up next time.
                retry = lost = True
                if time.monotonic() >= give_up_at:
                    self._reachable = False
                    raise LedgerUnavailable(str(error)) from error
                time.sleep(pause)
                pause = min(2 * pause, LAST_PAUSE_S)
            else:
                self._reachable = True
                return outcomes

    def _try(self, commands: Sequence[AnyCommand], *, careful: bool) -> list[Decided]:
        if self._store is None:
            self._store = self._connect()
        # What is all or nothing is decided knowing every nonce.
        careful = careful or not _WHOLE.isdisjoint(map(type, commands))
        book = self._store.load(commands, careful=careful, advance=not self._reading)
        decision = Decision(book)
        changes = decision.changes
        # The database stores one piece while the next is decided; but accounts are opened before
        # any entry is stored, so a batch that may open one is decided whole. So is one that may
        # need more ids than it has commands.
        size = PIECE if self._store.plain and not self._store.opens else len(commands)
        outcomes: list[Decided] = []
        for start in range(0, len(commands), size):
            written = len(changes.entries)
            outcomes += decision.take(commands[start : start + size])
            if self._store.advanced and not all(map(_is_new, outcomes[start:])):
                self._store.rollback()
                raise Doubtful("not every posting is a new entry")
            if self._store.opens:
                self._store.open_accounts(book, changes)
            if len(changes.entries) > written:
                self._store.append(changes.entries[written:])
        replays = len(book.entries)
        if not careful:
            replays = self._recognise(decision, commands, outcomes)
        self._store.commit(book, changes)
        if self._reading:
            refused = any(isinstance(outcome, Refusal) for outcome in outcomes)
            self._reading = CAREFUL_BATCHES if refused else self._reading - 1
        if careful or replays:
            self._careful = CAREFUL_BATCHES if replays else max(self._careful - 1, 0)
        return outcomes

    def _recognise(
        self, decision: Decision, commands: Sequence[AnyCommand], outcomes: list[Decided]
    ) -> int:
        """Look up the nonces of what was refused as if new; return how many were not.

        A new entry's nonce is checked by the index that it is written to, a refusal's by nothing:
        the repetition of what spent an owner's last credit must give that entry. Neither a refusal
        nor a replay changes the book, so that the rest of the batch stands.
        """
        refused = [
            position
            for position, outcome in enumerate(outcomes)
            if isinstance(outcome, Refusal) and not isinstance(outcome, NonceReused)
        ]
        if not refused or self._store is None:
            return 0
        entries = self._store.find([commands[position] for position in refused])
        # A nonce that a refusal left free may have been used later in this batch.
        new = {entry.id for entry in decision.changes.entries}
        replays = 0
        for position in refused:
            command = commands[position]
            entry = entries.get((command.owner_id, command.app, command.nonce))
            if entry is not None and entry.id not in new:
                if entry.hold_id is not None or entry.group_id is not None:
                    # More than the entry is needed to answer.
                    self._store.rollback()
                    raise Conflict("a nonce was used before")
                outcomes[position] = decision.replay(entry, command)
                replays += 1
        return replays

    def _split(self, commands: Sequence[AnyCommand], error: Rejected) -> list[Decided]:
        """Write what the database refuses apart from the rest, until it is alone; refuse that."""
        locked: set[AccountKey] = set()
        if error.busy and not error.system and self._store is not None:
            # Looking is faster than waiting for one half after the other. Some of these may be
            # locked for a moment only, and are written with the second part.
            locked = self._store.busy(commands)
        causes: list[Any]
        if not error.busy:
            causes = list(range(len(commands)))
        elif error.system:
            causes = [(command.counterparty, command.asset) for command in commands]
        else:
            causes = [
                next((key for key in command.keys if key in locked), command.keys[0])
                for command in commands
            ]
        suspects = sorted(set(causes))
        if len(suspects) == 1:
            return [
                AccountBusy(command.owner_id)
                if error.busy
                else RejectedByDatabase(command.owner_id, command.nonce, reason=str(error))
                for command in commands
            ]
        apart = set(suspects[len(suspects) // 2 :])
        if 0 < len(locked.intersection(suspects)) < len(suspects):
            apart = locked.intersection(suspects)
        outcomes: dict[int, Decided] = {}
        for second in (False, True):
            part = [index for index, cause in enumerate(causes) if (cause in apart) is second]
            outcomes.update(zip(part, self._write([commands[i] for i in part]), strict=True))
        return [outcomes[index] for index in range(len(commands))]


def _is_new(outcome: Decided) -> bool:
    return type(outcome) is Posted and not outcome.replayed


class Writer:
    """The writer of one process: ``submit`` from threads, ``submit_async`` from coroutines.

    Parameters
    ----------
    connect
        Opens a connection to the book; called by each lane, and again when a connection is lost.
    lanes
        How many threads and connections.
    max_batch, max_queue
        The most commands in one transaction, and waiting in one lane.
    observe
        Called by the lanes' threads after each batch.
    forget
        Called by them after each batch and before its callers are answered, with its accounts.
    """

    def __init__(
        self,
        connect: Callable[[], Store],
        *,
        lanes: int = LANES,
        max_batch: int = MAX_BATCH,
        max_queue: int = MAX_QUEUE,
        observe: Callable[[BatchReport], None] | None = None,
        forget: Callable[[Collection[AccountKey]], None] | None = None,
    ) -> None:
        self._process = os.getpid()
        self._gate = threading.Lock()
        self._closed = False
        self._max_queue = max_queue
        self._lanes = [
            _Lane(number, connect, self._gate, max_batch=max_batch, observe=observe, forget=forget)
            for number in range(lanes)
        ]
        for lane in self._lanes:
            lane.start()

    @property
    def queued(self) -> int:
        """How many commands wait or are being written."""
        return sum(lane.queued for lane in self._lanes)

    @property
    def fullness(self) -> float:
        """How full the fullest queue is, from 0 to 1; a batch may be larger than a queue."""
        return max(lane.queued for lane in self._lanes) / self._max_queue

    def submit(self, commands: Sequence[AnyCommand]) -> Future[list[Decided]]:
        """Queue commands; the future gives an outcome for each, in order.

        Raises
        ------
        LedgerOverloaded
            If a queue is full; nothing was queued.
        LedgerClosed
            If the writer is closed, or was opened by another process.
        """
        positions: dict[_Lane, list[int]] = {}
        for position, command in enumerate(commands):
            positions.setdefault(self._lane_of(command), []).append(position)
        whole = Whole(len(commands), len(positions))
        if not commands:
            whole.future.set_result([])
        elif len(positions) == 1:
            self._put({lane: Part(commands, None, whole) for lane in positions})
        else:
            self._put(
                {
                    lane: Part([commands[index] for index in indices], indices, whole)
                    for lane, indices in positions.items()
                }
            )
        return whole.future

    def submit_async(self, command: AnyCommand) -> asyncio.Future[Decided]:
        """Queue one command for the running event loop.

        The future gives the posted entry, or raises the refusal. Raises as ``submit``.
        """
        self.check_open()
        job = Single(command)
        # While little waits, one lane's larger transactions are cheaper than those of two.
        first = self._lanes[0]
        lane = first if first.queued < SPREAD_FROM else self._lane_of(command)
        with self._gate:
            self._check_room(lane, job)
            lane.put(job)
        return job.future

    def close(self) -> None:
        """Write what was taken, answer it, and close the connections.

        In a forked child there is nothing to close: it all is the parent's.
        """
        # First of all, since the gate may have been copied while a thread of the parent held it.
        if os.getpid() != self._process:
            return
        with self._gate:
            if not self._closed:
                self._closed = True
                for lane in self._lanes:
                    lane.end()
        for lane in self._lanes:
            lane.join()

    def check_open(self) -> None:
        """Raise ``LedgerClosed`` if the writer is closed, or was opened by another process."""
        # Threads do not survive a fork: what the child queued would wait for ever.
        if os.getpid() != self._process:
            raise LedgerClosed(
                "the ledger was opened before this process was forked: open it after"
            )
        if self._closed:
            raise LedgerClosed

    def _put(self, jobs: Mapping[_Lane, Job]) -> None:
        """Queue all of the jobs or none."""
        self.check_open()
        with self._gate:
            for lane, job in jobs.items():
                self._check_room(lane, job)
            for lane, job in jobs.items():
                lane.put(job)

    def _check_room(self, lane: _Lane, job: Job) -> None:
        if self._closed:
            raise LedgerClosed
        # A batch larger than the whole queue is taken when nothing else waits.
        if lane.queued and lane.queued + len(job.commands) > self._max_queue:
            raise LedgerOverloaded

    def _lane_of(self, command: AnyCommand) -> _Lane:
        return self._lanes[hash(command.owner_id) % len(self._lanes)]
