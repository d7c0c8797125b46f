"""What can be done with orders: place them, find them, ship, cancel and refund them.

Each takes the transaction it is part of: stock, orders and entries commit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from shared_ledger import (
    CaptureHold,
    HoldExpired,
    InvalidPosting,
    Ledger,
    NonceReused,
    PlaceHold,
    Posted,
    ReleaseHold,
    Reversal,
    ReversalExceedsEntry,
)
from shared_ledger.apps.ecommerce.operations import EcommerceOperation
from shared_ledger.apps.ecommerce.products import locked_price
from shared_ledger.apps.ecommerce.stock import expire, put_back, take
from shared_ledger.apps.ecommerce.tables import State, orders
from shared_ledger.service import ServiceRefusal
from shared_ledger.service.fields import check_same, own_nonce

RESERVED = timedelta(days=30)
"""How long credits and stock are reserved for an order that is not shipped."""

EcommerceLedger = Ledger[EcommerceOperation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """So many of a product, for ``price`` credits each.

    Attributes
    ----------
    shipped
        How many of the ``quantity`` were shipped, and paid for.
    refunded
        How many credits were given back.
    hold_id, expires_on
        What reserves the credits, and until when.
    entry_id
        The entry that paid; ``None`` while it is not shipped.
    closed_on
        When it was shipped or cancelled, or has expired.
    """

    id: int
    owner_id: str
    nonce: str
    product_id: int
    quantity: int
    price: int
    state: State
    shipped: int
    refunded: int
    hold_id: int
    entry_id: int | None
    created_on: datetime
    expires_on: datetime
    closed_on: datetime | None

    @property
    def paid(self) -> int:
        """How many credits were taken for what was shipped."""
        return self.shipped * self.price


class OrderNotFound(ServiceRefusal):
    """There is no such order, or it is another's."""

    status = HTTPStatus.NOT_FOUND
    code = "order_not_found"

    def __init__(self, order_id: int) -> None:
        self.order_id = order_id

    def __str__(self) -> str:
        return f"there is no order {self.order_id}"


class OrderClosed(ServiceRefusal):
    """The order has ended before; ``state`` says how, and ``shipped`` how many were shipped."""

    def __init__(self, order_id: int, *, state: State, shipped: int) -> None:
        self.order_id = order_id
        self.state = state
        self.shipped = shipped

    @property
    def code(self) -> str:  # type: ignore[override]  # one name per state, so not a constant
        """The name of the refusal, which says how the order ended."""
        return f"order_already_{self.state}"

    def __str__(self) -> str:
        many = f", {self.shipped} pieces" if self.shipped else ""
        return f"order {self.order_id} is {self.state} already{many}"


class OrderNotShipped(ServiceRefusal):
    """Nothing was paid for the order that could be given back."""

    code = "order_not_shipped"

    def __init__(self, order_id: int, *, state: State) -> None:
        self.order_id = order_id
        self.state = state

    def __str__(self) -> str:
        return f"order {self.order_id} is {self.state}: nothing was paid that could be refunded"


class RefundExceedsPayment(ServiceRefusal):
    """A refund requires more than was paid and has not been given back."""

    code = "refund_exceeds_payment"

    def __init__(self, order_id: int, *, paid: int, refunded: int, required: int) -> None:
        self.order_id = order_id
        self.paid = paid
        self.refunded = refunded
        self.required = required

    def __str__(self) -> str:
        return (
            f"{self.paid} were paid for order {self.order_id} and {self.refunded} of them given "
            f"back, {self.required} required"
        )


def place(
    connection: Connection,
    ledger: EcommerceLedger,
    *,
    owner_id: str,
    product_id: int,
    quantity: int,
    nonce: str,
) -> tuple[Order, bool]:
    """Reserve stock and credits for an order; tell whether that had been done before.

    Raises
    ------
    ProductNotFound
        If there is no such product.
    OutOfStock
        If there is less of it.
    Refusal
        ``InsufficientCredits`` …, or ``NonceReused`` if the nonce ordered something else.
    """
    given: dict[str, Any] = {"product_id": product_id, "quantity": quantity}
    # With the product locked, nobody else places the same order meanwhile.
    price = locked_price(connection, product_id)
    of_nonce = sa.select(orders).where(orders.c.owner_id == owner_id, orders.c.nonce == nonce)
    first = connection.execute(of_nonce).mappings().one_or_none()
    if first is not None:
        order = Order(**first)
        check_same(owner_id, nonce, recorded=asdict(order), given=given)
        return order, True
    take(connection, product_id, quantity)
    holding = PlaceHold(
        EcommerceOperation.PURCHASE,
        owner_id,
        own_nonce("order", nonce),
        price * quantity,
        expires_in=RESERVED,
        metadata=given,
    )
    # Of two products that are ordered under one nonce at once the second is refused by the ledger,
    # which finds another amount, or else other metadata.
    with _naming(nonce):
        hold = ledger.post_in(connection, holding).hold
    placed = sa.insert(orders).values(
        owner_id=owner_id,
        nonce=nonce,
        price=price,
        state="open",
        shipped=0,
        refunded=0,
        hold_id=hold.id,
        created_on=hold.created_on,
        expires_on=hold.expires_on,
        **given,
    )
    return Order(**connection.execute(placed.returning(orders)).mappings().one()), False


def settle(connection: Connection, order_id: int) -> None:
    """End an order whose hold has expired, if it has."""
    expire(connection, orders.c.id == order_id)


def find(connection: Connection, order_id: int, *, owner_id: str | None = None) -> Order:
    """Return an order, of this owner if one is named; raise ``OrderNotFound`` if there is none."""
    settle(connection, order_id)
    return _found(connection, sa.select(orders), order_id, owner_id)


