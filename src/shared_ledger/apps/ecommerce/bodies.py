"""What is sent to the e-commerce application's routes, and what they answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from shared_ledger.apps.ecommerce.operations import MAX_TOTAL
from shared_ledger.apps.ecommerce.tables import State
from shared_ledger.service.fields import (
    Body,
    Id,
    Line,
    Nonce,
    OwnerId,
    Quantity,
    Shown,
    Time,
    Written,
)

MAX_STOCK = 1_000_000_000

Number = Annotated[int, Field(examples=[1])]
Sku = Annotated[
    Line,
    Field(description="The seller's name for the product: unique.", examples=["mug-blue"]),
]
Title = Annotated[Line, Field(examples=["A blue mug"])]
Price = Annotated[Quantity, Field(description="In credits, of one.", examples=[3])]
Pieces = Annotated[Quantity, Field(description="How many.", examples=[2])]


def _change(number: int) -> int:
    if number == 0:
        raise ValueError("changes nothing: it is more than 0, or less")
    return number


class NewProduct(Body):
    """What is to be sold, and how many there are of it."""

    sku: Sku
    title: Title
    price: Price
    stock: Annotated[int, Field(ge=0, le=MAX_STOCK, examples=[100])]


class StockChange(Body):
    """How many come into stock, or are taken out of it (negative)."""

    change: Annotated[
        int, Field(ge=-MAX_STOCK, le=MAX_STOCK, examples=[-1]), AfterValidator(_change)
    ]
    nonce: Nonce


class NewOrder(Body):
    """What is ordered, and for whom: a service says that, a user orders for himself."""

    product_id: Annotated[Id, Field(examples=[1])]
    quantity: Pieces = 1
    nonce: Nonce
    owner_id: OwnerId | None = None


class Shipment(Body):
    """How many are shipped: all that were ordered if nothing is said."""

    quantity: Annotated[Quantity | None, Field(description="All if left out.", examples=[1])] = None


class Refund(Body):
    """How many credits are given back: all that were paid, and not refunded, if nothing is said."""

    amount: Annotated[
        int | None, Field(ge=1, le=MAX_TOTAL, description="The rest if left out.", examples=[3])
    ] = None
    nonce: Nonce


class ProductShown(Shown):
    """A product; ``stock`` is how many can be ordered now."""

    id: Number
    sku: Sku
    title: Title
    price: Price
    stock: Annotated[int, Field(examples=[98])]
    created_on: Time


class ProductAdded(ProductShown, Written):
    """A product that is sold now."""


class StockChanged(ProductShown, Written):
    """A product, and how its stock was changed."""

    change: Annotated[int, Field(examples=[-1])]


class Products(Shown):
    """A page of products; ``cursor`` fetches the next one, and is null in the last."""

    products: list[ProductShown]
    cursor: Annotated[int | None, Field(examples=[1])]


class OrderShown(Shown):
    """An order, for the ``price`` of when it was placed.

    ``hold_id`` reserves the credits until ``expires_on``; ``entry_id`` took what was ``paid`` for
    the ``shipped`` pieces.
    """

    id: Number
    owner_id: OwnerId
    nonce: Nonce
    product_id: Number
    quantity: Pieces
    price: Price
    state: Annotated[State, Field(examples=["open"])]
    shipped: Annotated[int, Field(examples=[0])]
    paid: Annotated[int, Field(examples=[0])]
    refunded: Annotated[int, Field(examples=[0])]
    hold_id: Annotated[int, Field(examples=[12])]
    entry_id: Annotated[int | None, Field(examples=[None])]
    created_on: Time
    expires_on: Annotated[Time, Field(examples=["2026-02-01T03:04:05.678901Z"])]
    closed_on: Annotated[Time | None, Field(examples=[None])]


class OrderChanged(OrderShown, Written):
    """An order that was placed, shipped or cancelled."""


class Orders(Shown):
    """A page of orders; ``cursor`` fetches the next one, and is null in the last."""

    orders: list[OrderShown]
    cursor: Annotated[int | None, Field(examples=[1])]


class Refunded(Written):
    """An order, and what was given back: by which entry, and how many credits."""

    order: OrderShown
    amount: Annotated[int, Field(examples=[3])]
    entry_id: Annotated[int, Field(examples=[14])]
