"""The crowdfunding context's routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import NAMESPACE_OID, uuid4, uuid5

import msgspec
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, Field

from shared_ledger.apps.crowdfunding.common.amounts import Sat, ShownSat, msat, whole_sat
from shared_ledger.apps.crowdfunding.common.site import (
    NOT_RUN_HERE,
    PERSON,
    AtSite,
    Participant,
    run_by,
)
from shared_ledger.apps.crowdfunding.common.waiting import until
from shared_ledger.apps.crowdfunding.crowdfunding.commands import (
    create_campaign,
    donate_to_campaign,
)
from shared_ledger.apps.crowdfunding.crowdfunding.model import (
    CampaignState,
    DonationState,
    donation_id,
)
from shared_ledger.apps.crowdfunding.crowdfunding.progress import events_of
from shared_ledger.apps.crowdfunding.crowdfunding.queries import (
    CampaignView,
    DonationView,
    view_campaign_query,
    view_campaigns_query,
    view_donation_query,
)
from shared_ledger.apps.crowdfunding.crowdfunding.refusals import DonationRefused
from shared_ledger.apps.crowdfunding.crowdfunding.store import make_unit_of_work
from shared_ledger.apps.crowdfunding.messages import (
    CampaignKind,
    CreateCampaign,
    DonateToCampaign,
)
from shared_ledger.checks import check_time
from shared_ledger.errors import InvalidPosting, NonceReused
from shared_ledger.messages import retried
from shared_ledger.service import OPEN, RightsTable, schemas
from shared_ledger.service.documentation import link, written_once
from shared_ledger.service.fields import Body, Line, Nonce, Shown, Text, Time, Written

RIGHTS: RightsTable = {
    ("POST", "/crowdfunding/campaign"): PERSON,
    ("GET", "/crowdfunding/campaign"): OPEN,
    ("GET", "/crowdfunding/campaign/progress"): OPEN,
    ("GET", "/crowdfunding/campaigns"): OPEN,
    ("POST", "/crowdfunding/donate"): PERSON,
}

# With the donor's name and a word of the accounting's before it, it is a nonce of the ledger.
MAX_DONATION_KEY = 180

CampaignId = Annotated[
    str,
    Field(
        min_length=36,
        max_length=36,
        pattern=r"^[0-9a-f-]{36}$",
        description="Which campaign.",
        examples=["0b0e7c1c-5d3e-5b7e-9d3f-2f1c7a6f5e4d"],
    ),
]


def _moment(given: object) -> datetime:
    try:
        return check_time("deadline", msgspec.convert(given, datetime))
    except msgspec.ValidationError:
        raise ValueError("is a time as RFC 3339 writes it, such as 2026-03-01T18:00:00Z") from None
    except InvalidPosting as refusal:
        raise ValueError(refusal.problem) from None


class NewCampaign(Body):
    """What is collected for, how much, and until when.

    With the same ``idempotency_key`` of the same creator it is the same campaign.
    """

    title: Annotated[Line, Field(examples=["A bridge for toads"])]
    description: Annotated[Text, Field(examples=["They cross the road every March."])]
    goal: Sat
    deadline: Annotated[
        datetime,
        BeforeValidator(_moment),
        Field(
            description="With its time zone, at most a year ahead.",
            examples=["2026-03-01T18:00:00Z"],
            json_schema_extra=schemas.TIME,
        ),
    ]
    kind: CampaignKind = "keep_it_all"
    idempotency_key: Nonce | None = None


class NewDonation(Body):
    """How much is given to which campaign, once for each idempotency key of the donor's."""

    idempotency_key: Annotated[Nonce, Field(max_length=MAX_DONATION_KEY)]
    campaign_id: CampaignId
    amount: Sat


class Campaign(Shown):
    """A campaign; what it has raised counts when it was paid."""

    campaign_id: CampaignId
    title: Annotated[str, Field(examples=["A bridge for toads"])]
    description: Annotated[str, Field(examples=["They cross the road every March."])]
    goal: ShownSat
    total_raised: ShownSat
    deadline: Time
    kind: CampaignKind
    state: CampaignState
    creator_username: Annotated[str, Field(examples=["ada"])]


class Begun(Campaign, Written):
    """A campaign that somebody has begun."""


class Campaigns(Shown):
    """A page of campaigns; ``cursor`` fetches the next one, and is null in the last."""

    campaigns: list[Campaign]
    cursor: CampaignId | None


class Donation(Written):
    """A donation: ``registered`` when it counts."""

    donation_id: Annotated[str, Field(examples=["bob:the first"])]
    campaign_id: CampaignId
    amount: ShownSat
    state: Annotated[DonationState, Field(examples=["registered"])]
    created_on: Time


router = APIRouter(
    tags=["crowdfunding"], dependencies=[run_by("crowdfunding")], responses=NOT_RUN_HERE
)


_TO_CAMPAIGN = {"links": link("show_campaign", campaign_id="campaign_id")}


