"""How often something may be tried: a sliding window for each who tries, in this process's memory.

An attempt is counted when it begins, so that many at once are as many as one after the other.
"""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from shared_ledger.access.refusals import TooManyAttempts

MAX_REMEMBERED = 10_000
# One household or server has a whole network of this many bits.
_IPV6_NETWORK = 64


class Attempts:
    """At most ``limit`` attempts in ``window_s`` seconds for each name."""

    def __init__(
        self, limit: int, window_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = limit
        self._window_s = window_s
        self._clock = clock
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def begin(self, name: str) -> None:
        """Count an attempt.

        Raises
        ------
        TooManyAttempts
            If there were too many; that one is not counted.
        """
        now = self._clock()
        times = self._times.setdefault(name, deque())
        self._times.move_to_end(name)
        while times and times[0] <= now - self._window_s:
            times.popleft()
        if len(times) >= self._limit:
            wait_s = times[0] + self._window_s - now
            raise TooManyAttempts(max(1, math.ceil(wait_s)))
        times.append(now)
        # Whoever has not tried for longest is forgotten first.
        while len(self._times) > MAX_REMEMBERED:
            self._times.popitem(last=False)

    def forgive(self, name: str) -> None:
        """Take the last attempt back: it was a good one."""
        times = self._times.get(name)
        if times:
            times.pop()
            if not times:
                del self._times[name]


def network_of(address: str) -> str:
    """Return what stands for a client: its address, or its network's with IPv6."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, _IPV6_NETWORK), strict=False))
