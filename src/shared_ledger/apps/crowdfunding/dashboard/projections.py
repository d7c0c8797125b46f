"""What the dashboard makes of the messages.

Those of different keys come in any order: what they leave is the same in every one.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from shared_ledger.apps.crowdfunding.dashboard.store import (
    TABLES,
    DashboardUnitOfWork,
    accounts,
    activity,
    campaigns,
    make_unit_of_work,
)
from shared_ledger.apps.crowdfunding.messages import (
    AccountOpened,
    CampaignClosed,
    CampaignCreated,
    DonationRegistered,
    EntriesPosted,
)
from shared_ledger.messages import Context, handles


@handles(AccountOpened)
async def show_account(event: AccountOpened, uow: DashboardUnitOfWork) -> None:
    """Show an account."""
    row = {"account_id": event.account_id, "username": event.username, "balance": 0, "entry_id": 0}
    await uow.connection.execute(
        insert(accounts)
        .values(row)
        .on_conflict_do_update(
            index_elements=[accounts.c.account_id], set_={"username": event.username}
        )
    )


@handles(EntriesPosted)
async def show_entries(event: EntriesPosted, uow: DashboardUnitOfWork) -> None:
    """Show entries, and the balance after the last of each account's."""
    if not event.entries:
        return
    rows = [
        {
            "entry_id": entry.entry_id,
            "account_id": entry.account_id,
            "operation": entry.operation,
            "amount": entry.amount,
            "about": event.about,
            "created_on": entry.created_on,
        }
        for entry in event.entries
    ]
    await uow.connection.execute(insert(activity).values(rows).on_conflict_do_nothing())
    last = {entry.account_id: entry for entry in event.entries}
    # In one order for everybody, as locks are to be taken.
    balances = insert(accounts).values(
        [
            {"account_id": account_id, "balance": entry.balance, "entry_id": entry.entry_id}
            for account_id, entry in sorted(last.items())
        ]
    )
    await uow.connection.execute(
        balances.on_conflict_do_update(
            index_elements=[accounts.c.account_id],
            set_={"balance": balances.excluded.balance, "entry_id": balances.excluded.entry_id},
            where=accounts.c.entry_id < balances.excluded.entry_id,
        )
    )


@handles(CampaignCreated)
async def show_campaign(event: CampaignCreated, uow: DashboardUnitOfWork) -> None:
    """Show a campaign to its creator."""
    row = {
        "campaign_id": event.campaign_id,
        "creator_id": event.creator_id,
        "title": event.title,
        "goal": event.goal,
        "deadline": event.deadline,
        "kind": event.kind,
        "total_raised": 0,
        "state": "open",
    }
    await uow.connection.execute(insert(campaigns).values(row).on_conflict_do_nothing())


@handles(DonationRegistered)
async def show_progress(event: DonationRegistered, uow: DashboardUnitOfWork) -> None:
    """Show what a campaign has raised."""
    await uow.connection.execute(
        sa.update(campaigns)
        .where(campaigns.c.campaign_id == event.campaign_id)
        .values(total_raised=event.total_raised)
    )


@handles(CampaignClosed)
async def show_outcome(event: CampaignClosed, uow: DashboardUnitOfWork) -> None:
    """Show how a campaign has ended."""
    await uow.connection.execute(
        sa.update(campaigns)
        .where(campaigns.c.campaign_id == event.campaign_id)
        .values(state=event.outcome, total_raised=event.total_raised)
    )


DASHBOARD = Context(
    name="dashboard",
    tables=TABLES,
    unit_of_work=make_unit_of_work,
    handlers=[show_account, show_entries, show_campaign, show_progress, show_outcome],
)
