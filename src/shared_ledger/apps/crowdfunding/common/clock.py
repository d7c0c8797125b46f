"""What time it is: the database's, so that all processes have one."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

_NOW = sa.select(sa.func.clock_timestamp())


async def now(connection: AsyncConnection) -> datetime:
    """Return the time, which goes on within a transaction."""
    at: datetime = (await connection.execute(_NOW)).scalar_one()
    return at
