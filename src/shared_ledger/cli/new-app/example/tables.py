"""The application's own table; it lives in the book's schema."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

items = sa.Table(
    "example_items",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(always=True), primary_key=True),
    sa.Column("owner_id", sa.Text, nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("entry_id", sa.BigInteger, nullable=False, unique=True),
    sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
    sa.Column("cancelled_on", sa.DateTime(timezone=True)),
)
"""``entry_id`` is the entry that paid for the row; ``cancelled_on``, when that was undone."""
