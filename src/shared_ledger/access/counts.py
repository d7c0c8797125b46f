"""How often something was done lately: counts by name; limits are the library's, ``limits``.

A window of a name begins with the first of it and ends after its length, whatever happens in it;
what is refused counts as well. So within one window never more than the limit passes, and in any
other time of that length at most twice as much.

Counts are in this process's memory, or in Redis, where all processes share them. That takes a
round trip for each, 0.1 ms of which two thirds are this process's own work (Redis on the same
machine), where the memory takes 2 µs. So limits of more than ``SHARED_UP_TO_PER_S`` stay in the
memory of each process: they stop what runs away, and need not be exact.

While Redis is away or slow the memory counts, and nobody is told but the log. From the first call
that fails or takes longer than ``CALL_TIMEOUT_S`` it is tried once in ``RETRY_S``.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit, urlunsplit

from limits import RateLimitItem, parse_many
from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.redispy import RedispyBridge
from limits.aio.strategies import FixedWindowRateLimiter as SharedFixedWindow
from limits.errors import StorageError

from shared_ledger.errors import ConfigurationError

SHARED_UP_TO_PER_S = 1_000
MAX_REMEMBERED = 20_000
MAX_WINDOW_S = 86_400
CALL_TIMEOUT_S = 0.25
RETRY_S = 1.0
CONNECTIONS = 10
PREFIX = "shared-ledger:limits"

_PORT = 6379

_Key = tuple[str, str]
"""A limit's text, and a name."""
_NONE = (0, 0.0)

_T = TypeVar("_T")

_log = logging.getLogger("shared_ledger.access")


class Limit:
    """So many in so much time, as ``limits`` writes it: ``600/minute``, ``10/5minutes``.

    Raises
    ------
    ConfigurationError
        If it is not one limit, of at least 1 in at most a day.
    """

    __slots__ = ("amount", "item", "seconds", "shared", "text")

    def __init__(self, text: str) -> None:
        self.text = text
        self.item = _parsed(text)
        self.amount = self.item.amount
        self.seconds = self.item.get_expiry()
        self.shared = self.amount <= SHARED_UP_TO_PER_S * self.seconds


class Counts:
    """Counts by name; with the URL of a Redis those of all processes together."""

    def __init__(self, redis_url: str | None = None) -> None:
        self._memory = Memory()
        self._shared = _Shared(redis_url) if redis_url else None

    def shares(self, limit: Limit) -> bool:
        """Tell whether all processes count this together; otherwise ``take_here`` will do."""
        return limit.shared and self._shared is not None

    def take_here(self, limit: Limit, name: str) -> int:
        """Count one more of a name in this process; return as ``take``."""
        key = (limit.text, name)
        if self._memory.add(key, limit.seconds) <= limit.amount:
            return 0
        return self._wait_s(limit, key)

    async def take(self, limit: Limit, name: str) -> int:
        """Count one more of a name; return 0, or in how many whole seconds there is room again."""
        if self._shared is not None and limit.shared:
            key = (limit.text, name)
            # Who was refused is refused until his window ends: that needs no asking.
            if wait_s := self._wait_s(limit, key):
                return wait_s
            try:
                if wait_s := await self._shared.take(limit, name):
                    self._memory.fill(key, limit.amount, wait_s)
            except _Unusable:
                pass
            else:
                return wait_s
        return self.take_here(limit, name)

    async def give_back(self, limit: Limit, name: str) -> None:
        """Count one less of a name: it need not have been counted."""
        if self._shared is not None and limit.shared:
            try:
                await self._shared.give_back(limit, name)
            except _Unusable:
                pass
            else:
                self._memory.clear((limit.text, name))
                return
        self._memory.add((limit.text, name), limit.seconds, -1)

    async def check(self) -> bool | None:
        """Tell whether Redis answers; ``None`` if there is none."""
        return None if self._shared is None else await self._shared.check()

    async def close(self) -> None:
        """Let go of Redis."""
        if self._shared is not None:
            await self._shared.close()

    def _wait_s(self, limit: Limit, key: _Key) -> int:
        """Tell how long the memory has no room for one more."""
        count, left_s = self._memory.get(key)
        return 0 if count < limit.amount else max(1, math.ceil(left_s))


