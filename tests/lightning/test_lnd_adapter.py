"""The adapter of LND against a real one: alice, who is joined to bob, and through him to carol."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lightning.lnd import Hold, Lnd
from lightning.network import Network, wait_until_joined
from lightning.waiting import TIMEOUT_S, final, first_answer, next_settlement, settlements, until
from shared_ledger.apps.crowdfunding.lightning import lnd as lnd_adapter
from shared_ledger.apps.crowdfunding.lightning.lnd import HEADER, QUIET_S, LndNode
from shared_ledger.apps.crowdfunding.lightning.nodes import open_node
from shared_ledger.apps.crowdfunding.lightning.port import (
    Invoice,
    NodeRefused,
    NodeUnavailable,
    Payment,
)
from shared_ledger.apps.crowdfunding.lightning.rest import Rest

# More than alice has on her side of the channel, and less than the channel has.
TOO_MUCH_MSAT = 9_000_000_000
# What bob takes of a million: a satoshi, and a millionth.
FEE_MSAT = 1_001
# An example of BOLT 11's, on the main network.
OF_ANOTHER_NETWORK = (
    "lnbc2500u1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqq"
    "syqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5xysxxatsyp3k7enxv4jsxqzpu9qrsgquk0rl77nj30yxdy8j9vdx85fkpm"
    "dla2087ne0xh8nhedh8w27kyke0lp53ut353s06fv3qfegext0eh0ymjpf39tuven09sam30g4vgpfna3rh"
)
UNKNOWN = "ab" * 32


def node_of(lnd: Lnd, *, macaroon: str | None = None, certificate: str | None = None) -> LndNode:
    """The adapter of a node, with its own macaroon and certificate unless others are given."""
    rest = Rest(
        lnd.url,
        header=HEADER,
        secret=macaroon or lnd.macaroon,
        certificate=certificate or lnd.certificate.read_text(),
    )
    return LndNode(rest, poll_s=0.1)


@pytest.fixture
async def node(network: Network) -> AsyncIterator[LndNode]:
    """The adapter of alice's node."""
    node = node_of(network.alice)
    yield node
    await node.close()


def restart(lnd: Lnd) -> None:
    lnd.start()
    wait_until_ready(lnd)


def wait_until_ready(lnd: Lnd) -> None:
    lnd.wait_until_synced()
    wait_until_joined(lnd)


async def test_it_tells_which_node_it_is(network: Network, node: LndNode) -> None:
    info = await node.info()
    assert (info.node_id, info.network, info.is_synced) == (network.alice.node_id, "regtest", True)


async def test_the_setting_of_a_node_leads_to_it(network: Network) -> None:
    alice = network.alice
    node = await open_node(
        f"lnd+{alice.url}?macaroon_file={alice.macaroon_file}&cert_file={alice.certificate}",
        production=True,
    )
    assert (await node.info()).node_id == alice.node_id
    await node.close()


async def test_an_invoice_is_open_until_it_is_settled(network: Network, node: LndNode) -> None:
    made = await node.create_invoice(amount_msat=21_000, description="½ a book", expires_in_s=600)
    assert (made.state, made.amount_msat, made.received_msat) == ("open", 21_000, 0)
    assert await node.lookup_invoice(made.payment_hash) == made
    says = node.decode(made.payment_request)
    assert (says.payee_id, says.description) == (network.alice.node_id, "½ a book")
    assert (says.expires_on - says.created_on).total_seconds() == 600

    network.bob.pay(made.payment_request)

    found = await node.lookup_invoice(made.payment_hash)
    assert found is not None
    assert (found.state, found.received_msat) == ("settled", 21_000)


async def test_msat_below_a_satoshi_are_received(network: Network, node: LndNode) -> None:
    made = await node.create_invoice(amount_msat=1_001, description="", expires_in_s=600)
    network.bob.pay(made.payment_request)
    found = await node.lookup_invoice(made.payment_hash)
    assert found is not None
    assert (found.amount_msat, found.received_msat) == (1_001, 1_001)


async def test_a_description_that_fits_no_invoice_is_refused(node: LndNode) -> None:
    with pytest.raises(NodeRefused, match="too big"):
        await node.create_invoice(amount_msat=1_000, description="a" * 640, expires_in_s=600)


async def test_an_invoice_expires(node: LndNode) -> None:
    made = await node.create_invoice(amount_msat=1_000, description="", expires_in_s=1)
    await until(
        lambda: node.lookup_invoice(made.payment_hash),
        lambda found: found is not None and found.state == "expired",
    )


async def test_an_invoice_of_nobody_is_none(node: LndNode) -> None:
    assert await node.lookup_invoice(UNKNOWN) is None


