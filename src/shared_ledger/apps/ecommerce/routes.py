"""The e-commerce application's routes, and who may call them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

from fastapi import APIRouter, Depends, Query
from sqlalchemy.engine import Connection

from shared_ledger.apps.ecommerce import orders, products
from shared_ledger.apps.ecommerce.bodies import (
    NewOrder,
    NewProduct,
    OrderChanged,
    Orders,
    OrderShown,
    ProductAdded,
    Products,
    ProductShown,
    Refund,
    Refunded,
    Shipment,
    StockChange,
    StockChanged,
)
from shared_ledger.apps.ecommerce.operations import EcommerceOperation
from shared_ledger.service import EVERYBODY, POST, READ, Call, Rights, RightsTable, called
from shared_ledger.service.authorisation import May
from shared_ledger.service.documentation import written_once
from shared_ledger.service.fields import Id, OwnerId

ShopCall = Annotated[Call[EcommerceOperation], Depends(called)]
Limit = Annotated[int, Query(ge=1, le=100, description="How many at most.")]
Cursor = Annotated[Id | None, Query(description="The one that the page before gave.")]

# Whoever sells: a key that is for something else has no business with what is sold.
SELL = Rights(user=May.NOT, service=May.SCOPE, administrator=May.ALL).posting("PURCHASE")

RIGHTS: RightsTable = {
    ("GET", "/products"): EVERYBODY,
    ("POST", "/products"): SELL,
    ("GET", "/products/{product_id}"): EVERYBODY,
    ("POST", "/products/{product_id}/stock"): SELL,
    ("GET", "/orders"): READ,
    ("POST", "/orders"): POST.posting("PURCHASE"),
    ("GET", "/orders/{order_id}"): READ,
    ("POST", "/orders/{order_id}/ship"): SELL,
    ("POST", "/orders/{order_id}/cancel"): SELL._replace(user=May.OWN),
    ("POST", "/orders/{order_id}/refund"): SELL.posting("REFUND_ITEM"),
}

WHOLE = Shipment()
"""What is meant where the body is left out."""

selling = APIRouter(tags=["products"])
buying = APIRouter(tags=["orders"])


@selling.get("/products")
def list_products(call: ShopCall, limit: Limit = 20, cursor: Cursor = None) -> Products:
    """Show what was added last, newest first."""
    with call.begin() as connection:
        found, more = products.newest(connection, limit=limit, before=cursor)
    return Products(
        products=[ProductShown.of(product) for product in found],
        cursor=found[-1].id if more else None,
    )


@selling.post("/products", status_code=201, responses=written_once(ProductAdded))
def add_product(body: NewProduct, call: ShopCall) -> ProductAdded:
    """Add a product. The same SKU and body again answer 200 with the first; another body, 409."""
    with call.begin() as connection:
        product, replayed = products.add(
            connection, sku=body.sku, title=body.title, price=body.price, stock=body.stock
        )
    return call.written(ProductAdded.of(product, replayed=replayed))


@selling.get("/products/{product_id}")
def show_product(product_id: Id, call: ShopCall) -> ProductShown:
    """Show a product, and how many of it can be ordered now."""
    with call.begin() as connection:
        return ProductShown.of(products.find(connection, product_id))


@selling.post("/products/{product_id}/stock", status_code=201, responses=written_once(StockChanged))
def change_stock(product_id: Id, body: StockChange, call: ShopCall) -> StockChanged:
    """Put so many into stock, or take them out, once for each nonce; again answers 200.

    More than there are in stock cannot be taken out: 409, `out_of_stock`.
    """
    with call.begin() as connection:
        product, replayed = products.change_stock(
            connection, product_id, change=body.change, nonce=body.nonce
        )
    return call.written(StockChanged.of(product, change=body.change, replayed=replayed))


@buying.get("/orders")
def list_orders(
    call: ShopCall,
    owner_id: Annotated[OwnerId | None, Query()] = None,
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Orders:
    """Show an owner's last orders, newest first; a service says whose."""
    whose = owner_id if owner_id is not None and call.sees_all() else call.owner(owner_id)
    with call.begin() as connection:
        found, more = orders.of_owner(connection, whose, limit=limit, before=cursor)
    return Orders(
        orders=[OrderShown.of(order) for order in found], cursor=found[-1].id if more else None
    )


@buying.post("/orders", status_code=201, responses=written_once(OrderChanged))
def place_order(body: NewOrder, call: ShopCall) -> OrderChanged:
    """Order so many of a product: they and their price in credits are reserved for 30 days.

    The same nonce and body again answer 200 with the first order.
    """
    with call.begin() as connection:
        order, replayed = orders.place(
            connection,
            call.ledger,
            owner_id=call.owner(body.owner_id),
            product_id=body.product_id,
            quantity=body.quantity,
            nonce=body.nonce,
        )
    if replayed:
        # It may have expired since. Not in the transaction above, which has locked the product.
        with call.begin() as connection:
            order = orders.find(connection, order.id)
    return call.written(OrderChanged.of(order, replayed=replayed))


@buying.get("/orders/{order_id}")
def show_order(order_id: Id, call: ShopCall) -> OrderShown:
    """Show an order, to its owner and to services."""
    with call.begin() as connection:
        order = orders.find(connection, order_id, owner_id=_whose(call))
    return OrderShown.of(order)


@buying.post("/orders/{order_id}/ship", status_code=201, responses=written_once(OrderChanged))
def ship_order(order_id: Id, call: ShopCall, body: Shipment = WHOLE) -> OrderChanged:
    """Take the credits for what is shipped: all, or fewer; the same again answers 200.

    What is not shipped goes back to stock, and its credits to the owner. After 30 days it is 409,
    `hold_expired`.
    """
    with _settled(call, order_id) as connection:
        order, replayed = orders.ship(connection, call.ledger, order_id, quantity=body.quantity)
    return call.written(OrderChanged.of(order, replayed=replayed))


@buying.post("/orders/{order_id}/cancel", status_code=201, responses=written_once(OrderChanged))
def cancel_order(order_id: Id, call: ShopCall) -> OrderChanged:
    """Cancel an order that is not shipped: its credits are not reserved any more.

    Again answers 200.
    """
    with _settled(call, order_id) as connection:
        order, replayed = orders.cancel(connection, call.ledger, order_id, owner_id=_whose(call))
    return call.written(OrderChanged.of(order, replayed=replayed))


@buying.post("/orders/{order_id}/refund", status_code=201, responses=written_once(Refunded))
def refund_order(order_id: Id, body: Refund, call: ShopCall) -> Refunded:
    """Give back what was paid for an order, in parts too, once for each nonce; again answers 200.

    More than was paid is not given back: 409, `refund_exceeds_payment`.
    """
    with _settled(call, order_id) as connection:
        order, posted = orders.refund(
            connection, call.ledger, order_id, amount=body.amount, nonce=body.nonce
        )
    return call.written(
        Refunded(
            order=OrderShown.of(order),
            amount=posted.entry.amount,
            entry_id=posted.entry.id,
            replayed=posted.replayed,
        )
    )


@contextmanager
def _settled(call: ShopCall, order_id: int) -> Iterator[Connection]:
    """Begin a transaction after the order has ended, if it was due.

    In one before it, because a refusal undoes what its own transaction did.
    """
    with call.begin() as connection:
        orders.settle(connection, order_id)
    with call.begin() as connection:
        yield connection


def _whose(call: ShopCall) -> str | None:
    """Tell whose orders the caller may see; ``None`` is everybody's."""
    return None if call.sees_all() else call.caller.name
