"""What group commit and group reading share: take all that waits, and answer all at once.

Coroutines are answered with one call into their event loop for a whole group, not one for each.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

from shared_ledger.errors import LedgerError

T = TypeVar("T")


class Queue(Generic[T]):
    """Jobs that wait for one thread, which takes as many as there are.

    ``weight`` tells how much of the limit a job takes up.
    """

    def __init__(self, weight: Callable[[T], int] = lambda _: 1) -> None:
        self._jobs: SimpleQueue[T | None] = SimpleQueue()
        self._weight = weight
        self._ended = False

    def put(self, job: T) -> None:
        """Let a job wait."""
        self._jobs.put(job)

    def end(self) -> None:
        """Say that no job follows."""
        self._jobs.put(None)

    def take(self, limit: int) -> list[T]:
        """Wait for a job and take all that wait by then, up to the limit; none at the end."""
        taken: list[T] = []
        job = None if self._ended else self._jobs.get()
        while job is not None:
            taken.append(job)
            limit -= self._weight(job)
            if limit <= 0:
                return taken
            try:
                job = self._jobs.get_nowait()
            except Empty:
                return taken
        self._ended = True
        return taken


class Waiting(Generic[T]):
    """A coroutine that waits for a value from another thread."""

    __slots__ = ("future", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()


def answer(answers: Iterable[tuple[Waiting[T], T | LedgerError]]) -> None:
    """Give every coroutine its value, or raise the error in it; callable from any thread."""
    loops: dict[asyncio.AbstractEventLoop, list[tuple[asyncio.Future[T], T | LedgerError]]] = {}
    for waiting, value in answers:
        loops.setdefault(waiting.loop, []).append((waiting.future, value))
    for loop, values in loops.items():
        # A loop that was closed while its coroutines waited has nobody left to be told.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, values)


def _resolve(values: list[tuple[asyncio.Future[T], T | LedgerError]]) -> None:
    for future, value in values:
        if future.done():  # Its coroutine was cancelled.
            continue
        if isinstance(value, LedgerError):
            future.set_exception(value)
        else:
            future.set_result(value)
