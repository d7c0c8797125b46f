"""Whole campaigns, in any order of steps, against a Satoshi Spark of a few lines in memory."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from builders import assert_sound
from shared_ledger import NonceReused
from shared_ledger.apps.crowdfunding.bitcoin.commands import make_deposit
from shared_ledger.apps.crowdfunding.bitcoin.model import highest_fee
from shared_ledger.apps.crowdfunding.bitcoin.receipts import sweep
from shared_ledger.apps.crowdfunding.common.escrow import escrow_of
from shared_ledger.apps.crowdfunding.crowdfunding.model import donation_id
from shared_ledger.apps.crowdfunding.crowdfunding.refusals import CampaignOver, OwnCampaign
from shared_ledger.apps.crowdfunding.dashboard.queries import SHOWN, view_dashboard_query
from shared_ledger.apps.crowdfunding.lightning.simulation import DEFAULT_FEE_MSAT
from shared_ledger.apps.crowdfunding.messages import CampaignKind, DonateToCampaign
from shared_ledger.embedded import Cluster
from spark_sagas import World, make_world, world_of
from sparking import Spark, spark_on

T = TypeVar("T")

MOST_CAMPAIGNS = 6

PEOPLE = st.sampled_from(["ada", "bob", "cat", "dan"])
# Few different ones, so that some are exactly what somebody has, or a campaign asks for.
AMOUNTS = st.one_of(st.sampled_from([10_000, 20_000, 50_000]), st.integers(1, 60_000))
GOALS = st.sampled_from([10_000, 20_000, 50_000, 100_000])
WHICH = st.integers(0, 20)
GIFTS: st.SearchStrategy[int | str] = st.one_of(
    AMOUNTS, st.sampled_from(["what is missing", "all that he has"])
)
PLANS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"fee_msat": 0},
        {"fee_msat": 4_999},
        {"fee_msat": 5_000},
        {"fee_msat": 5_001},
        {"outcome": "fail"},
        {"outcome": "hang"},
        {"outcome": "hang", "lost": "answer"},
        {"lost": "answer"},
        {"lost": "request"},
    ]
)


ENDS = {
    ("campaign", "keep_it_all", "succeeded"),
    ("campaign", "keep_it_all", "ended"),
    ("campaign", "all_or_nothing", "succeeded"),
    ("campaign", "all_or_nothing", "failed"),
    ("donation", "registered"),
    ("donation", "rejected"),
    ("donation", "refunded"),
    ("withdrawal", "succeeded"),
    ("withdrawal", "failed"),
    ("withdrawal", "refused"),
}
"""What becomes of things; if the examples do not come to all of it, they show too little."""


# --- the model ---


@dataclass
class Campaign:
    creator: str
    kind: CampaignKind
    goal: int
    raised: int = 0
    is_over: bool = False
    """Whether the deadline has passed."""

    @property
    def state(self) -> str:
        """When all that is under way has come to its end."""
        if not self.is_over:
            return "open"
        if self.raised >= self.goal:
            return "succeeded"
        return "ended" if self.kind == "keep_it_all" else "failed"


@dataclass
class Donation:
    donor: str
    campaign_id: str
    amount: int
    key: str
    state: str = "requested"


@dataclass
class Withdrawal:
    account: str
    amount: int
    plan: dict[str, Any]
    state: str = "requested"
    resolved: str | None = None
    """How it ended that was hanging, or "never" if its request was lost for good."""

    @property
    def reserved(self) -> int:
        return self.amount + highest_fee(self.amount)

    @property
    def fee(self) -> int:
        fee: int = self.plan.get("fee_msat", DEFAULT_FEE_MSAT)
        return fee

    @property
    def outcome(self) -> str:
        """What becomes of it when it is reserved, and all has come to its end."""
        if self.plan.get("lost") == "request":
            return "failed" if self.resolved else "paying"
        if self.plan.get("outcome") == "hang":
            return {"succeed": "succeeded", "fail": "failed"}.get(self.resolved or "", "paying")
        if self.plan.get("outcome") == "fail" or self.fee > highest_fee(self.amount):
            return "failed"
        return "succeeded"

    @property
    def end(self) -> str:
        """Its state when all has come to its end."""
        return self.outcome if self.state == "reserved" else self.state


@dataclass
class Model:
    """What people have, after the accounting has done so much of what it was asked."""

    deposits: dict[str, tuple[str, int]] = field(default_factory=dict)
    campaigns: dict[str, Campaign] = field(default_factory=dict)
    donations: dict[str, Donation] = field(default_factory=dict)
    withdrawals: dict[str, Withdrawal] = field(default_factory=dict)
    credited: set[str] = field(default_factory=set)
    balances: Counter[str] = field(default_factory=Counter)
    held: Counter[str] = field(default_factory=Counter)
    is_settled: bool = False
    """Whether nothing was asked for since everything was compared."""

    @property
    def ends(self) -> set[tuple[str, ...]]:
        """What has become of things, when all has come to its end."""
        return {
            *(("campaign", each.kind, each.state) for each in self.campaigns.values()),
            *(("donation", each.state) for each in self.donations.values()),
            *(("withdrawal", each.end) for each in self.withdrawals.values()),
        }

    def available(self, account: str) -> int:
        return self.balances[account] - self.held[account]

    def move(self, source: str, target: str, amount: int) -> None:
        assert self.available(source) >= amount
        self.balances[source] -= amount
        self.balances[target] += amount

    def account(self, type_: str, payload: dict[str, Any]) -> None:
        """The accounting has handled a message; of it only what it is about is believed."""
        match type_, payload:
            case "DepositReceived", {"payment_hash": payment_hash}:
                name, received = self.deposits[payment_hash]
                assert payment_hash not in self.credited
                self.credited.add(payment_hash)
                self.balances[name] += received
            case "RequestTransfer", {"purpose": "donation", "idempotency_key": donation}:
                self._donate(self.donations[donation])
            case "RequestTransfer", {"metadata": {"campaign_id": campaign_id}}:
                campaign = self.campaigns[campaign_id]
                assert campaign.state == "succeeded"
                assert not self._undecided(campaign_id)
                self.move(escrow_of(campaign_id), campaign.creator, campaign.raised)
            case "RequestRefunds", {"campaign_id": campaign_id, "refunds": refunds}:
                assert self.campaigns[campaign_id].state == "failed"
                assert not self._undecided(campaign_id)
                for refund in refunds:
                    donation = self.donations[refund["donation_id"]]
                    assert (donation.state, donation.campaign_id) == ("registered", campaign_id)
                    donation.state = "refunded"
                    self.move(escrow_of(campaign_id), donation.donor, donation.amount)
            case "RequestReservation", {"payment_hash": payment_hash}:
                withdrawal = self.withdrawals[payment_hash]
                fits = self.available(withdrawal.account) >= withdrawal.reserved
                withdrawal.state = "reserved" if fits else "refused"
                self.held[withdrawal.account] += withdrawal.reserved if fits else 0
            case "WithdrawalPaid" | "WithdrawalFailed", {"payment_hash": payment_hash}:
                withdrawal = self.withdrawals[payment_hash]
                assert withdrawal.state == "reserved"
                withdrawal.state = "succeeded" if type_ == "WithdrawalPaid" else "failed"
                assert withdrawal.state == withdrawal.outcome
                self.held[withdrawal.account] -= withdrawal.reserved
                if withdrawal.state == "succeeded":
                    self.balances[withdrawal.account] -= withdrawal.amount + withdrawal.fee

    def _donate(self, donation: Donation) -> None:
        campaign = self.campaigns[donation.campaign_id]
        assert donation.state == "requested"
        if self.available(donation.donor) < donation.amount:
            donation.state = "rejected"
            return
        kept = campaign.kind == "keep_it_all"
        target = campaign.creator if kept else escrow_of(donation.campaign_id)
        self.move(donation.donor, target, donation.amount)
        donation.state = "registered"
        campaign.raised += donation.amount

    def _undecided(self, campaign_id: str) -> bool:
        return any(
            donation.campaign_id == campaign_id and donation.state == "requested"
            for donation in self.donations.values()
        )


# --- the real one ---


class Scene:
    """One Satoshi Spark for all examples; each has people and campaigns of its own.

    After a failure there is a new one: what it has left would make the next ones fail.
    """

    def __init__(self, cluster: Cluster, schema: str, runner: asyncio.Runner) -> None:
        self._cluster = cluster
        self._schema = schema
        self._runner = runner
        self._leaving = AsyncExitStack()
        self.books = 0
        self.examples = 0
        self.is_clean = False
        self.ends: set[tuple[str, ...]] = set()
        self.spark: Spark
        self.world: World

    @property
    def book(self) -> str:
        return f"{self._schema}_{self.books}"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def open(self) -> None:
        """Begin an example."""
        if not self.is_clean:
            self.run(self._open())
        self.examples += 1
        self.is_clean = False

    def close(self) -> None:
        self.run(self._leaving.aclose())

    async def _open(self) -> None:
        await self._leaving.aclose()
        self.books += 1
        self._leaving = AsyncExitStack()
        opened = spark_on(self._cluster.url, self.book)
        self.spark = await self._leaving.enter_async_context(opened)
        make_world(self._cluster.url, self.book)
        self.world = await self._leaving.enter_async_context(world_of(self.spark))
        self.accounted = 0
        """Up to where in the accounting's inbox the models have followed it."""


