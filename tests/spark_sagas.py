"""Satoshi Spark's sagas, as clients and the world outside play them, whoever is killed meanwhile.

A client whose answer was lost asks again, and the world goes on: ``play`` is called again by the
process that comes after the one that was killed, and ends where it would have ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import dropwhile
from typing import Any, ClassVar
from uuid import NAMESPACE_OID, uuid5

import psycopg
from psycopg import sql

from builders import query
from shared_ledger.apps.crowdfunding.bitcoin.commands import make_deposit, request_withdrawal
from shared_ledger.apps.crowdfunding.bitcoin.model import highest_fee
from shared_ledger.apps.crowdfunding.bitcoin.payments import Patience
from shared_ledger.apps.crowdfunding.bitcoin.queries import view_invoice_query
from shared_ledger.apps.crowdfunding.bitcoin.receipts import hear, sweep
from shared_ledger.apps.crowdfunding.bitcoin.refusals import InvoiceUsed
from shared_ledger.apps.crowdfunding.common.escrow import escrow_of
from shared_ledger.apps.crowdfunding.contexts import TABLES
from shared_ledger.apps.crowdfunding.crowdfunding.commands import create_campaign
from shared_ledger.apps.crowdfunding.crowdfunding.queries import (
    view_campaign_query,
    view_donation_query,
)
from shared_ledger.apps.crowdfunding.crowdfunding.store import make_unit_of_work
from shared_ledger.apps.crowdfunding.dashboard.queries import view_dashboard_query
from shared_ledger.apps.crowdfunding.lightning.port import Payment, Settlement
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.apps.crowdfunding.lightning.tables import invoices, node, payments
from shared_ledger.apps.crowdfunding.messages import CampaignKind, CreateCampaign
from sparking import Spark, Step

SAT = 1_000
FUNDS = 1_000_000 * SAT
PATIENT = Patience(pay_s=0.2, look_s=3_600)
"""What is not known is asked for when a test lets time pass."""


# --- the world outside, and its time ---

# A hold is what a payment is covered by: it may neither end before the payment, nor begin later. A
# campaign may not end before everybody has what is his.
_WORLD = """
create table {book}.remembered (run text, what text, value text not null, primary key (run, what));
create table {book}.asked (payment_hash text not null);
create table {book}.wrongs (what text not null);

create function {book}.watch_hold() returns trigger language plpgsql security definer as $$
begin
    if exists (
        select from {book}.{payments}
        where payment_hash = split_part(new.nonce, ':', 2) and state = 'in_flight'
    ) then
        insert into {book}.wrongs values (new.nonce || ' ended while its payment was in flight');
    end if;
    return null;
end
$$;
create trigger watch_hold after update on {book}.holds
    for each row when (old.state = 'open' and new.state <> 'open')
    execute function {book}.watch_hold();

create function {book}.watch_payment() returns trigger language plpgsql security definer as $$
begin
    if 2 <> (
        select count(*) from {book}.holds
        where split_part(nonce, ':', 2) = new.payment_hash and state = 'open'
    ) then
        insert into {book}.wrongs values (new.payment_hash || ' was begun without its holds');
    end if;
    return null;
end
$$;
create trigger watch_payment after insert on {book}.{payments}
    for each row execute function {book}.watch_payment();

create function {book}.watch_campaign() returns trigger language plpgsql security definer as $$
begin
    if exists (
        select from {book}.accounts
        where owner_id = 'campaign:' || new.campaign_id and posted <> 0
    ) or exists (
        select from {book}.crowdfunding_campaigns_donations as donation
        where donation.campaign_id = new.campaign_id and (
            donation.state in ('requested', 'refunding')
            or (new.state = 'failed' and donation.state = 'registered')
        )
    ) then
        insert into {book}.wrongs values (new.campaign_id || ' ended while money was under way');
    end if;
    return null;
end
$$;
create trigger watch_campaign after update on {book}.crowdfunding_campaigns
    for each row when (
        new.state in ('succeeded', 'failed', 'ended') and old.state <> new.state
    )
    execute function {book}.watch_campaign();
