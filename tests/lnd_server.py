"""LND's REST interface, as its documentation has it."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from node_server import Answer, NodeServer, Numbered
from shared_ledger.apps.crowdfunding.lightning.port import NodeRefused, Payment

# What JSON need not escape, though much else takes it for the end of a line.
MEMO = "two\u2028lines\x85 of one"

UNKNOWN, NOT_FOUND, ALREADY_EXISTS = 2, 5, 6
_STATUS = {UNKNOWN: 500, NOT_FOUND: 404, ALREADY_EXISTS: 409}
_STATES = {"open": "OPEN", "settled": "SETTLED", "expired": "CANCELED"}


class LndServer(NodeServer):
    header = "grpc-metadata-macaroon"
    secret = "0201036c6e6402f801030a10deadbeef"

    def routes(self) -> Mapping[tuple[str, str], Answer]:
        return {
            ("GET", "/v1/getinfo"): self.getinfo,
            ("GET", "/v1/invoices"): self.list_invoices,
            ("POST", "/v1/invoices"): self.add_invoice,
            ("GET", "/v1/invoices/subscribe"): self.subscribe,
            ("GET", "/v1/invoice/{r_hash}"): self.lookup,
            ("POST", "/v2/router/send"): self.send,
            ("GET", "/v2/router/track/{payment_hash}"): self.track,
        }

    def forbidden(self) -> Response:
        return failure(UNKNOWN, "verification failed: signature mismatch")

    async def getinfo(self, request: Request) -> Response:
        info = await self.node.info()
        chains = [{"chain": "bitcoin", "network": info.network}]
        return JSONResponse(
            {"identity_pubkey": info.node_id, "synced_to_chain": info.is_synced, "chains": chains}
        )

    async def add_invoice(self, request: Request) -> Response:
        body = await request.json()
        # Whole numbers of 64 bits are strings.
        assert isinstance(body["value_msat"], str)
        assert isinstance(body["expiry"], str)
        try:
            made = await self.node.create_invoice(
                amount_msat=int(body["value_msat"]),
                description=body["memo"],
                expires_in_s=int(body["expiry"]),
            )
        except NodeRefused as refused:
            return failure(UNKNOWN, str(refused))
        r_hash = base64_of(made.payment_hash)
        return JSONResponse({"r_hash": r_hash, "payment_request": made.payment_request})

    async def lookup(self, request: Request) -> Response:
        for each in await self.numbered():
            if each.invoice.payment_hash == request.path_params["r_hash"]:
                return JSONResponse(shown(each))
        return failure(NOT_FOUND, "unable to locate invoice")

    async def list_invoices(self, request: Request) -> Response:
        offset = int(request.query_params["index_offset"])
        end = offset + int(request.query_params["num_max_invoices"])
        page = (await self.numbered())[offset:end]
        return JSONResponse(
            {
                "invoices": [shown(each) for each in page],
                "last_index_offset": str(offset + len(page)),
            }
        )

    async def subscribe(self, request: Request) -> Response:
        """What comes after an index; of index 0, nothing that came before."""
        index = int(request.query_params["settle_index"])
        if index == 0:
            index = max(each.settle_index for each in await self.numbered())
        return StreamingResponse(self._news(index), media_type="application/json")

    async def send(self, request: Request) -> Response:
        body = await request.json()
        assert isinstance(body["fee_limit_msat"], str)
        assert isinstance(body["timeout_seconds"], int)
        invoice = self.node.decode(body["payment_request"])
        if await self.node.track(invoice.payment_hash) is not None:
            return stream_failure(ALREADY_EXISTS, "payment is in transition")
        try:
            begun = await self.node.pay(
                body["payment_request"], max_fee_msat=int(body["fee_limit_msat"]), timeout_s=0
            )
        except NodeRefused as refused:
            return stream_failure(UNKNOWN, str(refused))
        return StreamingResponse(self._followed(begun), media_type="application/json")

    async def track(self, request: Request) -> Response:
        digits = base64.urlsafe_b64decode(request.path_params["payment_hash"]).hex()
        payment = await self.node.track(digits)
        if payment is None:
            return stream_failure(NOT_FOUND, "payment isn't initiated")
        return StreamingResponse(self._followed(payment), media_type="application/json")

    async def _news(self, index: int) -> AsyncIterator[str]:
        # Of new invoices it tells, too.
        for each in await self.numbered():
            if each.invoice.state == "open":
                yield line(shown(each))
        while True:
            for each in await self.settled_after(index):
                index = each.settle_index
                yield line(shown(each))
            await asyncio.sleep(0.01)

    async def _followed(self, payment: Payment) -> AsyncIterator[str]:
        yield line(told(payment))
        while payment.state == "in_flight":
            await asyncio.sleep(0.01)
            now = await self.node.track(payment.payment_hash)
            assert now is not None
            payment = now
            yield line(told(payment))


def shown(numbered: Numbered) -> dict[str, Any]:
    invoice, settle_index = numbered
    return {
        "memo": MEMO,
        "r_hash": base64_of(invoice.payment_hash),
        "payment_request": invoice.payment_request,
        "value_msat": str(invoice.amount_msat),
        "amt_paid_msat": str(invoice.received_msat),
        "state": _STATES[invoice.state],
        "settle_index": str(settle_index),
    }


def told(payment: Payment) -> dict[str, Any]:
    reason = (payment.reason or "none").upper()
    return {
        "payment_hash": payment.payment_hash,
        "status": payment.state.upper(),
        "fee_msat": str(payment.fee_msat),
        "payment_preimage": payment.preimage or "00" * 32,
        "failure_reason": f"FAILURE_REASON_{reason}",
    }


def line(result: dict[str, Any]) -> str:
    return json.dumps({"result": result}, ensure_ascii=False) + "\n"


def failure(code: int, message: str) -> Response:
    return JSONResponse(said(code, message), status_code=_STATUS[code])


def stream_failure(code: int, message: str) -> Response:
    return JSONResponse({"error": said(code, message)}, status_code=_STATUS[code])


def said(code: int, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "details": []}


def base64_of(digits: str) -> str:
    return base64.b64encode(bytes.fromhex(digits)).decode()
