"""What a verification says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

import msgspec

Value = int | str | datetime | None
Progress = Callable[[str, int, int], None]
"""Called with what is being checked, how many entries are done, and how many there are."""


class Disagreement(msgspec.Struct, frozen=True):
    """One thing in the book that is not as the rest of the book says.

    Attributes
    ----------
    owner_id, asset
        The account; ``None`` if it is about more than one.
    kind
        What is wrong, as a sentence with underscores.
    expected, found
        What the rest of the book says, and what stands there. Times are UTC.
    entry_id
        The entry, if it is about one; a hold is named by the entry that placed it, a grant by the
        one that gave it.
    """

    owner_id: str | None
    asset: str | None
    kind: str
    expected: Value
    found: Value
    entry_id: int | None = None


class Report(msgspec.Struct):
    """What ``verify`` found: ``disagreements`` holds the first of the ``count`` there are."""

    entries: int = 0
    accounts: int = 0
    count: int = 0
    disagreements: list[Disagreement] = []

    @property
    def agrees(self) -> bool:
        """Whether nothing disagrees."""
        return self.count == 0
