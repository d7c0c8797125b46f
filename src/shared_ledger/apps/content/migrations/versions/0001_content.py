"""The first tables: content, and who may read it."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_ledger_operations(
        "content",
        [
            "DAILY_REWARD",
            "SIGNUP_CREDIT",
            "CREDIT_SPEND",
            "CREDIT_ADD",
            "CONTENT_CREATION",
            "CONTENT_ACCESS",
            "CONTENT_EARNING",
        ],
    )
    op.create_table(
        "content_accesses",
        sa.Column("content_id", sa.BigInteger(), nullable=False),
        sa.Column("reader", sa.Text(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("content_id", "reader"),
    )
    op.create_table(
        "content_items",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("creator", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("price", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("price >= 0", name="content_items_price"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("entry_id"),
    )


def downgrade() -> None:
    op.drop_table("content_items")
    op.drop_table("content_accesses")
    op.remove_ledger_operations(
        "content",
        [
            "DAILY_REWARD",
            "SIGNUP_CREDIT",
            "CREDIT_SPEND",
            "CREDIT_ADD",
            "CONTENT_CREATION",
            "CONTENT_ACCESS",
            "CONTENT_EARNING",
        ],
    )
