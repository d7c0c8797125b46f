"""Core Lightning, over its REST plugin: https://docs.corelightning.org/docs/rest (clnrest).

Every method of its RPC is a POST; what fails is answered with a code of its own. Payments are made
by `xpay`, or by `pay` before 26.06: `listpays` knows which payments of which are still tried.
"""

from __future__ import annotations

import math
import re
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Literal, TypeVar

import httpx
import msgspec

from shared_ledger.apps.crowdfunding.lightning import bolt11
from shared_ledger.apps.crowdfunding.lightning.paying import combined, pay_once
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
)

HEADER = "Rune"

QUIET_S = 30
"""So long one call waits for the next settlement."""

NETWORKS: Mapping[str, Network] = {
    "bitcoin": "mainnet",
    "testnet": "testnet",
    "testnet4": "testnet",
    "signet": "signet",
    "regtest": "regtest",
}
INVOICE_STATES: Mapping[str, Literal["open", "settled", "expired"]] = {
    "unpaid": "open",
    "paid": "settled",
    "expired": "expired",
}

# https://github.com/ElementsProject/lightning/blob/master/common/jsonrpc_errors.h
_TIMED_OUT = 904
# The plugin or the node ended while it was at work.
_UNDECIDED = frozenset({-5, -4})
# Since then `xpay` and `listpays` are of one plugin.
_FIRST_XPAY = (26, 6)
_VERSION = re.compile(r"v?([0-9]+)\.([0-9]+)")

T = TypeVar("T")


class _Failure(msgspec.Struct):
    code: int | None = None
    message: str = ""


class _Info(msgspec.Struct):
    id: str
    network: str
    version: str
    warning_bitcoind_sync: str | None = None
    warning_lightningd_sync: str | None = None


class _Made(msgspec.Struct):
    bolt11: str


class _Invoice(msgspec.Struct):
    payment_hash: str
    status: str
    expires_at: int
    bolt11: str | None = None
    amount_msat: int | None = None
    amount_received_msat: int = 0
    pay_index: int = 0


class _Invoices(msgspec.Struct):
    invoices: list[_Invoice]


class _Pay(msgspec.Struct):
    payment_hash: str
    status: str
    amount_sent_msat: int = 0
    amount_msat: int | None = None
    preimage: str | None = None
    bolt11: str | None = None


class _Pays(msgspec.Struct):
    pays: list[_Pay]


class _Sent(msgspec.Struct):
    payment_preimage: str
    amount_msat: int
    amount_sent_msat: int


