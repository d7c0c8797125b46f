"""LNbits: what its interface has of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from starlette.responses import JSONResponse

from contexts import engine_on
from lnbits_server import BEGINNING, RESERVE_MSAT, LnbitsServer, failed
from loopback import served
from shared_ledger.apps.crowdfunding.lightning import lnbits
from shared_ledger.apps.crowdfunding.lightning.lnbits import LnbitsNode
from shared_ledger.apps.crowdfunding.lightning.port import NodeRefused, NodeUnavailable, Settlement
from shared_ledger.apps.crowdfunding.lightning.rest import Rest
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.embedded import Cluster
from test_lightning_nodes import make_tables, told

PAYMENTS = "/api/v1/payments"
PAGE = "/api/v1/payments/paginated"


@pytest.fixture
async def world(cluster: Cluster, schema: str) -> AsyncIterator[SimulatedNode]:
    """Whatever is behind the server."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield SimulatedNode(engine, poll_s=0.01)


@pytest.fixture
def server(world: SimulatedNode, cluster: Cluster, schema: str) -> LnbitsServer:
    return LnbitsServer(cluster.url, schema)


@pytest.fixture
async def node(server: LnbitsServer) -> AsyncIterator[LnbitsNode]:
    with served(server.app) as place:
        rest = Rest(f"http://{place}", header=lnbits.HEADER, secret=server.secret)
        node = LnbitsNode(rest, poll_s=0.02)
        yield node
        await node.close()


def asked(server: LnbitsServer, path: str) -> list[dict[str, Any]]:
    return [parameters for where, parameters in server.asked if where == path]


def row(number: int, *, changed_after_s: float = 0, **more: Any) -> dict[str, Any]:
    """A settled invoice, as LNbits tells of it."""
    changed_on = BEGINNING + timedelta(seconds=changed_after_s)
    return {
        "payment_hash": f"{number:064x}",
        "amount": 1_000 * number,
        "fee": 0,
        "bolt11": "",
        "status": "success",
        "updated_at": changed_on.isoformat(),
        **more,
    }


def page(*rows: dict[str, Any]) -> JSONResponse:
    return JSONResponse({"data": rows, "total": len(rows)})


# --- invoices ---


@pytest.mark.parametrize("amount_msat", [1, 999, 1_001])
async def test_part_of_a_sat_is_refused(
    server: LnbitsServer, node: LnbitsNode, amount_msat: int
) -> None:
    with pytest.raises(NodeRefused, match="whole sats"):
        await node.create_invoice(amount_msat=amount_msat, description="", expires_in_s=60)
    assert server.asked == []


async def test_invoice_that_lnbits_does_not_make_is_refused(
    server: LnbitsServer, node: LnbitsNode
) -> None:
    server.instead[PAYMENTS] = failed("Invoice amount 7 sats is too high.")
    with pytest.raises(NodeRefused, match="too high"):
        await node.create_invoice(amount_msat=7_000, description="", expires_in_s=60)
    server.instead[PAYMENTS] = failed("unexpected backend error.", status="pending")
    with pytest.raises(NodeUnavailable, match="unexpected backend error"):
        await node.create_invoice(amount_msat=7_000, description="", expires_in_s=60)


async def test_fee_of_what_is_received_is_not_received(
    server: LnbitsServer, node: LnbitsNode
) -> None:
    made = await node.create_invoice(amount_msat=7_000, description="", expires_in_s=60)
    taken = row(7, payment_hash=made.payment_hash, bolt11=made.payment_request, fee=-70)
    server.instead[PAGE] = page(taken)
    found = await node.lookup_invoice(made.payment_hash)
    assert found is not None
    assert (found.received_msat, found.amount_msat) == (6_930, 7_000)
    server.instead[PAGE] = page(taken)
    [settlement] = await told(node, None, count=1)
    assert settlement.received_msat == 6_930


async def test_node_is_whoever_signs_its_invoices(server: LnbitsServer, node: LnbitsNode) -> None:
    infos = [await node.info() for _ in range(3)]
    assert infos[0] == infos[1] == infos[2]
    assert len(asked(server, PAYMENTS)) == 1
    server.secret = "another"  # type: ignore[misc]  # Of this server alone.
    with pytest.raises(NodeUnavailable, match="Invalid key"):
        await node.info()


async def test_filter_that_is_not_known_finds_nothing_of_others(
    server: LnbitsServer, node: LnbitsNode
) -> None:
    for look in (node.lookup_invoice, node.track):
        server.instead[PAGE] = page(row(1), row(2, amount=-2_000))
        assert await look(f"{3:064x}") is None


async def test_what_was_paid_is_not_what_was_received(
    server: LnbitsServer, node: LnbitsNode
) -> None:
    """A wallet that pays its own invoice has both under one hash."""
    made = await node.create_invoice(amount_msat=7_000, description="", expires_in_s=60)
    both = [
        row(7, payment_hash=made.payment_hash, bolt11=made.payment_request, status=status, **more)
        for status, more in (("failed", {"amount": -7_000}), ("success", {}))
    ]
    server.instead[PAGE] = page(*both)
    payment = await node.track(made.payment_hash)
    server.instead[PAGE] = page(*both)
    invoice = await node.lookup_invoice(made.payment_hash)
    assert payment is not None
    assert invoice is not None
    assert (payment.state, invoice.state) == ("failed", "settled")


# --- paying ---


