"""The dashboard's route."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field

from shared_ledger.apps.crowdfunding.common.amounts import ShownMsat, ShownSat, whole_sat
from shared_ledger.apps.crowdfunding.common.site import (
    NOT_RUN_HERE,
    PERSON,
    AtSite,
    Participant,
    run_by,
)
from shared_ledger.apps.crowdfunding.dashboard.queries import view_dashboard_query
from shared_ledger.apps.crowdfunding.messages import CampaignKind, Outcome
from shared_ledger.service import RightsTable
from shared_ledger.service.fields import Id, Shown, Time

RIGHTS: RightsTable = {("GET", "/dashboard"): PERSON}


class Activity(Shown):
    """An entry of the account; ``about`` is a campaign's id, or an invoice's payment hash."""

    entry_id: Id
    operation: Annotated[str, Field(examples=["DONATION"])]
    amount_msat: Annotated[int, Field(description="Signed, in msat.", examples=[-1_000_000])]
    about: Annotated[str, Field(examples=["0b0e7c1c-5d3e-5b7e-9d3f-2f1c7a6f5e4d"])]
    created_on: Time


class OwnCampaign(Shown):
    """A campaign of the account's own."""

    campaign_id: Annotated[str, Field(examples=["0b0e7c1c-5d3e-5b7e-9d3f-2f1c7a6f5e4d"])]
    title: Annotated[str, Field(examples=["A bridge for toads"])]
    goal: ShownSat
    total_raised: ShownSat
    deadline: Time
    kind: CampaignKind
    state: Annotated[Literal["open"] | Outcome, Field(examples=["open"])]


class Dashboard(Shown):
    """What somebody sees of his own: the newest 50 of each."""

    account_id: Annotated[str, Field(examples=["ada"])]
    username: Annotated[str, Field(examples=["ada"])]
    balance: ShownSat
    balance_msat: ShownMsat
    activity: list[Activity]
    campaigns: list[OwnCampaign]


router = APIRouter(tags=["dashboard"], dependencies=[run_by("dashboard")], responses=NOT_RUN_HERE)


@router.get("/dashboard")
async def show_dashboard(account_id: Participant, site: AtSite) -> Dashboard:
    """Show the account's balance, activity and campaigns; a moment after they have changed."""
    view = await view_dashboard_query(site.engine, account_id)
    return Dashboard(
        account_id=view.account_id,
        username=view.username,
        balance=whole_sat(view.balance),
        balance_msat=view.balance,
        activity=[Activity.of(each, amount_msat=each.amount) for each in view.activity],
        campaigns=[
            OwnCampaign.of(
                each, goal=whole_sat(each.goal), total_raised=whole_sat(each.total_raised)
            )
            for each in view.campaigns
        ],
    )
