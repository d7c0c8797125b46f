"""The content application's own tables; they live in the book's schema."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

items = sa.Table(
    "content_items",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("creator", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("body", sa.Text, nullable=False),
    sa.Column("price", sa.BigInteger, nullable=False),
    sa.Column("entry_id", sa.BigInteger, nullable=False, unique=True),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.CheckConstraint("price >= 0", name="content_items_price"),
)
"""What was created; ``entry_id`` is the entry that paid for it."""

accesses = sa.Table(
    "content_accesses",
    metadata,
    sa.Column("content_id", sa.BigInteger, primary_key=True),
    sa.Column("reader", sa.Text, primary_key=True),
    sa.Column("entry_id", sa.BigInteger, nullable=False),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
)
"""Who may read what: a row for each reader who was charged for it, once."""
