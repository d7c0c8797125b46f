"""What can be done with products: add them, find them, and change how many are in stock.

Each takes the transaction it is part of.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from shared_ledger.apps.ecommerce.stock import IN_STOCK, put_back, take
from shared_ledger.apps.ecommerce.tables import products, stock_changes
from shared_ledger.service import ServiceRefusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What is sold: for ``price`` credits each, and ``stock`` of it can be ordered now."""

    id: int
    sku: str
    title: str
    price: int
    stock: int
    created_on: datetime


class ProductNotFound(ServiceRefusal):
    """There is no such product."""

    status = HTTPStatus.NOT_FOUND
    code = "product_not_found"

    def __init__(self, product_id: int) -> None:
        self.product_id = product_id

    def __str__(self) -> str:
        return f"there is no product {self.product_id}"


class SkuTaken(ServiceRefusal):
    """A product of this SKU was added with another body; ``field`` is the first that differs."""

    code = "sku_taken"

    def __init__(self, sku: str, *, field: str, recorded: object, given: object) -> None:
        self.sku = sku
        self.field = field
        self.recorded = recorded
        self.given = given

    def __str__(self) -> str:
        return (
            f"there is a product {self.sku!r} that was added with {self.field} {self.recorded!r}, "
            f"not {self.given!r}"
        )


class StockNonceReused(ServiceRefusal):
    """The nonce has changed the stock of this product by another number."""

    code = "nonce_reused_with_different_change"

    def __init__(self, product_id: int, nonce: str, *, recorded: int, given: int) -> None:
        self.product_id = product_id
        self.nonce = nonce
        self.field = "change"
        self.recorded = recorded
        self.given = given

    def __str__(self) -> str:
        return (
            f"nonce {self.nonce!r} was already used for product {self.product_id} "
            f"with change {self.recorded}, not {self.given}"
        )


_SHOWN = (
    products.c.id,
    products.c.sku,
    products.c.title,
    products.c.price,
    IN_STOCK,
    products.c.created_on,
)


def add(
    connection: Connection, *, sku: str, title: str, price: int, stock: int
) -> tuple[Product, bool]:
    """Add a product; tell whether that had been done before.

    Raises
    ------
    SkuTaken
        If the SKU has been added with another title, price or stock.
    """
    given: dict[str, Any] = {"title": title, "price": price, "first_stock": stock}
    added = connection.scalar(
        insert(products)
        .values(sku=sku, stock=stock, created_on=sa.func.clock_timestamp(), **given)
        .on_conflict_do_nothing(index_elements=["sku"])
        .returning(products.c.id)
    )
    if added is not None:
        return find(connection, added), False
    first = connection.execute(sa.select(products).where(products.c.sku == sku)).mappings().one()
    for column, value in given.items():
        if first[column] != value:
            field = "stock" if column == "first_stock" else column
            raise SkuTaken(sku, field=field, recorded=first[column], given=value)
    return find(connection, first["id"]), True


def find(connection: Connection, product_id: int) -> Product:
    """Return a product; raise ``ProductNotFound`` if there is none."""
    chosen = sa.select(*_SHOWN).where(products.c.id == product_id)
    row = connection.execute(chosen).mappings().one_or_none()
    if row is None:
        raise ProductNotFound(product_id)
    return Product(**row)


def newest(connection: Connection, *, limit: int, before: int | None) -> tuple[list[Product], bool]:
    """Return what was added last, and whether there is more.

    ``before`` is the id that the page before ended with.
    """
    chosen = sa.select(*_SHOWN).order_by(products.c.id.desc()).limit(limit + 1)
    if before is not None:
        chosen = chosen.where(products.c.id < before)
    found = [Product(**row) for row in connection.execute(chosen).mappings()]
    return found[:limit], len(found) > limit


def locked_price(connection: Connection, product_id: int) -> int:
    """Return the price of a product that nobody else changes until the transaction ends.

    Raises
    ------
    ProductNotFound
        If there is none.
    """
    chosen = sa.select(products.c.price).where(products.c.id == product_id)
    price: int | None = connection.scalar(chosen.with_for_update())
    if price is None:
        raise ProductNotFound(product_id)
    return price


def change_stock(
    connection: Connection, product_id: int, *, change: int, nonce: str
) -> tuple[Product, bool]:
    """Put so many into stock, or take them out (negative); tell whether that was done before.

    Raises
    ------
    ProductNotFound
        If there is none.
    OutOfStock
        If fewer are in stock than are to be taken.
    StockNonceReused
        If the nonce made another change of this product.
    """
    locked_price(connection, product_id)
    before = connection.scalar(
        sa.select(stock_changes.c.change).where(
            stock_changes.c.product_id == product_id, stock_changes.c.nonce == nonce
        )
    )
    if before is not None:
        if before != change:
            raise StockNonceReused(product_id, nonce, recorded=before, given=change)
        return find(connection, product_id), True
    if change < 0:
        take(connection, product_id, -change)
    else:
        put_back(connection, product_id, change)
    connection.execute(
        sa.insert(stock_changes).values(
            product_id=product_id,
            nonce=nonce,
            change=change,
            created_on=sa.func.clock_timestamp(),
        )
    )
    return find(connection, product_id), False