async def test_what_was_paid_beyond_an_invoice_is_received(network: Network, node: LndNode) -> None:
    made = await node.create_invoice(amount_msat=1_000_000, description="", expires_in_s=600)
    network.bob.pay_more(made.payment_request, amount_msat=1_500_000)
    found = await node.lookup_invoice(made.payment_hash)
    assert found is not None
    assert (found.amount_msat, found.received_msat) == (1_000_000, 1_500_000)
    last = (await settlements(node, None, last=made.payment_hash))[-1]
    assert last.received_msat == 1_500_000


async def paid_and_unpaid(network: Network, node: LndNode) -> tuple[str, Invoice]:
    """Let an invoice be paid; the cursor behind it, and another invoice that is still open."""
    paid, unpaid = [
        await node.create_invoice(amount_msat=1_000, description="", expires_in_s=600)
        for _ in range(2)
    ]
    network.bob.pay(paid.payment_request)
    return (await settlements(node, None, last=paid.payment_hash))[-1].cursor, unpaid


async def test_settlements_come_in_the_order_in_which_they_were_paid(
    network: Network, node: LndNode
) -> None:
    made = [
        await node.create_invoice(amount_msat=1_000 + number, description="", expires_in_s=600)
        for number in range(3)
    ]
    for invoice in reversed(made):
        network.bob.pay(invoice.payment_request)

    heard = await settlements(node, None, last=made[0].payment_hash)

    assert [(each.payment_hash, each.received_msat) for each in heard[-3:]] == [
        (invoice.payment_hash, invoice.amount_msat) for invoice in reversed(made)
    ]
    # All that were ever settled, each once.
    known = network.alice.get("/v1/invoices?num_max_invoices=10000")["invoices"]
    settled = [invoice for invoice in known if invoice["state"] == "SETTLED"]
    assert [int(each.cursor) for each in heard] == list(range(1, len(settled) + 1))


async def test_settlements_go_on_after_a_cursor(network: Network, node: LndNode) -> None:
    made = [
        await node.create_invoice(amount_msat=1_000, description="", expires_in_s=600)
        for _ in range(3)
    ]
    for invoice in made:
        network.bob.pay(invoice.payment_request)
    first = (await settlements(node, None, last=made[0].payment_hash))[-1]

    rest = await settlements(node, first.cursor, last=made[2].payment_hash)

    assert [each.payment_hash for each in rest] == [each.payment_hash for each in made[1:]]


@pytest.mark.parametrize("quiet_s", [QUIET_S, 0.5])
async def test_a_settlement_is_heard_when_it_happens(
    network: Network, node: LndNode, monkeypatch: pytest.MonkeyPatch, quiet_s: float
) -> None:
    monkeypatch.setattr(lnd_adapter, "QUIET_S", quiet_s)
    cursor, made = await paid_and_unpaid(network, node)
    listening = asyncio.create_task(next_settlement(node, cursor))
    await asyncio.sleep(2)
    assert not listening.done()

    await asyncio.to_thread(network.bob.pay, made.payment_request)

    heard = await asyncio.wait_for(listening, TIMEOUT_S)
    assert heard.payment_hash == made.payment_hash


async def test_settlements_end_with_the_node_and_go_on_where_they_were(
    network: Network, node: LndNode
) -> None:
    cursor, made = await paid_and_unpaid(network, node)
    listening = asyncio.create_task(next_settlement(node, cursor))
    await asyncio.sleep(1)
    network.alice.kill()
    with pytest.raises(NodeUnavailable):
        await asyncio.wait_for(listening, TIMEOUT_S)
    await asyncio.to_thread(restart, network.alice)
    # Paid while nobody listens.
    network.bob.pay(made.payment_request)

    heard = await settlements(node, cursor, last=made.payment_hash)

    assert [each.payment_hash for each in heard] == [made.payment_hash]


