"""Where the crowdfunding context keeps what it knows."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from shared_ledger.apps.crowdfunding.common.repositories import FieldRepository
from shared_ledger.apps.crowdfunding.crowdfunding.model import Campaign, Donation
from shared_ledger.apps.crowdfunding.messages import Refund
from shared_ledger.messages import (
    Source,
    TransactionalOutbox,
    UnitOfWork,
    message_tables,
)

metadata = sa.MetaData()
TABLES = message_tables(metadata, "crowdfunding_campaigns")

campaigns = sa.Table(
    "crowdfunding_campaigns",
    metadata,
    sa.Column("campaign_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("creator_id", sa.Text, nullable=False),
    sa.Column("creator_username", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("description", sa.Text, nullable=False),
    sa.Column("goal", sa.BigInteger, nullable=False),
    sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("total_raised", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("refund_batches", sa.BigInteger, nullable=False),
    sa.Column("due_on", sa.DateTime(timezone=True)),
    sa.CheckConstraint("goal >= 1 and total_raised >= 0", name="crowdfunding_campaigns_amounts"),
    sa.CheckConstraint(
        "kind in ('keep_it_all', 'all_or_nothing')", name="crowdfunding_campaigns_kind"
    ),
    sa.CheckConstraint(
        "state in ('open', 'closing', 'paying_out', 'refunding', 'succeeded', 'failed', 'ended')",
        name="crowdfunding_campaigns_state",
    ),
)
sa.Index(
    "crowdfunding_campaigns_due_idx",
    campaigns.c.due_on,
    postgresql_where=campaigns.c.due_on.is_not(None),
)
sa.Index("crowdfunding_campaigns_newest_idx", campaigns.c.created_on, campaigns.c.campaign_id)

donations = sa.Table(
    "crowdfunding_campaigns_donations",
    metadata,
    sa.Column("donation_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("campaign_id", sa.Text, nullable=False),
    sa.Column("donor_id", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.ForeignKeyConstraint(["campaign_id"], [campaigns.c.campaign_id]),
    sa.CheckConstraint("amount >= 1", name="crowdfunding_campaigns_donations_amount"),
    sa.CheckConstraint(
        "state in ('requested', 'registered', 'rejected', 'refunding', 'refunded')",
        name="crowdfunding_campaigns_donations_state",
    ),
)
sa.Index(
    "crowdfunding_campaigns_donations_state_idx",
    donations.c.campaign_id,
    donations.c.state,
    donations.c.donation_id,
)


class Campaigns(FieldRepository[Campaign]):
    """Campaigns by id."""

    table = campaigns
    aggregate = Campaign

    async def find_steady(self, campaign_id: str) -> Campaign | None:
        """Return a campaign that nobody changes until this is committed; others may read it so.

        It cannot be closed between a look at its state and the donation that follows from that.
        """
        return await self._find_locked(campaign_id, read=True)

    async def find_to_change(self, campaign_id: str) -> Campaign | None:
        """Return a campaign that nobody else changes meanwhile.

        Many donations change the same one: waiting is cheaper than doing it again.
        """
        return await self._find_locked(campaign_id, read=False)

    async def _find_locked(self, campaign_id: str, *, read: bool) -> Campaign | None:
        chosen = sa.select(campaigns.c.campaign_id).where(campaigns.c.campaign_id == campaign_id)
        await self._uow.connection.execute(chosen.with_for_update(read=read))
        return await self.find(campaign_id)


class Donations(FieldRepository[Donation]):
    """Donations by id; a great many of a campaign's at once."""

    table = donations
    aggregate = Donation

    async def any_undecided(self, campaign_id: str) -> bool:
        """Tell whether a campaign's donations are still being paid."""
        return await self._any(campaign_id, "requested")

    async def any_to_refund(self, campaign_id: str) -> bool:
        """Tell whether donors have yet to get their money again."""
        return await self._any(campaign_id, "registered", "refunding")

    async def begin_refunds(self, campaign_id: str, *, limit: int) -> list[Refund]:
        """Choose the next donations to give back, and note that they are being given back."""
        chosen = (
            sa.select(donations.c.donation_id)
            .where(donations.c.campaign_id == campaign_id, donations.c.state == "registered")
            .order_by(donations.c.donation_id)
            .limit(limit)
        )
        moved = await self._uow.connection.execute(
            _to("refunding")
            .where(donations.c.donation_id.in_(chosen))
            .returning(donations.c.donation_id, donations.c.donor_id, donations.c.amount)
        )
        return [Refund(*row) for row in moved]

    async def finish_refunds(self, donation_ids: Sequence[str]) -> None:
        """Note that these were given back."""
        await self._uow.connection.execute(
            _to("refunded").where(
                donations.c.donation_id.in_(donation_ids), donations.c.state == "refunding"
            )
        )

    async def _any(self, campaign_id: str, *states: str) -> bool:
        found = sa.exists().where(
            donations.c.campaign_id == campaign_id, donations.c.state.in_(states)
        )
        return bool(await self._uow.connection.scalar(sa.select(found)))


class CrowdfundingUnitOfWork(UnitOfWork):
    """One transaction of the crowdfunding context."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, TransactionalOutbox(TABLES))
        self.campaigns = Campaigns(self)
        self.donations = Donations(self)


def make_unit_of_work(source: Source) -> CrowdfundingUnitOfWork:
    """Open a unit of work: ``async with make_unit_of_work(engine) as uow``."""
    return CrowdfundingUnitOfWork(source)


def _to(state: str) -> sa.Update:
    return sa.update(donations).values(state=state, version=donations.c.version + 1)
