"""Why an invoice is not made, or not paid."""

from __future__ import annotations

from http import HTTPStatus

from shared_ledger.service import ServiceRefusal


class InvoiceRefused(ServiceRefusal):
    """The invoice cannot be paid from here."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "invoice_refused"

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def __str__(self) -> str:
        return f"the invoice {self.problem}"


class InvoiceUsed(ServiceRefusal):
    """The invoice was given before."""

    status = HTTPStatus.CONFLICT
    code = "invoice_used"

    def __init__(self, payment_hash: str) -> None:
        self.payment_hash = payment_hash

    def __str__(self) -> str:
        return (
            "the invoice was given before, and an invoice is paid once: look at "
            f"/bitcoin/invoice/{self.payment_hash}, or ask the payee for another"
        )


class WithdrawalRefused(ServiceRefusal):
    """The account cannot pay this; ``reason`` is the code of the ledger's refusal."""

    status = HTTPStatus.PAYMENT_REQUIRED
    code = "withdrawal_refused"

    def __init__(self, payment_hash: str, reason: str) -> None:
        self.payment_hash = payment_hash
        self.reason = reason

    def __str__(self) -> str:
        if self.reason == "insufficient_credits":
            return "the balance does not cover the amount and the highest fee"
        return f"the withdrawal was refused: {self.reason}"


class InvoiceNotFound(ServiceRefusal):
    """There is no such invoice, or it is another's."""

    status = HTTPStatus.NOT_FOUND
    code = "invoice_not_found"

    def __init__(self, payment_hash: str) -> None:
        self.payment_hash = payment_hash

    def __str__(self) -> str:
        return f"there is no invoice {self.payment_hash}"


class NodeSaysNo(ServiceRefusal):
    """The Lightning node does not make such an invoice."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    code = "node_refused"

    def __init__(self, problem: str) -> None:
        self.problem = problem

    def __str__(self) -> str:
        return self.problem


class NodeAway(ServiceRefusal):
    """The Lightning node does not answer; nothing was done."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    code = "node_unavailable"

    def __str__(self) -> str:
        return "the Lightning node does not answer at the moment; try again in a while"