async def test_limit_below_that_of_lnbits_is_refused_before_anything_is_sent(
    server: LnbitsServer, node: LnbitsNode, world: SimulatedNode
) -> None:
    request = await world.outside_invoice(10_000)
    with pytest.raises(NodeRefused, match=f"may spend {RESERVE_MSAT} msat"):
        await node.pay(request, max_fee_msat=RESERVE_MSAT - 1, timeout_s=5)
    assert asked(server, PAYMENTS) == []
    payment = await node.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=5)
    assert payment.state == "succeeded"


@pytest.mark.parametrize(
    ("status", "error"), [("failed", NodeRefused), ("pending", NodeUnavailable)]
)
async def test_payment_that_lnbits_has_not_is_refused_only_if_it_says_so(
    server: LnbitsServer,
    node: LnbitsNode,
    world: SimulatedNode,
    status: str,
    error: type[Exception],
) -> None:
    server.instead[PAYMENTS] = failed("Insufficient balance.", status=status)
    with pytest.raises(error, match="Insufficient balance"):
        await node.pay(await world.outside_invoice(1_000), max_fee_msat=5_000, timeout_s=5)


async def test_unexpected_error_says_nothing(
    server: LnbitsServer, node: LnbitsNode, world: SimulatedNode
) -> None:
    server.instead[PAYMENTS] = JSONResponse({"detail": "Unexpected error! ID: 1"}, status_code=500)
    with pytest.raises(NodeUnavailable, match="Unexpected error"):
        await node.pay(await world.outside_invoice(1_000), max_fee_msat=5_000, timeout_s=5)


async def test_fee_that_is_set_aside_is_no_fee(node: LnbitsNode, world: SimulatedNode) -> None:
    request = await world.outside_invoice(10_000)
    await world.plan(node.decode(request).payment_hash, outcome="hang", fee_msat=77)
    waiting = await node.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=0.3)
    assert (waiting.state, waiting.fee_msat) == ("in_flight", 0)
    await world.resolve(waiting.payment_hash)
    payment = await node.track(waiting.payment_hash)
    assert payment is not None
    assert (payment.state, payment.fee_msat) == ("succeeded", 77)


# --- settlements ---


async def test_settlements_come_oldest_first_from_however_many_pages(
    server: LnbitsServer, node: LnbitsNode, world: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lnbits, "PAGE", 2)
    hashes = []
    for number in range(1, 6):
        made = await world.create_invoice(
            amount_msat=1_000 * number, description="", expires_in_s=60
        )
        await world.receive(made.payment_request)
        hashes.append(made.payment_hash)
    settlements = await told(node, None, count=5)
    assert [each.payment_hash for each in settlements] == hashes
    assert [each["offset"] for each in asked(server, PAGE)] == ["0", "2", "4"]
    server.asked.clear()
    # What is older is on the third page, which nobody needs.
    monkeypatch.setattr(lnbits, "OVERLAP", timedelta(seconds=1))
    assert len(await told(node, settlements[-1].cursor, count=2)) == 2
    assert [each["offset"] for each in asked(server, PAGE)] == ["0", "2"]


async def test_settlement_that_comes_to_light_late_is_told_and_no_other_twice(
    server: LnbitsServer, node: LnbitsNode
) -> None:
    """LNbits notes when it changed an invoice, and shows that a moment later."""
    newest = row(1, changed_after_s=100)
    late = row(2, changed_after_s=40)
    server.instead[PAGE] = page(newest)
    settlements = aiter(node.settlements(None))
    first = await anext(settlements)
    server.instead[PAGE] = page(newest, late)
    second = await anext(settlements)
    assert [int(each.payment_hash, 16) for each in (first, second)] == [1, 2]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(settlements), 0.2)


async def test_where_it_was_left_begins_a_little_earlier(
    server: LnbitsServer, node: LnbitsNode
) -> None:
    overlap_s = lnbits.OVERLAP.total_seconds()
    [settlement] = await first_of(server, node, row(1, changed_after_s=1_000), cursor=None)
    rows = [
        row(3, changed_after_s=1_001),
        row(1, changed_after_s=1_000),
        row(2, changed_after_s=1_000 - overlap_s),
        row(4, changed_after_s=1_000 - overlap_s - 1),
    ]
    again = await first_of(server, node, *rows, cursor=settlement.cursor)
    assert [int(each.payment_hash, 16) for each in again] == [2, 1, 3]


@pytest.mark.parametrize("cursor", ["", "7", "20261121", "2026-11-21T12:00:00"])
async def test_cursor_of_another_kind_of_node_is_the_beginning(
    server: LnbitsServer, node: LnbitsNode, cursor: str
) -> None:
    [settlement] = await first_of(server, node, row(1, changed_after_s=-1e8), cursor=cursor)
    assert settlement.received_msat == 1_000


async def first_of(
    server: LnbitsServer, node: LnbitsNode, *rows: dict[str, Any], cursor: str | None
) -> list[Settlement]:
    """What is told of a page, before another is looked at."""
    server.instead[PAGE] = page(*rows)
    found = []
    settlements = aiter(node.settlements(cursor))
    for _ in rows:
        try:
            async with asyncio.timeout(0.5):
                found.append(await anext(settlements))
        except TimeoutError:
            break
    return found


@pytest.mark.parametrize(
    "more", [{"status": "pending"}, {"status": "failed"}, {"amount": -1_000}], ids=str
)
async def test_what_is_not_settled_is_not_told(
    server: LnbitsServer, node: LnbitsNode, more: dict[str, Any]
) -> None:
    [settlement] = await first_of(server, node, row(2), row(1, **more), cursor=None)
    assert settlement.received_msat == 2_000
