"""Core Lightning: what its interface has of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from cln_server import ClnServer, done, failure
from contexts import engine_on
from loopback import served
from shared_ledger.apps.crowdfunding.lightning import cln
from shared_ledger.apps.crowdfunding.lightning.cln import ClnNode
from shared_ledger.apps.crowdfunding.lightning.port import NodeRefused, NodeUnavailable, Payment
from shared_ledger.apps.crowdfunding.lightning.rest import Rest
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.embedded import Cluster
from test_lightning_nodes import make_tables, told

HASH = "ab" * 32
PREIMAGE = "cd" * 32
COMPLETE = {
    "payment_hash": HASH,
    "status": "complete",
    "amount_msat": 10_000,
    "amount_sent_msat": 10_007,
    "preimage": PREIMAGE,
}
PENDING = {"payment_hash": HASH, "status": "pending", "amount_sent_msat": 10_000}
FAILED = {"payment_hash": HASH, "status": "failed", "amount_sent_msat": 0}


@pytest.fixture
async def world(cluster: Cluster, schema: str) -> AsyncIterator[SimulatedNode]:
    """Whatever is behind the server."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield SimulatedNode(engine, poll_s=0.01)


@pytest.fixture
def server(world: SimulatedNode, cluster: Cluster, schema: str) -> ClnServer:
    return ClnServer(cluster.url, schema)


@pytest.fixture
async def node(server: ClnServer) -> AsyncIterator[ClnNode]:
    with served(server.app) as place:
        node = ClnNode(Rest(f"http://{place}", header=cln.HEADER, secret=server.secret))
        yield node
        await node.close()


def asked(server: ClnServer, method: str) -> list[dict[str, Any]]:
    return [parameters for where, parameters in server.asked if where == f"/v1/{method}"]


# --- paying ---


@pytest.mark.parametrize(
    ("version", "method", "name"),
    [
        ("v24.11", "pay", "bolt11"),
        ("v26.04.2", "pay", "bolt11"),
        ("26.06", "xpay", "invstring"),
        ("v26.06-258-g090f4b0", "xpay", "invstring"),
        ("v27.03", "xpay", "invstring"),
        ("basedon-something", "xpay", "invstring"),
    ],
)
async def test_payment_is_made_by_the_method_that_its_version_can_follow(  # noqa: PLR0917
    server: ClnServer, node: ClnNode, world: SimulatedNode, version: str, method: str, name: str
) -> None:
    server.version = version
    for _ in range(2):
        request = await world.outside_invoice(10_000)
        await node.pay(request, max_fee_msat=1_234, timeout_s=2.5)
        assert asked(server, method)[-1] == {name: request, "maxfee": 1_234, "retry_for": 3}
    # It does not change while it runs.
    assert len(asked(server, "getinfo")) == 1


@pytest.mark.parametrize(
    ("pays", "state"),
    [
        ([FAILED], "failed"),
        ([FAILED, PENDING], "in_flight"),
        ([PENDING, FAILED], "in_flight"),
        ([FAILED, COMPLETE, FAILED], "succeeded"),
    ],
)
async def test_payment_that_was_tried_again_is_what_its_best_try_is(
    server: ClnServer, node: ClnNode, pays: list[dict[str, Any]], state: str
) -> None:
    server.instead["/v1/listpays"] = done({"pays": pays})
    payment = await node.track(HASH)
    assert payment is not None
    assert (payment.payment_hash, payment.state) == (HASH, state)


async def test_fee_is_what_was_sent_beyond_the_amount(
    server: ClnServer, node: ClnNode, world: SimulatedNode
) -> None:
    server.instead["/v1/listpays"] = done({"pays": [COMPLETE]})
    paid = Payment(payment_hash=HASH, state="succeeded", fee_msat=7, preimage=PREIMAGE)
    assert await node.track(HASH) == paid
    without_amount = {key: value for key, value in COMPLETE.items() if key != "amount_msat"}
    invoice = {"bolt11": await world.outside_invoice(10_003)}
    server.instead["/v1/listpays"] = done({"pays": [without_amount | invoice]})
    payment = await node.track(HASH)
    assert payment is not None
    assert payment.fee_msat == 4


