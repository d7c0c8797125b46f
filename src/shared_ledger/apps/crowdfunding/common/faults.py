"""Named points between the steps of the contexts' own work, at which a test can kill the process.

Those of a message's life are in ``shared_ledger.messages.faults``. Nothing happens at them unless a
test says so.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "receipts.heard",
    "receipts.noted",
    "receipts.asked",
    "payments.claimed",
    "payments.begun",
    "payments.asked",
    "payments.followed",
    "payments.noted",
    "campaigns.claimed",
    "campaigns.moved",
)
"""All of them."""

_on_reach: Callable[[str], None] | None = None


def reached(point: str) -> None:
    """Tell the test, if there is one, that the program is at one of ``POINTS``."""
    if _on_reach is not None:
        _on_reach(point)


def on_reach(call: Callable[[str], None] | None) -> None:
    """Have something called at each point; ``None`` ends it."""
    global _on_reach  # noqa: PLW0603  # One for the process, which is what a test kills.
    _on_reach = call
