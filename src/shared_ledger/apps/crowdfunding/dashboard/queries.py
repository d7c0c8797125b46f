"""What the dashboard shows. Amounts are in msat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.dashboard.store import (
    accounts,
    activity,
    campaigns,
    make_unit_of_work,
)

SHOWN = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivityView:
    """An entry of an account; ``amount`` is signed."""

    entry_id: int
    operation: str
    amount: int
    about: str
    created_on: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnCampaignView:
    """A campaign, as its creator sees it."""

    campaign_id: str
    title: str
    goal: int
    total_raised: int
    deadline: datetime
    kind: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardView:
    """What somebody sees of his own: the newest activity and the campaigns that end last."""

    account_id: str
    username: str
    balance: int
    activity: list[ActivityView]
    campaigns: list[OwnCampaignView]


async def view_dashboard_query(engine: AsyncEngine, account_id: str) -> DashboardView:
    """Return what an account sees; of one that was not heard of yet, nothing."""
    his = sa.select(accounts).where(accounts.c.account_id == account_id)
    async with make_unit_of_work(engine) as uow:
        account = (await uow.connection.execute(his)).one_or_none()
        entries = await uow.connection.execute(
            sa.select(
                activity.c.entry_id,
                activity.c.operation,
                activity.c.amount,
                activity.c.about,
                activity.c.created_on,
            )
            .where(activity.c.account_id == account_id)
            .order_by(activity.c.entry_id.desc())
            .limit(SHOWN)
        )
        own = await uow.connection.execute(
            sa.select(
                campaigns.c.campaign_id,
                campaigns.c.title,
                campaigns.c.goal,
                campaigns.c.total_raised,
                campaigns.c.deadline,
                campaigns.c.kind,
                campaigns.c.state,
            )
            .where(campaigns.c.creator_id == account_id)
            .order_by(campaigns.c.deadline.desc(), campaigns.c.campaign_id)
            .limit(SHOWN)
        )
        return DashboardView(
            account_id=account_id,
            username=account.username or account_id if account else account_id,
            balance=account.balance if account else 0,
            activity=[ActivityView(**row) for row in entries.mappings()],
            campaigns=[OwnCampaignView(**row) for row in own.mappings()],
        )
