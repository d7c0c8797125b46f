"""What is in stock: orders take it, and it goes back when they end without being shipped.

Nothing runs at the moment an order's hold expires. Whoever touches such an order, or needs what it
keeps out of stock, ends it first; whoever only looks sees the stock as if that had been done.

Locks are taken in one order: orders by id, then products by id, then accounts, which the ledger
locks in an order of its own. Whoever needs an account holds it until the transaction ends, and an
order that is placed needs its product's price before that: so the product comes before the account,
and since an order that ends tells which product it is of, the order comes before the product.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.sql.elements import ColumnElement

from shared_ledger.apps.ecommerce.tables import orders, products
from shared_ledger.service import ServiceRefusal

# Both so that the index of open orders serves: it is chosen for a state that the statement itself
# says, and looked up by a time that is asked for once, in a query of its own.
_OPEN = sa.literal("open", literal_execute=True)
_NOW = sa.select(sa.func.clock_timestamp()).scalar_subquery()
DUE = sa.and_(orders.c.state == _OPEN, orders.c.expires_on <= _NOW)
"""The orders that have not ended although the time of their hold is over."""

_IN_DUE = (
    sa.select(sa.func.coalesce(sa.func.sum(orders.c.quantity), 0))
    .where(DUE, orders.c.product_id == products.c.id)
    .scalar_subquery()
)
IN_STOCK = sa.cast(products.c.stock + _IN_DUE, sa.BigInteger).label("stock")
"""How many of a product can be ordered now: what due orders keep can be had, too."""


class OutOfStock(ServiceRefusal):
    """There is less of a product than ``required``."""

    code = "out_of_stock"

    def __init__(self, product_id: int, *, available: int, required: int) -> None:
        self.product_id = product_id
        self.available = available
        self.required = required

    def __str__(self) -> str:
        return (
            f"{self.available} are in stock of product {self.product_id}, {self.required} required"
        )


def take(connection: Connection, product_id: int, quantity: int) -> None:
    """Take so many out of the stock of a product that is locked.

    Raises
    ------
    OutOfStock
        If there are fewer, even when all that are due have been put back.
    """
    enough = (
        sa.update(products)
        .where(products.c.id == product_id, products.c.stock >= quantity)
        .values(stock=products.c.stock - quantity)
    )
    if connection.execute(enough).rowcount:
        return
    # Whoever has one of the orders locked may be waiting for the product: to wait for him would be
    # a deadlock.
    expire(connection, orders.c.product_id == product_id, skip_locked=True)
    if connection.execute(enough).rowcount:
        return
    left = sa.select(products.c.stock).where(products.c.id == product_id)
    raise OutOfStock(product_id, available=connection.execute(left).scalar_one(), required=quantity)


def put_back(connection: Connection, product_id: int, quantity: int) -> None:
    """Put so many into the stock of a product."""
    connection.execute(
        sa.update(products)
        .where(products.c.id == product_id)
        .values(stock=products.c.stock + quantity)
    )


def expire(
    connection: Connection, chosen: ColumnElement[bool], *, skip_locked: bool = False
) -> None:
    """End those of the chosen orders that are due, and put back what they kept out of stock.

    ``skip_locked`` leaves out those that another transaction has locked.
    """
    due = (
        sa.select(orders.c.id)
        .where(chosen, DUE)
        .order_by(orders.c.id)
        .with_for_update(skip_locked=skip_locked)
        .cte("due")
    )
    ended = (
        sa.update(orders)
        .where(orders.c.id == due.c.id)
        .values(state="expired", closed_on=orders.c.expires_on)
        .returning(orders.c.product_id, orders.c.quantity)
        .cte("ended")
    )
    returned = (
        sa.select(ended.c.product_id, sa.cast(sa.func.sum(ended.c.quantity), sa.BigInteger))
        .group_by(ended.c.product_id)
        .order_by(ended.c.product_id)
    )
    for product_id, quantity in connection.execute(returned).all():
        put_back(connection, product_id, quantity)
