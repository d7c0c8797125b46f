"""The adapter of LNbits against a real one: over its own wallet, and over carol's node.

Its own wallet only pretends to be a node, so its invoices are on the main network, and only other
wallets of the same server can pay them.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator

import pytest

from lightning.lnbits_server import LnbitsServer, Wallet
from lightning.lnd import Hold
from lightning.network import Network
from lightning.waiting import TIMEOUT_S, final, next_settlement, settlements, until
from shared_ledger.apps.crowdfunding.lightning.lnbits import HEADER, LnbitsNode
from shared_ledger.apps.crowdfunding.lightning.nodes import open_node
from shared_ledger.apps.crowdfunding.lightning.port import Invoice, NodeRefused, NodeUnavailable
from shared_ledger.apps.crowdfunding.lightning.rest import Rest

BALANCE_SAT = 100_000
UNKNOWN = "ab" * 32
# What LNbits sets aside for the fee of a small payment.
RESERVE_MSAT = 2_000


def node_of(server: LnbitsServer, key: str) -> LnbitsNode:
    """The adapter of the wallet that a key is of."""
    return LnbitsNode(Rest(server.url, header=HEADER, secret=key), poll_s=0.1)


@pytest.fixture
def other(lnbits: LnbitsServer) -> Wallet:
    """Another wallet of the server, which has something to pay with."""
    return lnbits.new_wallet(balance_sat=BALANCE_SAT)


@pytest.fixture
async def node(lnbits: LnbitsServer) -> AsyncIterator[LnbitsNode]:
    """The adapter of a wallet that has been given BALANCE_SAT, over nothing."""
    node = node_of(lnbits, lnbits.new_wallet(balance_sat=BALANCE_SAT).admin_key)
    yield node
    await node.close()


@pytest.fixture
async def node_over_carol(lnbits_over_carol: LnbitsServer) -> AsyncIterator[LnbitsNode]:
    """The adapter of a wallet that has been given BALANCE_SAT, over carol's node."""
    wallet = lnbits_over_carol.new_wallet(balance_sat=BALANCE_SAT)
    node = node_of(lnbits_over_carol, wallet.admin_key)
    yield node
    await node.close()


async def invoice_of(node: LnbitsNode, *, amount_msat: int = 21_000) -> Invoice:
    return await node.create_invoice(amount_msat=amount_msat, description="", expires_in_s=600)


async def test_it_tells_which_node_is_below_it(
    network: Network, node_over_carol: LnbitsNode
) -> None:
    info = await node_over_carol.info()
    assert (info.node_id, info.network) == (network.carol.node_id, "regtest")
    assert await node_over_carol.info() == info


async def test_the_setting_of_a_wallet_leads_to_it(lnbits: LnbitsServer, other: Wallet) -> None:
    node = await open_node(f"lnbits+{lnbits.url}?key={other.admin_key}", production=True)
    request = lnbits.invoice(other, amount_sat=21)
    found = await node.lookup_invoice(node.decode(request).payment_hash)
    assert found is not None
    assert found.payment_request == request
    await node.close()


async def test_an_invoice_is_open_until_it_is_settled(
    lnbits: LnbitsServer, other: Wallet, node: LnbitsNode
) -> None:
    made = await node.create_invoice(amount_msat=21_000, description="½ a book", expires_in_s=600)
    assert (made.state, made.amount_msat, made.received_msat) == ("open", 21_000, 0)
    assert await node.lookup_invoice(made.payment_hash) == made
    says = node.decode(made.payment_request)
    assert says.description == "½ a book"
    assert (says.expires_on - says.created_on).total_seconds() == 600

    lnbits.pay(other, made.payment_request)

    found = await node.lookup_invoice(made.payment_hash)
    assert found is not None
    assert (found.state, found.received_msat) == ("settled", 21_000)


async def test_an_invoice_is_paid_over_the_network(
    network: Network, node_over_carol: LnbitsNode
) -> None:
    made = await invoice_of(node_over_carol)
    listening = asyncio.create_task(next_settlement(node_over_carol, None))
    # What the wallet was given to begin with was settled as well.
    given = await listening
    assert given.received_msat == BALANCE_SAT * 1_000

    await asyncio.to_thread(network.alice.pay, made.payment_request)

    heard = await settlements(node_over_carol, given.cursor, last=made.payment_hash)
    assert heard[-1].received_msat == 21_000
    found = await node_over_carol.lookup_invoice(made.payment_hash)
    assert found is not None
    assert (found.state, found.received_msat) == ("settled", 21_000)


