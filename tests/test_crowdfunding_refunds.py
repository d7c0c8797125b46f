"""A campaign that fails gives a great many donors their money back, whoever is killed meanwhile."""

from __future__ import annotations

import os

import pytest

from builders import assert_sound, eventually, query
from contexts import program
from shared_ledger import Posted, Posting
from shared_ledger.apps.crowdfunding.accounting.operations import SparkOperation
from shared_ledger.apps.crowdfunding.common.escrow import escrow_of
from shared_ledger.apps.crowdfunding.lightning.tables import invoices
from shared_ledger.embedded import Cluster
from sparking import Spark, spark_on

DONORS = int(os.environ.get("SHARED_LEDGER_DONORS", "6000"))
"""A hundred thousand take minutes."""
FUNDS = 100_000
AT_ONCE = 5_000

SERVING = """
import asyncio, sys
from shared_ledger import Ledger
from shared_ledger.apps.crowdfunding import CROWDFUNDING
from shared_ledger.apps.crowdfunding.running import site
from shared_ledger.service import Serving
from shared_ledger.settings import Settings

async def main(url, schema):
    settings = Settings(shared_ledger_schema=schema)
    with Ledger(CROWDFUNDING, url, schema=schema) as ledger:
        async with site(Serving(ledger, settings, lambda: False)):
            await asyncio.sleep(100_000)

asyncio.run(main(*sys.argv[1:]))
"""


def given(number: int) -> int:
    """What a donor has given, in msat: not all the same."""
    return 1_000 + number % 7_000


async def fill(spark: Spark, donors: int) -> str:
    """Begin a campaign that so many have given to, without a message for each."""
    campaign = await spark.campaign("ada", goal=10**15)
    total = sum(map(given, range(donors)))
    for first in range(0, donors, AT_ONCE):
        numbers = range(first, min(first + AT_ONCE, donors))
        outcomes = spark.ledger.post_batch(
            [
                posting
                for number in numbers
                for posting in (
                    Posting(SparkOperation.DEPOSIT, f"donor{number}", "@funds", FUNDS),
                    Posting(SparkOperation.DONATION, f"donor{number}", "@gift", -given(number)),
                )
            ]
        )
        assert all(isinstance(outcome, Posted) for outcome in outcomes)
    spark.ledger.post(
        Posting(SparkOperation.DONATION_RECEIVED, escrow_of(campaign), "@gifts", total)
    )
    query(
        spark.url,
        f"insert into {spark.schema}.crowdfunding_campaigns_donations "
        "(donation_id, version, campaign_id, donor_id, amount, created_on, state) "
        "select 'donor' || number || ':gift', 2, %s, 'donor' || number, 1000 + number %% 7000, "
        "clock_timestamp(), 'registered' from generate_series(0, %s) as number",
        campaign,
        donors - 1,
    )
    query(
        spark.url,
        f"update {spark.schema}.crowdfunding_campaigns set total_raised = %s, version = %s",
        total,
        donors,
    )
    # What was deposited, the node has received.
    query(
        spark.url,
        f"insert into {spark.schema}.{invoices.name} "
        "(payment_hash, payment_request, preimage, is_own, expires_on, received_msat, "
        "settle_index) "
        "values ('funds', '', '', true, clock_timestamp(), %s, 1)",
        donors * FUNDS,
    )
    return campaign


def refunded(spark: Spark) -> int:
    """How many donors have their money again, as far as the campaign knows."""
    counted = (
        f"select count(*) from {spark.schema}.crowdfunding_campaigns_donations "
        "where state = 'refunded'"
    )
    return int(query(spark.url, counted)[0][0])


@pytest.mark.slow
@pytest.mark.timeout(1_800)
async def test_every_donor_of_many_has_his_money_back_exactly_once(
    cluster: Cluster, schema: str
) -> None:
    async with spark_on(cluster.url, schema) as spark:
        campaign = await fill(spark, DONORS)
        await spark.end(campaign)
        for share in (1, 2):
            with program(SERVING, cluster.url, schema):
                eventually(lambda: refunded(spark) >= share * DONORS // 3, within_s=900)  # noqa: B023
            # What it had claimed is due again in half a minute; meanwhile messages are handled.
            query(
                cluster.url,
                f"update {schema}.crowdfunding_campaigns set due_on = clock_timestamp() "
                "where due_on is not null",
            )
        assert refunded(spark) < DONORS
        with program(SERVING, cluster.url, schema):
            eventually(lambda: closed(spark), within_s=900)
        await spark.settle()
        found = await spark.found_campaign(campaign)
        assert (found.state, found.due_on) == ("failed", None)
        assert refunded(spark) == DONORS
        assert spark.balance(escrow_of(campaign)) == 0
        refunds = query(
            cluster.url,
            f"""
            select given.donor_id
            from {schema}.crowdfunding_campaigns_donations as given
            left join {schema}.entries as back
                on back.owner_id = donor_id and operation = 'DONATION_REFUND'
            left join {schema}.accounts as account
                on account.owner_id = donor_id and account.asset = 'msat'
            left join {schema}.crowdfunding_dashboard_accounts as shown
                on shown.account_id = donor_id
            group by given.donor_id
            having count(*) <> 1 or max(back.amount) is distinct from max(given.amount)
                or max(posted) is distinct from %s or max(shown.balance) is distinct from %s
            """,
            FUNDS,
            FUNDS,
        )
        assert refunds == []
        spark.assert_sound()
    assert_sound(cluster.url, schema)


def closed(spark: Spark) -> bool:
    """Whether the campaign has ended, and everybody was told."""
    rows = query(
        spark.url,
        f"select 1 from {spark.schema}.crowdfunding_dashboard_campaigns where state <> 'open'",
    )
    return bool(rows)
