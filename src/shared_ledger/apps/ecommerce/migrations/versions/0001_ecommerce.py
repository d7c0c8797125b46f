"""The first tables: products, changes of their stock, and orders."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_ledger_operations(
        "ecommerce",
        ["DAILY_REWARD", "SIGNUP_CREDIT", "CREDIT_SPEND", "CREDIT_ADD", "PURCHASE", "REFUND_ITEM"],
    )
    op.create_table(
        "ecommerce_products",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("sku", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("first_stock", sa.BigInteger(), nullable=False),
        sa.Column("stock", sa.BigInteger(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("first_stock >= 0", name="ecommerce_products_first_stock"),
        sa.CheckConstraint("price >= 1", name="ecommerce_products_price"),
        sa.CheckConstraint("stock >= 0", name="ecommerce_products_stock"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("sku"),
    )
    op.create_table(
        "ecommerce_orders",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("owner_id", sa.Text(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("quantity", sa.BigInteger(), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("shipped", sa.BigInteger(), nullable=False),
        sa.Column("refunded", sa.BigInteger(), nullable=False),
        sa.Column("hold_id", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=True),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'open') = (closed_on is null)", name="ecommerce_orders_closed"
        ),
        sa.CheckConstraint(
            "(state = 'shipped') = (shipped > 0) and (state = 'shipped') = (entry_id is not null)",
            name="ecommerce_orders_paid",
        ),
        sa.CheckConstraint(
            "state in ('open', 'shipped', 'cancelled', 'expired')", name="ecommerce_orders_state"
        ),
        sa.CheckConstraint("price >= 1", name="ecommerce_orders_price"),
        sa.CheckConstraint("quantity >= 1", name="ecommerce_orders_quantity"),
        sa.CheckConstraint(
            "refunded between 0 and shipped * price", name="ecommerce_orders_refunded"
        ),
        sa.CheckConstraint("shipped between 0 and quantity", name="ecommerce_orders_shipped"),
        sa.ForeignKeyConstraint(["product_id"], ["ecommerce_products.id"]),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("entry_id"),
        sa.UniqueConstraint("hold_id"),
        sa.UniqueConstraint("owner_id", "nonce"),
    )
    op.create_index(
        "ecommerce_orders_of_owner", "ecommerce_orders", ["owner_id", "id"], unique=False
    )
    op.create_index(
        "ecommerce_orders_open",
        "ecommerce_orders",
        ["product_id", "expires_on"],
        unique=False,
        postgresql_where=sa.text("state = 'open'"),
    )
    op.create_table(
        "ecommerce_stock_changes",
        sa.Column("product_id", sa.BigInteger(), nullable=False),
        sa.Column("nonce", sa.Text(), nullable=False),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["product_id"], ["ecommerce_products.id"]),
        sa.PrimaryKeyConstraint("product_id", "nonce"),
    )


def downgrade() -> None:
    op.drop_table("ecommerce_stock_changes")
    op.drop_index(
        "ecommerce_orders_open",
        table_name="ecommerce_orders",
        postgresql_where=sa.text("state = 'open'"),
    )
    op.drop_index("ecommerce_orders_of_owner", table_name="ecommerce_orders")
    op.drop_table("ecommerce_orders")
    op.drop_table("ecommerce_products")
    op.remove_ledger_operations(
        "ecommerce",
        ["DAILY_REWARD", "SIGNUP_CREDIT", "CREDIT_SPEND", "CREDIT_ADD", "PURCHASE", "REFUND_ITEM"],
    )
