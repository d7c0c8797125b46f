"""LND: what its interface has of its own."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.responses import JSONResponse, Response, StreamingResponse

from contexts import engine_on
from lnd_server import LndServer, failure, line, stream_failure, told
from loopback import served
from shared_ledger.apps.crowdfunding.lightning import lnd
from shared_ledger.apps.crowdfunding.lightning.lnd import LndNode
from shared_ledger.apps.crowdfunding.lightning.port import NodeRefused, NodeUnavailable, Payment
from shared_ledger.apps.crowdfunding.lightning.rest import Rest
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.apps.crowdfunding.lightning.tables import invoices
from shared_ledger.embedded import Cluster
from test_lightning_nodes import comes_true, make_tables
from test_lightning_nodes import told as settlements_of

HASH = "ff" * 31 + "fe"
TRACK = "/v2/router/track/__________________________________________4="
SEND = "/v2/router/send"
SUBSCRIBE = "/v1/invoices/subscribe"

UNKNOWN_PAYMENT = "payment isn't initiated"


@pytest.fixture
async def world(cluster: Cluster, schema: str) -> AsyncIterator[SimulatedNode]:
    """Whatever is behind the server."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield SimulatedNode(engine, poll_s=0.01)


@pytest.fixture
def server(world: SimulatedNode, cluster: Cluster, schema: str) -> LndServer:
    return LndServer(cluster.url, schema)


@pytest.fixture
async def node(server: LndServer) -> AsyncIterator[LndNode]:
    with served(server.app) as place:
        rest = Rest(f"http://{place}", header=lnd.HEADER, secret=server.secret)
        node = LndNode(rest, poll_s=0.05)
        yield node
        await node.close()


def asked(server: LndServer, path: str) -> list[dict[str, Any]]:
    return [parameters for where, parameters in server.asked if where == path]


def track_of(request: str, node: LndNode) -> str:
    digest = bytes.fromhex(node.decode(request).payment_hash)
    return f"/v2/router/track/{base64.urlsafe_b64encode(digest).decode()}"


def streamed(lines: Iterable[str]) -> Response:
    return StreamingResponse(iter(lines), media_type="application/json")


# --- what it is asked ---


async def test_hashes_and_numbers_are_written_as_lnd_wants_them(
    server: LndServer, node: LndNode, world: SimulatedNode
) -> None:
    assert await node.track(HASH) is None
    assert asked(server, TRACK) == [{}]
    request = await world.outside_invoice(10_000)
    await node.pay(request.upper(), max_fee_msat=1_234, timeout_s=2.5)
    assert asked(server, SEND) == [
        {"payment_request": request, "fee_limit_msat": "1234", "timeout_seconds": 3}
    ]


async def test_payment_that_is_known_is_not_sent(
    server: LndServer, node: LndNode, world: SimulatedNode
) -> None:
    request = await world.outside_invoice(10_000)
    payment = await node.pay(request, max_fee_msat=1_000, timeout_s=5)
    assert await node.pay(request, max_fee_msat=1_000, timeout_s=5) == payment
    assert len(asked(server, SEND)) == 1


# --- payments ---


@pytest.mark.parametrize(
    "message", ["invoice is already paid", "payment is in transition", "payment already exists"]
)
async def test_payment_that_lnd_has_already_is_followed(
    server: LndServer, node: LndNode, world: SimulatedNode, message: str
) -> None:
    request = await world.outside_invoice(10_000)
    made = await world.pay(request, max_fee_msat=1_000, timeout_s=5)
    # When it was looked up, somebody else had not sent it yet.
    server.instead[track_of(request, node)] = stream_failure(5, UNKNOWN_PAYMENT)
    server.instead[SEND] = stream_failure(6, message)
    assert await node.pay(request, max_fee_msat=1_000, timeout_s=5) == made
    assert made.state == "succeeded"


async def test_refusal_is_no_refusal_if_lnd_cannot_say_what_became_of_it(
    server: LndServer, node: LndNode, world: SimulatedNode
) -> None:
    request = await world.outside_invoice(10_000)
    path = track_of(request, node)

    class ThenNothing(dict[str, Response]):
        """Refuses to pay, and from then on does not know its own payments."""

        def pop(self, key: str, *_: object) -> Response:
            response = super().pop(key)
            if key == SEND:
                self[path] = failure(2, "permission denied")
            return response

    server.instead = ThenNothing({SEND: failure(2, "self-payments not allowed")})
    with pytest.raises(NodeUnavailable, match="permission denied"):
        await node.pay(request, max_fee_msat=1_000, timeout_s=5)


