"""A network of nodes, joined by channels: alice ⇄ bob ⇄ carol, on one chain."""

from __future__ import annotations

from pathlib import Path

from lightning.btcd import Btcd
from lightning.lnd import Lnd, base64_of

# Each side of a channel begins with half of it.
CHANNEL_SAT = 10_000_000
BOBS_COINS_SAT = 50_000_000
# Whose the coins of the first block are: BIP 173's example, so nobody's.
NOBODY = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
# Three windows of 144 until segregated witness is active; coins can be spent long before (100).
BLOCKS = 3 * 144
CONFIRMATIONS = 6


class Network:
    """Three nodes; alice, the one under test, pays bob for nothing, and carol through bob.

    Each direction of a channel has CHANNEL_SAT / 2 to begin with, less the costs of closing it.
    ``programs`` is the folder with btcd and lnd.
    """

    def __init__(self, folder: Path, programs: Path) -> None:
        for name in ("btcd", "alice", "bob", "carol"):
            (folder / name).mkdir()
        self.chain = Btcd(programs / "btcd", folder / "btcd")
        self.alice = Lnd("alice", programs / "lnd", folder / "alice", self.chain)
        self.bob = Lnd("bob", programs / "lnd", folder / "bob", self.chain)
        self.carol = Lnd("carol", programs / "lnd", folder / "carol", self.chain)
        self._nodes = (self.alice, self.bob, self.carol)

    def start(self) -> None:
        """Start everything, and wait until everybody can pay everybody."""
        self._start_chain()
        for node in self._nodes:
            node.start()
        for node in self._nodes:
            node.wait_until_synced()
        send(self.alice, self.bob, amount_sat=BOBS_COINS_SAT)
        self._confirm()
        open_channel(self.alice, self.bob)
        open_channel(self.bob, self.carol)
        self._confirm()
        for node in self._nodes:
            wait_until_joined(node)

    def stop(self) -> None:
        """End whatever runs."""
        for node in self._nodes:
            node.stop()
        self.chain.stop()

    def _start_chain(self) -> None:
        """Start a chain on which alice has coins that she can spend."""
        self.chain.start(NOBODY)
        # LND does not serve while the last block is older than two hours, as the first one is.
        self.chain.generate(1)
        self.alice.start()
        self.alice.wait_until_synced()
        address = self.alice.new_address()
        # In regtest btcd forgets its blocks when it ends. LND takes that well if it was not there.
        self.alice.stop()
        self.chain.stop()
        self.chain.start(address)
        self.chain.generate(BLOCKS)

    def _confirm(self) -> None:
        self.chain.generate(CONFIRMATIONS)
        for node in self._nodes:
            node.wait_until_synced()


def send(payer: Lnd, payee: Lnd, *, amount_sat: int) -> None:
    """Send coins over the chain, to be confirmed."""
    payer.post("/v1/transactions", {"addr": payee.new_address(), "amount": str(amount_sat)})


def open_channel(payer: Lnd, payee: Lnd) -> None:
    """Have ``payer`` open a channel and give half of it to ``payee``, to be confirmed."""
    payer.post("/v1/peers", {"addr": {"pubkey": payee.node_id, "host": payee.address}})
    payer.post(
        "/v1/channels",
        {
            "node_pubkey": base64_of(payee.node_id),
            "local_funding_amount": str(CHANNEL_SAT),
            "push_sat": str(CHANNEL_SAT // 2),
        },
    )


def wait_until_joined(node: Lnd) -> None:
    """Wait until a node's own channels can be used, and it has heard of both sides of all."""

    def joined() -> bool:
        channels = node.get("/v1/channels")["channels"]
        edges = node.get("/v1/graph")["edges"]
        return (
            bool(channels)
            and all(channel["active"] for channel in channels)
            and len(edges) == 2
            and all(edge["node1_policy"] and edge["node2_policy"] for edge in edges)
        )

    node.wait_until("joined to the others", joined)
