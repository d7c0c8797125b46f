"""Satoshi Spark for one test, step by step: nothing happens until the test says so."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import query
from contexts import engine_on
from shared_ledger import Ledger
from shared_ledger.apps.crowdfunding import SERVICE
from shared_ledger.apps.crowdfunding.accounting.operations import (
    ASSET,
    CROWDFUNDING,
    GIVEN,
    LIGHTNING,
)
from shared_ledger.apps.crowdfunding.accounting.store import SparkLedger
from shared_ledger.apps.crowdfunding.bitcoin.commands import make_deposit, request_withdrawal
from shared_ledger.apps.crowdfunding.bitcoin.model import Deposit, Withdrawal
from shared_ledger.apps.crowdfunding.bitcoin.payments import Patience, pay_next
from shared_ledger.apps.crowdfunding.bitcoin.queries import InvoiceView, view_of
from shared_ledger.apps.crowdfunding.bitcoin.receipts import ask_next, sweep
from shared_ledger.apps.crowdfunding.bitcoin.store import make_unit_of_work as bitcoin_uow
from shared_ledger.apps.crowdfunding.contexts import NAMES, TABLES, contexts
from shared_ledger.apps.crowdfunding.crowdfunding.commands import (
    create_campaign,
    donate_to_campaign,
    proceed_next,
)
from shared_ledger.apps.crowdfunding.crowdfunding.model import Campaign, Donation, donation_id
from shared_ledger.apps.crowdfunding.crowdfunding.store import (
    make_unit_of_work as crowdfunding_uow,
)
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.apps.crowdfunding.messages import (
    CampaignKind,
    CreateCampaign,
    DonateToCampaign,
    RegisterAccount,
)
from shared_ledger.connections import make_engine
from shared_ledger.messages import (
    Inbox,
    InProcess,
    Message,
    Relay,
    Retries,
    TransactionalOutbox,
    UnitOfWork,
    Worker,
    retried,
)
from shared_ledger.migrations import migrate, migrate_application

Step = Callable[[], Awaitable[bool | int]]

IMPATIENT = Patience(pay_s=0.2, look_s=0)
"""What is not known is asked for at once again."""


def migrate_spark(url: str, schema: str) -> None:
    """Make the book and all tables."""
    engine = make_engine(url)
    migrate(engine, schema, [CROWDFUNDING])
    engine.dispose()
    assert SERVICE.migrations is not None
    migrate_application(url, schema, SERVICE.migrations)


class Spark:
    """All contexts over one database, and the world outside, which is the simulated node's.

    ``engines`` are the contexts' own, by their names, where each has another.
    """

    def __init__(
        self,
        url: str,
        schema: str,
        engine: AsyncEngine,
        ledger: SparkLedger,
        engines: Mapping[str, AsyncEngine] | None = None,
    ) -> None:
        self.url = url
        self.schema = schema
        self.engine = engine
        self.engines = engines or dict.fromkeys(NAMES, engine)
        self.ledger = ledger
        self.node = SimulatedNode(self.engines["bitcoin"], poll_s=0.01)
        self.patience = IMPATIENT
        inboxes = [Inbox(self.engines[each.name], each) for each in contexts(ledger)]
        transport = InProcess(inboxes)
        self.relays = [Relay(each.engine, each.context.tables, transport) for each in inboxes]
        # What fails is tried again at once, so that a test sees it.
        soon = Retries(attempts=3, first_s=0.001)
        self.workers = [Worker(inbox, retries=soon) for inbox in inboxes]
        self._numbers = count(1)

    @property
    def steps(self) -> list[Step]:
        """Everything that goes on by itself, one step of each."""
        return [
            *(relay.publish for relay in self.relays),
            *(worker.handle_next for worker in self.workers),
            self.pay,
            partial(ask_next, self.engines["bitcoin"], self.node),
            partial(proceed_next, self.engines["crowdfunding"]),
        ]

    async def pay(self) -> bool:
        """Pay, or look after, one withdrawal that is due."""
        return await pay_next(self.engines["bitcoin"], self.node, self.patience)

    async def settle(self) -> None:
        """Hear of what was paid to us, and go on until nothing is left to do now."""
        await sweep(self.engines["bitcoin"], self.node)
        while any([await step() for step in self.steps]):
            pass

    async def tell(self, *messages: Message) -> None:
        """Send messages from the auth context."""
        async with UnitOfWork(self.engines["auth"], TransactionalOutbox(TABLES[0])) as uow:
            uow.emit(*messages)

    async def sign_up(self, *names: str) -> None:
        """Let users take part."""
        await self.tell(*(RegisterAccount(account_id=name, username=name) for name in names))

    async def fund(self, account_id: str, amount: int) -> str:
        """Deposit an amount, in msat, and have it paid; it is credited when all is settled."""
        deposit = await make_deposit(
            self.engines["bitcoin"], self.node, account_id=account_id, amount=amount
        )
        await self.node.receive(deposit.payment_request)
        return deposit.entity_id

    async def campaign(
        self,
        creator: str = "ada",
        *,
        goal: int = 10_000,
        kind: CampaignKind = "all_or_nothing",
        lasts: timedelta = timedelta(days=30),
    ) -> str:
        """Begin a campaign, and return its id."""
        command = CreateCampaign(
            campaign_id=str(uuid4()),
            creator_id=creator,
            creator_username=creator,
            title="A bridge for toads",
            description="They cross the road every March.",
            goal=goal,
            deadline=datetime.now(UTC) + lasts,
            kind=kind,
        )

        async def create() -> None:
            async with crowdfunding_uow(self.engines["crowdfunding"]) as uow:
                await create_campaign(command, uow)

        await retried(create)
        return command.campaign_id

    async def donate(
        self, donor: str, campaign_id: str, amount: int, key: str | None = None
    ) -> str:
        """Ask for a donation, and return its id."""
        command = DonateToCampaign(
            idempotency_key=key or f"donation {next(self._numbers)}",
            donor_id=donor,
            campaign_id=campaign_id,
            amount=amount,
        )

        async def ask() -> None:
            async with crowdfunding_uow(self.engines["crowdfunding"]) as uow:
                await donate_to_campaign(command, uow)

        await retried(ask)
        return donation_id(command)

    async def withdraw(self, account_id: str, amount: int, **plan: Any) -> str:
        """Ask for a withdrawal to somebody outside, and return its payment hash."""
        request = await self.node.outside_invoice(amount)
        payment_hash = self.node.decode(request).payment_hash
        if plan:
            await self.node.plan(payment_hash, **plan)
        await request_withdrawal(
            self.engines["bitcoin"], self.node, account_id=account_id, payment_request=request
        )
        return payment_hash

    async def end(self, campaign_id: str) -> None:
        """Let a campaign's deadline have passed."""
        query(
            self.url,
            f"update {self.schema}.crowdfunding_campaigns set deadline = clock_timestamp(), "
            "due_on = clock_timestamp() where campaign_id = %s returning 1",
            campaign_id,
        )

    async def found_campaign(self, campaign_id: str) -> Campaign:
        async with crowdfunding_uow(self.engines["crowdfunding"]) as uow:
            found = await uow.campaigns.find(campaign_id)
        assert found is not None
        return found

    async def found_donation(self, donation: str) -> Donation:
        async with crowdfunding_uow(self.engines["crowdfunding"]) as uow:
            found = await uow.donations.find(donation)
        assert found is not None
        return found

    async def invoice(self, payment_hash: str) -> InvoiceView:
        async with bitcoin_uow(self.engines["bitcoin"]) as uow:
            found: Deposit | Withdrawal | None = await uow.deposits.find(payment_hash)
            found = found or await uow.withdrawals.find(payment_hash)
        assert found is not None
        return view_of(found)

    def balance(self, account_id: str) -> int:
        """What an account has, in msat."""
        return self.ledger.balance(account_id, asset=ASSET).balance

    def available(self, account_id: str) -> int:
        """What of it is not reserved."""
        return self.ledger.balance(account_id, asset=ASSET).available

    def dead(self) -> Counter[str]:
        """How many dead letters there are of each type."""
        of_each = (
            f"select type from {self.schema}.{tables.inbox.name} where state = 'dead'"
            for tables in TABLES
        )
        return Counter(type_ for (type_,) in query(self.url, " union all ".join(of_each)))

    def assert_sound(self) -> None:
        """What the node holds is what people have, and nothing was lost between them."""
        rows = query(
            self.url,
            f"select owner_id, (posted)::bigint from {self.schema}.accounts where asset = %s",
            ASSET,
        )
        balances = dict(rows)
        received, paid = query(
            self.url,
            "select coalesce((select sum(received_msat) "
            f"from {self.schema}.crowdfunding_sim_invoices "
            "where settle_index is not null), 0)::bigint, "
            f"coalesce((select sum(amount_msat + fee_msat) from "
            f"{self.schema}.crowdfunding_sim_payments where state = 'succeeded'), 0)::bigint",
        )[0]
        people = sum(amount for owner, amount in balances.items() if not owner.startswith("@"))
        assert people == received - paid
        assert balances.get(LIGHTNING, 0) == paid - received
        assert balances.get(GIVEN, 0) == 0
        assert all(a >= 0 for owner, a in balances.items() if not owner.startswith("@"))
        shown = query(
            self.url,
            "select account_id, balance::bigint "
            f"from {self.schema}.crowdfunding_dashboard_accounts",
        )
        for account_id, balance in shown:
            assert balance == balances.get(account_id, 0), account_id
        assert not self.dead()


@asynccontextmanager
async def spark_on(url: str, schema: str, *, migrated: bool = False) -> AsyncIterator[Spark]:
    """Satoshi Spark over a new book."""
    if not migrated:
        migrate_spark(url, schema)
    with Ledger(CROWDFUNDING, url, schema=schema) as ledger:
        async with engine_on(url, schema) as engine:
            yield Spark(url, schema, engine, ledger)


async def scalar(spark: Spark, text: str) -> Any:
    """The one value that a statement gives; ``{book}`` is the schema."""
    async with spark.engine.connect() as connection:
        return await connection.scalar(sa.text(text.format(book=spark.schema)))
