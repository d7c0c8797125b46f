"""Named points between the steps of a message's life, at which a test can kill the process.

Nothing happens at them unless a test says so.
"""

from __future__ import annotations

from collections.abc import Callable

POINTS = (
    "unit_of_work.before_save",
    "unit_of_work.after_save",
    "unit_of_work.before_commit",
    "unit_of_work.after_commit",
    "relay.before_publish",
    "relay.after_publish",
    "relay.after_mark",
    "relay.after_commit",
    "inbox.before_receive",
    "inbox.before_commit",
    "inbox.after_commit",
    "worker.before_handling",
    "worker.after_handling",
    "worker.before_commit",
    "worker.after_commit",
    "worker.before_failure",
    "worker.after_failure",
    "worker.after_begin",
)
"""All of them, in the order in which a message meets them; the last three if its handler fails."""

JETSTREAM_POINTS = (
    "jetstream.after_publish",
    "delivery.after_receive",
    "delivery.after_done",
)
"""Those that a message meets, besides, on its way over NATS."""

_on_reach: Callable[[str], None] | None = None


def reached(point: str) -> None:
    """Tell the test, if there is one, that the program is at one of these points."""
    if _on_reach is not None:
        _on_reach(point)


def on_reach(call: Callable[[str], None] | None) -> None:
    """Have something called at each point; ``None`` ends it."""
    global _on_reach  # noqa: PLW0603  # One for the process, which is what a test kills.
    _on_reach = call