@pytest.mark.parametrize("code", [1, 4, 13, 14])
async def test_error_that_says_nothing_of_the_payment_decides_nothing(
    server: LndServer, node: LndNode, world: SimulatedNode, code: int
) -> None:
    said = {"error": {"code": code, "message": "the server is shutting down"}}
    server.instead[SEND] = JSONResponse(said, status_code=503)
    with pytest.raises(NodeUnavailable, match="shutting down"):
        await node.pay(await world.outside_invoice(1_000), max_fee_msat=1_000, timeout_s=5)


async def test_error_after_the_payment_has_begun_decides_nothing(
    server: LndServer, node: LndNode, world: SimulatedNode
) -> None:
    request = await world.outside_invoice(1_000)
    begun = told(Payment(payment_hash=node.decode(request).payment_hash, state="in_flight"))
    broken = '{"error": {"code": 2, "message": "router shutting down"}}\n'
    server.instead[SEND] = streamed([line(begun), broken])
    with pytest.raises(NodeUnavailable, match="router shutting down"):
        await node.pay(request, max_fee_msat=1_000, timeout_s=5)


async def test_stream_that_ends_early_leaves_the_payment_in_flight(
    server: LndServer, node: LndNode, world: SimulatedNode
) -> None:
    request = await world.outside_invoice(1_000)
    in_flight = Payment(payment_hash=node.decode(request).payment_hash, state="in_flight")
    server.instead[SEND] = streamed([line(told(in_flight) | {"status": "INITIATED"})])
    assert await node.pay(request, max_fee_msat=1_000, timeout_s=5) == in_flight


async def test_failure_says_why(node: LndNode, world: SimulatedNode) -> None:
    request = await world.outside_invoice(10_000)
    payment_hash = node.decode(request).payment_hash
    await world.plan(payment_hash, outcome="fail", reason="insufficient_balance", delay_s=0.05)
    failed = Payment(payment_hash=payment_hash, state="failed", reason="insufficient_balance")
    assert await node.pay(request, max_fee_msat=1_000, timeout_s=5) == failed
    assert await node.track(payment_hash) == failed


async def test_address_that_is_not_there_is_no_unknown_payment(
    server: LndServer, node: LndNode
) -> None:
    server.instead[TRACK] = failure(5, "Not Found")
    with pytest.raises(NodeUnavailable, match="Not Found"):
        await node.track(HASH)
    server.instead[f"/v1/invoice/{HASH}"] = failure(5, "Not Found")
    with pytest.raises(NodeUnavailable, match="Not Found"):
        await node.lookup_invoice(HASH)


# --- invoices ---


@pytest.mark.parametrize(
    ("state", "shown"),
    [("OPEN", "open"), ("ACCEPTED", "open"), ("CANCELED", "expired"), ("SETTLED", "settled")],
)
async def test_state_is_what_lnd_says(
    server: LndServer, node: LndNode, state: str, shown: str
) -> None:
    made = await node.create_invoice(amount_msat=5_000, description="", expires_in_s=60)
    server.instead[f"/v1/invoice/{made.payment_hash}"] = JSONResponse(
        {
            "payment_request": made.payment_request,
            "r_hash": "",
            "value_msat": "5000",
            "state": state,
            "amt_paid_msat": "5000",
        }
    )
    found = await node.lookup_invoice(made.payment_hash)
    assert found is not None
    assert (found.state, found.received_msat) == (shown, 5_000 if shown == "settled" else 0)


async def test_invoice_that_lnd_does_not_make_is_refused(node: LndNode) -> None:
    with pytest.raises(NodeRefused, match="LND says: a description has"):
        await node.create_invoice(amount_msat=1, description="x" * 640, expires_in_s=60)


async def test_unknown_chain_is_not_guessed(server: LndServer, node: LndNode) -> None:
    server.instead["/v1/getinfo"] = JSONResponse(
        {"identity_pubkey": "02", "synced_to_chain": True, "chains": [{"network": "simnet"}]}
    )
    with pytest.raises(NodeUnavailable, match="simnet"):
        await node.info()