async def test_of_what_was_paid_beyond_an_invoice_lnbits_tells_nothing(
    network: Network, node_over_carol: LnbitsNode
) -> None:
    made = await invoice_of(node_over_carol, amount_msat=1_000_000)
    network.bob.pay_more(made.payment_request, amount_msat=1_500_000)
    found = await until(
        lambda: node_over_carol.lookup_invoice(made.payment_hash),
        lambda found: found is not None and found.state == "settled",
    )
    assert found is not None
    assert found.received_msat == 1_000_000


async def test_an_invoice_of_less_than_a_satoshi_is_refused(node: LnbitsNode) -> None:
    with pytest.raises(NodeRefused, match="whole sats"):
        await invoice_of(node, amount_msat=1_001)


async def test_an_invoice_expires(node: LnbitsNode) -> None:
    made = await node.create_invoice(amount_msat=1_000, description="", expires_in_s=1)
    await until(
        lambda: node.lookup_invoice(made.payment_hash),
        lambda found: found is not None and found.state == "expired",
    )


async def test_an_invoice_of_nobody_is_none(node: LnbitsNode) -> None:
    assert await node.lookup_invoice(UNKNOWN) is None


async def test_an_invoice_of_another_wallet_is_none(
    lnbits: LnbitsServer, other: Wallet, node: LnbitsNode
) -> None:
    request = lnbits.invoice(other, amount_sat=21)
    assert await node.lookup_invoice(node.decode(request).payment_hash) is None


async def test_all_settlements_are_heard_from_the_beginning(
    lnbits: LnbitsServer, other: Wallet, node: LnbitsNode
) -> None:
    made = [await invoice_of(node, amount_msat=1_000 * number) for number in (1, 2, 3)]
    await invoice_of(node)
    for invoice in reversed(made):
        lnbits.pay(other, invoice.payment_request)

    heard = await settlements(node, None, last=made[0].payment_hash)

    assert {each.payment_hash: each.received_msat for each in heard[1:]} == {
        invoice.payment_hash: invoice.amount_msat for invoice in made
    }


async def test_no_settlement_after_a_cursor_is_missed(
    lnbits: LnbitsServer, other: Wallet, node: LnbitsNode
) -> None:
    made = [await invoice_of(node) for _ in range(3)]
    lnbits.pay(other, made[0].payment_request)
    cursor = (await settlements(node, None, last=made[0].payment_hash))[-1].cursor
    for invoice in made[1:]:
        lnbits.pay(other, invoice.payment_request)

    heard = await settlements(node, cursor, last=made[2].payment_hash)

    assert {each.payment_hash for each in made[1:]} <= {each.payment_hash for each in heard}


async def test_settlements_end_with_the_server_and_go_on_where_they_were(
    network: Network, lnbits_over_carol: LnbitsServer, node_over_carol: LnbitsNode
) -> None:
    made = await invoice_of(node_over_carol)
    given = await next_settlement(node_over_carol, None)
    listening = asyncio.create_task(
        settlements(node_over_carol, given.cursor, last=made.payment_hash)
    )
    await asyncio.sleep(1)
    assert not listening.done()
    lnbits_over_carol.kill()
    with pytest.raises(NodeUnavailable):
        await asyncio.wait_for(listening, TIMEOUT_S)
    # Paid while LNbits is not there; it asks the node when it is back.
    network.bob.pay(made.payment_request)
    await asyncio.to_thread(lnbits_over_carol.start)
    heard = await settlements(node_over_carol, given.cursor, last=made.payment_hash)
    assert heard[-1].received_msat == 21_000


async def test_wallets_of_one_server_pay_each_other(
    lnbits: LnbitsServer, other: Wallet, node: LnbitsNode
) -> None:
    request = lnbits.invoice(other, amount_sat=150)
    paid = await node.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=10)
    assert (paid.state, paid.fee_msat) == ("succeeded", 0)
    assert await node.track(paid.payment_hash) == paid
    assert lnbits.balance_msat(other) == (BALANCE_SAT + 150) * 1_000
    # And no hash twice.
    assert await node.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=10) == paid
    assert lnbits.balance_msat(other) == (BALANCE_SAT + 150) * 1_000


async def test_what_its_wallet_cannot_pay_fails(network: Network, node: LnbitsNode) -> None:
    request = network.bob.invoice(amount_msat=1_000)
    paid = await node.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=10)
    assert (paid.state, paid.payment_hash) == ("failed", node.decode(request).payment_hash)
    assert paid.reason is not None
    assert "Only internal invoices" in paid.reason
    again = await node.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=10)
    assert again.state == "failed"


async def test_a_payment_beyond_the_balance_is_refused(
    network: Network, node_over_carol: LnbitsNode
) -> None:
    request = network.bob.invoice(amount_msat=BALANCE_SAT * 1_000)
    with pytest.raises(NodeRefused, match="reserve"):
        await node_over_carol.pay(request, max_fee_msat=BALANCE_SAT * 1_000, timeout_s=10)
    assert await node_over_carol.track(node_over_carol.decode(request).payment_hash) is None


