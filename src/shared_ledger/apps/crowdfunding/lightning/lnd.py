"""LND, over its REST interface: https://lightning.engineering/api-docs/api/lnd/.

Written for 0.21; bytes are base64, whole numbers strings, streams a line each.
"""

from __future__ import annotations

import asyncio
import base64
import math
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from typing import Generic, Literal, TypeVar

import httpx
import msgspec

from shared_ledger.apps.crowdfunding.lightning import bolt11
from shared_ledger.apps.crowdfunding.lightning.paying import NodeSilent, pay_once
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    Invoice,
    Network,
    NodeInfo,
    NodeRefused,
    NodeUnavailable,
    Payment,
    Settlement,
)
from shared_ledger.apps.crowdfunding.lightning.rest import (
    TIMEOUT_S,
    Rest,
    answer_of,
    decoded,
    index_of,
    lines_of,
)

HEADER = "Grpc-Metadata-macaroon"

QUIET_S = 60
"""After so long without news the stream of settlements is opened anew: it may have broken."""

PAGE = 1_000

NETWORKS: dict[str, Network] = {
    "mainnet": "mainnet",
    "testnet": "testnet",
    "testnet4": "testnet",
    "signet": "signet",
    "regtest": "regtest",
}

INVOICE_STATES: dict[str, Literal["open", "settled", "expired"]] = {
    "SETTLED": "settled",
    "CANCELED": "expired",
}

PAYMENT_STATES: dict[str, Literal["succeeded", "failed"]] = {
    "SUCCEEDED": "succeeded",
    "FAILED": "failed",
}

T = TypeVar("T")

# https://grpc.github.io/grpc/core/md_doc_statuscodes.html
_NOT_FOUND = 5
# The gateway before LND has the same number, with these words, for addresses it does not know.
_NO_SUCH_ADDRESS = "Not Found"
# Cancelled, deadline exceeded, aborted, internal and unavailable say nothing of what was done.
_UNDECIDED = frozenset({1, 4, 10, 13, 14})


class _Error(msgspec.Struct):
    code: int
    message: str = ""


class _Failure(msgspec.Struct):
    """What a call answers that fails; if its answer is a stream, in ``error``."""

    error: _Error | None = None
    code: int | None = None
    message: str = ""


class _Chain(msgspec.Struct):
    network: str


class _Info(msgspec.Struct):
    identity_pubkey: str
    synced_to_chain: bool
    chains: list[_Chain]


class _Added(msgspec.Struct):
    payment_request: str


class _Invoice(msgspec.Struct):
    payment_request: str
    r_hash: str
    value_msat: int
    state: str
    amt_paid_msat: int = 0
    settle_index: int = 0


class _Invoices(msgspec.Struct):
    invoices: list[_Invoice]
    last_index_offset: int


class _Payment(msgspec.Struct):
    payment_hash: str
    status: str
    fee_msat: int = 0
    payment_preimage: str = ""
    failure_reason: str = ""


class _Line(msgspec.Struct, Generic[T]):
    result: T | None = None
    error: _Error | None = None


