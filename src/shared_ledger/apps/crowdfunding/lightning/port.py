"""The port: what the bitcoin context needs of a Lightning node. Amounts are in msat, times in UTC.

A payment request is an invoice as BOLT 11 writes it; its payment hash, 64 hexadecimal digits, names
it for ever, at every node.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from shared_ledger.errors import LedgerError

Network = Literal["mainnet", "testnet", "signet", "regtest"]


class NodeUnavailable(LedgerError):
    """The Lightning node did not answer; whether it did what was asked is not known."""

    code = "node_unavailable"


class NodeRefused(LedgerError):
    """The Lightning node answered that it does not do that; nothing has happened."""

    code = "node_refused"


class InvalidInvoice(LedgerError):
    """A payment request is not one as BOLT 11 writes it."""

    code = "invalid_invoice"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeInfo:
    """Which node it is: its public key (66 hexadecimal digits), and the chain it is on."""

    node_id: str
    network: Network
    is_synced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodedInvoice:
    """What a payment request says. ``amount_msat`` is ``None`` where the payer is to choose."""

    payment_request: str
    payment_hash: str
    payee_id: str
    network: Network
    amount_msat: int | None
    description: str | None
    created_on: datetime
    expires_on: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Invoice:
    """An invoice of the node's own.

    ``received_msat`` is what was paid, which may be more than was asked for; 0 until it is settled.
    """

    payment_request: str
    payment_hash: str
    amount_msat: int
    state: Literal["open", "settled", "expired"]
    received_msat: int
    expires_on: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """An invoice of the node's own was paid. ``cursor`` is where to go on after it."""

    payment_hash: str
    received_msat: int
    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """What is known of a payment that the node was asked to make.

    ``in_flight`` may still become either of the others, which are final. ``fee_msat`` is what it
    cost beyond the amount; ``reason`` says why it failed.
    """

    payment_hash: str
    state: Literal["in_flight", "succeeded", "failed"]
    fee_msat: int = 0
    preimage: str | None = None
    reason: str | None = None


class LightningNode(Protocol):
    """A node. Each call but ``decode`` raises ``NodeUnavailable`` if it does not answer."""

    async def info(self) -> NodeInfo:
        """Tell which node it is."""
        ...

    async def create_invoice(
        self, *, amount_msat: int, description: str, expires_in_s: int
    ) -> Invoice:
        """Make an invoice; raise ``NodeRefused`` if the node makes none like this."""
        ...

    async def lookup_invoice(self, payment_hash: str) -> Invoice | None:
        """Return an invoice of the node's own; ``None`` if it has none with this hash."""
        ...

    def settlements(self, cursor: str | None) -> AsyncIterator[Settlement]:
        """Give each settled invoice once it is settled, in order, after ``cursor``.

        ``None`` is the beginning. It goes on until it is closed, or raises ``NodeUnavailable``.
        A node that keeps no order (LNbits) gives them in any, and may give one again: whoever
        listens knows what he has had.
        """
        ...

    async def pay(self, payment_request: str, *, max_fee_msat: int, timeout_s: float) -> Payment:
        """Pay an invoice that names its amount, and return what has become of it.

        ``in_flight`` if that is not known within ``timeout_s``: ``track`` it. The node never pays
        the same hash twice.

        Raises
        ------
        NodeUnavailable
            If the answer was lost: the payment may have been made, or may yet be.
        NodeRefused
            If it surely was not begun, and will not be.
        """
        ...

    async def track(self, payment_hash: str) -> Payment | None:
        """Return what has become of a payment; ``None`` if the node has never heard of it.

        Until its invoice has expired, and a minute more, it may still hear of it: from a request
        that waits somewhere.
        """
        ...

    def decode(self, payment_request: str) -> DecodedInvoice:
        """Read a payment request; raise ``InvalidInvoice`` if it cannot be. Asks no node."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...
