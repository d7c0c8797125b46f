"""The e-commerce application's own tables; they live in the book's schema."""

from __future__ import annotations

from typing import Literal, get_args

import sqlalchemy as sa

State = Literal["open", "shipped", "cancelled", "expired"]
"""What an order is: open, until it ends in one of the other ways."""

metadata = sa.MetaData()

products = sa.Table(
    "ecommerce_products",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("sku", sa.Text, nullable=False, unique=True),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("price", sa.BigInteger, nullable=False),
    sa.Column("first_stock", sa.BigInteger, nullable=False),
    sa.Column("stock", sa.BigInteger, nullable=False),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("price >= 1", name="ecommerce_products_price"),
    sa.CheckConstraint("first_stock >= 0", name="ecommerce_products_first_stock"),
    sa.CheckConstraint("stock >= 0", name="ecommerce_products_stock"),
)
"""What is sold. ``stock`` is ``first_stock`` and all changes of it, without what is in orders."""

stock_changes = sa.Table(
    "ecommerce_stock_changes",
    metadata,
    sa.Column("product_id", sa.BigInteger, sa.ForeignKey(products.c.id), primary_key=True),
    sa.Column("nonce", sa.Text, primary_key=True),
    sa.Column("change", sa.BigInteger, nullable=False),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
)
"""What came into stock, or was taken out of it by others than orders."""

orders = sa.Table(
    "ecommerce_orders",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("owner_id", sa.Text, nullable=False),
    sa.Column("nonce", sa.Text, nullable=False),
    sa.Column("product_id", sa.BigInteger, sa.ForeignKey(products.c.id), nullable=False),
    sa.Column("quantity", sa.BigInteger, nullable=False),
    sa.Column("price", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("shipped", sa.BigInteger, nullable=False),
    sa.Column("refunded", sa.BigInteger, nullable=False),
    sa.Column("hold_id", sa.BigInteger, nullable=False, unique=True),
    sa.Column("entry_id", sa.BigInteger, unique=True),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("closed_on", sa.DateTime(timezone=True)),
    sa.UniqueConstraint("owner_id", "nonce"),
    sa.CheckConstraint("quantity >= 1", name="ecommerce_orders_quantity"),
    sa.CheckConstraint("price >= 1", name="ecommerce_orders_price"),
    sa.CheckConstraint(f"state in {get_args(State)}", name="ecommerce_orders_state"),
    sa.CheckConstraint("shipped between 0 and quantity", name="ecommerce_orders_shipped"),
    sa.CheckConstraint("refunded between 0 and shipped * price", name="ecommerce_orders_refunded"),
    sa.CheckConstraint(
        "(state = 'shipped') = (shipped > 0) and (state = 'shipped') = (entry_id is not null)",
        name="ecommerce_orders_paid",
    ),
    sa.CheckConstraint("(state = 'open') = (closed_on is null)", name="ecommerce_orders_closed"),
    sa.Index("ecommerce_orders_of_owner", "owner_id", "id"),
    sa.Index(
        "ecommerce_orders_open",
        "product_id",
        "expires_on",
        postgresql_where=sa.text("state = 'open'"),
    ),
)
"""Who ordered how many of what, at the ``price`` of then.

``hold_id`` reserves the credits until ``expires_on``; ``entry_id`` took them for the ``shipped``
pieces, of which ``refunded`` credits were given back.
"""
