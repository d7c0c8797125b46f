"""A part of the proof: rows that are read once, and questions about them, in SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Part:
    """Rows, as common table expressions, and the questions about them by their kinds.

    A question selects ``owner_id, asset, entry_id, expected, found`` of what disagrees; ``times``
    are the kinds whose values are times.
    """

    rows: str
    questions: Mapping[str, str]
    times: frozenset[str] = frozenset()

    def statement(self) -> str:
        """Return one query for all questions; its values are JSON, which has a type for each."""
        asked = "\nunion all\n".join(
            f"select '{kind}' as kind, owner_id, asset, entry_id::bigint as entry_id, "
            f"to_jsonb(expected) as expected, to_jsonb(found) as found\n"
            f"from ({question}) as disagreeing"
            for kind, question in self.questions.items()
        )
        return f"with {self.rows}\n{asked}"
