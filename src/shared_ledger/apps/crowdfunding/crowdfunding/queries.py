"""What the crowdfunding context shows. Amounts are in msat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.crowdfunding.refusals import CampaignNotFound
from shared_ledger.apps.crowdfunding.crowdfunding.store import (
    campaigns,
    donations,
    make_unit_of_work,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignView:
    """A campaign, as everybody sees it; ``version`` counts its changes."""

    campaign_id: str
    version: int
    title: str
    description: str
    goal: int
    total_raised: int
    deadline: datetime
    kind: str
    state: str
    creator_username: str
    created_on: datetime

    @property
    def is_over(self) -> bool:
        """Whether nothing will change any more."""
        return self.state in ("succeeded", "failed", "ended")


@dataclass(frozen=True, slots=True, kw_only=True)
class DonationView:
    """A donation, as its donor sees it."""

    donation_id: str
    campaign_id: str
    amount: int
    state: str
    reason: str | None
    created_on: datetime


_CAMPAIGN = [campaigns.c[name] for name in CampaignView.__dataclass_fields__]
_DONATION = [donations.c[name] for name in DonationView.__dataclass_fields__]


async def view_campaign_query(engine: AsyncEngine, campaign_id: str) -> CampaignView:
    """Return a campaign; raise ``CampaignNotFound`` if there is none."""
    found = await view_these_campaigns_query(engine, [campaign_id])
    if not found:
        raise CampaignNotFound(campaign_id)
    return found[0]


async def view_these_campaigns_query(
    engine: AsyncEngine, campaign_ids: Sequence[str]
) -> list[CampaignView]:
    """Return those of these campaigns that there are, in any order."""
    chosen = sa.select(*_CAMPAIGN).where(campaigns.c.campaign_id.in_(campaign_ids))
    async with make_unit_of_work(engine) as uow:
        rows = await uow.connection.execute(chosen)
        return [CampaignView(**row) for row in rows.mappings()]


async def view_campaigns_query(
    engine: AsyncEngine, *, limit: int, after: str | None
) -> tuple[list[CampaignView], bool]:
    """Return campaigns, newest first, and whether there are more; ``after`` ended the last page.

    Raises
    ------
    CampaignNotFound
        If there is no campaign ``after``.
    """
    place = sa.tuple_(campaigns.c.created_on, campaigns.c.campaign_id)
    chosen = (
        sa.select(*_CAMPAIGN)
        .order_by(campaigns.c.created_on.desc(), campaigns.c.campaign_id.desc())
        .limit(limit + 1)
    )
    async with make_unit_of_work(engine) as uow:
        if after is not None:
            last = (
                await uow.connection.execute(
                    sa.select(campaigns.c.created_on).where(campaigns.c.campaign_id == after)
                )
            ).scalar_one_or_none()
            if last is None:
                raise CampaignNotFound(after)
            chosen = chosen.where(place < sa.tuple_(sa.literal(last), sa.literal(after)))
        rows = await uow.connection.execute(chosen)
        found = [CampaignView(**row) for row in rows.mappings()]
    return found[:limit], len(found) > limit


async def view_donation_query(engine: AsyncEngine, donation_id: str) -> DonationView:
    """Return a donation that there is."""
    chosen = sa.select(*_DONATION).where(donations.c.donation_id == donation_id)
    async with make_unit_of_work(engine) as uow:
        return DonationView(**(await uow.connection.execute(chosen)).mappings().one())
