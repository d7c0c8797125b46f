"""Where the dashboard keeps what it was told. All of it can be made anew from the inbox."""

from __future__ import annotations

import sqlalchemy as sa

from shared_ledger.messages import Source, TransactionalOutbox, UnitOfWork, message_tables

metadata = sa.MetaData()
TABLES = message_tables(metadata, "crowdfunding_dashboard")

accounts = sa.Table(
    "crowdfunding_dashboard_accounts",
    metadata,
    sa.Column("account_id", sa.Text, primary_key=True),
    # Not known yet if an entry was heard of before the account.
    sa.Column("username", sa.Text),
    sa.Column("balance", sa.BigInteger, nullable=False),
    # The entry after which it was so: none but a later one says otherwise.
    sa.Column("entry_id", sa.BigInteger, nullable=False),
)

activity = sa.Table(
    "crowdfunding_dashboard_activity",
    metadata,
    sa.Column("entry_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("account_id", sa.Text, nullable=False),
    sa.Column("operation", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("about", sa.Text, nullable=False),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
)
sa.Index("crowdfunding_dashboard_activity_idx", activity.c.account_id, activity.c.entry_id)

campaigns = sa.Table(
    "crowdfunding_dashboard_campaigns",
    metadata,
    sa.Column("campaign_id", sa.Text, primary_key=True),
    sa.Column("creator_id", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("goal", sa.BigInteger, nullable=False),
    sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("total_raised", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
)
sa.Index("crowdfunding_dashboard_campaigns_idx", campaigns.c.creator_id, campaigns.c.deadline)

PROJECTIONS = (activity, accounts, campaigns)
"""In the order in which they are changed."""


class DashboardUnitOfWork(UnitOfWork):
    """One transaction of the dashboard context."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, TransactionalOutbox(TABLES))


def make_unit_of_work(source: Source) -> DashboardUnitOfWork:
    """Open a unit of work: ``async with make_unit_of_work(engine) as uow``."""
    return DashboardUnitOfWork(source)
