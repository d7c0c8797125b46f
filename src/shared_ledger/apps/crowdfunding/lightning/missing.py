"""The node that is not there: in production, until one is configured."""

# ruff: noqa: ARG002  # What a port is asked is there, answered or not.

from __future__ import annotations

from collections.abc import AsyncIterator

from shared_ledger.apps.crowdfunding.lightning import bolt11
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    Invoice,
    NodeInfo,
    NodeUnavailable,
    Payment,
    Settlement,
)

_REASON = "no Lightning node is configured: set LIGHTNING_NODE, see docs/lightning.md"


class MissingNode:
    """A ``LightningNode`` that never answers, and says why."""

    async def info(self) -> NodeInfo:
        """Raise ``NodeUnavailable``."""
        raise NodeUnavailable(_REASON)

    async def create_invoice(
        self, *, amount_msat: int, description: str, expires_in_s: int
    ) -> Invoice:
        """Raise ``NodeUnavailable``."""
        raise NodeUnavailable(_REASON)

    async def lookup_invoice(self, payment_hash: str) -> Invoice | None:
        """Raise ``NodeUnavailable``."""
        raise NodeUnavailable(_REASON)

    async def settlements(self, cursor: str | None) -> AsyncIterator[Settlement]:
        """Raise ``NodeUnavailable``."""
        raise NodeUnavailable(_REASON)
        yield

    async def pay(self, payment_request: str, *, max_fee_msat: int, timeout_s: float) -> Payment:
        """Raise ``NodeUnavailable``."""
        raise NodeUnavailable(_REASON)

    async def track(self, payment_hash: str) -> Payment | None:
        """Raise ``NodeUnavailable``."""
        raise NodeUnavailable(_REASON)

    def decode(self, payment_request: str) -> DecodedInvoice:
        """Read a payment request."""
        return bolt11.decode(payment_request)

    async def close(self) -> None:
        """Nothing is open."""
