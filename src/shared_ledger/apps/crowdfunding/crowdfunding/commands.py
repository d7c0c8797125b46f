"""What the crowdfunding context does."""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.common.clock import now
from shared_ledger.apps.crowdfunding.common.due import claim_due
from shared_ledger.apps.crowdfunding.common.faults import reached
from shared_ledger.apps.crowdfunding.crowdfunding.model import Campaign, Donation, donation_id
from shared_ledger.apps.crowdfunding.crowdfunding.refusals import (
    CampaignNotFound,
    CampaignOver,
    OwnCampaign,
)
from shared_ledger.apps.crowdfunding.crowdfunding.store import (
    TABLES,
    CrowdfundingUnitOfWork,
    campaigns,
    make_unit_of_work,
)
from shared_ledger.apps.crowdfunding.messages import (
    CreateCampaign,
    DonateToCampaign,
    RefundsMade,
    TransferRejectedEvent,
    TransferSucceededEvent,
)
from shared_ledger.errors import InvalidPosting
from shared_ledger.messages import Context, handles, retried
from shared_ledger.service.fields import check_same

LEASE = timedelta(seconds=30)
LONGEST = timedelta(days=365)
# With the campaign's own entry, as many as a group of the ledger may have.
REFUNDS_AT_ONCE = 99


async def create_campaign(command: CreateCampaign, uow: CrowdfundingUnitOfWork) -> bool:
    """Begin a campaign; tell whether that had been done before.

    Raises
    ------
    NonceReused
        If the id is that of another campaign of the creator's.
    InvalidPosting
        If the deadline is over, or too far away.
    """
    known = await uow.campaigns.find(command.campaign_id)
    if known is None:
        at = await now(uow.connection)
        _check_deadline(command.deadline, at)
        uow.campaigns.add(Campaign.create(command, at=at))
        return False
    fields = ("title", "description", "goal", "deadline", "kind")
    check_same(
        command.creator_id,
        command.campaign_id,
        recorded={name: getattr(known, name) for name in fields},
        given={name: getattr(command, name) for name in fields},
    )
    return True


async def donate_to_campaign(command: DonateToCampaign, uow: CrowdfundingUnitOfWork) -> bool:
    """Ask for a donation's transfer; tell whether that had been done before.

    Raises
    ------
    NonceReused
        If the donor used the key for something else.
    CampaignNotFound, CampaignOver, OwnCampaign
        If there is nothing to donate to.
    """
    campaign = await uow.campaigns.find_steady(command.campaign_id)
    known = await uow.donations.find(donation_id(command))
    if known is not None:
        check_same(
            command.donor_id,
            command.idempotency_key,
            recorded={"campaign_id": known.campaign_id, "amount": known.amount},
            given={"campaign_id": command.campaign_id, "amount": command.amount},
        )
        return True
    at = await now(uow.connection)
    if campaign is None:
        raise CampaignNotFound(command.campaign_id)
    if command.donor_id == campaign.creator_id:
        raise OwnCampaign(command.campaign_id)
    if not campaign.is_open(at):
        raise CampaignOver(command.campaign_id, state=campaign.state)
    uow.donations.add(Donation.request(command, campaign, at=at))
    return False


@handles(TransferSucceededEvent)
async def register_transfer(event: TransferSucceededEvent, uow: CrowdfundingUnitOfWork) -> None:
    """Count a donation that was paid, or note that the creator has what was collected."""
    campaign = await _campaign(uow, event.metadata["campaign_id"])
    if "donation_id" not in event.metadata:
        campaign.be_paid_out()
        return
    donation = await _donation(uow, event.metadata["donation_id"])
    if donation.be_registered():
        campaign.register(donation)


@handles(TransferRejectedEvent)
async def reject_transfer(event: TransferRejectedEvent, uow: CrowdfundingUnitOfWork) -> None:
    """Note that a donation could not be paid."""
    if "donation_id" not in event.metadata:
        # The campaign's account holds what was given; an operator has to look.
        raise LookupError(f"{event.idempotency_key} was rejected: {event.reason}")
    (await _donation(uow, event.metadata["donation_id"])).be_rejected(event.reason)


@handles(RefundsMade)
async def finish_refunds(event: RefundsMade, uow: CrowdfundingUnitOfWork) -> None:
    """Note that donors have their money again; when all have, the campaign has ended."""
    campaign = await _campaign(uow, event.campaign_id)
    await uow.donations.finish_refunds(event.donation_ids)
    if not await uow.donations.any_to_refund(event.campaign_id):
        campaign.be_given_back()


async def proceed_next(engine: AsyncEngine) -> bool:
    """Do what is due of one campaign; tell whether there was one."""
    campaign_id = await claim_due(engine, campaigns, lease=LEASE)
    if campaign_id is None:
        return False
    reached("campaigns.claimed")

    async def proceed() -> None:
        async with make_unit_of_work(engine) as uow:
            campaign = await _campaign(uow, campaign_id)
            at = await now(uow.connection)
            if campaign.state == "refunding":
                refunds = await uow.donations.begin_refunds(campaign_id, limit=REFUNDS_AT_ONCE)
                campaign.give_back(refunds, at=at)
            else:
                undecided = await uow.donations.any_undecided(campaign_id)
                campaign.proceed(at, undecided=undecided)

    await retried(proceed)
    reached("campaigns.moved")
    return True


def _check_deadline(deadline: datetime, at: datetime) -> None:
    if not at < deadline <= at + LONGEST:
        raise InvalidPosting("deadline", f"is from now on within {LONGEST.days} days")


async def _campaign(uow: CrowdfundingUnitOfWork, campaign_id: str) -> Campaign:
    campaign = await uow.campaigns.find_to_change(campaign_id)
    if campaign is None:
        raise CampaignNotFound(campaign_id)
    return campaign


async def _donation(uow: CrowdfundingUnitOfWork, donation_id: str) -> Donation:
    donation = await uow.donations.find(donation_id)
    if donation is None:
        raise LookupError(f"there is no donation {donation_id}")
    return donation


CROWDFUNDING = Context(
    name="crowdfunding",
    tables=TABLES,
    unit_of_work=make_unit_of_work,
    handlers=[register_transfer, reject_transfer, finish_refunds],
)
