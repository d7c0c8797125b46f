"""Making the projections anew from the messages that the dashboard has had."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.apps.crowdfunding.dashboard.projections import DASHBOARD
from shared_ledger.apps.crowdfunding.dashboard.store import (
    PROJECTIONS,
    TABLES,
    make_unit_of_work,
)
from shared_ledger.messages import Envelope
from shared_ledger.messages.tables import about

PAGE = 1_000

_LOCK = "lock table {table} in exclusive mode"


async def rebuild(connection: AsyncConnection) -> int:
    """Make the projections anew, and return from how many messages.

    In the caller's transaction, or nothing: who looks meanwhile sees what was there before, and new
    messages wait.
    """
    inbox = TABLES.inbox
    handled = 0
    for table in PROJECTIONS:
        # Before anything is read: what is being handled now is handled by then.
        await connection.execute(about(connection, table, _LOCK))
    for table in PROJECTIONS:
        await connection.execute(sa.delete(table))
    position = 0
    while True:
        page = (
            await connection.execute(
                sa.select(inbox)
                .where(inbox.c.state == "handled", inbox.c.position > position)
                .order_by(inbox.c.position)
                .limit(PAGE)
            )
        ).all()
        for row in page:
            envelope = Envelope(
                id=row.message_id,
                key=row.key,
                type=row.type,
                version=row.version,
                payload=msgspec.Raw(msgspec.json.encode(row.payload)),
            )
            async with make_unit_of_work(connection) as uow:
                await DASHBOARD.handle(DASHBOARD.catalogue.decode(envelope), uow)
        handled += len(page)
        if len(page) < PAGE:
            return handled
        position = page[-1].position
