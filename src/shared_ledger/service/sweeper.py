"""Books what has expired of accounts that nobody touches, from time to time.

Nothing depends on it: what has expired does not count, whether it is booked or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared_ledger.errors import LedgerError
from shared_ledger.ledger import Ledger

# So few at once that a posting that comes meanwhile waits for one short transaction at most.
ACCOUNTS = 1_000

_log = logging.getLogger("shared_ledger.service")


@asynccontextmanager
async def sweeping(ledger: Ledger[Any], interval_s: float) -> AsyncIterator[None]:
    """Sweep the ledger every so many seconds while the block runs; 0 is never.

    At the end a sweep that has begun is waited for, since it needs the ledger.
    """
    if interval_s == 0:
        yield
        return
    stop = asyncio.Event()
    sweeper = asyncio.create_task(_sweep(ledger, interval_s, stop), name="shared-ledger-sweeper")
    try:
        yield
    finally:
        stop.set()
        await sweeper


async def _sweep(ledger: Ledger[Any], interval_s: float, stop: asyncio.Event) -> None:
    while True:
        try:
            await asyncio.wait_for(stop.wait(), interval_s)
        except TimeoutError:
            await _sweep_once(ledger, stop)
        else:
            return


async def _sweep_once(ledger: Ledger[Any], stop: asyncio.Event) -> None:
    try:
        # A full hand means that more may be due.
        while await ledger.asweep(limit=ACCOUNTS) == ACCOUNTS and not stop.is_set():
            pass
    except LedgerError as error:
        _log.warning("a sweep failed and will be tried again: %s", error)
    except Exception:  # noqa: BLE001  # It must not end the service, nor the sweeps to come.
        _log.exception("a sweep failed and will be tried again")
