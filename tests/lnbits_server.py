"""LNbits' REST interface, as its documentation has it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from node_server import Answer, NodeServer, Numbered
from shared_ledger.apps.crowdfunding.lightning.port import NodeRefused, Payment

RESERVE_MSAT = 2_000
_STATES = {"open": "pending", "settled": "success", "expired": "failed"}
_STATUSES = {"in_flight": "pending", "succeeded": "success", "failed": "failed"}
BEGINNING = datetime(2026, 11, 21, 12, tzinfo=UTC)


class LnbitsServer(NodeServer):
    """It keeps a second between any two settlements, and what it was asked to pay.

    It notes what becomes of a payment, or that an invoice has expired, when it is asked for it.
    """

    header = "x-api-key"
    secret = "key0123456789abcdef0123456789abc"

    def __init__(self, url: str, schema: str) -> None:
        super().__init__(url, schema)
        self._paid: dict[str, str] = {}
        self._noted: dict[str, Payment] = {}
        self._rechecked: set[str] = set()

    def routes(self) -> Mapping[tuple[str, str], Answer]:
        return {
            ("GET", "/api/v1/wallet"): self.wallet,
            ("POST", "/api/v1/payments"): self.create,
            ("GET", "/api/v1/payments/paginated"): self.paginated,
            ("GET", "/api/v1/payments/fee-reserve"): self.fee_reserve,
            ("GET", "/api/v1/payments/{payment_hash}"): self.recheck,
        }

    def forbidden(self) -> Response:
        return JSONResponse({"detail": "Invalid key."}, status_code=401)

    async def wallet(self, request: Request) -> Response:
        return JSONResponse({"name": "tests", "balance": 1_000_000})

    async def fee_reserve(self, request: Request) -> Response:
        assert self.node.decode(request.query_params["invoice"]).amount_msat
        return JSONResponse({"fee_reserve": RESERVE_MSAT})

    async def create(self, request: Request) -> Response:
        body = await request.json()
        if body["out"]:
            return await self._pay(body["bolt11"])
        assert (body["unit"], type(body["amount"])) == ("sat", int)
        try:
            made = await self.node.create_invoice(
                amount_msat=1_000 * body["amount"],
                description=body["memo"],
                expires_in_s=body["expiry"],
            )
        except NodeRefused as refused:
            return failed(str(refused))
        return JSONResponse(invoice_row(Numbered(made, 0)), status_code=201)

    async def paginated(self, request: Request) -> Response:
        wanted = request.query_params
        rows = [self._invoice_row(each) for each in await self.numbered()]
        for payment_hash, payment_request in self._paid.items():
            rows.append(self._payment_row(payment_request, self._noted[payment_hash]))
        if "payment_hash" in wanted:
            rows = [row for row in rows if row["payment_hash"] == wanted["payment_hash"]]
        if "status" in wanted:
            rows = [row for row in rows if row["status"] == wanted["status"]]
        if "amount[gt]" in wanted:
            rows = [row for row in rows if row["amount"] > int(wanted["amount[gt]"])]
        if "sortby" in wanted:
            assert wanted["direction"] == "desc"
            rows.sort(key=lambda row: str(row[wanted["sortby"]]), reverse=True)
        offset = int(wanted.get("offset", 0))
        page = rows[offset : offset + int(wanted["limit"])]
        return JSONResponse({"data": page, "total": len(rows)})

    async def recheck(self, request: Request) -> Response:
        payment_hash = request.path_params["payment_hash"]
        self._rechecked.add(payment_hash)
        payment = await self.node.track(payment_hash)
        if payment is not None:
            self._noted[payment_hash] = payment
        return JSONResponse({"paid": False})

    def _invoice_row(self, numbered: Numbered) -> dict[str, Any]:
        row = invoice_row(numbered)
        if row["status"] == "failed" and row["payment_hash"] not in self._rechecked:
            row["status"] = "pending"
        return row

    async def _pay(self, payment_request: str) -> Response:
        invoice = self.node.decode(payment_request)
        if await self.node.track(invoice.payment_hash) is not None:
            return failed("Payment is still pending.", status="pending")
        try:
            payment = await self.node.pay(
                payment_request, max_fee_msat=RESERVE_MSAT, timeout_s=0.05
            )
        except NodeRefused as refused:
            return failed(str(refused))
        self._paid[invoice.payment_hash] = payment_request
        self._noted[invoice.payment_hash] = payment
        if payment.state == "failed":
            return failed(f"Payment failed: {payment.reason}")
        return JSONResponse(self._payment_row(payment_request, payment), status_code=201)

    def _payment_row(self, payment_request: str, payment: Payment) -> dict[str, Any]:
        amount_msat = self.node.decode(payment_request).amount_msat
        assert amount_msat is not None
        fee_msat = payment.fee_msat if payment.state == "succeeded" else RESERVE_MSAT
        return {
            "checking_id": payment.payment_hash,
            "payment_hash": payment.payment_hash,
            "bolt11": payment_request,
            "amount": -amount_msat,
            "fee": -fee_msat,
            "status": _STATUSES[payment.state],
            "preimage": payment.preimage,
            "updated_at": BEGINNING.isoformat(),
        }


def invoice_row(numbered: Numbered) -> dict[str, Any]:
    invoice, place = numbered
    changed_on = BEGINNING + timedelta(seconds=place)
    return {
        "checking_id": invoice.payment_hash,
        "payment_hash": invoice.payment_hash,
        "bolt11": invoice.payment_request,
        # It does not know when more was paid.
        "amount": invoice.amount_msat,
        "fee": 0,
        "status": _STATES[invoice.state],
        "preimage": None,
        "updated_at": changed_on.isoformat(),
    }


def failed(detail: str, *, status: str = "failed") -> Response:
    return JSONResponse({"detail": detail, "status": status}, status_code=520)
