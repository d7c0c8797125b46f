"""Telling a task that there may be something to do, or that it is time to end."""

from __future__ import annotations

import asyncio


class Bell:
    """Rung when something may be there; a ring while nobody waits is heard by who waits next."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()
        self._closed = asyncio.Event()

    @property
    def closed(self) -> bool:
        """Whether to end."""
        return self._closed.is_set()

    def ring(self) -> None:
        """Wake who waits."""
        self._rung.set()

    def close(self) -> None:
        """Ring for the last time: from now on nobody waits or pauses."""
        self._closed.set()
        self._rung.set()

    async def wait(self, longest_s: float) -> None:
        """Wait for a ring, but not for ever: notifications can be lost."""
        if await _set_within(self._rung, longest_s) and not self.closed:
            self._rung.clear()

    async def pause(self, seconds: float) -> None:
        """Wait whatever rings."""
        await _set_within(self._closed, seconds)


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
    return True