"""

_LET_LEASES_END = """
with campaigns as (
    update {book}.crowdfunding_campaigns set due_on = clock_timestamp()
    where due_on is not null and deadline <= clock_timestamp()
), deposits as (
    update {book}.crowdfunding_bitcoin_deposits set due_on = clock_timestamp()
    where due_on is not null and expires_on <= clock_timestamp()
)
update {book}.crowdfunding_bitcoin_withdrawals set due_on = clock_timestamp()
where due_on is not null
"""

# One column for each of a Spark's steps.
_TO_DO = "select " + ", ".join(
    [f"exists (select from {{book}}.{t.outbox.name} where published_on is null)" for t in TABLES]
    + [f"exists (select from {{book}}.{t.inbox.name} where state = 'new')" for t in TABLES]
    + [
        f"exists (select from {{book}}.{table} where due_on <= clock_timestamp())"
        for table in (
            "crowdfunding_bitcoin_withdrawals",
            "crowdfunding_bitcoin_deposits",
            "crowdfunding_campaigns",
        )
    ]
)


class WatchedNode(SimulatedNode):
    """The simulated node, which tells whether it is heard and writes down what it is asked."""

    def __init__(self, spark: Spark) -> None:
        super().__init__(spark.engines["bitcoin"], poll_s=0.01)
        self._asked = (spark.url, f"insert into {spark.schema}.asked values (%s)")
        self.heard: int | None = None
        """Up to which settlement it was heard; nobody listens yet if it is none."""

    async def settlements(self, cursor: str | None) -> AsyncIterator[Settlement]:
        self.heard = int(cursor or 0)
        async for settlement in super().settlements(cursor):
            yield settlement
            # Whoever asks for the next has noted this one.
            self.heard = int(settlement.cursor)

    async def pay(self, payment_request: str, *, max_fee_msat: int, timeout_s: float) -> Payment:
        query(*self._asked, self.decode(payment_request).payment_hash)
        return await super().pay(payment_request, max_fee_msat=max_fee_msat, timeout_s=timeout_s)


class World:
    """What is outside of a Spark: its node, what clients remember, and the time."""

    def __init__(self, spark: Spark, connection: psycopg.Connection[Any]) -> None:
        self.node = WatchedNode(spark)
        self._spark = spark
        self._connection = connection

    def look(self, text: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Run one statement, in which ``{book}`` is the schema; return its rows."""
        cursor = self._connection.execute(
            sql.SQL(text.replace("{book}", self._spark.schema)), parameters or None
        )
        return cursor.fetchall() if cursor.description else []

    def let_leases_end(self) -> None:
        """Let so much time pass that what a process had claimed is due again."""
        self.look(_LET_LEASES_END)

    def let_expire(self, payment_hash: str) -> None:
        """Let so much time pass that nobody can pay an invoice any more."""
        for table in (
            invoices.name,
            "crowdfunding_bitcoin_deposits",
            "crowdfunding_bitcoin_withdrawals",
        ):
            self.look(
                f"update {{book}}.{table} set expires_on = expires_on - interval '2 days' "
                "where payment_hash = %s",
                payment_hash,
            )
        self.let_leases_end()

    async def work_off(self) -> None:
        """Take the steps for which there is something to do, until there is nothing more."""
        async with asyncio.timeout(60):
            while chosen := self._to_do():
                if not any([await step() for step in chosen]):
                    # Something has failed, and is tried again in a moment.
                    await asyncio.sleep(0.001)

    def _to_do(self) -> list[Step]:
        (found,) = self.look(_TO_DO)
        return [step for step, is_due in zip(self._spark.steps, found, strict=True) if is_due]

    def assert_watched(self) -> None:
        """The node was asked to pay each invoice once at most, and nothing ended too early."""
        twice = "select payment_hash from {book}.asked group by 1 having count(*) > 1"
        assert self.look(twice) == []
        assert self.look("select what from {book}.wrongs") == []


def make_world(url: str, schema: str) -> None:
    """Make what clients remember, and what watches the node and the holds, in a book."""
    query(url, _WORLD.replace("{book}", schema).replace("{payments}", payments.name))