async def test_the_first_settlement_of_a_node_is_heard_whichever_invoice_it_is_of(
    tmp_path: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the invoices are on several of LND's pages.
    monkeypatch.setattr(lnd_adapter, "PAGE", 2)
    network = Network(tmp_path, programs)
    try:
        network.start()
        node = node_of(network.alice)
        made = [
            await node.create_invoice(amount_msat=1_000, description="", expires_in_s=600)
            for _ in range(5)
        ]
        listening = asyncio.create_task(next_settlement(node, None))
        await asyncio.sleep(1)
        assert not listening.done()
        await asyncio.to_thread(network.bob.pay, made[3].payment_request)
        assert (await asyncio.wait_for(listening, TIMEOUT_S)).payment_hash == made[3].payment_hash
        await asyncio.to_thread(network.bob.pay, made[1].payment_request)
        heard = await settlements(node, None, last=made[1].payment_hash)
        assert [each.payment_hash for each in heard] == [
            made[3].payment_hash,
            made[1].payment_hash,
        ]
        await node.close()
    finally:
        network.stop()


async def test_a_payment_succeeds_and_has_its_proof(network: Network, node: LndNode) -> None:
    request = network.bob.invoice(amount_msat=123_456)
    paid = await node.pay(request, max_fee_msat=0, timeout_s=30)
    assert (paid.state, paid.fee_msat, paid.reason) == ("succeeded", 0, None)
    assert paid.payment_hash == node.decode(request).payment_hash
    assert paid.preimage is not None
    assert hashlib.sha256(bytes.fromhex(paid.preimage)).hexdigest() == paid.payment_hash
    assert await node.track(paid.payment_hash) == paid


async def test_the_fee_of_a_payment_is_what_it_cost(network: Network, node: LndNode) -> None:
    request = network.carol.invoice(amount_msat=1_000_000)
    before = network.alice.balance_msat()
    paid = await node.pay(request, max_fee_msat=FEE_MSAT, timeout_s=30)
    assert (paid.state, paid.fee_msat) == ("succeeded", FEE_MSAT)
    assert before - network.alice.balance_msat() == 1_000_000 + FEE_MSAT


async def test_a_payment_that_would_cost_more_than_its_fee_limit_fails(
    network: Network, node: LndNode
) -> None:
    request = network.carol.invoice(amount_msat=1_000_000)
    paid = await node.pay(request, max_fee_msat=FEE_MSAT - 1, timeout_s=30)
    assert (paid.state, paid.reason, paid.fee_msat) == ("failed", "no_route", 0)
    assert await node.track(paid.payment_hash) == paid


async def test_a_payment_beyond_the_balance_fails(network: Network, node: LndNode) -> None:
    request = network.bob.invoice(amount_msat=TOO_MUCH_MSAT)
    paid = await node.pay(request, max_fee_msat=0, timeout_s=30)
    assert (paid.state, paid.reason) == ("failed", "insufficient_balance")


async def test_a_hash_that_failed_is_not_paid_again(network: Network, node: LndNode) -> None:
    request = network.carol.invoice(amount_msat=1_000_000)
    failed = await node.pay(request, max_fee_msat=0, timeout_s=30)
    assert failed.state == "failed"
    assert await node.pay(request, max_fee_msat=FEE_MSAT, timeout_s=30) == failed
    assert network.carol.invoice_state(failed.payment_hash) == "OPEN"


async def test_a_hash_is_paid_once(network: Network, node: LndNode) -> None:
    request = network.bob.invoice(amount_msat=100_000)
    paid = await node.pay(request, max_fee_msat=0, timeout_s=30)
    before = network.alice.balance_msat()
    assert await node.pay(request, max_fee_msat=0, timeout_s=30) == paid
    assert network.alice.balance_msat() == before


async def test_of_two_who_pay_a_hash_at_once_one_does(
    network: Network, node: LndNode, hold: Hold
) -> None:
    paid = await asyncio.gather(
        *(node.pay(hold.payment_request, max_fee_msat=0, timeout_s=2) for _ in range(5))
    )
    assert [each.state for each in paid] == ["in_flight"] * 5
    assert hold.arrived == 1


async def test_a_payment_in_flight_is_tracked_until_it_succeeds(node: LndNode, hold: Hold) -> None:
    async with asyncio.timeout(5):
        paid = await node.pay(hold.payment_request, max_fee_msat=0, timeout_s=1)
    assert paid == Payment(payment_hash=hold.payment_hash, state="in_flight")
    assert await node.track(hold.payment_hash) == paid

    hold.settle()

    tracked = await until(lambda: node.track(hold.payment_hash), final)
    assert tracked is not None
    assert (tracked.state, tracked.preimage) == ("succeeded", hold.preimage)


async def test_a_payment_in_flight_that_is_sent_back_fails(node: LndNode, hold: Hold) -> None:
    paid = await node.pay(hold.payment_request, max_fee_msat=0, timeout_s=1)
    assert paid.state == "in_flight"

    hold.cancel()

    tracked = await until(lambda: node.track(hold.payment_hash), final)
    assert tracked is not None
    assert tracked.state == "failed"
    # Which of the two LND names depends on whether its own time had passed.
    assert tracked.reason in {"timeout", "incorrect_payment_details"}


async def test_a_payment_that_is_answered_in_time_is_waited_for(node: LndNode, hold: Hold) -> None:
    paying = asyncio.create_task(node.pay(hold.payment_request, max_fee_msat=0, timeout_s=20))
    await asyncio.sleep(2)
    hold.settle()
    paid = await paying
    assert (paid.state, paid.preimage) == ("succeeded", hold.preimage)


async def test_a_payment_that_is_sent_back_in_time_has_failed(node: LndNode, hold: Hold) -> None:
    paying = asyncio.create_task(node.pay(hold.payment_request, max_fee_msat=0, timeout_s=20))
    await asyncio.sleep(2)
    hold.cancel()
    paid = await paying
    assert (paid.state, paid.reason) == ("failed", "incorrect_payment_details")


@pytest.mark.parametrize(("answer", "state"), [("settle", "succeeded"), ("cancel", "failed")])
async def test_a_payment_outlives_its_node(
    network: Network, node: LndNode, hold: Hold, answer: str, state: str
) -> None:
    paying = asyncio.create_task(node.pay(hold.payment_request, max_fee_msat=0, timeout_s=60))
    await until(lambda: asyncio.to_thread(lambda: hold.arrived), lambda arrived: arrived == 1)

    network.alice.kill()

    # Whether it has been made is not known to whoever asked for it.
    with pytest.raises(NodeUnavailable):
        await asyncio.wait_for(paying, TIMEOUT_S)
    network.alice.start()
    # While it starts it does not answer, but neither does it say that it knows of nothing.
    tracked = await first_answer(lambda: node.track(hold.payment_hash))
    assert tracked == Payment(payment_hash=hold.payment_hash, state="in_flight")
    await asyncio.to_thread(wait_until_ready, network.alice)
    again = await node.pay(hold.payment_request, max_fee_msat=0, timeout_s=1)
    assert again.state == "in_flight"
    assert hold.arrived == 1

    getattr(hold, answer)()

    tracked = await until(lambda: node.track(hold.payment_hash), final)
    assert tracked is not None
    assert tracked.state == state


async def test_a_payment_that_was_answered_while_its_node_was_gone_is_known_later(
    network: Network, node: LndNode, hold: Hold
) -> None:
    paid = await node.pay(hold.payment_request, max_fee_msat=0, timeout_s=1)
    assert paid.state == "in_flight"
    network.alice.kill()
    hold.settle()

    await asyncio.to_thread(restart, network.alice)

    tracked = await until(lambda: node.track(hold.payment_hash), final)
    assert tracked is not None
    assert (tracked.state, tracked.preimage) == ("succeeded", hold.preimage)


async def test_a_node_that_is_not_there_has_begun_nothing(network: Network, node: LndNode) -> None:
    request = network.bob.invoice(amount_msat=1_000)
    network.alice.kill()
    with pytest.raises(NodeUnavailable):
        await node.pay(request, max_fee_msat=0, timeout_s=5)
    with pytest.raises(NodeUnavailable):
        await node.info()
    await asyncio.to_thread(restart, network.alice)
    assert await node.track(node.decode(request).payment_hash) is None


async def test_an_expired_invoice_is_refused(network: Network, node: LndNode) -> None:
    request = network.bob.invoice(amount_msat=1_000, expires_in_s=1)
    await asyncio.sleep(2)
    with pytest.raises(NodeRefused, match="expired"):
        await node.pay(request, max_fee_msat=0, timeout_s=5)
    assert await node.track(node.decode(request).payment_hash) is None


async def test_an_invoice_of_another_network_is_refused(node: LndNode) -> None:
    with pytest.raises(NodeRefused, match="network"):
        await node.pay(OF_ANOTHER_NETWORK, max_fee_msat=0, timeout_s=5)
    assert await node.track(node.decode(OF_ANOTHER_NETWORK).payment_hash) is None


async def test_an_own_invoice_is_not_paid(node: LndNode) -> None:
    made = await node.create_invoice(amount_msat=1_000, description="", expires_in_s=600)
    with pytest.raises(NodeRefused, match="self-payments"):
        await node.pay(made.payment_request, max_fee_msat=0, timeout_s=5)


async def test_a_payment_of_nobody_is_none(node: LndNode) -> None:
    assert await node.track(UNKNOWN) is None


async def test_the_wrong_macaroon_does_nothing(network: Network, node: LndNode) -> None:
    request = network.bob.invoice(amount_msat=1_000)
    stranger = node_of(network.alice, macaroon=network.bob.macaroon)
    with pytest.raises(NodeUnavailable, match="verification failed"):
        await stranger.info()
    with pytest.raises(NodeRefused, match="verification failed"):
        await stranger.create_invoice(amount_msat=1_000, description="", expires_in_s=60)
    with pytest.raises(NodeUnavailable, match="verification failed"):
        await stranger.pay(request, max_fee_msat=0, timeout_s=5)
    with pytest.raises(NodeUnavailable):
        await stranger.lookup_invoice(UNKNOWN)
    with pytest.raises(NodeUnavailable):
        await stranger.track(UNKNOWN)
    with pytest.raises(NodeUnavailable):
        await anext(stranger.settlements(None))
    await stranger.close()
    assert await node.track(node.decode(request).payment_hash) is None


async def test_a_node_with_another_certificate_is_not_spoken_to(network: Network) -> None:
    other = node_of(network.alice, certificate=network.bob.certificate.read_text())
    with pytest.raises(NodeUnavailable, match="certificate"):
        await other.info()
    await other.close()
