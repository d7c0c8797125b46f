"""What is measured of a cache."""

from __future__ import annotations

from typing import NamedTuple


class CacheCounts(NamedTuple):
    """How many balances were found in Redis and how many were not, and how often Redis failed.

    While Redis is not used, balances count as misses, and nothing as a failure.
    """

    hits: int = 0
    misses: int = 0
    failures: int = 0
