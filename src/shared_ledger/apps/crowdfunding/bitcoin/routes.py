"""The bitcoin context's routes."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path, Response
from pydantic import Field

from shared_ledger.apps.crowdfunding.bitcoin.commands import make_deposit, request_withdrawal
from shared_ledger.apps.crowdfunding.bitcoin.queries import (
    InvoiceView,
    view_invoice_query,
    view_of,
)
from shared_ledger.apps.crowdfunding.bitcoin.refusals import WithdrawalRefused
from shared_ledger.apps.crowdfunding.common.amounts import (
    Sat,
    ShownMsat,
    ShownSat,
    msat,
    whole_sat,
)
from shared_ledger.apps.crowdfunding.common.site import (
    NOT_RUN_HERE,
    PERSON,
    AtSite,
    Participant,
    run_by,
)
from shared_ledger.apps.crowdfunding.common.waiting import until
from shared_ledger.service import RightsTable
from shared_ledger.service.documentation import link
from shared_ledger.service.fields import Body, Shown, Time

MAX_REQUEST = 7_089
"""What a QR code can hold, which is where payment requests end."""

RIGHTS: RightsTable = {
    ("POST", "/bitcoin/deposit"): PERSON,
    ("POST", "/bitcoin/withdraw"): PERSON,
    ("GET", "/bitcoin/invoice/{payment_hash}"): PERSON,
}

Hash = Annotated[
    str,
    Field(
        min_length=64,
        max_length=64,
        pattern=r"^[0-9a-f]{64}$",
        description="What names an invoice for ever, in hexadecimal digits.",
        examples=["0001020304050607080900010203040506070809000102030405060708090102"],
    ),
]
PaymentRequest = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_REQUEST,
        pattern=r"^[0-9A-Za-z:]+$",
        description="An invoice, as BOLT 11 writes it.",
        examples=["lnbcrt10u1p5example"],
    ),
]
ShownRequest = Annotated[str, Field(description="The invoice.", examples=["lnbcrt10u1p5example"])]


class NewDeposit(Body):
    """How much is to be deposited."""

    amount: Sat


class NewWithdrawal(Body):
    """The invoice that is to be paid."""

    encoded_invoice: PaymentRequest


class DepositInvoice(Shown):
    """The invoice to pay."""

    payment_request: ShownRequest
    payment_hash: Hash
    amount: ShownSat
    expires_on: Time


class Invoice(Shown):
    """An invoice that an account has made, or pays.

    Of a deposit ``received`` is what was paid. Of a withdrawal ``fee_msat`` is what it cost beyond
    the amount, and ``reason`` why it was not paid.
    """

    kind: Annotated[Literal["deposit", "withdrawal"], Field(examples=["withdrawal"])]
    payment_hash: Hash
    payment_request: ShownRequest
    amount: ShownSat
    amount_msat: ShownMsat
    received: Annotated[ShownSat, Field(examples=[0])]
    fee_msat: Annotated[ShownMsat, Field(examples=[1_000])]
    state: Annotated[str, Field(examples=["succeeded"])]
    reason: Annotated[str | None, Field(examples=[None])]
    created_on: Time
    expires_on: Time


router = APIRouter(tags=["bitcoin"], dependencies=[run_by("bitcoin")], responses=NOT_RUN_HERE)


_TO_INVOICE = link("show_invoice", payment_hash="payment_hash")


@router.post(
    "/bitcoin/deposit",
    status_code=201,
    responses={201: {"description": "The invoice", "links": _TO_INVOICE}},
)
async def deposit(body: NewDeposit, account_id: Participant, site: AtSite) -> DepositInvoice:
    """Make an invoice; whatever is paid to it is credited to the account that made it.

    While the Lightning node does not answer it is 503, `node_unavailable`.
    """
    made = await make_deposit(
        site.engine, site.node, account_id=account_id, amount=msat(body.amount)
    )
    return DepositInvoice(
        payment_request=made.payment_request,
        payment_hash=made.entity_id,
        amount=whole_sat(made.amount),
        expires_on=made.expires_on,
    )


@router.post(
    "/bitcoin/withdraw",
    status_code=202,
    responses={
        201: {
            "description": "Paid, or surely not: see `state`",
            "model": Invoice,
            "links": _TO_INVOICE,
        },
        202: {"description": "Asked for, and under way", "links": _TO_INVOICE},
    },
)
async def withdraw(
    body: NewWithdrawal, account_id: Participant, site: AtSite, response: Response
) -> Invoice:
    """Pay an invoice from the account: 201 when it is known what became of it, 202 before that.

    The amount and the highest fee, 1 % and at least 5 sat, are reserved until then; what the
    account does not have is 402, `withdrawal_refused`. An invoice that cannot be paid from here is
    422, `invoice_refused`; one that was given before, by whomever, 409, `invoice_used`. While the
    Lightning node does not answer it is 503, `node_unavailable`.
    """
    request = body.encoded_invoice.removeprefix("lightning:").removeprefix("LIGHTNING:")
    asked = view_of(
        await request_withdrawal(
            site.engine, site.node, account_id=account_id, payment_request=request
        )
    )

    async def look() -> InvoiceView:
        return await view_invoice_query(site.engine, asked.payment_hash, account_id=account_id)

    seen = await until(look, lambda seen: seen.is_decided)
    if seen.state == "refused":
        raise WithdrawalRefused(seen.payment_hash, seen.reason or "refused")
    if seen.is_decided:
        response.status_code = 201
    return _shown(seen)


@router.get("/bitcoin/invoice/{payment_hash}")
async def show_invoice(
    payment_hash: Annotated[Hash, Path()], account_id: Participant, site: AtSite
) -> Invoice:
    """Show what has become of an invoice that the account has made, or pays."""
    return _shown(await view_invoice_query(site.engine, payment_hash, account_id=account_id))


def _shown(view: InvoiceView) -> Invoice:
    return Invoice.of(
        view,
        amount=whole_sat(view.amount),
        amount_msat=view.amount,
        received=whole_sat(view.received),
        fee_msat=view.fee,
    )
