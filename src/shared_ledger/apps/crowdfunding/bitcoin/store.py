"""Where the bitcoin context keeps what it knows."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from shared_ledger.apps.crowdfunding.bitcoin.model import Deposit, Withdrawal
from shared_ledger.apps.crowdfunding.common.repositories import FieldRepository
from shared_ledger.messages import (
    Source,
    TransactionalOutbox,
    UnitOfWork,
    message_tables,
)

metadata = sa.MetaData()
TABLES = message_tables(metadata, "crowdfunding_bitcoin")

deposits = sa.Table(
    "crowdfunding_bitcoin_deposits",
    metadata,
    sa.Column("payment_hash", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("payment_request", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("received", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("due_on", sa.DateTime(timezone=True)),
    sa.CheckConstraint(
        "state in ('open', 'received', 'credited', 'expired')",
        name="crowdfunding_bitcoin_deposits_state",
    ),
    sa.CheckConstraint(
        "(state in ('received', 'credited')) = (received > 0)",
        name="crowdfunding_bitcoin_deposits_received",
    ),
)
sa.Index(
    "crowdfunding_bitcoin_deposits_due_idx",
    deposits.c.due_on,
    postgresql_where=deposits.c.due_on.is_not(None),
)
sa.Index("crowdfunding_bitcoin_deposits_account_idx", deposits.c.account_id)

withdrawals = sa.Table(
    "crowdfunding_bitcoin_withdrawals",
    metadata,
    sa.Column("payment_hash", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("payment_request", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("max_fee", sa.BigInteger, nullable=False),
    sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("fee", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("begun_on", sa.DateTime(timezone=True)),
    sa.Column("due_on", sa.DateTime(timezone=True)),
    sa.CheckConstraint(
        "state in ('requested', 'reserved', 'paying', 'paid', 'succeeded', 'failing', 'failed', "
        "'refused')",
        name="crowdfunding_bitcoin_withdrawals_state",
    ),
    sa.CheckConstraint(
        "(due_on is not null) = (state in ('reserved', 'paying'))",
        name="crowdfunding_bitcoin_withdrawals_due",
    ),
)
sa.Index(
    "crowdfunding_bitcoin_withdrawals_due_idx",
    withdrawals.c.due_on,
    postgresql_where=withdrawals.c.due_on.is_not(None),
)
sa.Index("crowdfunding_bitcoin_withdrawals_account_idx", withdrawals.c.account_id)

cursors = sa.Table(
    "crowdfunding_bitcoin_cursors",
    metadata,
    sa.Column("node_id", sa.Text, primary_key=True),
    sa.Column("cursor", sa.Text, nullable=False),
    comment="Up to where the settled invoices of a node are known.",
)


class Deposits(FieldRepository[Deposit]):
    """Deposits by payment hash."""

    table = deposits
    aggregate = Deposit


class Withdrawals(FieldRepository[Withdrawal]):
    """Withdrawals by payment hash."""

    table = withdrawals
    aggregate = Withdrawal


class BitcoinUnitOfWork(UnitOfWork):
    """One transaction of the bitcoin context."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, TransactionalOutbox(TABLES))
        self.deposits = Deposits(self)
        self.withdrawals = Withdrawals(self)

    async def cursor_of(self, node_id: str) -> str | None:
        """Return up to where the settled invoices of a node are known."""
        cursor: str | None = await self.connection.scalar(
            sa.select(cursors.c.cursor).where(cursors.c.node_id == node_id)
        )
        return cursor

    async def move_cursor(self, node_id: str, cursor: str) -> None:
        """Note up to where they are known, in the transaction that notes what was settled."""
        await self.connection.execute(
            insert(cursors)
            .values(node_id=node_id, cursor=cursor)
            .on_conflict_do_update(index_elements=[cursors.c.node_id], set_={"cursor": cursor})
        )


def make_unit_of_work(source: Source) -> BitcoinUnitOfWork:
    """Open a unit of work: ``async with make_unit_of_work(engine) as uow``."""
    return BitcoinUnitOfWork(source)
