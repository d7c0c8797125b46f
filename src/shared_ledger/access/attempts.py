"""How often something may be tried by whom, or from where.

An attempt is counted when it begins, so that many at once are as many as one after the other; a
good one is taken back. How they are counted, and where, is in ``counts``.
"""

from __future__ import annotations

import hashlib
import ipaddress

from shared_ledger.access.counts import Counts, Limit
from shared_ledger.access.refusals import TooManyAttempts

# One household or server has a whole network of this many bits.
_IPV6_NETWORK = 64


class Attempts:
    """At most so many attempts for each name; ``kind`` says of what."""

    def __init__(self, kind: str, limit: Limit, counts: Counts) -> None:
        self._kind = kind
        self._limit = limit
        self._counts = counts

    async def begin(self, name: str) -> None:
        """Count an attempt.

        Raises
        ------
        TooManyAttempts
            If there were too many.
        """
        if wait_s := await self._counts.take(self._limit, self._key(name)):
            raise TooManyAttempts(wait_s)

    async def forgive(self, name: str) -> None:
        """Take an attempt back: it was a good one."""
        await self._counts.give_back(self._limit, self._key(name))

    def _key(self, name: str) -> str:
        # Names are as long as anybody likes, and people type their passwords there.
        return f"{self._kind} {hashlib.sha256(name.encode()).hexdigest()}"


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
