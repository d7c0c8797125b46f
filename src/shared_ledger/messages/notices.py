"""Telling other processes that there is something to do: only how soon they do it depends on it.

Notices are given after the commit and not in it. Of transactions that notify, PostgreSQL commits
one at a time in the whole cluster, each with its own fsync: eight connections that committed 3,000
times a second did so 650 times when they notified in the transaction, and 2,000 times when they did
so after it.
"""

from __future__ import annotations

import logging

import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.messages.failures import described

_NOTIFY = sa.text("select pg_notify(:channel, '')")

_log = logging.getLogger("shared_ledger.messages")


async def notify(connection: AsyncConnection, channel: str) -> None:
    """Wake who listens, over a connection that has committed and is given back next.

    What goes wrong is only logged: all is committed, and will be found by looking.
    """
    try:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        await connection.execute(_NOTIFY, {"channel": channel})
    except SQLAlchemyError as error:
        _log.info("%s was not notified: %s", channel, described(error))
