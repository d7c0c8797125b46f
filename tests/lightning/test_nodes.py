"""The nodes themselves: they are in step with the chain, joined, and pay each other."""

from __future__ import annotations

from lightning.lnbits_server import LnbitsServer
from lightning.network import CHANNEL_SAT, Network, wait_until_joined


def test_all_nodes_are_at_the_tip_of_the_chain(network: Network) -> None:
    for node in (network.alice, network.bob, network.carol):
        info = node.get("/v1/getinfo")
        assert info["block_height"] == network.chain.height
        assert info["chains"][0]["network"] == "regtest"


def test_alice_and_bob_share_a_channel(network: Network) -> None:
    (channel,) = network.alice.get("/v1/channels")["channels"]
    assert channel["active"]
    assert channel["remote_pubkey"] == network.bob.node_id
    assert int(channel["capacity"]) == CHANNEL_SAT


def test_alice_pays_bob_and_bob_alice(network: Network) -> None:
    for payer, payee in ((network.alice, network.bob), (network.bob, network.alice)):
        paid = payer.pay(payee.invoice(amount_msat=21_000_001))
        assert paid["fee_msat"] == "0"
        assert payee.invoice_state(paid["payment_hash"]) == "SETTLED"


def test_bob_takes_a_fee_for_what_he_passes_on_to_carol(network: Network) -> None:
    paid = network.alice.pay(network.carol.invoice(amount_msat=1_000_000))
    assert paid["fee_msat"] == "1001"


def test_a_killed_node_is_joined_again_when_it_has_started(network: Network) -> None:
    network.alice.kill()
    network.alice.start()
    network.alice.wait_until_synced()
    wait_until_joined(network.alice)
    paid = network.alice.pay(network.bob.invoice(amount_msat=1_000))
    assert network.bob.invoice_state(paid["payment_hash"]) == "SETTLED"


def test_wallets_of_lnbits_pay_each_other(lnbits: LnbitsServer) -> None:
    payer = lnbits.new_wallet(balance_sat=1_000)
    payee = lnbits.new_wallet()
    paid = lnbits.pay(payer, lnbits.invoice(payee, amount_sat=400))
    assert paid["status"] == "success"
    assert (lnbits.balance_msat(payer), lnbits.balance_msat(payee)) == (600_000, 400_000)


def test_lnbits_pays_with_the_node_below_it(
    network: Network, lnbits_over_carol: LnbitsServer
) -> None:
    wallet = lnbits_over_carol.new_wallet(balance_sat=1_000)
    paid = lnbits_over_carol.pay(wallet, network.alice.invoice(amount_msat=400_000))
    assert paid["status"] == "success"
    assert network.alice.invoice_state(paid["payment_hash"]) == "SETTLED"
