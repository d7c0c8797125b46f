"""Core Lightning's REST plugin, as its documentation has it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from node_server import Answer, NodeServer, Numbered
from shared_ledger.apps.crowdfunding.lightning.port import NodeRefused, Payment

ROUTE_NOT_FOUND, UNSPECIFIED, EXPIRED, TIMED_OUT = 205, 209, 207, 904
_STATES = {"open": "unpaid", "settled": "paid", "expired": "expired"}
_STATUSES = {"in_flight": "pending", "succeeded": "complete", "failed": "failed"}


class ClnServer(NodeServer):
    """Of the version ``version``."""

    header = "rune"
    secret = "rune-of-the-tests-0123456789_-="
    version = "v26.06.6"

    def routes(self) -> Mapping[tuple[str, str], Answer]:
        return {
            ("POST", "/v1/getinfo"): self.getinfo,
            ("POST", "/v1/invoice"): self.invoice,
            ("POST", "/v1/listinvoices"): self.listinvoices,
            ("POST", "/v1/waitanyinvoice"): self.waitanyinvoice,
            ("POST", "/v1/xpay"): self.xpay,
            ("POST", "/v1/pay"): self.pay,
            ("POST", "/v1/listpays"): self.listpays,
        }

    def forbidden(self) -> Response:
        return failure(1502, "Rune is not valid", status=401)

    async def getinfo(self, request: Request) -> Response:
        info = await self.node.info()
        return done({"id": info.node_id, "network": info.network, "version": self.version})

    async def invoice(self, request: Request) -> Response:
        body = await request.json()
        assert isinstance(body["amount_msat"], int)
        assert isinstance(body["label"], str)
        try:
            made = await self.node.create_invoice(
                amount_msat=body["amount_msat"],
                description=body["description"],
                expires_in_s=body["expiry"],
            )
        except NodeRefused as refused:
            return failure(-1, str(refused))
        return done({"bolt11": made.payment_request, "payment_hash": made.payment_hash})

    async def listinvoices(self, request: Request) -> Response:
        payment_hash = (await request.json())["payment_hash"]
        found = [one for one in await self.numbered() if one.invoice.payment_hash == payment_hash]
        return done({"invoices": [shown(each) for each in found]})

    async def waitanyinvoice(self, request: Request) -> Response:
        body = await request.json()
        ends_at = asyncio.get_running_loop().time() + body["timeout"]
        while True:
            for each in await self.settled_after(body["lastpay_index"]):
                return done(shown(each))
            if asyncio.get_running_loop().time() >= ends_at:
                return failure(TIMED_OUT, "Timed out")
            await asyncio.sleep(0.01)

    async def xpay(self, request: Request) -> Response:
        return await self._pay(request, "invstring")

    async def pay(self, request: Request) -> Response:
        return await self._pay(request, "bolt11")

    async def listpays(self, request: Request) -> Response:
        payment = await self.node.track((await request.json())["payment_hash"])
        return done({"pays": [] if payment is None else [told(payment)]})

    async def _pay(self, request: Request, name: str) -> Response:
        body = await request.json()
        invoice = self.node.decode(body[name])
        assert invoice.amount_msat is not None
        try:
            payment = await self.node.pay(
                body[name], max_fee_msat=body["maxfee"], timeout_s=body["retry_for"]
            )
        except NodeRefused as refused:
            return failure(ROUTE_NOT_FOUND, str(refused))
        while payment.state == "in_flight":
            await asyncio.sleep(0.01)
            payment = await self.node.track(invoice.payment_hash) or payment
        if payment.state == "failed":
            return failure(UNSPECIFIED, f"it failed: {payment.reason}")
        return done(
            {
                "payment_preimage": payment.preimage,
                "amount_msat": invoice.amount_msat,
                "amount_sent_msat": invoice.amount_msat + payment.fee_msat,
                "failed_parts": 0,
                "successful_parts": 1,
            }
        )


def shown(numbered: Numbered) -> dict[str, Any]:
    invoice, pay_index = numbered
    paid = {"pay_index": pay_index, "amount_received_msat": invoice.received_msat}
    return {
        "label": "a label",
        "bolt11": invoice.payment_request,
        "payment_hash": invoice.payment_hash,
        "amount_msat": invoice.amount_msat,
        "status": _STATES[invoice.state],
        "expires_at": int(invoice.expires_on.timestamp()),
        **(paid if invoice.state == "settled" else {}),
    }


def told(payment: Payment) -> dict[str, Any]:
    amounts = {"amount_msat": 10_000, "amount_sent_msat": 10_000 + payment.fee_msat}
    return {
        "payment_hash": payment.payment_hash,
        "status": _STATUSES[payment.state],
        "created_at": 1_790_000_000,
        **(amounts if payment.state == "succeeded" else {"amount_sent_msat": 0}),
        **({"preimage": payment.preimage} if payment.preimage else {}),
    }


def done(result: dict[str, Any]) -> Response:
    return JSONResponse(result, status_code=201)


def failure(code: int | None, message: str, *, status: int = 500) -> Response:
    return JSONResponse({"code": code, "message": message, "data": None}, status_code=status)
