"""Satoshi Spark's sagas, from the first message to the last; the world outside is simulated."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from builders import query
from shared_ledger.apps.crowdfunding.bitcoin.commands import request_withdrawal
from shared_ledger.apps.crowdfunding.bitcoin.refusals import InvoiceRefused, InvoiceUsed
from shared_ledger.apps.crowdfunding.crowdfunding.refusals import CampaignOver, OwnCampaign
from shared_ledger.apps.crowdfunding.dashboard.queries import view_dashboard_query
from shared_ledger.apps.crowdfunding.dashboard.rebuilding import rebuild
from shared_ledger.apps.crowdfunding.lightning.port import NodeInfo
from shared_ledger.embedded import Cluster
from sparking import Spark, spark_on

SAT = 1_000


@pytest.fixture
async def spark(cluster: Cluster, schema: str) -> AsyncIterator[Spark]:
    """All contexts over a new book, where everybody has his money whatever a test does."""
    async with spark_on(cluster.url, schema) as spark:
        yield spark
        await spark.settle()
        spark.assert_sound()


async def test_who_signs_up_has_an_account(spark: Spark) -> None:
    await spark.sign_up("ada", "ada")
    await spark.settle()
    view = await view_dashboard_query(spark.engine, "ada")
    assert (view.account_id, view.username, view.balance) == ("ada", "ada", 0)
    assert (view.activity, view.campaigns) == ([], [])


async def test_what_was_received_is_credited_once(spark: Spark) -> None:
    await spark.sign_up("bob")
    paid = await spark.fund("bob", 2_000 * SAT)
    await spark.settle()
    assert spark.balance("bob") == 2_000 * SAT
    assert (await spark.invoice(paid)).state == "credited"
    await spark.settle()
    assert spark.balance("bob") == 2_000 * SAT
    view = await view_dashboard_query(spark.engine, "bob")
    assert [(each.operation, each.amount, each.about) for each in view.activity] == [
        ("DEPOSIT", 2_000 * SAT, paid)
    ]


async def test_a_donation_to_a_campaign_that_keeps_it_all_is_its_creators_at_once(
    spark: Spark,
) -> None:
    await spark.fund("bob", 100 * SAT)
    campaign = await spark.campaign("ada", kind="keep_it_all")
    await spark.settle()
    donation = await spark.donate("bob", campaign, 60 * SAT)
    await spark.settle()
    assert (await spark.found_donation(donation)).state == "registered"
    assert (spark.balance("ada"), spark.balance("bob")) == (60 * SAT, 40 * SAT)
    assert (await spark.found_campaign(campaign)).total_raised == 60 * SAT


async def test_a_donation_that_nobody_can_pay_is_rejected(spark: Spark) -> None:
    campaign = await spark.campaign("ada")
    donation = await spark.donate("bob", campaign, 1)
    await spark.settle()
    found = await spark.found_donation(donation)
    assert (found.state, found.reason) == ("rejected", "insufficient_credits")
    assert (await spark.found_campaign(campaign)).total_raised == 0


async def test_nobody_donates_to_his_own_campaign(spark: Spark) -> None:
    campaign = await spark.campaign("ada")
    with pytest.raises(OwnCampaign):
        await spark.donate("ada", campaign, 1)


async def test_all_or_nothing_goes_to_the_creator_if_the_goal_is_reached(spark: Spark) -> None:
    await spark.fund("bob", 100 * SAT)
    campaign = await spark.campaign("ada", goal=50 * SAT)
    await spark.settle()
    await spark.donate("bob", campaign, 60 * SAT)
    await spark.settle()
    assert (spark.balance("ada"), spark.balance("bob")) == (0, 40 * SAT)
    assert spark.balance(f"campaign:{campaign}") == 60 * SAT
    await spark.end(campaign)
    await spark.settle()
    assert (spark.balance("ada"), spark.balance("bob")) == (60 * SAT, 40 * SAT)
    assert (await spark.found_campaign(campaign)).state == "succeeded"
    with pytest.raises(CampaignOver):
        await spark.donate("bob", campaign, 1)


async def test_all_or_nothing_goes_back_to_every_donor_if_it_is_not(spark: Spark) -> None:
    donors = [f"donor{number}" for number in range(5)]
    for donor in donors:
        await spark.fund(donor, 10 * SAT)
    campaign = await spark.campaign("ada", goal=1_000 * SAT)
    await spark.settle()
    given = [await spark.donate(donor, campaign, 4 * SAT) for donor in [*donors, *donors]]
    await spark.settle()
    assert [spark.balance(donor) for donor in donors] == [2 * SAT] * 5
    await spark.end(campaign)
    await spark.settle()
    assert [spark.balance(donor) for donor in donors] == [10 * SAT] * 5
    assert {(await spark.found_donation(each)).state for each in given} == {"refunded"}
    assert (await spark.found_campaign(campaign)).state == "failed"


async def test_a_withdrawal_costs_its_amount_and_the_real_fee(spark: Spark) -> None:
    await spark.fund("bob", 1_000 * SAT)
    await spark.settle()
    paid = await spark.withdraw("bob", 500 * SAT, fee_msat=1_234)
    await spark.settle()
    found = await spark.invoice(paid)
    assert (found.state, found.fee) == ("succeeded", 1_234)
    assert spark.balance("bob") == spark.available("bob") == 500 * SAT - 1_234


async def test_a_withdrawal_that_fails_costs_nothing(spark: Spark) -> None:
    await spark.fund("bob", 1_000 * SAT)
    await spark.settle()
    failed = await spark.withdraw("bob", 500 * SAT, outcome="fail", reason="no route")
    await spark.settle()
    found = await spark.invoice(failed)
    assert (found.state, found.reason) == ("failed", "no route")
    assert spark.balance("bob") == spark.available("bob") == 1_000 * SAT


async def test_a_withdrawal_over_the_balance_is_refused(spark: Spark) -> None:
    await spark.fund("bob", 500 * SAT)
    await spark.settle()
    # The amount is there, but not the highest fee.
    refused = await spark.withdraw("bob", 499 * SAT)
    await spark.settle()
    found = await spark.invoice(refused)
    assert (found.state, found.reason) == ("refused", "insufficient_credits")
    assert spark.available("bob") == 500 * SAT


async def test_what_became_of_a_payment_is_asked_until_it_is_known(spark: Spark) -> None:
    await spark.fund("bob", 1_000 * SAT)
    await spark.settle()
    unknown = await spark.withdraw("bob", 500 * SAT, outcome="hang", lost="answer")
    for relay in spark.relays * 3:
        await relay.publish()
        for worker in spark.workers:
            while await worker.handle_next():
                pass
    for _ in range(3):
        assert await spark.pay()
        assert (await spark.invoice(unknown)).state == "paying"
        assert spark.balance("bob") == 1_000 * SAT
        assert spark.available("bob") == 495 * SAT
    await spark.node.resolve(unknown)
    await spark.settle()
    assert (await spark.invoice(unknown)).state == "succeeded"


async def test_an_invoice_is_given_once(spark: Spark) -> None:
    await spark.fund("bob", 1_000 * SAT)
    await spark.settle()
    request = await spark.node.outside_invoice(10 * SAT)
    for account_id, refusal in (("bob", None), ("bob", InvoiceUsed), ("ada", InvoiceUsed)):
        if refusal is None:
            await request_withdrawal(
                spark.engine, spark.node, account_id=account_id, payment_request=request
            )
        else:
            with pytest.raises(refusal):
                await request_withdrawal(
                    spark.engine, spark.node, account_id=account_id, payment_request=request
                )


async def test_invoices_that_cannot_be_paid_from_here_are_refused(spark: Spark) -> None:
    own = await spark.node.create_invoice(amount_msat=1, description="own", expires_in_s=60)
    requests = {
        "one of ours": own.payment_request,
        "names no amount": await spark.node.outside_invoice(None),
        "has expired": await spark.node.outside_invoice(1, expires_in_s=1),
        "cannot be read": own.payment_request[:-1],
        "is of mainnet": "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygs"
        "pp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgq"
        "uk0rl77nj30yxdy8j9vdx85fkpmdla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tu"
        "ven09sam30g4vgpfna3rh",
    }
    for problem, request in requests.items():
        with pytest.raises(InvoiceRefused, match=problem):
            await request_withdrawal(
                spark.engine, spark.node, account_id="bob", payment_request=request
            )


async def test_a_deposit_is_no_withdrawal_whoever_the_node_says_it_is(
    spark: Spark, monkeypatch: pytest.MonkeyPatch
) -> None:
    # LNbits signs with the key of the node behind it, of which there may be several.
    deposit = await spark.invoice(await spark.fund("bob", 10 * SAT))
    other = replace(await spark.node.info(), node_id="02" + "ab" * 32)

    async def info() -> NodeInfo:
        return other

    monkeypatch.setattr(spark.node, "info", info)
    with pytest.raises(InvoiceRefused, match="one of ours"):
        await request_withdrawal(
            spark.engine, spark.node, account_id="bob", payment_request=deposit.payment_request
        )


async def test_the_dashboard_can_be_made_anew(spark: Spark, cluster: Cluster, schema: str) -> None:
    await spark.sign_up("ada", "bob")
    await spark.fund("bob", 100 * SAT)
    campaign = await spark.campaign("ada", kind="keep_it_all")
    await spark.settle()
    await spark.donate("bob", campaign, 60 * SAT)
    await spark.settle()
    seen = [await view_dashboard_query(spark.engine, name) for name in ("ada", "bob")]
    async with spark.engine.begin() as connection:
        handled = await rebuild(connection)
    assert handled > 0
    assert [await view_dashboard_query(spark.engine, name) for name in ("ada", "bob")] == seen

    spoil = f"update {schema}.crowdfunding_dashboard_accounts set balance = 1 returning 1"
    assert len(query(cluster.url, spoil)) == 2
    command = [sys.executable, "-m", "shared_ledger.cli", "messages", "rebuild", "--json"]
    environment = {"DATABASE_URL": cluster.url, "SHARED_LEDGER_SCHEMA": schema}
    done = await asyncio.to_thread(
        subprocess.run, command, env=os.environ | environment, capture_output=True, check=False
    )
    assert json.loads(done.stdout) == {"rebuilt": {"crowdfunding_dashboard": handled}}
    assert [await view_dashboard_query(spark.engine, name) for name in ("ada", "bob")] == seen