@router.post(
    "/crowdfunding/campaign",
    status_code=201,
    responses={status: said | _TO_CAMPAIGN for status, said in written_once(Begun).items()},
)
async def begin_campaign(
    body: NewCampaign, account_id: Participant, site: AtSite, response: Response
) -> Begun:
    """Begin a campaign. The same idempotency key and body again answer 200 with the first.

    With another body it is 409, which names the field that differs.
    """
    campaign_id = uuid4()
    if body.idempotency_key is not None:
        campaign_id = uuid5(NAMESPACE_OID, f"{account_id}:{body.idempotency_key}")
    command = CreateCampaign(
        campaign_id=str(campaign_id),
        creator_id=account_id,
        creator_username=account_id,
        title=body.title,
        description=body.description,
        goal=msat(body.goal),
        deadline=body.deadline,
        kind=body.kind,
    )

    async def create() -> bool:
        async with make_unit_of_work(site.engine) as uow:
            return await create_campaign(command, uow)

    with _told_as_asked(body.idempotency_key):
        replayed = await retried(create)
    if replayed:
        response.status_code = 200
    view = await view_campaign_query(site.engine, command.campaign_id)
    return Begun(**_campaign(view).model_dump(), replayed=replayed)


@router.get("/crowdfunding/campaign")
async def show_campaign(campaign_id: Annotated[CampaignId, Query()], site: AtSite) -> Campaign:
    """Show a campaign, to anybody."""
    return _campaign(await view_campaign_query(site.engine, campaign_id))


_EVENT = """event: campaign
data: {"campaign_id":"0b0e7c1c-5d3e-5b7e-9d3f-2f1c7a6f5e4d","total_raised":1000,"state":"open"}

"""


class Events(StreamingResponse):
    """Events as they happen; whoever stops listening is followed no longer, at once."""

    async def stream_response(self, send: Any) -> None:
        """Send them, and let go of where they come from, whatever ends it."""
        events: Any = self.body_iterator
        async with aclosing(events):
            await super().stream_response(send)


@router.get(
    "/crowdfunding/campaign/progress",
    response_class=Events,
    responses={
        200: {
            "description": "Server-sent events: `campaign`, whose data are the campaign as JSON, "
            "at first and after each change, and a comment every 15 seconds.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EVENT}},
        }
    },
)
async def follow_campaign(campaign_id: Annotated[CampaignId, Query()], site: AtSite) -> Events:
    """Tell of a campaign's progress as it moves, until it is over."""
    # A campaign that is not there is an answer, not a stream.
    campaign = await view_campaign_query(site.engine, campaign_id)
    return Events(
        events_of(
            site.engine,
            campaign,
            lambda view: _campaign(view).model_dump_json(),
            leaving=site.leaving,
        ),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


@router.get("/crowdfunding/campaigns")
async def list_campaigns(
    site: AtSite,
    limit: Annotated[int, Query(ge=1, le=100, description="How many at most.")] = 20,
    cursor: Annotated[
        CampaignId | None, Query(description="The one that the page before gave.")
    ] = None,
) -> Campaigns:
    """Show campaigns to anybody, newest first."""
    found, more = await view_campaigns_query(site.engine, limit=limit, after=cursor)
    return Campaigns(
        campaigns=[_campaign(view) for view in found],
        cursor=found[-1].campaign_id if more else None,
    )


@router.post(
    "/crowdfunding/donate",
    status_code=201,
    responses={status: said | _TO_CAMPAIGN for status, said in written_once(Donation).items()}
    | {202: {"description": "Asked for, and under way", "model": Donation}},
)
async def donate(
    body: NewDonation, account_id: Participant, site: AtSite, response: Response
) -> Donation:
    """Donate from the account's balance: 201 when it counts, 202 while that is under way.

    The same idempotency key and body again answer 200, with what has become of it. What the account
    does not have is 402, `donation_rejected`, again as well: another try needs another key. After
    the deadline it is 409, `campaign_over`; nobody gives to a campaign of his own, `own_campaign`.
    """
    command = DonateToCampaign(
        idempotency_key=body.idempotency_key,
        donor_id=account_id,
        campaign_id=body.campaign_id,
        amount=msat(body.amount),
    )

    async def ask() -> bool:
        async with make_unit_of_work(site.engine) as uow:
            return await donate_to_campaign(command, uow)

    with _told_as_asked(body.idempotency_key):
        replayed = await retried(ask)
    given = donation_id(command)

    async def look() -> DonationView:
        return await view_donation_query(site.engine, given)

    seen = await until(look, lambda seen: seen.state != "requested")
    if seen.state == "rejected":
        raise DonationRefused(given, seen.reason or "rejected")
    if seen.state == "requested":
        response.status_code = 202
    elif replayed:
        response.status_code = 200
    return Donation.of(seen, amount=whole_sat(seen.amount), replayed=replayed)


_AS_ASKED: Mapping[str, Callable[[Any], object]] = {
    "goal": whole_sat,
    "amount": whole_sat,
    "deadline": datetime.isoformat,
}


def _as_it_is(value: object) -> object:
    return value


@contextmanager
def _told_as_asked(key: str | None) -> Iterator[None]:
    """Tell whoever used a key for something else so in his words: by his key, and in whole sat."""
    try:
        yield
    except NonceReused as reused:
        told = _AS_ASKED.get(reused.field, _as_it_is)
        raise NonceReused(
            reused.owner_id,
            key or reused.nonce,
            field=reused.field,
            recorded=told(reused.recorded),
            given=told(reused.given),
        ) from None


def _campaign(view: CampaignView) -> Campaign:
    return Campaign.of(view, goal=whole_sat(view.goal), total_raised=whole_sat(view.total_raised))
