"""Campaigns and donations: who may give until when, and to whom the money goes in the end.

A campaign that keeps it all hands each donation to its creator at once. One that is all or nothing
keeps them in an account of its own until the deadline; then they go to the creator, or back. The
states of both are drawn in docs/satoshi-spark.md.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

from shared_ledger.apps.crowdfunding.common.escrow import escrow_of
from shared_ledger.apps.crowdfunding.messages import (
    CampaignClosed,
    CampaignCreated,
    CampaignKind,
    CreateCampaign,
    DonateToCampaign,
    DonationRegistered,
    DonationRejected,
    Outcome,
    Refund,
    RequestRefunds,
    RequestTransfer,
)
from shared_ledger.messages import Aggregate

CampaignState = Literal[
    "open", "closing", "paying_out", "refunding", "succeeded", "failed", "ended"
]
DonationState = Literal["requested", "registered", "rejected", "refunding", "refunded"]

# What was asked for just before the deadline is waited for in steps of this.
SETTLING = timedelta(seconds=1)


class Campaign(Aggregate):
    """Collects for a goal until a deadline. Amounts are in msat.

    ``due_on`` is when something is to be done about it: the deadline, and what follows from it.
    """

    creator_id: str
    creator_username: str
    title: str
    description: str
    goal: int
    deadline: datetime
    kind: CampaignKind
    created_on: datetime
    total_raised: int = 0
    state: CampaignState = "open"
    refund_batches: int = 0
    due_on: datetime | None = None

    @classmethod
    def create(cls, command: CreateCampaign, *, at: datetime) -> Campaign:
        """Begin to collect."""
        campaign = cls(
            entity_id=command.campaign_id,
            creator_id=command.creator_id,
            creator_username=command.creator_username,
            title=command.title,
            description=command.description,
            goal=command.goal,
            deadline=command.deadline,
            kind=command.kind,
            created_on=at,
            due_on=command.deadline,
        )
        campaign.raise_event(
            CampaignCreated(
                campaign_id=command.campaign_id,
                creator_id=command.creator_id,
                title=command.title,
                goal=command.goal,
                deadline=command.deadline,
                kind=command.kind,
            )
        )
        return campaign

    @property
    def escrow_id(self) -> str:
        """The account that keeps what nobody knows yet whose it will be."""
        return escrow_of(self.entity_id)

    @property
    def beneficiary_id(self) -> str:
        """The account that donations go to."""
        return self.creator_id if self.kind == "keep_it_all" else self.escrow_id

    def is_open(self, at: datetime) -> bool:
        """Whether it can be donated to."""
        return self.state == "open" and at < self.deadline

    def register(self, donation: Donation) -> None:
        """Count a donation that was paid, also when the deadline has passed meanwhile."""
        self.total_raised += donation.amount
        self.raise_event(
            DonationRegistered(
                campaign_id=self.entity_id,
                donation_id=donation.entity_id,
                donor_id=donation.donor_id,
                amount=donation.amount,
                total_raised=self.total_raised,
            )
        )

    def proceed(self, at: datetime, *, undecided: bool) -> None:
        """Do what the deadline asks for; ``undecided``: donations are still being paid.

        A campaign that is over takes no more; when none is undecided it is settled.
        """
        if self.state == "open" and at >= self.deadline:
            self.state = "closing"
        if self.state != "closing":
            return
        if undecided:
            self.due_on = at + SETTLING
        elif self.kind == "keep_it_all":
            self._close("succeeded" if self.total_raised >= self.goal else "ended")
        elif self.total_raised >= self.goal:
            self._pay_out()
        elif self.total_raised:
            self.state = "refunding"
            self.due_on = at
        else:
            self._close("failed")

    def give_back(self, refunds: list[Refund], *, at: datetime) -> None:
        """Ask for the next donors' refunds; none: all are asked for."""
        if not refunds:
            self.due_on = None
            return
        self.refund_batches += 1
        self.due_on = at
        self.raise_event(
            RequestRefunds(
                batch_id=f"{self.entity_id}:{self.refund_batches}",
                campaign_id=self.entity_id,
                from_account_id=self.escrow_id,
                refunds=refunds,
            )
        )

    def be_paid_out(self) -> None:
        """Note that the creator has it all."""
        if self.state == "paying_out":
            self._close("succeeded")

    def be_given_back(self) -> None:
        """Note that every donor has his money again."""
        if self.state == "refunding":
            self._close("failed")

    def _pay_out(self) -> None:
        self.state = "paying_out"
        self.due_on = None
        self.raise_event(
            RequestTransfer(
                idempotency_key=f"payout:{self.entity_id}",
                purpose="payout",
                from_account_id=self.escrow_id,
                to_account_id=self.creator_id,
                amount=self.total_raised,
                metadata={"campaign_id": self.entity_id},
            )
        )

    def _close(self, outcome: Outcome) -> None:
        self.state = outcome
        self.due_on = None
        self.raise_event(
            CampaignClosed(
                campaign_id=self.entity_id, outcome=outcome, total_raised=self.total_raised
            )
        )


class Donation(Aggregate):
    """What somebody gives to a campaign, in msat. ``reason`` is why it was rejected."""

    campaign_id: str
    donor_id: str
    amount: int
    created_on: datetime
    state: DonationState = "requested"
    reason: str | None = None

    @classmethod
    def request(cls, command: DonateToCampaign, campaign: Campaign, *, at: datetime) -> Donation:
        """Ask the accounting for the transfer."""
        donation = cls(
            entity_id=donation_id(command),
            campaign_id=command.campaign_id,
            donor_id=command.donor_id,
            amount=command.amount,
            created_on=at,
        )
        donation.raise_event(
            RequestTransfer(
                idempotency_key=donation.entity_id,
                purpose="donation",
                from_account_id=command.donor_id,
                to_account_id=campaign.beneficiary_id,
                amount=command.amount,
                metadata={"campaign_id": command.campaign_id, "donation_id": donation.entity_id},
            )
        )
        return donation

    def be_registered(self) -> bool:
        """Note that it was paid; tell whether that is new."""
        if self.state != "requested":
            return False
        self.state = "registered"
        return True

    def be_rejected(self, reason: str) -> None:
        """Note that it could not be paid."""
        if self.state != "requested":
            return
        self.state = "rejected"
        self.reason = reason
        self.raise_event(
            DonationRejected(
                donation_id=self.entity_id,
                campaign_id=self.campaign_id,
                donor_id=self.donor_id,
                reason=reason,
            )
        )


def donation_id(command: DonateToCampaign) -> str:
    """Return a donation's id: no other donor's key can be the same."""
    return f"{command.donor_id}:{command.idempotency_key}"
