"""Playing the outside world in development, where the node is simulated."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends

from shared_ledger.apps.crowdfunding.bitcoin.refusals import (
    InvoiceRefused,
    NodeAway,
    NodeSaysNo,
)
from shared_ledger.apps.crowdfunding.bitcoin.routes import Hash, PaymentRequest, ShownRequest
from shared_ledger.apps.crowdfunding.common.amounts import Sat, ShownSat, msat, whole_sat
from shared_ledger.apps.crowdfunding.common.site import NOT_RUN_HERE, AtSite, run_by
from shared_ledger.apps.crowdfunding.lightning.port import (
    InvalidInvoice,
    NodeRefused,
    NodeUnavailable,
)
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.service import OPEN, RightsTable, ServiceRefusal
from shared_ledger.service.fields import Body, Shown

RIGHTS: RightsTable = {
    ("POST", "/dev/lightning/pay"): OPEN,
    ("POST", "/dev/lightning/invoice"): OPEN,
}


class NotSimulated(ServiceRefusal):
    """The Lightning node is a real one: nobody plays the outside world."""

    status = HTTPStatus.NOT_FOUND
    code = "not_simulated"

    def __str__(self) -> str:
        return "the Lightning node is a real one: pay with a wallet"


class OutsidePayment(Body):
    """The invoice that somebody outside pays, and how much, if not what it asks for."""

    payment_request: PaymentRequest
    amount: Sat | None = None


class OutsideRequest(Body):
    """What somebody outside asks for."""

    amount: Sat


class OutsidePaid(Shown):
    """The invoice that was paid, and with how much."""

    payment_hash: Hash
    received: ShownSat


class OutsideInvoice(Shown):
    """An invoice of somebody outside, for a withdrawal."""

    payment_request: ShownRequest


async def simulated(site: AtSite) -> SimulatedNode:
    """Return the node, if it is simulated; a dependency of FastAPI."""
    if not isinstance(site.node, SimulatedNode):
        raise NotSimulated
    return site.node


Simulated = Annotated[SimulatedNode, Depends(simulated)]

router = APIRouter(tags=["development"], dependencies=[run_by("bitcoin")], responses=NOT_RUN_HERE)


@router.post("/dev/lightning/pay")
async def pay_as_outsider(body: OutsidePayment, node: Simulated) -> OutsidePaid:
    """Pay an invoice as somebody outside would; up to twice what it asks for may be paid."""
    amount = None if body.amount is None else msat(body.amount)
    try:
        paid = await node.receive(body.payment_request, amount_msat=amount)
    except InvalidInvoice as error:
        raise InvoiceRefused(f"cannot be read: {error}") from None
    except NodeRefused as refused:
        raise NodeSaysNo(str(refused)) from None
    except NodeUnavailable as error:
        raise NodeAway from error
    return OutsidePaid(payment_hash=paid.payment_hash, received=whole_sat(paid.received_msat))


@router.post("/dev/lightning/invoice")
async def ask_as_outsider(body: OutsideRequest, node: Simulated) -> OutsideInvoice:
    """Make an invoice as somebody outside would, to withdraw to."""
    try:
        made = await node.outside_invoice(msat(body.amount))
    except NodeUnavailable as error:
        raise NodeAway from error
    return OutsideInvoice(payment_request=made)
