"""Trying again: at once after a conflict, later and later after a failure."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from shared_ledger.messages.errors import ConcurrentChange

TRIES = 5
_FIRST_PAUSE_S = 0.01

T = TypeVar("T")


async def retried(work: Callable[[], Awaitable[T]], *, tries: int = TRIES) -> T:
    """Do work, a whole unit of work or more, again if somebody else was there first.

    ::

        await retried(lambda: place_order(make_unit_of_work, command))

    Raises
    ------
    ConcurrentChange
        If that was so each time.
    """
    pauses = Retries(first_s=_FIRST_PAUSE_S)
    for attempt in range(1, tries):
        try:
            return await work()
        except ConcurrentChange:
            await asyncio.sleep(pauses.delay_s(attempt))
    return await work()


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a message is tried before it is dead, and how long it waits in between."""

    attempts: int = 10
    first_s: float = 1.0
    longest_s: float = 300.0

    def delay_s(self, failures: int) -> float:
        """Return how long to wait after so many failures: twice as long each time.

        By chance it is up to a half less: what failed together does not come back together.
        """
        longest = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 60))
        return longest * random.uniform(0.5, 1)  # noqa: S311  # No secret.