async def test_a_payment_succeeds_and_has_its_proof_and_its_fee(
    network: Network, node_over_carol: LnbitsNode
) -> None:
    request = network.alice.invoice(amount_msat=50_000)
    before = network.carol.balance_msat()
    paid = await node_over_carol.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=10)
    assert paid.preimage is not None
    assert hashlib.sha256(bytes.fromhex(paid.preimage)).hexdigest() == paid.payment_hash
    assert (paid.state, paid.fee_msat) == ("succeeded", 1_000)
    assert before - network.carol.balance_msat() == 50_000 + 1_000
    assert await node_over_carol.track(paid.payment_hash) == paid


async def test_a_limit_below_what_lnbits_sets_aside_for_fees_is_refused(
    network: Network, node_over_carol: LnbitsNode
) -> None:
    request = network.alice.invoice(amount_msat=50_000)
    with pytest.raises(NodeRefused, match=f"{RESERVE_MSAT} msat"):
        await node_over_carol.pay(request, max_fee_msat=RESERVE_MSAT - 1, timeout_s=10)
    assert await node_over_carol.track(node_over_carol.decode(request).payment_hash) is None


async def test_a_payment_in_flight_is_tracked_until_it_succeeds(
    node_over_carol: LnbitsNode, hold: Hold
) -> None:
    paid = await node_over_carol.pay(hold.payment_request, max_fee_msat=RESERVE_MSAT, timeout_s=8)
    assert paid.state == "in_flight"
    # LNbits may ask its node for half a minute, but nobody has to wait for that.
    async with asyncio.timeout(10):
        tracked = await node_over_carol.track(hold.payment_hash)
        await node_over_carol.info()
    assert tracked is not None
    assert tracked.state == "in_flight"

    hold.settle()

    tracked = await until(lambda: node_over_carol.track(hold.payment_hash), final)
    assert tracked is not None
    assert (tracked.state, tracked.preimage) == ("succeeded", hold.preimage)


async def test_a_payment_in_flight_that_is_sent_back_fails(
    node_over_carol: LnbitsNode, hold: Hold
) -> None:
    paid = await node_over_carol.pay(hold.payment_request, max_fee_msat=RESERVE_MSAT, timeout_s=8)
    assert paid.state == "in_flight"

    hold.cancel()

    tracked = await until(lambda: node_over_carol.track(hold.payment_hash), final)
    assert tracked is not None
    assert tracked.state == "failed"


async def test_a_payment_outlives_its_server(
    lnbits_over_carol: LnbitsServer, node_over_carol: LnbitsNode, hold: Hold
) -> None:
    paying = asyncio.create_task(
        node_over_carol.pay(hold.payment_request, max_fee_msat=RESERVE_MSAT, timeout_s=60)
    )
    await until(lambda: asyncio.to_thread(lambda: hold.arrived), lambda arrived: arrived == 1)
    lnbits_over_carol.kill()
    with pytest.raises(NodeUnavailable):
        await asyncio.wait_for(paying, TIMEOUT_S)
    await asyncio.to_thread(lnbits_over_carol.start)
    hold.settle()
    tracked = await until(lambda: node_over_carol.track(hold.payment_hash), final)
    assert tracked is not None
    assert (tracked.state, tracked.preimage) == ("succeeded", hold.preimage)


async def test_a_payment_of_nobody_is_none(node: LnbitsNode) -> None:
    assert await node.track(UNKNOWN) is None


async def test_the_wrong_key_does_nothing(lnbits: LnbitsServer, other: Wallet) -> None:
    stranger = node_of(lnbits, UNKNOWN)
    with pytest.raises(NodeUnavailable):
        await stranger.info()
    with pytest.raises(NodeRefused):
        await invoice_of(stranger)
    with pytest.raises(NodeUnavailable):
        await stranger.track(UNKNOWN)
    with pytest.raises(NodeUnavailable):
        await stranger.lookup_invoice(UNKNOWN)
    await stranger.close()


async def test_the_invoice_key_cannot_pay(lnbits: LnbitsServer, other: Wallet) -> None:
    poor = lnbits.new_wallet(balance_sat=BALANCE_SAT)
    node = node_of(lnbits, poor.invoice_key)
    request = lnbits.invoice(other, amount_sat=150)
    with pytest.raises(NodeRefused):
        await node.pay(request, max_fee_msat=RESERVE_MSAT, timeout_s=10)
    assert lnbits.balance_msat(poor) == BALANCE_SAT * 1_000
    await node.close()
