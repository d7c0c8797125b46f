"""Waiting a moment for the end of what other contexts take part in, so that a caller is told it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

PATIENCE_S = 3.0
_FIRST_PAUSE_S = 0.01
_LONGEST_PAUSE_S = 0.2

T = TypeVar("T")


async def until(look: Callable[[], Awaitable[T]], is_decided: Callable[[T], bool]) -> T:
    """Look until it is decided, or the patience ends; return what was seen last."""
    ends = time.monotonic() + PATIENCE_S
    pause = _FIRST_PAUSE_S
    while not is_decided(seen := await look()) and time.monotonic() < ends:
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
    return seen