_scene: Scene


class Steps(RuleBasedStateMachine):
    @initialize(
        goals=st.lists(GOALS, min_size=4, max_size=4),
        gifts=st.lists(st.tuples(PEOPLE, WHICH, GIFTS), min_size=4, max_size=10),
        plans=st.lists(PLANS, min_size=1, max_size=3),
    )
    def open(
        self,
        goals: list[int],
        gifts: list[tuple[str, int, int | str]],
        plans: list[dict[str, Any]],
    ) -> None:
        """Something of everything is under way at the beginning."""
        _scene.open()
        self.model = Model()
        self.spark, self.world, self.run = _scene.spark, _scene.world, _scene.run
        for name in ("bob", "cat", "dan"):
            self.deposit(name, 300_000, 0)
        self.settle()
        for number, goal in enumerate(goals):
            self.begin("ada", "keep_it_all" if number % 2 else "all_or_nothing", goal)
        for number, gift in enumerate(gifts):
            self.donate(*gift, key=number)
        for name, plan in zip(("bob", "cat", "dan"), plans, strict=False):
            self.withdraw(name, 20_000, plan)

    def real(self, name: str) -> str:
        """The name of somebody in this example."""
        return f"{name}{_scene.examples}"

    def campaign(self, which: int) -> str:
        """One of the campaigns; most of the time one that is open."""
        found = list(self.model.campaigns)
        still = [each for each in found if not self.model.campaigns[each].is_over]
        chosen = still if still and which % 5 else found
        return chosen[which % len(chosen)]

    @precondition(lambda self: not self.model.is_settled)
    @rule(name=PEOPLE)
    def sign_up(self, name: str) -> None:
        self.run(self.spark.sign_up(self.real(name)))

    @rule(name=PEOPLE, amount=AMOUNTS, more=st.integers(0, 100))
    def deposit(self, name: str, amount: int, more: int) -> None:
        """Somebody pays an invoice, and up to twice what it asks for."""

        async def deposit() -> str:
            node = self.spark.node
            made = await make_deposit(
                self.spark.engine, node, account_id=self.real(name), amount=amount
            )
            await node.receive(made.payment_request, amount_msat=received)
            return made.entity_id

        received = amount + amount * more // 100
        self.model.deposits[self.run(deposit())] = (self.real(name), received)
        self.model.is_settled = False

    @precondition(lambda self: len(self.model.campaigns) < MOST_CAMPAIGNS)
    @rule(creator=PEOPLE, kind=st.sampled_from(["keep_it_all", "all_or_nothing"]), goal=GOALS)
    def begin(self, creator: str, kind: CampaignKind, goal: int) -> None:
        campaign_id = self.run(self.spark.campaign(self.real(creator), goal=goal, kind=kind))
        self.model.campaigns[campaign_id] = Campaign(self.real(creator), kind, goal)

    @rule(donor=PEOPLE, which=WHICH, gift=GIFTS, key=st.integers(1, 30))
    def donate(self, donor: str, which: int, gift: int | str, key: int) -> None:
        """Anybody gives, also what he has not, to his own campaign, or too late."""
        name, campaign_id = self.real(donor), self.campaign(which)
        campaign = self.model.campaigns[campaign_id]
        if gift == "what is missing":
            gift = max(1, campaign.goal - campaign.raised)
        elif gift == "all that he has":
            gift = max(1, self.model.available(name))
        self.give(Donation(name, campaign_id, int(gift), str(key)))

    @precondition(lambda self: self.model.donations)
    @rule(which=WHICH)
    def donate_again(self, which: int) -> None:
        """Who was not told asks again, whatever has happened meanwhile."""
        given = list(self.model.donations.values())
        self.give(replace(given[which % len(given)], state="requested"))

    def give(self, wanted: Donation) -> None:
        command = DonateToCampaign(
            idempotency_key=wanted.key,
            donor_id=wanted.donor,
            campaign_id=wanted.campaign_id,
            amount=wanted.amount,
        )
        known = self.model.donations.get(donation_id(command))
        campaign = self.model.campaigns[wanted.campaign_id]
        refusal: type[Exception] | None = None
        if known is not None:
            same = (known.campaign_id, known.amount) == (wanted.campaign_id, wanted.amount)
            refusal = None if same else NonceReused
        elif wanted.donor == campaign.creator:
            refusal = OwnCampaign
        elif campaign.is_over:
            refusal = CampaignOver
        asked = self.spark.donate(wanted.donor, wanted.campaign_id, wanted.amount, key=wanted.key)
        if refusal is not None:
            with pytest.raises(refusal):
                self.run(asked)
            return
        assert self.run(asked) == donation_id(command)
        self.model.donations.setdefault(donation_id(command), wanted)
        self.model.is_settled = False

    @precondition(lambda self: len(self.model.donations) > 1)
    @rule(which=WHICH)
    def end(self, which: int) -> None:
        """The deadline passes."""
        self.let_end(self.campaign(which))

    def let_end(self, campaign_id: str) -> None:
        if not self.model.campaigns[campaign_id].is_over:
            self.run(self.spark.end(campaign_id))
            self.model.campaigns[campaign_id].is_over = True
            self.model.is_settled = False

    @rule(name=PEOPLE, amount=AMOUNTS, plan=PLANS)
    def withdraw(self, name: str, amount: int, plan: dict[str, Any]) -> None:
        payment_hash = self.run(self.spark.withdraw(self.real(name), amount, **plan))
        self.model.withdrawals[payment_hash] = Withdrawal(self.real(name), amount, plan)
        self.model.is_settled = False

    @precondition(lambda self: self.model.withdrawals)
    @rule(outcome=st.sampled_from(["succeed", "fail"]))
    def resolve(self, outcome: Any) -> None:
        """What was hanging ends; what never came to the node cannot come any more."""
        for payment_hash, withdrawal in self.model.withdrawals.items():
            if withdrawal.resolved or withdrawal.state != "reserved":
                continue
            payment = self.run(self.spark.node.track(payment_hash))
            if payment is not None and payment.state == "in_flight":
                self.run(self.spark.node.resolve(payment_hash, outcome=outcome))
                withdrawal.resolved = outcome
                self.model.is_settled = False
            elif payment is None and self.run(self.spark.invoice(payment_hash)).state == "paying":
                self.world.let_expire(payment_hash)
                withdrawal.resolved = "never"
                self.model.is_settled = False

    @rule(numbers=st.lists(st.integers(0, 13), min_size=1, max_size=12))
    def go_on(self, numbers: list[int]) -> None:
        """Some of all that goes on by itself, in any order."""
        steps = [*self.spark.steps, self.hear]
        for number in numbers:
            self.run(call(steps[number]))
        self.follow()

    @precondition(lambda self: not self.model.is_settled)
    @rule()
    def settle(self) -> None:
        """All comes to its end, and everybody has what the model says."""
        self.run(self.hear())
        self.run(self.world.work_off())
        # What was looked at too early is looked at again.
        self.world.let_leases_end()
        self.run(self.world.work_off())
        self.follow()
        self.run(self.compare())
        self.model.is_settled = True

    async def hear(self) -> bool:
        await sweep(self.spark.engine, self.spark.node)
        return True

    def follow(self) -> None:
        """Let the model do what the accounting has done meanwhile, in its order."""
        handled = self.world.look(
            "select type, payload from {book}.crowdfunding_accounting_inbox "
            "where state = 'handled' order by handled_on offset %s",
            _scene.accounted,
        )
        for type_, payload in handled:
            self.model.account(type_, payload)
        _scene.accounted += len(handled)

    async def compare(self) -> None:
        spark, model, world = self.spark, self.model, self.world
        spark.assert_sound()
        world.assert_watched()
        names = list(map(self.real, ("ada", "bob", "cat", "dan")))
        for name in names:
            assert spark.balance(name) == model.balances[name]
            assert spark.available(name) == model.available(name)
            view = await view_dashboard_query(spark.engine, name)
            assert view.balance == model.balances[name]
            shown = sum(each.amount for each in view.activity)
            assert shown == view.balance or len(view.activity) == SHOWN
            assert {(own.campaign_id, own.state, own.total_raised) for own in view.campaigns} == {
                (campaign_id, campaign.state, campaign.raised)
                for campaign_id, campaign in model.campaigns.items()
                if campaign.creator == name
            }
        deposits = world.look(
            "select payment_hash, state, received from {book}.crowdfunding_bitcoin_deposits "
            "where account_id = any(%s)",
            names,
        )
        assert {payment_hash: tuple(rest) for payment_hash, *rest in deposits} == {
            payment_hash: ("credited", received)
            for payment_hash, (_, received) in model.deposits.items()
        }
        campaigns = world.look(
            "select campaign_id, state, total_raised from {book}.crowdfunding_campaigns "
            "where creator_id = any(%s)",
            names,
        )
        assert {campaign_id: tuple(rest) for campaign_id, *rest in campaigns} == {
            campaign_id: (campaign.state, campaign.raised)
            for campaign_id, campaign in model.campaigns.items()
        }
        for campaign_id, campaign in model.campaigns.items():
            escrow = escrow_of(campaign_id)
            assert spark.balance(escrow) == model.balances[escrow]
            is_kept = campaign.kind == "all_or_nothing" and campaign.state == "open"
            assert model.balances[escrow] == (campaign.raised if is_kept else 0)
        donations = world.look(
            "select donation_id, state from {book}.crowdfunding_campaigns_donations "
            "where donor_id = any(%s)",
            names,
        )
        assert dict(donations) == {
            donation: given.state for donation, given in model.donations.items()
        }
        withdrawals = world.look(
            "select payment_hash, state, fee from {book}.crowdfunding_bitcoin_withdrawals "
            "where account_id = any(%s)",
            names,
        )
        assert {payment_hash: tuple(rest) for payment_hash, *rest in withdrawals} == {
            payment_hash: (withdrawal.end, withdrawal.fee if withdrawal.end == "succeeded" else 0)
            for payment_hash, withdrawal in model.withdrawals.items()
        }

    def teardown(self) -> None:
        if hasattr(self, "model"):
            self.settle()
            self.resolve("succeed" if _scene.examples % 2 else "fail")
            for campaign_id in self.model.campaigns:
                self.let_end(campaign_id)
            self.settle()
            _scene.is_clean = True
            _scene.ends |= self.model.ends


async def call(step: Any) -> None:
    await step()


@contextmanager
def scene(cluster: Cluster, schema: str) -> Iterator[Scene]:
    """Where the examples play."""
    with asyncio.Runner() as runner:
        made = Scene(cluster, schema, runner)
        try:
            yield made
        finally:
            made.close()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_history_of_campaigns_agrees_with_the_model(cluster: Cluster, schema: str) -> None:
    global _scene  # Hypothesis makes the machine, and hands nothing to it.
    with scene(cluster, schema) as _scene:
        run_state_machine_as_test(
            Steps,
            settings=settings(
                max_examples=50,
                stateful_step_count=30,
                derandomize=True,
                database=None,
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            ),
        )
        assert _scene.ends == ENDS
        assert _scene.books == 1
        assert _scene.examples >= 50
        assert_sound(cluster.url, _scene.book)
