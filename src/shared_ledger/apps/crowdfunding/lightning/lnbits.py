"""LNbits, over its REST interface: https://demo.lnbits.com/docs (each server documents its own).

Written for 1.6. It has sats only, tells settled payments in no order but that of their last change,
and does not say when more was paid than was asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Any, Literal, TypeVar

import httpx
import msgspec

from shared_ledger.apps.crowdfunding.lightning import bolt11
from shared_ledger.apps.crowdfunding.lightning.paying import NodeSilent, combined, pay_once
from shared_ledger.apps.crowdfunding.lightning.port import (
    DecodedInvoice,
    Invoice,
    NodeInfo,
    NodeRefused,
    NodeUnavailable,
    Payment,
    Settlement,
)
from shared_ledger.apps.crowdfunding.lightning.rest import Rest, answer_of, decoded

HEADER = "X-Api-Key"

MSAT_OF_SAT = 1_000

OVERLAP = timedelta(minutes=2)
"""What changed so long before the newest settlement that was told is looked at again."""

PAGE = 500

RECHECK_TIMEOUT_S = 2
"""So long it is waited for what the node behind LNbits says of a payment."""

INVOICE_STATES: Mapping[str, Literal["open", "settled", "expired"]] = {
    "pending": "open",
    "success": "settled",
    "failed": "expired",
}
PAYMENT_STATES: Mapping[str, Literal["in_flight", "succeeded", "failed"]] = {
    "pending": "in_flight",
    "success": "succeeded",
    "failed": "failed",
}

_BEGINNING = datetime(2009, 1, 3, tzinfo=UTC)

# What LNbits answers of a payment or an invoice that did not work; `status` says what it is now.
_FAILED = 520


class _Failure(msgspec.Struct):
    detail: str | list[Any]
    status: str | None = None


class _Wallet(msgspec.Struct):
    name: str


class _Reserve(msgspec.Struct):
    fee_reserve: int


class _Payment(msgspec.Struct):
    """An invoice of the wallet, or with a negative amount a payment."""

    payment_hash: str
    amount: int
    fee: int
    bolt11: str
    status: str
    updated_at: Annotated[datetime, msgspec.Meta(tz=True)]
    preimage: str | None = None


class _Page(msgspec.Struct):
    data: list[_Payment]


T = TypeVar("T")


class LnbitsNode:
    """A wallet of LNbits; ``rest`` leads to it, with its admin key.

    ``poll_s`` is how often it is asked what was settled, or has become of a payment.
    """

    def __init__(self, rest: Rest, *, poll_s: float = 2) -> None:
        self._rest = rest
        self._poll_s = poll_s
        self._node: NodeInfo | None = None

    async def info(self) -> NodeInfo:
        """Tell which node is behind the wallet; LNbits does not say whether that is synced.

        LNbits does not name it, so the first time an invoice is made, which its payee has signed.
        """
        await self._read("/api/v1/wallet", _Wallet)
        if self._node is None:
            try:
                made = await self.create_invoice(
                    amount_msat=MSAT_OF_SAT, description="Which node is this?", expires_in_s=60
                )
            except NodeRefused as error:
                raise NodeUnavailable(str(error)) from None
            invoice = decoded(made.payment_request)
            self._node = NodeInfo(node_id=invoice.payee_id, network=invoice.network, is_synced=True)
        return self._node

    async def create_invoice(
        self, *, amount_msat: int, description: str, expires_in_s: int
    ) -> Invoice:
        """Make an invoice of whole sats."""
        amount, below = divmod(amount_msat, MSAT_OF_SAT)
        if below:
            raise NodeRefused("LNbits makes invoices of whole sats only")
        response = await self._rest.request(
            "POST",
            "/api/v1/payments",
            body={
                "out": False,
                "unit": "sat",
                "amount": amount,
                "memo": description,
                "expiry": expires_in_s,
            },
        )
        if response.is_error:
            raise self._failure(response)
        return _invoice(answer_of(response.content, _Payment))

    async def lookup_invoice(self, payment_hash: str) -> Invoice | None:
        """Return an invoice of the wallet's own."""
        for found in await self._of_hash(payment_hash):
            if found.amount > 0:
                return _invoice(found)
        return None

    async def settlements(self, cursor: str | None) -> AsyncIterator[Settlement]:
        """Give settled invoices as they change; after a new start, the last few once more."""
        newest = _time_of(cursor)
        told: dict[str, datetime] = {}
        while True:
            since = newest - OVERLAP
            told = {key: changed_on for key, changed_on in told.items() if changed_on >= since}
            for found in await self._settled_since(since):
                if found.payment_hash not in told:
                    newest = max(newest, found.updated_at)
                    told[found.payment_hash] = found.updated_at
                    yield Settlement(
                        payment_hash=found.payment_hash,
                        received_msat=_received_msat(found),
                        cursor=found.updated_at.isoformat(),
                    )
            await asyncio.sleep(self._poll_s)

    async def pay(self, payment_request: str, *, max_fee_msat: int, timeout_s: float) -> Payment:
        """Pay an invoice. LNbits has a limit of its own for fees, so that must not be higher."""

        async def send(invoice: DecodedInvoice) -> Payment:
            # LNbits would note a payment that has failed.
            if invoice.expires_on <= datetime.now(UTC):
                raise NodeRefused("the invoice has expired")
            reserve = await self._read(
                "/api/v1/payments/fee-reserve", _Reserve, {"invoice": invoice.payment_request}
            )
            if reserve.fee_reserve > max_fee_msat:
                raise NodeRefused(
                    f"LNbits may spend {reserve.fee_reserve} msat on fees, more than {max_fee_msat}"
                )
            response = await self._rest.request(
                "POST",
                "/api/v1/payments",
                body={"out": True, "bolt11": invoice.payment_request},
                timeout_s=timeout_s,
            )
            if response.is_error:
                raise self._failure(response)
            return await self._followed(_payment(answer_of(response.content, _Payment)), ends_at)

        ends_at = asyncio.get_running_loop().time() + timeout_s
        return await pay_once(payment_request, track=self.track, send=send)

    async def track(self, payment_hash: str) -> Payment | None:
        """Return what has become of a payment; LNbits asks the node behind it."""
        found = await self._of_hash(payment_hash)
        return combined([_payment(each) for each in found if each.amount < 0])

    def decode(self, payment_request: str) -> DecodedInvoice:
        """Read a payment request."""
        return bolt11.decode(payment_request)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def _followed(self, payment: Payment, ends_at: float) -> Payment:
        """Ask what has become of a payment that LNbits has stopped waiting for."""
        while payment.state == "in_flight":
            left_s = ends_at - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            await asyncio.sleep(min(self._poll_s, left_s))
            payment = await self.track(payment.payment_hash) or payment
        return payment

    async def _of_hash(self, payment_hash: str) -> list[_Payment]:
        """Return the wallet's invoice with a hash and what it paid for it, as they are now."""
        found = await self._noted(payment_hash)
        if any(each.status == "pending" for each in found):
            await self._recheck(payment_hash)
            found = await self._noted(payment_hash)
        return found

    async def _noted(self, payment_hash: str) -> list[_Payment]:
        page = await self._page({"payment_hash": payment_hash})
        # A version that does not know a filter leaves it out.
        return [found for found in page if found.payment_hash == payment_hash]

    async def _recheck(self, payment_hash: str) -> None:
        """Have LNbits ask the node behind it, and note what that says.

        While a payment is in flight LND says nothing, and LNbits waits half a minute for it. Nobody
        else need wait: LNbits goes on by itself. (`recheck_pending` of a page would ask the same,
        but LNbits answers nobody at all meanwhile, and fails in the end.)
        """
        with contextlib.suppress(NodeSilent):
            await self._rest.request(
                "GET", f"/api/v1/payments/{payment_hash}", timeout_s=RECHECK_TIMEOUT_S
            )

    async def _settled_since(self, since: datetime) -> list[_Payment]:
        """Return the invoices that were settled, and changed since then; the oldest first."""
        settled: list[_Payment] = []
        offset = 0
        while True:
            # What changes meanwhile comes to the front: nothing is passed over.
            page = await self._page(
                {
                    "status": "success",
                    "amount[gt]": 0,
                    "sortby": "updated_at",
                    "direction": "desc",
                    "offset": offset,
                }
            )
            settled += [
                found
                for found in page
                if found.status == "success" and found.amount > 0 and found.updated_at >= since
            ]
            offset += PAGE
            if len(page) < PAGE or page[-1].updated_at < since:
                return sorted(settled, key=lambda found: found.updated_at)

    async def _page(self, parameters: Mapping[str, str | int]) -> list[_Payment]:
        found = await self._read("/api/v1/payments/paginated", _Page, {"limit": PAGE, **parameters})
        return found.data

    async def _read(
        self, path: str, kind: type[T], parameters: Mapping[str, str | int] | None = None
    ) -> T:
        response = await self._rest.request("GET", path, parameters=parameters)
        if response.is_error:
            raise NodeUnavailable(str(self._failure(response)))
        return answer_of(response.content, kind)

    def _failure(self, response: httpx.Response) -> NodeRefused | NodeUnavailable:
        """Return what LNbits says with an answer that is an error."""
        failure = answer_of(response.content, _Failure)
        said = self._rest.shown(f"LNbits says: {failure.detail}")
        if response.status_code == _FAILED:
            return NodeRefused(said) if failure.status == "failed" else NodeUnavailable(said)
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return NodeUnavailable(said)
        return NodeRefused(said)


def _time_of(cursor: str | None) -> datetime:
    try:
        found = datetime.fromisoformat(cursor or "")
    except ValueError:
        return _BEGINNING
    # Without a zone it is of another kind of node, which had the same key.
    return found if found.tzinfo is not None else _BEGINNING


def _invoice(payment: _Payment) -> Invoice:
    state = INVOICE_STATES.get(payment.status, "open")
    return Invoice(
        payment_request=payment.bolt11,
        payment_hash=payment.payment_hash,
        amount_msat=payment.amount,
        state=state,
        received_msat=_received_msat(payment) if state == "settled" else 0,
        expires_on=decoded(payment.bolt11).expires_on,
    )


def _received_msat(payment: _Payment) -> int:
    # Some nodes behind LNbits take a fee for what they receive.
    return payment.amount - abs(payment.fee)


def _payment(payment: _Payment) -> Payment:
    state = PAYMENT_STATES.get(payment.status, "in_flight")
    if state != "succeeded":
        return Payment(payment_hash=payment.payment_hash, state=state)
    return Payment(
        payment_hash=payment.payment_hash,
        state=state,
        # Until then it is what LNbits has set aside.
        fee_msat=abs(payment.fee),
        preimage=payment.preimage,
    )
