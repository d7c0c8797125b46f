"""Group reading: balances asked for by many, read together."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared_ledger import Ledger, LedgerClosed, LedgerUnavailable, Posting, SharedOperation
from shared_ledger.embedded import Cluster, temporary_cluster
from shared_ledger.operations import SHARED
from shared_ledger.store import connect


def credit(owner_id: str, nonce: str = "n") -> Posting[SharedOperation]:
    return Posting(SharedOperation.CREDIT_ADD, owner_id, nonce)


def test_everybody_gets_his_own_balance(ledger: Ledger[SharedOperation]) -> None:
    for number in range(20):
        for nonce in range(number):
            ledger.post(credit(f"owner-{number}", str(nonce)))
    with ThreadPoolExecutor(20) as pool:
        balances = list(pool.map(ledger.balance, (f"owner-{n % 20}" for n in range(400))))
    assert [(b.owner_id, b.balance) for b in balances] == [
        (f"owner-{n % 20}", 10 * (n % 20)) for n in range(400)
    ]


async def test_coroutines_get_theirs_together(ledger: Ledger[SharedOperation]) -> None:
    await asyncio.gather(*(ledger.apost(credit(f"o{n}")) for n in range(50)))
    balances = await asyncio.gather(*(ledger.abalance(f"o{n}") for n in range(60)))
    assert [b.balance for b in balances] == [10] * 50 + [0] * 10


async def test_what_was_posted_is_seen_at_once(ledger: Ledger[SharedOperation]) -> None:
    for number in range(1, 50):
        posted = await ledger.apost(credit("ada", str(number)))
        assert (await ledger.abalance("ada")).balance == posted.entry.balance_after


def test_another_asset_is_another_balance(ledger: Ledger[SharedOperation]) -> None:
    ledger.post(credit("ada"))
    assert ledger.balance("ada", asset="points").balance == 0


def test_a_lost_connection_is_replaced(
    cluster: Cluster, ledger: Ledger[SharedOperation], schema: str
) -> None:
    ledger.post(credit("ada"))
    assert ledger.balance("ada").balance == 10
    with connect(cluster.url) as other:
        other.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'shared-ledger' and pid <> pg_backend_pid()"
        )
    assert ledger.balance("ada").balance == 10


def test_a_database_that_is_down_is_said_so_and_used_again_later() -> None:
    with temporary_cluster() as cluster, Ledger(SHARED, cluster.url, migrate=True) as ledger:
        ledger.post(credit("ada"))
        cluster.kill()
        with pytest.raises(LedgerUnavailable):
            ledger.balance("ada")
        cluster.ensure_running()
        assert ledger.balance("ada").balance == 10


def test_a_closed_ledger_says_so(cluster: Cluster, schema: str) -> None:
    ledger = Ledger(SHARED, cluster.url, schema=schema, migrate=True)
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerClosed):
        ledger.balance("ada")