@asynccontextmanager
async def world_of(spark: Spark) -> AsyncIterator[World]:
    """The world of a Spark, which is patient from now on, and whose workers have begun."""
    with psycopg.connect(spark.url, autocommit=True) as connection:
        world = World(spark, connection)
        spark.node, spark.patience = world.node, PATIENT
        # What comes later they know for certain to be new.
        for worker in spark.workers:
            await worker.handle_next()
        yield world


# --- what all sagas have in common ---


class Saga:
    """One way in which something can go; ``run`` names all that is made for it in the book."""

    def __init__(self, spark: Spark, world: World, run: str) -> None:
        self.spark = spark
        self.world = world
        self.node = world.node
        self.run = run

    async def prepare(self) -> None:
        """Make what there is before it begins."""

    async def play(self) -> None:
        """Play it to its end; again, if the process was killed before that."""
        raise NotImplementedError

    async def check(self, steps: Sequence[str]) -> None:
        """Check its end; ``steps`` are those it had done when the process was killed, or all."""
        raise NotImplementedError

    async def once(self, what: str, ask: Callable[[], Awaitable[object]]) -> str:
        """What a client remembers; one that was not told asks again."""
        known = self.world.look(
            "select value from {book}.remembered where (run, what) = (%s, %s)", self.run, what
        )
        if known:
            return str(known[0][0])
        told = str(await ask())
        self.world.look("insert into {book}.remembered values (%s, %s, %s)", self.run, what, told)
        return told

    async def remember_balance(self, *names: str) -> None:
        """Remember what accounts have."""
        for name in names:
            balance = self.spark.balance(name)
            await self.once(f"balance of {name}", answering(balance))

    async def assert_changed(self, name: str, amount: int) -> None:
        """An account has so much more, or less, of which nothing is reserved; and is shown that."""
        before = int(await self.once(f"balance of {name}", unknown))
        spark = self.spark
        assert spark.balance(name) == spark.available(name) == before + amount, name
        shown = await view_dashboard_query(spark.engines["dashboard"], name)
        assert shown.balance == before + amount, name

    async def fund(self, *names: str) -> None:
        """Let accounts have enough, and remember what that is."""
        poor = [name for name in names if self.spark.balance(name) < FUNDS // 2]
        for name in poor:
            await self.spark.fund(name, FUNDS)
        if poor:
            await sweep(self.spark.engines["bitcoin"], self.node)
            await self.world.work_off()
        await self.remember_balance(*names)


async def unknown() -> object:
    """What nobody was told before."""
    raise LookupError("it was not remembered")


def answering(value: object) -> Callable[[], Awaitable[object]]:
    """Answer with a value."""

    async def answer() -> object:
        return value

    return answer


# --- sign-up ---


class SignUp(Saga):
    @property
    def name(self) -> str:
        return f"eve{self.run}"

    async def play(self) -> None:
        await self.spark.sign_up(self.name)
        await self.world.work_off()

    async def check(self, steps: Sequence[str]) -> None:
        view = await view_dashboard_query(self.spark.engines["dashboard"], self.name)
        assert (view.username, view.balance, view.activity) == (self.name, 0, [])
        told = self.world.look(
            "select type from {book}.crowdfunding_auth_outbox where key = %s union all "
            "select type from {book}.crowdfunding_accounting_outbox where key = %s",
            self.name,
            self.name,
        )
        events = sorted(type_ for (type_,) in told if type_ != "RegisterAccount")
        assert events == ["AccountOpened", "SignupEvent"]


# --- deposits ---


class Deposit(Saga):
    paid: ClassVar[int | None] = 100 * SAT

    @property
    def name(self) -> str:
        return f"bob{self.run}"

    async def play(self) -> None:
        request = await self.once("request", self.ask)
        await self.pay(request)
        await sweep(self.spark.engines["bitcoin"], self.node)
        await self.world.work_off()

    async def ask(self) -> str:
        deposit = await make_deposit(
            self.spark.engines["bitcoin"], self.node, account_id=self.name, amount=100 * SAT
        )
        return deposit.payment_request

    async def pay(self, request: str) -> None:
        """The payer pays once."""
        invoice = await self.node.lookup_invoice(self.node.decode(request).payment_hash)
        assert invoice is not None
        if self.paid is not None and invoice.state == "open":
            await self.node.receive(request, amount_msat=self.paid)

    async def check(self, steps: Sequence[str]) -> None:
        # What nobody was told of is paid by nobody, and ends by itself.
        for payment_hash, state in self._invoices():
            if state == "open":
                self.world.let_expire(payment_hash)
        await self.world.work_off()
        states = sorted(state for _, state in self._invoices())
        assert states in ([self._end], [self._end, "expired"])
        bitcoin = self.spark.engines["bitcoin"]
        told = self.node.decode(await self.once("request", unknown)).payment_hash
        view = await view_invoice_query(bitcoin, told, account_id=self.name)
        assert (view.state, view.received) == (self._end, self.paid or 0)
        dashboard = await view_dashboard_query(self.spark.engines["dashboard"], self.name)
        assert self.spark.balance(self.name) == dashboard.balance == (self.paid or 0)
        assert [each.amount for each in dashboard.activity] == ([self.paid] if self.paid else [])

    @property
    def _end(self) -> str:
        return "credited" if self.paid else "expired"

    def _invoices(self) -> list[tuple[str, str]]:
        return [
            (payment_hash, state)
            for payment_hash, state in self.world.look(
                "select payment_hash, state from {book}.crowdfunding_bitcoin_deposits "
                "where account_id = %s",
                self.name,
            )
        ]


class OverpaidDeposit(Deposit):
    paid = 170 * SAT


class UnpaidDeposit(Deposit):
    paid = None

    async def play(self) -> None:
        request = await self.once("request", self.ask)
        self.world.let_expire(self.node.decode(request).payment_hash)
        await self.world.work_off()


class HeardDeposit(Deposit):
    """The node tells that it was paid, and nobody has to ask."""

    async def play(self) -> None:
        self.node.heard = None
        listening = asyncio.create_task(hear(self.spark.engines["bitcoin"], self.node))
        try:
            async with asyncio.timeout(60):
                while self.node.heard is None:  # noqa: ASYNC110  # It is counted in the node.
                    await asyncio.sleep(0.002)
                await self.pay(await self.once("request", self.ask))
                while self.node.heard < self._settled():  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        await self.world.work_off()

    def _settled(self) -> int:
        return int(self.world.look(f"select settle_index from {{book}}.{node.name}")[0][0])


# --- campaigns ---


class Collecting(Saga):
    """Something that happens to one campaign."""

    kind: ClassVar[CampaignKind]
    goal: ClassVar[int] = 100 * SAT

    @property
    def campaign_id(self) -> str:
        return str(uuid5(NAMESPACE_OID, self.run))

    @property
    def creator(self) -> str:
        return f"ada{self.run}"

    @property
    def escrow(self) -> int:
        """What the campaign's own account has."""
        return self.spark.balance(escrow_of(self.campaign_id))

    async def begin(self) -> None:
        """Begin the campaign; who was not told that it has begun asks again for the same."""
        await self.once("begun", self._create)

    async def _create(self) -> bool:
        later = datetime.now(UTC) + timedelta(days=30)
        deadline = await self.once("deadline", answering(later.isoformat()))
        command = CreateCampaign(
            campaign_id=self.campaign_id,
            creator_id=self.creator,
            creator_username=self.creator,
            title="A bridge for toads",
            description="They cross the road every March.",
            goal=self.goal,
            deadline=datetime.fromisoformat(deadline),
            kind=self.kind,
        )
        async with make_unit_of_work(self.spark.engines["crowdfunding"]) as uow:
            return await create_campaign(command, uow)

    async def end(self) -> None:
        """Let the deadline pass, once, and so much more time that all that is claimed is due."""
        found = await self.spark.found_campaign(self.campaign_id)
        if found.is_open(datetime.now(UTC)):
            await self.spark.end(self.campaign_id)
        self.world.let_leases_end()
        await self.world.work_off()

    async def assert_campaign(self, state: str, total_raised: int) -> None:
        """All who look see the same of it."""
        view = await view_campaign_query(self.spark.engines["crowdfunding"], self.campaign_id)
        assert (view.state, view.total_raised) == (state, total_raised)
        dashboard = await view_dashboard_query(self.spark.engines["dashboard"], self.creator)
        (own,) = dashboard.campaigns
        assert (own.state, own.total_raised) == (state, total_raised)
        assert self.escrow == 0

    async def assert_donation(self, donor: str, key: str, state: str) -> None:
        crowdfunding = self.spark.engines["crowdfunding"]
        assert (await view_donation_query(crowdfunding, f"{donor}:{key}")).state == state


class KeptDonation(Collecting):
    kind = "keep_it_all"

    async def prepare(self) -> None:
        await self.fund("bob")
        await self.remember_balance(self.creator)

    async def play(self) -> None:
        await self.begin()
        await self.spark.donate("bob", self.campaign_id, 60 * SAT, key=self.run)
        await self.world.work_off()
        await self.end()

    async def check(self, steps: Sequence[str]) -> None:
        await self.assert_donation("bob", self.run, "registered")
        await self.assert_campaign("ended", 60 * SAT)
        await self.assert_changed("bob", -60 * SAT)
        await self.assert_changed(self.creator, 60 * SAT)


class StumblingDonation(KeptDonation):
    """The database refuses the first try of what the crowdfunding context does in the end."""

    async def prepare(self) -> None:
        await super().prepare()
        self.world.look(
            """
            create sequence if not exists {book}.tries;
            select setval('{book}.tries', 1, false);
            create or replace function {book}.stumble() returns trigger
            language plpgsql security definer as $$
            begin
                -- A number that was given is not taken back with the transaction.
                if nextval('{book}.tries') = 1 then
                    raise exception 'refused the first time';
                end if;
                return new;
            end
            $$;
            create or replace trigger stumble
                before update on {book}.crowdfunding_campaigns_donations
                for each row execute function {book}.stumble();
            """,
        )


class RejectedDonation(Collecting):
    kind = "all_or_nothing"

    async def prepare(self) -> None:
        await self.remember_balance("zoe", self.creator)

    async def play(self) -> None:
        await self.begin()
        await self.spark.donate("zoe", self.campaign_id, 60 * SAT, key=self.run)
        await self.world.work_off()
        await self.end()

    async def check(self, steps: Sequence[str]) -> None:
        await self.assert_donation("zoe", self.run, "rejected")
        await self.assert_campaign("failed", 0)
        await self.assert_changed("zoe", 0)
        await self.assert_changed(self.creator, 0)


class PaidOut(Collecting):
    """All or nothing, and it is all."""

    kind = "all_or_nothing"

    async def prepare(self) -> None:
        await self.fund("bob")
        await self.remember_balance(self.creator)

    async def play(self) -> None:
        await self.begin()
        await self.spark.donate("bob", self.campaign_id, self.goal, key=self.run)
        await self.world.work_off()
        await self.end()

    async def check(self, steps: Sequence[str]) -> None:
        await self.assert_campaign("succeeded", self.goal)
        await self.assert_donation("bob", self.run, "registered")
        await self.assert_changed("bob", -self.goal)
        await self.assert_changed(self.creator, self.goal)


class GivenBack(Collecting):
    """All or nothing, and it is nothing: more donations than a batch of refunds has."""

    kind = "all_or_nothing"
    goal = 1_000 * SAT
    donors = ("bob", "cat", "dan")

    async def prepare(self) -> None:
        await self.fund(*self.donors)
        await self.remember_balance(self.creator)
        await self.begin()
        for donor in self.donors:
            await self.spark.donate(donor, self.campaign_id, 7 * SAT, key=self.run)
        await self.world.work_off()
        assert self.escrow == 3 * 7 * SAT

    async def play(self) -> None:
        await self.end()

    async def check(self, steps: Sequence[str]) -> None:
        await self.assert_campaign("failed", 3 * 7 * SAT)
        for donor in self.donors:
            await self.assert_donation(donor, self.run, "refunded")
            await self.assert_changed(donor, 0)
        await self.assert_changed(self.creator, 0)
        refunds = self.world.look(
            "select count(*), count(distinct group_id) from {book}.entries "
            "where operation = 'DONATION_REFUND' "
            "and group_id in (select id from {book}.entries where nonce like %s)",
            f"@refund:{self.campaign_id}:%",
        )
        assert refunds == [(3, 2)]


# --- withdrawals ---


class Withdrawal(Saga):
    """The node pays, for a fee that is less than was reserved."""

    name: ClassVar[str] = "bob"
    plan: ClassVar[dict[str, Any]] = {"fee_msat": 1_234}
    end: ClassVar[tuple[str, str | None]] = ("succeeded", None)
    amount: ClassVar[int] = 700 * SAT

    async def prepare(self) -> None:
        await self.fund("bob")
        await self.remember_balance(self.name)
        request = await self.once("request", self.ask)
        await self.node.plan(self.node.decode(request).payment_hash, **self.plan)

    async def ask(self) -> str:
        """Somebody outside asks for the amount."""
        return await self.node.outside_invoice(self.amount)

    async def play(self) -> None:
        request = await self.once("request", unknown)
        payment_hash = self.node.decode(request).payment_hash
        with suppress(InvoiceUsed):
            await request_withdrawal(
                self.spark.engines["bitcoin"],
                self.node,
                account_id=self.name,
                payment_request=request,
            )
        await self.world.work_off()
        if await self._is_open(payment_hash):
            payment = await self.node.track(payment_hash)
            if payment is not None and payment.state == "in_flight":
                await self.node.resolve(payment_hash)
            self.world.let_leases_end()
            await self.world.work_off()
            # What the node has never heard of it may yet hear of, until the invoice expires.
            assert await self._is_open(payment_hash) == (payment is None)
            if payment is None:
                self.world.let_expire(payment_hash)
                await self.world.work_off()

    async def check(self, steps: Sequence[str]) -> None:
        # Whoever was about to ask the node may have asked it: nobody asks again.
        state, reason = ("failed", "never_sent") if was_about_to_ask(steps) else self.end
        request = await self.once("request", unknown)
        payment_hash = self.node.decode(request).payment_hash
        view = await view_invoice_query(
            self.spark.engines["bitcoin"], payment_hash, account_id=self.name
        )
        assert (view.state, view.reason) == (state, reason)
        cost = self.amount + view.fee if state == "succeeded" else 0
        assert view.fee == (self.plan.get("fee_msat", 1_000) if cost else 0)
        await self.assert_changed(self.name, -cost)
        held = self.world.look(
            "select state from {book}.crowdfunding_accounting_reservations where payment_hash = %s",
            payment_hash,
        )
        assert held == {"succeeded": [("captured",)], "failed": [("released",)]}.get(state, [])

    async def _is_open(self, payment_hash: str) -> bool:
        """Whether nobody knows yet what becomes of it; it stays reserved for so long."""
        is_open = (await self.spark.invoice(payment_hash)).state == "paying"
        if is_open:
            reserved = self.amount + highest_fee(self.amount)
            before = int(await self.once(f"balance of {self.name}", unknown))
            assert self.spark.available(self.name) == before - reserved
        return is_open


def was_about_to_ask(steps: Sequence[str]) -> bool:
    """Whether a payment was committed to, and the node not asked for it, when these were done."""
    paying = list(dropwhile(lambda step: step != "payments.claimed", steps))
    return "unit_of_work.after_commit" in paying and "payments.asked" not in paying


class FailedWithdrawal(Withdrawal):
    plan: ClassVar[dict[str, Any]] = {"outcome": "fail", "reason": "no route"}
    end = ("failed", "no route")


class UnansweredWithdrawal(Withdrawal):
    """Nobody knows what becomes of it, until it is paid in the end."""

    plan: ClassVar[dict[str, Any]] = {"outcome": "hang", "lost": "answer"}


class UnsentWithdrawal(Withdrawal):
    """The node never hears of it."""

    plan: ClassVar[dict[str, Any]] = {"lost": "request"}
    end = ("failed", "never_sent")


class RefusedWithdrawal(Withdrawal):
    name = "zoe"
    end = ("refused", "insufficient_credits")


SAGAS: tuple[type[Saga], ...] = (
    SignUp,
    Deposit,
    OverpaidDeposit,
    UnpaidDeposit,
    HeardDeposit,
    KeptDonation,
    StumblingDonation,
    RejectedDonation,
    PaidOut,
    GivenBack,
    Withdrawal,
    FailedWithdrawal,
    UnansweredWithdrawal,
    UnsentWithdrawal,
    RefusedWithdrawal,
)
