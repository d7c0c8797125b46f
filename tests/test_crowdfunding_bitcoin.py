"""Satoshi Spark's deposits and withdrawals, as callers meet them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from sqlalchemy.engine import Engine

from builders import query
from serving import Served, kind, serving
from shared_ledger.apps.crowdfunding import SERVICE
from shared_ledger.apps.crowdfunding.common.amounts import MAX_SAT
from shared_ledger.apps.crowdfunding.lightning import bolt11
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.embedded import Cluster
from spark_served import (
    MAINNET,
    NOBODYS,
    SAT,
    available,
    be_patient,
    came_to,
    person,
    quiet,
    rich,
    spark_serving,
)


@pytest.fixture
async def served(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    async with spark_serving(cluster, schema, engine, monkeypatch) as served:
        yield served


def node_of(served: Served) -> SimulatedNode:
    """The simulated node, for what happens in the world outside."""
    node: SimulatedNode = served.app.state.own.node
    return node


# --- deposits ---


async def test_a_deposit_is_an_invoice_for_just_so_many_sat(served: Served) -> None:
    bob = person(served, "bob")
    made = await bob.post("/bitcoin/deposit", amount=1_234)
    assert made.status_code == 201
    answer = made.json()
    assert answer.keys() == {"payment_request", "payment_hash", "amount", "expires_on"}
    invoice = bolt11.decode(answer["payment_request"])
    assert invoice.payment_hash == answer["payment_hash"]
    assert (invoice.amount_msat, answer["amount"]) == (1_234_000, 1_234)
    assert datetime.fromisoformat(answer["expires_on"]) == invoice.expires_on
    shown = await bob.invoice(answer["payment_hash"])
    assert datetime.fromisoformat(shown.pop("created_on")) <= datetime.now(UTC)
    assert shown == {
        "kind": "deposit",
        "payment_hash": answer["payment_hash"],
        "payment_request": answer["payment_request"],
        "amount": 1_234,
        "amount_msat": 1_234_000,
        "received": 0,
        "fee_msat": 0,
        "state": "open",
        "reason": None,
        "expires_on": answer["expires_on"],
    }


async def test_a_deposit_is_credited_with_what_was_paid(served: Served) -> None:
    bob = person(served, "bob")
    made = (await bob.post("/bitcoin/deposit", amount=1_000)).json()
    paid = await served.client.post(
        "/dev/lightning/pay", json={"payment_request": made["payment_request"], "amount": 1_500}
    )
    assert paid.json() == {"payment_hash": made["payment_hash"], "received": 1_500}
    shown = await came_to(bob, made["payment_hash"], "credited")
    assert (shown["amount"], shown["received"]) == (1_000, 1_500)
    assert available(served, "bob") == 1_500 * SAT


async def test_a_deposit_is_of_whole_sat_and_no_more_than_there_are(served: Served) -> None:
    bob = person(served, "bob")
    for amount in (1, MAX_SAT):
        made = await bob.post("/bitcoin/deposit", amount=amount)
        assert (made.status_code, made.json()["amount"]) == (201, amount)
    await quiet(served)
    before = served.written()
    for wrong in (0, -1, MAX_SAT + 1, 2**63, 0.5, 1.0, "1", True, None):
        answer = await bob.post("/bitcoin/deposit", amount=wrong)
        assert (answer.status_code, answer.json()["field"]) == (422, "amount"), wrong
    assert served.written() == before


async def test_an_invoice_of_anothers_is_not_there(served: Served) -> None:
    bob, eve = person(served, "bob"), person(served, "eve")
    made = (await bob.post("/bitcoin/deposit", amount=1)).json()
    foreign, missing = [
        await eve.get(f"/bitcoin/invoice/{payment_hash}")
        for payment_hash in (made["payment_hash"], NOBODYS)
    ]
    assert (foreign.status_code, kind(foreign)) == (404, "invoice_not_found")
    assert missing.status_code == 404
    assert foreign.text.replace(made["payment_hash"], "?") == missing.text.replace(NOBODYS, "?")
    for wrong in ("x", NOBODYS[1:], NOBODYS + "0", made["payment_hash"].upper(), "%00" * 64):
        answer = await bob.get(f"/bitcoin/invoice/{wrong}")
        assert (answer.status_code, answer.json()["field"]) == (422, "payment_hash")


async def test_what_cannot_be_paid_outside_is_refused_in_a_sentence(served: Served) -> None:
    bob = person(served, "bob")
    made = (await bob.post("/bitcoin/deposit", amount=1_000)).json()
    outside = await node_of(served).outside_invoice(1_000)
    for body, code, sentence in (
        (
            {"payment_request": "lnbcrt1"},
            "invoice_refused",
            "the invoice cannot be read: the invoice ",
        ),
        (
            {"payment_request": outside},
            "node_refused",
            "the simulated node has made no such invoice",
        ),
        (
            {"payment_request": made["payment_request"], "amount": 999},
            "node_refused",
            "the invoice asks for 1000000 msat, or up to twice as much",
        ),
        (
            {"payment_request": made["payment_request"], "amount": 2_001},
            "node_refused",
            "the invoice asks for 1000000 msat, or up to twice as much",
        ),
    ):
        answer = await served.client.post("/dev/lightning/pay", json=body)
        assert (answer.status_code, kind(answer)) == (422, code)
        assert answer.json()["detail"].startswith(sentence)
    good = {"payment_request": made["payment_request"].upper()}
    assert (await served.client.post("/dev/lightning/pay", json=good)).status_code == 200
    again = await served.client.post("/dev/lightning/pay", json=good)
    assert (again.status_code, kind(again)) == (422, "node_refused")
    assert again.json()["detail"] == "the invoice is settled already"
    await came_to(bob, made["payment_hash"], "credited")


# --- withdrawals ---


async def test_a_withdrawal_that_is_paid_is_201(served: Served) -> None:
    bob = await rich(served, "bob")
    request = await node_of(served).outside_invoice(1_000_500)
    payment_hash = bolt11.decode(request).payment_hash
    await node_of(served).plan(payment_hash, fee_msat=1_234)
    answer = await bob.post("/bitcoin/withdraw", encoded_invoice=f"lightning:{request}")
    assert answer.status_code == 201
    assert answer.json()["state"] in ("paid", "succeeded")
    shown = await came_to(bob, payment_hash, "succeeded")
    assert answer.json() == shown | {"state": answer.json()["state"]}
    assert datetime.fromisoformat(shown.pop("created_on")) <= datetime.now(UTC)
    assert shown == {
        "kind": "withdrawal",
        "payment_hash": payment_hash,
        "payment_request": request,
        "amount": 1_000,
        "amount_msat": 1_000_500,
        "received": 0,
        "fee_msat": 1_234,
        "state": "succeeded",
        "reason": None,
        "expires_on": bolt11.decode(request).expires_on.isoformat().replace("+00:00", "Z"),
    }
    assert available(served, "bob") == 1_000_000 * SAT - 1_000_500 - 1_234


async def test_a_withdrawal_that_takes_long_is_202_and_shown_until_its_end(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await rich(served, "bob")
    be_patient(monkeypatch, 0.2)
    request = await node_of(served).outside_invoice(1_000_000)
    payment_hash = bolt11.decode(request).payment_hash
    await node_of(served).plan(payment_hash, outcome="hang")
    answer = await bob.post("/bitcoin/withdraw", encoded_invoice=request)
    assert answer.status_code == 202
    assert answer.json()["state"] in ("requested", "reserved", "paying")
    shown = await came_to(bob, payment_hash, "paying")
    assert (shown["fee_msat"], shown["reason"]) == (0, None)
    # The amount, and 1 % of it.
    assert available(served, "bob") == (1_000_000 - 1_010) * SAT
    for _ in range(100):
        # Until it is under way at the node.
        if await node_of(served).track(payment_hash):
            break
        await asyncio.sleep(0.02)
    await node_of(served).resolve(payment_hash)
    await came_to(bob, payment_hash, "succeeded")


async def test_a_withdrawal_that_the_node_cannot_pay_says_why(served: Served) -> None:
    bob = await rich(served, "bob")
    request = await node_of(served).outside_invoice(1_000_000)
    payment_hash = bolt11.decode(request).payment_hash
    await node_of(served).plan(payment_hash, outcome="fail", reason="no_route")
    answer = await bob.post("/bitcoin/withdraw", encoded_invoice=request)
    assert answer.status_code == 201
    assert answer.json()["state"] in ("failing", "failed")
    shown = await came_to(bob, payment_hash, "failed")
    assert (shown["reason"], shown["fee_msat"]) == ("no_route", 0)
    assert available(served, "bob") == 1_000_000 * SAT


async def test_a_withdrawal_over_the_balance_is_402(served: Served) -> None:
    # The amount is there, but not the highest fee.
    bob = await rich(served, "bob", 1_004)
    request = await node_of(served).outside_invoice(1_000_000)
    answer = await bob.post("/bitcoin/withdraw", encoded_invoice=request)
    assert (answer.status_code, kind(answer)) == (402, "withdrawal_refused")
    payment_hash = bolt11.decode(request).payment_hash
    said = answer.json()
    assert (said["payment_hash"], said["reason"]) == (payment_hash, "insufficient_credits")
    shown = await bob.invoice(payment_hash)
    assert (shown["state"], shown["reason"]) == ("refused", "insufficient_credits")
    assert available(served, "bob") == 1_004 * SAT


async def test_an_invoice_is_given_once_by_whomever(served: Served) -> None:
    bob, eve = await rich(served, "bob"), await rich(served, "eve")
    request = await node_of(served).outside_invoice(1_000_000)
    first, *others = await asyncio.gather(
        *(bob.post("/bitcoin/withdraw", encoded_invoice=request) for _ in range(5))
    )
    statuses = sorted(answer.status_code for answer in (first, *others))
    assert statuses == [201] + [409] * 4
    for who, spelt in ((bob, request), (eve, request), (eve, request.upper())):
        answer = await who.post("/bitcoin/withdraw", encoded_invoice=spelt)
        assert (answer.status_code, kind(answer)) == (409, "invoice_used")
        assert answer.json()["payment_hash"] == bolt11.decode(request).payment_hash
    assert available(served, "eve") == 1_000_000 * SAT


async def test_an_invoice_that_cannot_be_paid_from_here_is_422_and_says_why(
    served: Served,
) -> None:
    bob = await rich(served, "bob")
    node = node_of(served)
    own = (await bob.post("/bitcoin/deposit", amount=1)).json()["payment_request"]
    requests = {
        "the invoice is one of ours: a node does not pay itself": own,
        "the invoice names no amount: ask the payee for one": await node.outside_invoice(None),
        "the invoice has expired, on 20": await node.outside_invoice(1, expires_in_s=1),
        "the invoice is of mainnet, and this is regtest": MAINNET,
        "the invoice cannot be read: the invoice is not Bech32": own[:-1],
        "the invoice cannot be read": "lnbcrt1",
    }
    await quiet(served)
    before = served.written()
    for sentence, request in requests.items():
        answer = await bob.post("/bitcoin/withdraw", encoded_invoice=request)
        assert (answer.status_code, kind(answer)) == (422, "invoice_refused"), sentence
        assert answer.json()["detail"].startswith(sentence)
        assert answer.json()["problem"]
    for wrong in ("", "a b", "lnbcrt\n", "a" * 7_090, "\N{CYRILLIC SMALL LETTER A}", 1, None):
        answer = await bob.post("/bitcoin/withdraw", encoded_invoice=wrong)
        assert (answer.status_code, answer.json()["field"]) == (422, "encoded_invoice"), wrong
    assert served.written() == before


async def test_all_bitcoins_there_are_can_neither_be_paid_nor_break_anything(
    served: Served,
) -> None:
    bob = await rich(served, "bob")
    request = await node_of(served).outside_invoice(MAX_SAT * SAT)
    answer = await bob.post("/bitcoin/withdraw", encoded_invoice=request)
    assert (answer.status_code, kind(answer)) == (402, "withdrawal_refused")


# --- nodes that are not there ---


async def test_in_production_without_a_node_all_but_bitcoin_works(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    be_patient(monkeypatch)
    monkeypatch.setenv("LIGHTNING_NODE", "")
    async with serving(cluster.url, schema, engine, application=SERVICE) as served:
        bob = await rich(served, "bob")
        for path, body in (
            ("/bitcoin/deposit", {"amount": 1}),
            ("/bitcoin/withdraw", {"encoded_invoice": MAINNET}),
        ):
            answer = await bob.post(path, **body)
            assert (answer.status_code, kind(answer)) == (503, "node_unavailable")
            assert "retry-after" in answer.headers
        await assert_nobody_plays(served)
        campaign_id = await person(served, "ada").campaign()
        assert (await bob.donate(campaign_id, 10, "first")).status_code == 201
        assert (await bob.dashboard())["username"] == "bob"
        missing = await bob.get(f"/bitcoin/invoice/{NOBODYS}")
        assert (missing.status_code, kind(missing)) == (404, "invoice_not_found")


async def assert_nobody_plays(served: Served) -> None:
    """Nobody can play the outside world."""
    for path, body in (
        ("/dev/lightning/pay", {"payment_request": MAINNET}),
        ("/dev/lightning/invoice", {"amount": 1}),
    ):
        answer = await served.client.post(path, json=body)
        assert (answer.status_code, kind(answer)) == (404, "not_simulated")


async def test_a_node_that_does_not_answer_is_503_and_nobody_plays_its_part(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody listens there.
    monkeypatch.setenv("LIGHTNING_NODE", "lnd+http://127.0.0.1:1?macaroon=00")
    async with serving(cluster.url, schema, engine, application=SERVICE) as served:
        bob = person(served, "bob")
        await bob.dashboard()
        for path, body in (
            ("/bitcoin/deposit", {"amount": 1}),
            ("/bitcoin/withdraw", {"encoded_invoice": MAINNET}),
        ):
            answer = await bob.post(path, **body)
            assert (answer.status_code, kind(answer)) == (503, "node_unavailable")
        await assert_nobody_plays(served)
        for table in ("deposits", "withdrawals"):
            count = f"select count(*) from {schema}.crowdfunding_bitcoin_{table}"
            assert query(cluster.url, count) == [(0,)]