class Memory:
    """What is counted in this process.

    The library's own looks at all names a hundred times a second, and forgets none before its time.
    """

    def __init__(self) -> None:
        # Of each key how many, and when its window ends. The oldest windows come first.
        self._windows: dict[_Key, tuple[int, float]] = {}

    def add(self, key: _Key, seconds: float, amount: int = 1) -> int:
        """Count more of a key, in a window of so many seconds if there is none; return how many."""
        now = time.monotonic()
        count, ends = self._windows.get(key, _NONE)
        if now < ends:
            count += amount
            self._windows[key] = count, ends
            return count
        # What is given back after its window needs no other.
        if amount > 0:
            self._begin(key, amount, now + seconds)
        return max(0, amount)

    def fill(self, key: _Key, count: int, seconds: float) -> None:
        """Begin a window with a count."""
        self._begin(key, count, time.monotonic() + seconds)

    def get(self, key: _Key) -> tuple[int, float]:
        """Return how many there are of a key, and in how many seconds its window ends."""
        count, ends = self._windows.get(key, _NONE)
        left_s = ends - time.monotonic()
        return (count, left_s) if left_s > 0 else _NONE

    def clear(self, key: _Key) -> None:
        """Forget a key."""
        self._windows.pop(key, None)

    def _begin(self, key: _Key, count: int, ends: float) -> None:
        self._windows.pop(key, None)
        while len(self._windows) >= MAX_REMEMBERED:
            del self._windows[next(iter(self._windows))]
        self._windows[key] = count, ends


class _Unusable(Exception):
    """Redis did not answer in time, or is not asked now."""


class _Shared:
    """A Redis that may go away and come back."""

    def __init__(self, url: str) -> None:
        self._storage = RedisStorage(
            _for_limits(url),
            implementation="redispy",
            wrap_exceptions=True,
            key_prefix=PREFIX,
            socket_connect_timeout=CALL_TIMEOUT_S,
            socket_timeout=CALL_TIMEOUT_S,
            client_name="shared-ledger",
        )
        self._limiter = SharedFixedWindow(self._storage)
        # More at once would each open a connection.
        self._room = asyncio.Semaphore(CONNECTIONS)
        self._down = False
        self._again_at = 0.0

    async def take(self, limit: Limit, name: str) -> int:
        """Count one more; return as ``Counts.take``.

        Raises
        ------
        _Unusable
            If Redis cannot be asked.
        """
        return await self._call(self._take, limit, name)

    async def give_back(self, limit: Limit, name: str) -> None:
        """Count one less; raises as ``take``."""
        await self._call(self._give_back, limit, name)

    async def check(self) -> bool:
        """Tell whether it answers."""
        try:
            return await _in_time(self._storage.check())
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await cast("RedispyBridge", self._storage.bridge).storage.aclose()

    async def _take(self, limit: Limit, name: str) -> int:
        if await self._limiter.hit(limit.item, name):
            return 0
        ends = await self._storage.get_expiry(limit.item.key_for(name))
        # Redis rounds to the nearest second: one more is never too early.
        wait_s = math.ceil(ends - time.time()) + 1
        return max(1, min(wait_s, limit.seconds))

    async def _give_back(self, limit: Limit, name: str) -> None:
        await self._limiter.hit(limit.item, name, cost=-1)

    async def _call(
        self, call: Callable[[Limit, str], Awaitable[_T]], limit: Limit, name: str
    ) -> _T:
        if self._down:
            if time.monotonic() < self._again_at:
                raise _Unusable
            # This call tries it; the others do not wait for that.
            self._again_at = time.monotonic() + RETRY_S
        try:
            done = await _in_time(self._in_turn(call, limit, name))
        except (StorageError, TimeoutError) as error:
            self._fail(str(error) or "it does not answer in time")
            raise _Unusable from None
        if self._down:
            self._down = False
            _log.warning("Redis answers again: limits are those of all processes together")
        return done

    async def _in_turn(
        self, call: Callable[[Limit, str], Awaitable[_T]], limit: Limit, name: str
    ) -> _T:
        async with self._room:
            return await call(limit, name)

    def _fail(self, reason: str) -> None:
        self._again_at = time.monotonic() + RETRY_S
        if not self._down:
            self._down = True
            _log.warning("Redis cannot be used, so each process counts for itself: %s", reason)


async def _in_time(call: Coroutine[Any, Any, _T]) -> _T:
    """Wait for Redis; raise ``TimeoutError`` if it takes too long.

    ``asyncio.timeout`` is not enough: redis-py may miss that it was cancelled, and wait on.
    """
    task = asyncio.create_task(call)
    task.add_done_callback(_take_note)
    answered, _ = await asyncio.wait({task}, timeout=CALL_TIMEOUT_S)
    if not answered:
        task.cancel()
        raise TimeoutError
    return task.result()


def _take_note(task: asyncio.Task[Any]) -> None:
    """Look at what went wrong, so that it is not reported as lost if nobody waited for it."""
    if not task.cancelled():
        task.exception()


def _parsed(text: str) -> RateLimitItem:
    try:
        (item,) = parse_many(text)
    except ValueError:
        raise ConfigurationError(f"{text!r} is not one limit, such as 600/minute") from None
    if item.amount < 1 or not 1 <= item.get_expiry() <= MAX_WINDOW_S:
        raise ConfigurationError(f"{text!r} is not a limit of at least 1 in at most a day")
    return item


def _for_limits(url: str) -> str:
    """Return a URL of Redis as the library reads it: it insists on a port."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return "async+redis+" + url
    netloc = parts.netloc if parts.port is not None else f"{parts.netloc}:{_PORT}"
    return "async+" + urlunsplit(parts._replace(netloc=netloc))