class LndNode:
    """A node that runs LND; ``rest`` leads to it, with a macaroon in hexadecimal digits.

    ``poll_s`` is how often it is asked for its first settled invoice, while it has none.
    """

    def __init__(self, rest: Rest, *, poll_s: float = 2) -> None:
        self._rest = rest
        self._poll_s = poll_s

    async def info(self) -> NodeInfo:
        """Tell which node it is."""
        info = await self._read("/v1/getinfo", _Info)
        networks = [chain.network for chain in info.chains]
        if len(networks) != 1 or networks[0] not in NETWORKS:
            raise NodeUnavailable(f"LND is on a chain that is not known: {', '.join(networks)}")
        return NodeInfo(
            node_id=info.identity_pubkey,
            network=NETWORKS[networks[0]],
            is_synced=info.synced_to_chain,
        )

    async def create_invoice(
        self, *, amount_msat: int, description: str, expires_in_s: int
    ) -> Invoice:
        """Make an invoice."""
        body = {"value_msat": str(amount_msat), "memo": description, "expiry": str(expires_in_s)}
        response = await self._rest.request("POST", "/v1/invoices", body=body)
        if response.is_error:
            raise self._failure(response)
        made = decoded(answer_of(response.content, _Added).payment_request)
        return Invoice(
            payment_request=made.payment_request,
            payment_hash=made.payment_hash,
            amount_msat=amount_msat,
            state="open",
            received_msat=0,
            expires_on=made.expires_on,
        )

    async def lookup_invoice(self, payment_hash: str) -> Invoice | None:
        """Return an invoice of the node's own; LND itself says when it has expired."""
        response = await self._rest.request("GET", f"/v1/invoice/{payment_hash}")
        if self._says_unknown(response):
            return None
        if response.is_error:
            raise NodeUnavailable(str(self._failure(response)))
        found = answer_of(response.content, _Invoice)
        state = INVOICE_STATES.get(found.state, "open")
        return Invoice(
            payment_request=found.payment_request,
            payment_hash=payment_hash,
            amount_msat=found.value_msat,
            state=state,
            received_msat=found.amt_paid_msat if state == "settled" else 0,
            expires_on=decoded(found.payment_request).expires_on,
        )

    async def settlements(self, cursor: str | None) -> AsyncIterator[Settlement]:
        """Give each settled invoice in the order of its ``settle_index``."""
        index = index_of(cursor)
        # LND tells what came after an index, and of index 0 that is not what came before.
        while index == 0:
            first = await self._first_settled()
            if first is None:
                await asyncio.sleep(self._poll_s)
            elif first.settle_index == 1:
                index = 1
                yield _settlement(first)
            else:
                index = first.settle_index - 1
        while True:
            try:
                async with self._rest.stream(
                    "GET",
                    "/v1/invoices/subscribe",
                    parameters={"settle_index": index},
                    silence_s=QUIET_S,
                ) as response:
                    async for invoice in self._lines(response, _Line[_Invoice]):
                        if invoice.state == "SETTLED" and invoice.settle_index > index:
                            index = invoice.settle_index
                            yield _settlement(invoice)
            except NodeSilent:
                continue
            raise NodeUnavailable("LND has stopped telling of settled invoices")

    async def pay(self, payment_request: str, *, max_fee_msat: int, timeout_s: float) -> Payment:
        """Pay an invoice; LND goes on with it whether or not anybody waits."""

        async def send(invoice: DecodedInvoice) -> Payment:
            body = {
                "payment_request": invoice.payment_request,
                "fee_limit_msat": str(max_fee_msat),
                "timeout_seconds": max(1, math.ceil(timeout_s)),
            }
            return await self._send(body, timeout_s)

        return await pay_once(payment_request, track=self.track, send=send)

    async def track(self, payment_hash: str) -> Payment | None:
        """Return what has become of a payment: the first that LND tells of it."""
        named = base64.urlsafe_b64encode(bytes.fromhex(payment_hash)).decode()
        async with self._rest.stream("GET", f"/v2/router/track/{named}") as response:
            if response.is_error:
                await response.aread()
                if self._says_unknown(response):
                    return None
            async for payment in self._lines(response, _Line[_Payment]):
                return _payment(payment)
        raise NodeUnavailable("LND says nothing of the payment")

    def decode(self, payment_request: str) -> DecodedInvoice:
        """Read a payment request."""
        return bolt11.decode(payment_request)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def _send(self, body: Mapping[str, object], timeout_s: float) -> Payment:
        latest: Payment | None = None
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._rest.stream(
                    "POST", "/v2/router/send", body=body, silence_s=timeout_s + TIMEOUT_S
                ) as response,
            ):
                if response.is_error:
                    await response.aread()
                    raise self._failure(response)
                async for payment in self._lines(response, _Line[_Payment]):
                    latest = _payment(payment)
                    if latest.state != "in_flight":
                        break
        except TimeoutError:
            pass
        if latest is None:
            raise NodeUnavailable("LND does not say whether it pays")
        return latest

    async def _first_settled(self) -> _Invoice | None:
        """Return the invoice that was settled first; LND has them in the order of their making."""
        first: _Invoice | None = None
        offset = 0
        while first is None or first.settle_index > 1:
            page = await self._read(
                "/v1/invoices", _Invoices, {"index_offset": offset, "num_max_invoices": PAGE}
            )
            if not page.invoices:
                break
            offset = page.last_index_offset
            settled = [each for each in page.invoices if each.state == "SETTLED"]
            if first is not None:
                settled.append(first)
            first = min(settled, key=lambda each: each.settle_index, default=None)
        return first

    async def _read(
        self, path: str, kind: type[T], parameters: Mapping[str, str | int] | None = None
    ) -> T:
        response = await self._rest.request("GET", path, parameters=parameters)
        if response.is_error:
            raise NodeUnavailable(str(self._failure(response)))
        return answer_of(response.content, kind)

    async def _lines(self, response: httpx.Response, kind: type[_Line[T]]) -> AsyncIterator[T]:
        if response.is_error:
            await response.aread()
            raise NodeUnavailable(str(self._failure(response)))
        async for line in lines_of(response):
            said = answer_of(line, kind)
            if said.error is not None:
                raise NodeUnavailable(self._rest.shown(said.error.message))
            if said.result is not None:
                yield said.result

    def _failure(self, response: httpx.Response) -> NodeRefused | NodeUnavailable:
        """Return what LND says with an answer that is an error."""
        error = _error_of(response)
        said = self._rest.shown(f"LND says: {error.message}")
        # No code is not LND's own word.
        if not error.code or error.code in _UNDECIDED:
            return NodeUnavailable(said)
        return NodeRefused(said)

    def _says_unknown(self, response: httpx.Response) -> bool:
        if response.status_code != HTTPStatus.NOT_FOUND:
            return False
        error = _error_of(response)
        return error.code == _NOT_FOUND and error.message != _NO_SUCH_ADDRESS


def _error_of(response: httpx.Response) -> _Error:
    failure = answer_of(response.content, _Failure)
    return failure.error or _Error(failure.code or 0, failure.message)


def _settlement(invoice: _Invoice) -> Settlement:
    return Settlement(
        payment_hash=base64.b64decode(invoice.r_hash).hex(),
        received_msat=invoice.amt_paid_msat,
        cursor=str(invoice.settle_index),
    )


def _payment(payment: _Payment) -> Payment:
    state = PAYMENT_STATES.get(payment.status)
    if state == "succeeded":
        return Payment(
            payment_hash=payment.payment_hash,
            state=state,
            fee_msat=payment.fee_msat,
            preimage=payment.payment_preimage,
        )
    if state == "failed":
        reason = payment.failure_reason.removeprefix("FAILURE_REASON_").lower()
        return Payment(payment_hash=payment.payment_hash, state=state, reason=reason)
    return Payment(payment_hash=payment.payment_hash, state="in_flight")
