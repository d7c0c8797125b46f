"""What callers submit to the writer: one command of a coroutine, or a batch that may be cut in two.

A job waits in a lane, with others; it is answered when all of it is written, or cannot be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from shared_ledger.commands import AnyCommand
from shared_ledger.decide import Decided
from shared_ledger.errors import LedgerError
from shared_ledger.group import Waiting, answer
from shared_ledger.origin import ORIGIN


class Single(Waiting[Decided]):
    """One command of one coroutine, which waits.

    Attributes
    ----------
    commands
        What is to be written.
    origin
        What ``ORIGIN`` was where it was submitted.
    queued_at
        When that was, by the monotonic clock.
    """

    __slots__ = ("commands", "origin", "queued_at")

    def __init__(self, command: AnyCommand) -> None:
        super().__init__()
        self.commands = (command,)
        self.origin = ORIGIN.get()
        self.queued_at = time.monotonic()


class Part:
    """The commands of a batch that go to one lane; attributes as those of ``Single``.

    Their ``positions`` are those in the ``whole``: ``None`` if they are all of it.
    """

    __slots__ = ("commands", "origin", "positions", "queued_at", "whole")

    def __init__(
        self, commands: Sequence[AnyCommand], positions: Sequence[int] | None, whole: Whole
    ) -> None:
        self.commands = commands
        self.positions = positions
        self.whole = whole
        self.origin = ORIGIN.get()
        self.queued_at = time.monotonic()


class Whole:
    """A caller's batch: answered when its last part is."""

    __slots__ = ("_failure", "_lock", "_outcomes", "_waiting", "future")

    def __init__(self, size: int, parts: int) -> None:
        self.future: Future[list[Decided]] = Future()
        self._outcomes: list[Any] = [None] * size
        self._waiting = parts
        self._failure: LedgerError | None = None
        self._lock = threading.Lock()

    def answer(
        self,
        positions: Sequence[int] | None,
        outcomes: list[Decided],
        failure: LedgerError | None,
    ) -> None:
        """Take the outcomes of a part, or why there are none; the last one answers the caller."""
        with self._lock:
            if failure is not None:
                self._failure = failure
            elif positions is None:
                self._outcomes = outcomes
            else:
                for position, outcome in zip(positions, outcomes, strict=True):
                    self._outcomes[position] = outcome
            self._waiting -= 1
            last = self._waiting == 0
        if last and self.future.set_running_or_notify_cancel():
            if self._failure is not None:
                self.future.set_exception(self._failure)
            else:
                self.future.set_result(self._outcomes)


Job = Single | Part


def answer_all(jobs: Sequence[Job], outcomes: list[Decided], failure: LedgerError | None) -> None:
    """Answer the jobs that were written whole, and tell the others why they were not."""
    coroutines: list[tuple[Waiting[Decided], Decided | LedgerError]] = []
    start = 0
    for job in jobs:
        end = start + len(job.commands)
        error = failure if end > len(outcomes) else None
        if isinstance(job, Part):
            job.whole.answer(job.positions, outcomes[start:end], error)
        else:
            coroutines.append((job, error or outcomes[start]))
        start = end
    answer(coroutines)