async def test_payment_that_failed_says_why_as_long_as_somebody_heard_it(
    node: ClnNode, world: SimulatedNode
) -> None:
    request = await world.outside_invoice(10_000)
    await world.plan(node.decode(request).payment_hash, outcome="fail", reason="too far")
    payment = await node.pay(request, max_fee_msat=1_000, timeout_s=5)
    assert payment.state == "failed"
    assert payment.reason == "Core Lightning says: it failed: too far"


@pytest.mark.parametrize(
    ("code", "error"),
    [(205, NodeRefused), (-32602, NodeRefused), (-4, NodeUnavailable), (-5, NodeUnavailable)],
)
async def test_error_without_a_payment_is_a_refusal_unless_the_node_ended(
    server: ClnServer, node: ClnNode, world: SimulatedNode, code: int, error: type[Exception]
) -> None:
    server.instead["/v1/xpay"] = failure(code, "no")
    with pytest.raises(error, match="Core Lightning says: no"):
        await node.pay(await world.outside_invoice(1_000), max_fee_msat=1_000, timeout_s=5)


async def test_plugin_that_does_not_reach_the_node_says_nothing(
    server: ClnServer, node: ClnNode, world: SimulatedNode
) -> None:
    server.instead["/v1/xpay"] = failure(None, "Connection refused (os error 111)")
    with pytest.raises(NodeUnavailable, match="Connection refused"):
        await node.pay(await world.outside_invoice(1_000), max_fee_msat=1_000, timeout_s=5)


# --- invoices ---


async def test_every_invoice_has_a_label_of_its_own(server: ClnServer, node: ClnNode) -> None:
    for _ in range(2):
        await node.create_invoice(amount_msat=1_000, description="", expires_in_s=60)
    labels = [each["label"] for each in asked(server, "invoice")]
    assert len(set(labels)) == 2
    with pytest.raises(NodeRefused, match="639 bytes"):
        await node.create_invoice(amount_msat=1, description="x" * 640, expires_in_s=60)


async def test_invoice_of_another_kind_is_none_of_ours(server: ClnServer, node: ClnNode) -> None:
    offered = {"payment_hash": HASH, "status": "paid", "expires_at": 1_790_000_000}
    server.instead["/v1/listinvoices"] = done({"invoices": [offered | {"bolt12": "lni1"}]})
    assert await node.lookup_invoice(HASH) is None


@pytest.mark.parametrize("warning", ["warning_bitcoind_sync", "warning_lightningd_sync"])
async def test_node_that_warns_is_not_synced(
    server: ClnServer, node: ClnNode, warning: str
) -> None:
    said = {"id": "02", "network": "bitcoin", "version": "v26.06", warning: "still loading"}
    server.instead["/v1/getinfo"] = done(said)
    info = await node.info()
    assert (info.is_synced, info.network) == (False, "mainnet")


async def test_unknown_chain_is_not_guessed(server: ClnServer, node: ClnNode) -> None:
    server.instead["/v1/getinfo"] = done({"id": "02", "network": "liquid", "version": "v26.06"})
    with pytest.raises(NodeUnavailable, match="liquid"):
        await node.info()


# --- settlements ---


async def test_next_settlement_is_waited_for_again_and_again(
    server: ClnServer, node: ClnNode, world: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cln, "QUIET_S", 0)
    made = await node.create_invoice(amount_msat=1_000, description="", expires_in_s=60)
    server.instead["/v1/waitanyinvoice"] = failure(904, "Timed out")
    await world.receive(made.payment_request)
    [settlement] = await told(node, "0", count=1)
    assert settlement.payment_hash == made.payment_hash
    assert asked(server, "waitanyinvoice") == [{"lastpay_index": 0, "timeout": 0}] * 2


async def test_error_while_waiting_is_told(server: ClnServer, node: ClnNode) -> None:
    server.instead["/v1/waitanyinvoice"] = failure(-32602, "no")
    with pytest.raises(NodeUnavailable, match="Core Lightning says: no"):
        await told(node, None, count=1)
