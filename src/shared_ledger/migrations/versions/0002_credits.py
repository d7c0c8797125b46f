"""Holds, grants that expire, burns and budgets; the ledger's own operations.

Revision ID: 0002
Revises: 0001
Created on: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0002"
down_revision: str | None = "0001"
branch_labels = None
depends_on = None

IDENTIFIER = sa.Text(collation="C")
TIME = sa.DateTime(timezone=True)
NEW_OPERATIONS = ("TRANSFER", "REVERSAL", "EXPIRY")
NEW_ENTRY_COLUMNS = (
    ("held_after", sa.BigInteger),
    ("expiring_after", sa.BigInteger),
    ("effective_on", TIME),
    ("group_id", sa.BigInteger),
    ("reverses", sa.BigInteger),
    ("hold_id", sa.BigInteger),
    ("expires_on", TIME),
    ("priority", sa.SmallInteger),
)


def upgrade() -> None:
    schema = op.get_context().opts["book_schema"]
    # No row of entries is rewritten: new labels and nullable columns take no time at any size.
    for label in NEW_OPERATIONS:
        op.execute(f"alter type {schema}.operation add value if not exists '{label}'")
    for name, kind in NEW_ENTRY_COLUMNS:
        op.add_column("entries", sa.Column(name, kind), schema=schema)
    op.create_index(
        "entries_reverses_idx",
        "entries",
        ["reverses"],
        schema=schema,
        postgresql_where=sa.text("reverses is not null"),
    )
    op.add_column(
        "accounts",
        sa.Column("expiring", sa.BigInteger, nullable=False, server_default="0"),
        schema=schema,
    )
    op.add_column("accounts", sa.Column("due_on", TIME), schema=schema)
    op.add_column(
        "accounts",
        sa.Column("debt", sa.BigInteger, nullable=False, server_default="0"),
        schema=schema,
    )
    op.drop_constraint("accounts_floor_check", "accounts", schema=schema)
    for name, condition in (
        ("accounts_floor_check", "floor is null or posted - held >= floor - debt"),
        ("accounts_expiring_check", "expiring >= 0"),
        ("accounts_debt_check", "debt >= 0"),
    ):
        op.create_check_constraint(name, "accounts", condition, schema=schema)
    op.create_index(
        "accounts_due_idx",
        "accounts",
        ["due_on"],
        schema=schema,
        postgresql_where=sa.text("due_on is not null"),
    )
    _create_holds(schema)
    _create_grants(schema)
    op.create_table(
        "burns",
        sa.Column("entry_id", sa.BigInteger, nullable=False),
        sa.Column("grant_id", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("entry_id", "grant_id", name="burns_pkey"),
        schema=schema,
        comment="Which grants paid for which entry; negative: what it gave back.",
    )
    op.create_table(
        "budgets",
        sa.Column("spent", sa.BigInteger, nullable=False),
        sa.Column("after_id", sa.BigInteger, nullable=False),
        sa.Column("app", IDENTIFIER, nullable=False),
        sa.Column("operation", IDENTIFIER, nullable=False),
        sa.Column("period", IDENTIFIER, nullable=False),
        sa.PrimaryKeyConstraint("app", "operation", "period", name="budgets_pkey"),
        sa.CheckConstraint("spent >= 0", name="budgets_spent_check"),
        schema=schema,
        comment="What operations that have a budget have given, ever and on a UTC day.",
        postgresql_with={"fillfactor": 50},
    )


def _create_holds(schema: str) -> None:
    op.create_table(
        "holds",
        sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("captured", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("created_on", TIME, nullable=False),
        sa.Column("expires_on", TIME, nullable=False),
        sa.Column("closed_on", TIME),
        sa.Column("closed_by", sa.BigInteger),
        sa.Column(
            "operation",
            postgresql.ENUM(name="operation", schema=schema, create_type=False),
            nullable=False,
        ),
        sa.Column("state", IDENTIFIER, nullable=False, server_default="open"),
        sa.Column("app", IDENTIFIER, nullable=False),
        sa.Column("asset", IDENTIFIER, nullable=False),
        sa.Column("owner_id", IDENTIFIER, nullable=False),
        sa.Column("counterparty", IDENTIFIER, nullable=False),
        sa.Column("nonce", IDENTIFIER, nullable=False),
        sa.Column(
            "grant_ids", postgresql.ARRAY(sa.BigInteger), nullable=False, server_default="{}"
        ),
        sa.Column(
            "grant_amounts", postgresql.ARRAY(sa.BigInteger), nullable=False, server_default="{}"
        ),
        sa.PrimaryKeyConstraint("id", name="holds_pkey"),
        sa.CheckConstraint(
            "amount > 0 and captured between 0 and amount", name="holds_amount_check"
        ),
        sa.CheckConstraint(
            "state in ('open', 'captured', 'released', 'expired')", name="holds_state_check"
        ),
        sa.CheckConstraint("(state = 'open') = (closed_on is null)", name="holds_closed_check"),
        schema=schema,
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "holds_open_idx",
        "holds",
        ["owner_id", "asset", "expires_on"],
        schema=schema,
        postgresql_where=sa.text("state = 'open'"),
    )


def _create_grants(schema: str) -> None:
    op.create_table(
        "grants",
        sa.Column("id", sa.BigInteger, nullable=False),
        sa.Column("entry_id", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
        sa.Column("remaining", sa.BigInteger, nullable=False),
        sa.Column("expired", sa.BigInteger, nullable=False, server_default="0"),
        sa.Column("granted_on", TIME, nullable=False),
        sa.Column("expires_on", TIME, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False),
        sa.Column("app", IDENTIFIER, nullable=False),
        sa.Column("asset", IDENTIFIER, nullable=False),
        sa.Column("owner_id", IDENTIFIER, nullable=False),
        sa.PrimaryKeyConstraint("id", name="grants_pkey"),
        sa.CheckConstraint("remaining between 0 and amount", name="grants_remaining_check"),
        sa.CheckConstraint("expired >= 0", name="grants_expired_check"),
        schema=schema,
        postgresql_with={"fillfactor": 70},
    )
    op.create_index(
        "grants_live_idx",
        "grants",
        ["owner_id", "asset", "priority", "expires_on"],
        schema=schema,
        postgresql_where=sa.text("remaining > 0"),
    )
    op.create_index("grants_entry_idx", "grants", ["entry_id"], schema=schema)


def downgrade() -> None:
    schema = op.get_context().opts["book_schema"]
    # Nobody may use any of it between the look and the removal.
    op.execute(f"lock table {schema}.entries in share mode")
    used = op.get_bind().scalar(
        sa.text(
            f"select exists (select from {schema}.entries "
            f"where operation::text in ('TRANSFER', 'REVERSAL', 'EXPIRY') "
            f"or hold_id is not null or group_id is not null or reverses is not null "
            f"or expires_on is not null) "
            f"or exists (select from {schema}.budgets where spent > 0)"
        )
    )
    if used:
        from shared_ledger.errors import MigrationRefused

        raise MigrationRefused(
            "the downgrade would lose what entries say: there are holds, transfers, reversals, "
            "groups, credits that expire or budgets. Keep this revision"
        )
    for table in ("budgets", "burns", "grants", "holds"):
        op.drop_table(table, schema=schema)
    op.drop_index("accounts_due_idx", "accounts", schema=schema)
    for name in ("accounts_floor_check", "accounts_expiring_check", "accounts_debt_check"):
        op.drop_constraint(name, "accounts", schema=schema)
    for name in ("expiring", "due_on", "debt"):
        op.drop_column("accounts", name, schema=schema)
    op.create_check_constraint(
        "accounts_floor_check",
        "accounts",
        "floor is null or posted - held >= floor",
        schema=schema,
    )
    op.drop_index("entries_reverses_idx", "entries", schema=schema)
    for name, _ in NEW_ENTRY_COLUMNS:
        op.drop_column("entries", name, schema=schema)