class ClnNode:
    """A node that runs Core Lightning; ``rest`` leads to it, with a rune."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest
        self._has_xpay: bool | None = None

    async def info(self) -> NodeInfo:
        """Tell which node it is."""
        info = await self._info()
        if info.network not in NETWORKS:
            raise NodeUnavailable(f"Core Lightning is on an unknown chain: {info.network}")
        return NodeInfo(
            node_id=info.id,
            network=NETWORKS[info.network],
            is_synced=not (info.warning_bitcoind_sync or info.warning_lightningd_sync),
        )

    async def create_invoice(
        self, *, amount_msat: int, description: str, expires_in_s: int
    ) -> Invoice:
        """Make an invoice, under a label that nobody else has."""
        response = await self._call(
            "invoice",
            {
                "amount_msat": amount_msat,
                "label": f"shared-ledger-{uuid.uuid4()}",
                "description": description,
                "expiry": expires_in_s,
            },
        )
        if response.is_error:
            raise self._failure(response)
        made = decoded(answer_of(response.content, _Made).bolt11)
        return Invoice(
            payment_request=made.payment_request,
            payment_hash=made.payment_hash,
            amount_msat=amount_msat,
            state="open",
            received_msat=0,
            expires_on=made.expires_on,
        )

    async def lookup_invoice(self, payment_hash: str) -> Invoice | None:
        """Return an invoice of the node's own, if it names its amount as ours do."""
        found = await self._read("listinvoices", _Invoices, {"payment_hash": payment_hash})
        for invoice in found.invoices:
            if invoice.bolt11 is not None and invoice.amount_msat is not None:
                return Invoice(
                    payment_request=invoice.bolt11,
                    payment_hash=invoice.payment_hash,
                    amount_msat=invoice.amount_msat,
                    state=INVOICE_STATES[invoice.status],
                    received_msat=invoice.amount_received_msat,
                    expires_on=datetime.fromtimestamp(invoice.expires_at, UTC),
                )
        return None

    async def settlements(self, cursor: str | None) -> AsyncIterator[Settlement]:
        """Give each settled invoice in the order of its ``pay_index``, which begins with 1."""
        index = index_of(cursor)
        while True:
            response = await self._call(
                "waitanyinvoice",
                {"lastpay_index": index, "timeout": QUIET_S},
                wait_s=QUIET_S + TIMEOUT_S,
            )
            if response.is_error:
                if answer_of(response.content, _Failure).code == _TIMED_OUT:
                    continue
                raise NodeUnavailable(str(self._failure(response)))
            paid = answer_of(response.content, _Invoice)
            index = paid.pay_index
            yield Settlement(
                payment_hash=paid.payment_hash,
                received_msat=paid.amount_received_msat,
                cursor=str(index),
            )

    async def pay(self, payment_request: str, *, max_fee_msat: int, timeout_s: float) -> Payment:
        """Pay an invoice; Core Lightning goes on with it whether or not anybody waits."""

        async def send(invoice: DecodedInvoice) -> Payment:
            method, name = await self._way_to_pay()
            response = await self._call(
                method,
                {
                    name: invoice.payment_request,
                    "maxfee": max_fee_msat,
                    "retry_for": max(1, math.ceil(timeout_s)),
                },
                wait_s=timeout_s,
            )
            if response.is_error:
                raise self._failure(response)
            sent = answer_of(response.content, _Sent)
            return Payment(
                payment_hash=invoice.payment_hash,
                state="succeeded",
                fee_msat=sent.amount_sent_msat - sent.amount_msat,
                preimage=sent.payment_preimage,
            )

        return await pay_once(payment_request, track=self.track, send=send)

    async def track(self, payment_hash: str) -> Payment | None:
        """Return what has become of a payment, over all the times it was tried."""
        found = await self._read("listpays", _Pays, {"payment_hash": payment_hash})
        return combined([_payment(pay) for pay in found.pays])

    def decode(self, payment_request: str) -> DecodedInvoice:
        """Read a payment request."""
        return bolt11.decode(payment_request)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def _info(self) -> _Info:
        return await self._read("getinfo", _Info, {})

    async def _way_to_pay(self) -> tuple[str, str]:
        """Return the method that pays, and its name for the invoice."""
        if self._has_xpay is None:
            version = _VERSION.match((await self._info()).version)
            self._has_xpay = version is None or (int(version[1]), int(version[2])) >= _FIRST_XPAY
        return ("xpay", "invstring") if self._has_xpay else ("pay", "bolt11")

    async def _read(self, method: str, kind: type[T], parameters: Mapping[str, object]) -> T:
        response = await self._call(method, parameters)
        if response.is_error:
            raise NodeUnavailable(str(self._failure(response)))
        return answer_of(response.content, kind)

    async def _call(
        self, method: str, parameters: Mapping[str, object], *, wait_s: float = TIMEOUT_S
    ) -> httpx.Response:
        return await self._rest.request("POST", f"/v1/{method}", body=parameters, timeout_s=wait_s)

    def _failure(self, response: httpx.Response) -> NodeRefused | NodeUnavailable:
        """Return what Core Lightning says with an answer that is an error."""
        failure = answer_of(response.content, _Failure)
        said = self._rest.shown(f"Core Lightning says: {failure.message}")
        # No code is not the node's own word: the plugin did not reach it.
        if failure.code is None or failure.code in _UNDECIDED:
            return NodeUnavailable(said)
        return NodeRefused(said)


def _payment(pay: _Pay) -> Payment:
    if pay.status == "complete":
        # The amount is not told of a payment of several parts of which one is not known.
        asked = decoded(pay.bolt11).amount_msat if pay.bolt11 else None
        amount_msat = pay.amount_msat if pay.amount_msat is not None else asked
        return Payment(
            payment_hash=pay.payment_hash,
            state="succeeded",
            fee_msat=pay.amount_sent_msat - (amount_msat or pay.amount_sent_msat),
            preimage=pay.preimage,
        )
    state: Literal["failed", "in_flight"] = "failed" if pay.status == "failed" else "in_flight"
    return Payment(payment_hash=pay.payment_hash, state=state)
