"""The book: accounts, append-only entries, and the operations that applications may post.

Revision ID: 0001
Revises:
Created on: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels = None
depends_on = None

IDENTIFIER = sa.Text(collation="C")

# PostgreSQL keeps a function as it was written, so this has the margin that schema.py gives it.
REFUSE_CHANGE = """
create or replace function {schema}.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'entries are append-only: % is refused', tg_op
        using errcode = 'restrict_violation', hint = 'Post a reversal instead.';
end
$$
"""


def upgrade() -> None:
    schema = op.get_context().opts["book_schema"]
    op.create_table(
        "accounts",
        sa.Column("posted", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("held", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("floor", sa.BigInteger),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("changed_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("owner_id", IDENTIFIER, nullable=False),
        sa.Column("asset", IDENTIFIER, nullable=False),
        sa.PrimaryKeyConstraint("owner_id", "asset", name="accounts_pkey"),
        sa.CheckConstraint("floor is null or posted - held >= floor", name="accounts_floor_check"),
        sa.CheckConstraint("held >= 0", name="accounts_held_check"),
        schema=schema,
        postgresql_with={"fillfactor": 50},
    )
    op.execute(sa.schema.CreateSequence(sa.Sequence("entries_id_seq", schema=schema)))
    op.create_table(
        "entries",
        sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("balance_after", sa.BigInteger, nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column(
            "operation",
            postgresql.ENUM(
                "DAILY_REWARD",
                "SIGNUP_CREDIT",
                "CREDIT_SPEND",
                "CREDIT_ADD",
                name="operation",
                schema=schema,
            ),
            nullable=False,
        ),
        sa.Column("app", IDENTIFIER, nullable=False),
        sa.Column("asset", IDENTIFIER, nullable=False),
        sa.Column("owner_id", IDENTIFIER, nullable=False),
        sa.Column("counterparty", IDENTIFIER, nullable=False),
        sa.Column("nonce", IDENTIFIER, nullable=False),
        sa.Column("period", IDENTIFIER),
        sa.Column("metadata", postgresql.JSONB),
        sa.PrimaryKeyConstraint("owner_id", "asset", "id", name="entries_pkey"),
        sa.UniqueConstraint("nonce", "owner_id", "app", name="entries_nonce_key"),
        sa.CheckConstraint("left(counterparty, 1) = '@'", name="entries_counterparty_check"),
        schema=schema,
    )
    op.create_index(
        "entries_claim_key",
        "entries",
        ["owner_id", "app", "operation", "period"],
        unique=True,
        schema=schema,
        postgresql_where=sa.text("period is not null"),
    )
    op.create_index(
        "entries_id_idx",
        "entries",
        ["id"],
        schema=schema,
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 16, "autosummarize": "on"},
    )
    op.create_table(
        "operations",
        sa.Column("app", IDENTIFIER, nullable=False),
        sa.Column("operation", IDENTIFIER, nullable=False),
        sa.PrimaryKeyConstraint("app", "operation", name="operations_pkey"),
        schema=schema,
        comment="Which application may post which operation; kept by its migrations.",
    )
    # The application that the library itself brings.
    op.execute(
        f"""
        insert into {schema}.operations (app, operation)
        select 'shared', unnest(enum_range(null::{schema}.operation))
        """
    )
    op.execute(REFUSE_CHANGE.format(schema=schema))
    op.execute(
        f"""
        create trigger entries_append_only before update or delete or truncate on {schema}.entries
            for each statement execute function {schema}.refuse_change()
        """
    )


def downgrade() -> None:
    schema = op.get_context().opts["book_schema"]
    if op.get_bind().scalar(sa.text(f"select exists (select from {schema}.entries)")):
        from shared_ledger.errors import MigrationRefused

        raise MigrationRefused("the downgrade would delete the book, which holds entries")
    op.drop_table("operations", schema=schema)
    op.drop_table("entries", schema=schema)
    op.execute(f"drop function {schema}.refuse_change()")
    op.execute(f"drop type {schema}.operation")
    op.execute(f"drop sequence {schema}.entries_id_seq")
    op.drop_table("accounts", schema=schema)