def of_owner(
    connection: Connection, owner_id: str, *, limit: int, before: int | None
) -> tuple[list[Order], bool]:
    """Return an owner's last orders, and whether there are more.

    ``before`` is the id that the page before ended with.
    """
    page = sa.select(orders).where(orders.c.owner_id == owner_id)
    page = page.order_by(orders.c.id.desc()).limit(limit + 1)
    if before is not None:
        page = page.where(orders.c.id < before)
    expire(connection, orders.c.id.in_(page.with_only_columns(orders.c.id)))
    found = [Order(**row) for row in connection.execute(page).mappings()]
    return found[:limit], len(found) > limit


def ship(
    connection: Connection, ledger: EcommerceLedger, order_id: int, *, quantity: int | None = None
) -> tuple[Order, bool]:
    """Take the credits for what is shipped: all, or ``quantity``; the rest is free again.

    Tells whether that had been done before.

    Raises
    ------
    OrderNotFound
        If there is no such order.
    InvalidPosting
        If more are to be shipped than were ordered.
    OrderClosed
        If it was cancelled, or shipped in another quantity.
    HoldExpired
        If it was not shipped in time.
    """
    order = _locked(connection, order_id)
    shipped = order.quantity if quantity is None else quantity
    if shipped > order.quantity:
        raise InvalidPosting("quantity", f"is more than the {order.quantity} that were ordered")
    if order.state == "shipped" and order.shipped == shipped:
        return order, True
    _check_open(order)
    # Before the account is locked: see ``stock``.
    if shipped < order.quantity:
        put_back(connection, order.product_id, order.quantity - shipped)
    entry = ledger.post_in(
        connection,
        CaptureHold(order.hold_id, own_nonce("ship", order.id), shipped * order.price),
    ).entry
    ended = {"state": "shipped", "closed_on": entry.created_on}
    return _changed(connection, order, shipped=shipped, entry_id=entry.id, **ended), False


def cancel(
    connection: Connection, ledger: EcommerceLedger, order_id: int, *, owner_id: str | None = None
) -> tuple[Order, bool]:
    """Give back the credits and the stock that are reserved for an order, of this owner if named.

    Tells whether that had been done before.

    Raises
    ------
    OrderNotFound
        If there is no such order.
    OrderClosed
        If it was shipped.
    HoldExpired
        If it has expired.
    """
    order = _locked(connection, order_id, owner_id)
    if order.state == "cancelled":
        return order, True
    _check_open(order)
    put_back(connection, order.product_id, order.quantity)
    released = ledger.post_in(connection, ReleaseHold(order.hold_id, own_nonce("cancel", order.id)))
    ended = {"state": "cancelled", "closed_on": released.hold.closed_on}
    return _changed(connection, order, **ended), False


def refund(
    connection: Connection,
    ledger: EcommerceLedger,
    order_id: int,
    *,
    amount: int | None = None,
    nonce: str,
) -> tuple[Order, Posted]:
    """Give back what was paid for an order, all that is left of it or ``amount`` credits.

    They go back to the grants that paid. Returns the order, and the entry.

    Raises
    ------
    OrderNotFound
        If there is no such order.
    OrderNotShipped
        If nothing was paid for it.
    RefundExceedsPayment
        If that is more than was paid and not refunded.
    NonceReused
        If the nonce refunded another amount of this order.
    """
    order = _locked(connection, order_id)
    if order.entry_id is None:
        raise OrderNotShipped(order.id, state=order.state)
    refunding = Reversal(
        order.entry_id,
        own_nonce("refund", f"{order.id}:{nonce}"),
        amount,
        operation=EcommerceOperation.REFUND_ITEM,
    )
    try:
        with _naming(nonce):
            posted = ledger.post_in(connection, refunding)
    except ReversalExceedsEntry as refusal:
        raise RefundExceedsPayment(
            order.id,
            paid=order.paid,
            refunded=order.paid - refusal.left,
            required=refusal.required,
        ) from None
    if posted.replayed:
        return order, posted
    return _changed(connection, order, refunded=order.refunded + posted.entry.amount), posted


@contextmanager
def _naming(nonce: str) -> Iterator[None]:
    """Let a refusal name the nonce as the caller does."""
    try:
        yield
    except NonceReused as refusal:
        raise NonceReused(
            refusal.owner_id,
            nonce,
            field=refusal.field,
            recorded=refusal.recorded,
            given=refusal.given,
        ) from None


def _locked(connection: Connection, order_id: int, owner_id: str | None = None) -> Order:
    """Return an order that nobody else changes until the transaction ends."""
    return _found(connection, sa.select(orders).with_for_update(), order_id, owner_id)


def _found(
    connection: Connection, chosen: sa.Select[Any], order_id: int, owner_id: str | None
) -> Order:
    chosen = chosen.where(orders.c.id == order_id)
    if owner_id is not None:
        chosen = chosen.where(orders.c.owner_id == owner_id)
    row = connection.execute(chosen).mappings().one_or_none()
    if row is None:
        raise OrderNotFound(order_id)
    return Order(**row)


def _check_open(order: Order) -> None:
    if order.state == "expired":
        raise HoldExpired(order.hold_id, expires_on=order.expires_on)
    if order.state != "open":
        raise OrderClosed(order.id, state=order.state, shipped=order.shipped)


def _changed(connection: Connection, order: Order, **values: Any) -> Order:
    """Return an order that is locked, with these columns changed."""
    change = sa.update(orders).where(orders.c.id == order.id).values(values).returning(orders)
    return Order(**connection.execute(change).mappings().one())
