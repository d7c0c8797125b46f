"""Work that is due at a time: a deadline, a payment to be looked after.

What is to be done is written in a row's state and ``due_on``, in the transaction that decided it.
A process claims the row by moving ``due_on`` a lease ahead, and does the work after that; if it
dies, the row is due again when the lease ends. Two that believe to have claimed it do no harm:
whatever changes the row is guarded by its version. Why no queue of jobs: docs/decisions/0011.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.errors import LedgerError
from shared_ledger.messages import Retries

LOOK_EVERY_S = 0.5

Step = Callable[[], Awaitable[bool]]
"""Does one thing that is due, and tells whether there was one."""

_PAUSES = Retries(first_s=0.5, longest_s=30)

_log = logging.getLogger("shared_ledger.crowdfunding")


async def claim_due(engine: AsyncEngine, table: sa.Table, *, lease: timedelta) -> str | None:
    """Claim the row of ``table`` that has been due for longest, and return its key."""
    (key,) = table.primary_key.columns
    now = sa.func.clock_timestamp()
    chosen = (
        sa.select(key)
        .where(table.c.due_on <= now)
        .order_by(table.c.due_on)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    async with engine.begin() as connection:
        claimed: str | None = await connection.scalar(
            sa.update(table)
            .where(key == chosen.scalar_subquery())
            .values(due_on=now + lease)
            .returning(key)
        )
    return claimed


async def repeat(name: str, steps: Sequence[Step], *, every_s: float = LOOK_EVERY_S) -> None:
    """Do what is due, again and again, until cancelled; what fails is due again later."""
    failures = 0
    worked = False
    while True:
        try:
            worked = any([await step() for step in steps])
            failures = 0
        except LedgerError as error:
            failures += 1
            _log.warning("%s cannot go on for now: %s", name, error)
        except Exception:  # noqa: BLE001  # Whatever failed, the rest must go on.
            failures += 1
            _log.exception("%s cannot go on for now", name)
        if failures:
            await asyncio.sleep(_PAUSES.delay_s(failures))
        elif not worked:
            await asyncio.sleep(every_s)
