"""On whose behalf something is posted, from whoever asks to whoever is told of the batch.

A caller sets it in its own context; a report of a batch names it for each job. The ledger only
carries it.
"""

from __future__ import annotations

from contextvars import ContextVar

ORIGIN: ContextVar[object] = ContextVar("shared_ledger_origin", default=None)
