"""Hears PostgreSQL's notifications on one connection and rings the bells of a whole process.

Nothing depends on it but how soon something is done: whoever waits looks from time to time anyway.
A pooler that hands out connections by transaction passes no notifications on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.messages.bell import Bell
from shared_ledger.messages.failures import described
from shared_ledger.messages.retries import Retries

_PAUSES = Retries(first_s=0.5, longest_s=30)

_log = logging.getLogger("shared_ledger.messages")


async def listen(engine: AsyncEngine, bells: Mapping[str, Sequence[Bell]]) -> None:
    """Ring the bells of each channel when it is notified, until cancelled."""
    failures = 0
    while True:
        try:
            await _listen(engine, bells)
        except Exception as error:  # noqa: BLE001  # It must come back, whatever ended it.
            failures = min(failures + 1, 10)
            _log.warning("notifications are not heard for a while: %s", described(error))
        await asyncio.sleep(_PAUSES.delay_s(failures))


async def _listen(engine: AsyncEngine, bells: Mapping[str, Sequence[Bell]]) -> None:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        for channel in bells:
            await connection.execute(sa.text(f'listen "{channel}"'))
        # What was notified before this is not told again.
        for bell in itertools.chain.from_iterable(bells.values()):
            bell.ring()
        # The driver's own connection, since SQLAlchemy has no such thing.
        driver: Any = (await connection.get_raw_connection()).driver_connection
        async for notification in driver.notifies():
            for bell in bells.get(notification.channel, ()):
                bell.ring()
