"""Answer many waiting coroutines at once: one call into their event loop, not one for each."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Generic, TypeVar

from shared_ledger.errors import LedgerError

T = TypeVar("T")


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
