"""What all nodes have in common when they pay: a hash that the node knows is never paid again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

from shared_ledger.apps.crowdfunding.lightning.bolt11 import decode
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    InvalidInvoice,
    NodeRefused,
    NodeUnavailable,
    Payment,
)

Track = Callable[[str], Awaitable[Payment | None]]
Send = Callable[[DecodedInvoice], Awaitable[Payment]]


class NodeSilent(NodeUnavailable):
    """The Lightning node said nothing for as long as it was waited for."""


def payable(payment_request: str) -> DecodedInvoice:
    """Read an invoice that is to be paid.

    Raises
    ------
    NodeRefused
        If it is none, or does not name its amount.
    """
    try:
        invoice = decode(payment_request)
    except InvalidInvoice as error:
        raise NodeRefused(str(error)) from None
    if invoice.amount_msat is None:
        raise NodeRefused("the invoice leaves its amount to the payer")
    return invoice


async def pay_once(payment_request: str, *, track: Track, send: Send) -> Payment:
    """Have an invoice paid that the node has never heard of; return what it knows otherwise.

    A refusal counts only if the node has still not heard of the payment then: somebody else may
    have been quicker, and some nodes refuse what they have tried in vain. What was not answered is
    looked up once, too.

    Raises
    ------
    NodeUnavailable, NodeRefused
        As the port says of ``pay``.
    """
    invoice = payable(payment_request)
    known = await track(invoice.payment_hash)
    if known is not None:
        return known
    try:
        return await send(invoice)
    except (NodeRefused, NodeUnavailable) as error:
        known = await track(invoice.payment_hash)
        if known is None:
            raise
        if known.state == "failed" and known.reason is None:
            return replace(known, reason=str(error))
        return known


def combined(payments: list[Payment]) -> Payment | None:
    """Return what has become of a payment that was tried several times."""
    for state in ("succeeded", "in_flight", "failed"):
        for payment in payments:
            if payment.state == state:
                return payment
    return None