# --- settlements ---


async def settle(world: SimulatedNode, *amounts: int) -> list[str]:
    """The hashes of invoices that were made, and paid in this order."""
    made = [
        await world.create_invoice(amount_msat=amount, description="", expires_in_s=60)
        for amount in amounts
    ]
    for each in made:
        await world.receive(each.payment_request)
    return [each.payment_hash for each in made]


async def test_beginning_is_found_on_whichever_page_it_is(
    node: LndNode, world: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lnd, "PAGE", 2)
    hashes = await settle(world, *range(1, 8))
    settlements = await settlements_of(node, None, count=7)
    assert [each.payment_hash for each in settlements] == hashes
    assert [each.cursor for each in settlements] == [str(index) for index in range(1, 8)]


async def test_beginning_may_be_what_lnd_lists_no_more(
    node: LndNode, world: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lnd, "PAGE", 1)
    made = [
        await world.create_invoice(amount_msat=1, description="", expires_in_s=60) for _ in range(4)
    ]
    # They are listed in this order, too.
    made.sort(key=lambda each: each.payment_hash)
    for each in made:
        await world.receive(each.payment_request)
    async with world._engine.begin() as connection:
        await connection.execute(sa.delete(invoices).where(invoices.c.settle_index == 1))
    settlements = await settlements_of(node, None, count=3)
    assert [each.payment_hash for each in settlements] == [each.payment_hash for each in made[1:]]


async def server_invoices(node: LndNode) -> list[dict[str, Any]]:
    response = await node._rest.request(
        "GET", "/v1/invoices", parameters={"index_offset": 0, "num_max_invoices": 10}
    )
    listed: list[dict[str, Any]] = response.json()["invoices"]
    return listed


async def test_beginning_of_a_node_that_was_never_paid_is_waited_for(
    server: LndServer, node: LndNode, world: SimulatedNode
) -> None:
    listening = asyncio.create_task(settlements_of(node, None, count=2))
    await asyncio.sleep(0.3)
    # Of nothing, LND would tell nothing that came before it was asked.
    assert asked(server, SUBSCRIBE) == []
    hashes = await settle(world, 1, 2)
    assert [each.payment_hash for each in await listening] == hashes


async def opened_often(server: LndServer) -> bool:
    return len(asked(server, SUBSCRIBE)) >= 3


async def test_stream_that_says_nothing_is_opened_anew_where_it_was(
    server: LndServer, node: LndNode, world: SimulatedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lnd, "QUIET_S", 0.2)
    hashes = await settle(world, 1)
    listening = asyncio.create_task(settlements_of(node, "0", count=2))
    await comes_true(lambda: opened_often(server))
    hashes += await settle(world, 2)
    assert [each.payment_hash for each in await listening] == hashes
    assert {each["settle_index"] for each in asked(server, SUBSCRIBE)} == {"1"}


@pytest.mark.parametrize("cursor", ["", "0", "2026-11-21T12:00:00+00:00", "-1"])
async def test_cursor_of_another_kind_of_node_is_the_beginning(
    node: LndNode, world: SimulatedNode, cursor: str
) -> None:
    hashes = await settle(world, 1, 2)
    settlements = await settlements_of(node, cursor, count=2)
    assert [each.payment_hash for each in settlements] == hashes


async def test_stream_that_ends_is_told(server: LndServer, node: LndNode) -> None:
    server.instead[SUBSCRIBE] = streamed([])
    with pytest.raises(NodeUnavailable, match="stopped telling"):
        await settlements_of(node, "1", count=1)


async def test_what_is_not_settled_or_was_told_before_is_not_told(
    server: LndServer, node: LndNode, world: SimulatedNode
) -> None:
    first, second = await settle(world, 1, 2)
    everything = sorted(await server_invoices(node), key=lambda each: int(each["settle_index"]))
    unsettled = everything[0] | {"state": "OPEN", "settle_index": "9"}
    news = (everything[0], unsettled, everything[1], everything[1])
    server.instead[SUBSCRIBE] = streamed(line(each) for each in news)
    settlements = aiter(node.settlements("1"))
    assert (await anext(settlements)).payment_hash == second != first
    with pytest.raises(NodeUnavailable, match="stopped telling"):
        await anext(settlements)
