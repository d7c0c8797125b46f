"""Who may call: users, the keys of services, and what a key issued on a day.

Revision ID: 0003
Revises: 0002
Created on: 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0003"
down_revision: str | None = "0002"
branch_labels = None
depends_on = None

IDENTIFIER = sa.Text(collation="C")
TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    schema = op.get_context().opts["book_schema"]
    op.create_table(
        "users",
        sa.Column("created_on", TIME, nullable=False),
        sa.Column("is_admin", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("folded", IDENTIFIER, nullable=False),
        sa.Column("username", IDENTIFIER, nullable=False),
        sa.Column("password_hash", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("folded", name="users_pkey"),
        sa.CheckConstraint("folded = lower(username)", name="users_folded_check"),
        schema=schema,
        comment="Who logs in; a user's name is the id of the account that he owns.",
    )
    op.create_table(
        "api_keys",
        sa.Column("daily_budget", sa.BigInteger),
        sa.Column("created_on", TIME, nullable=False),
        sa.Column("rotated_on", TIME),
        sa.Column("revoked_on", TIME),
        sa.Column("previous_until", TIME),
        sa.Column("id", IDENTIFIER, nullable=False),
        sa.Column("name", IDENTIFIER, nullable=False),
        sa.Column("created_by", IDENTIFIER, nullable=False),
        sa.Column("app", IDENTIFIER),
        sa.Column("operations", postgresql.ARRAY(IDENTIFIER)),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("previous_digest", sa.LargeBinary),
        sa.PrimaryKeyConstraint("id", name="api_keys_pkey"),
        sa.CheckConstraint("daily_budget >= 0", name="api_keys_budget_check"),
        sa.CheckConstraint(
            "(previous_digest is null) = (previous_until is null)", name="api_keys_previous_check"
        ),
        schema=schema,
        comment="The keys of services; of a key's secret there is only a digest.",
    )
    op.create_table(
        "key_issues",
        sa.Column("issued", sa.BigInteger, nullable=False),
        sa.Column("day", sa.Date, nullable=False),
        sa.Column("key_id", IDENTIFIER, nullable=False),
        sa.PrimaryKeyConstraint("key_id", "day", name="key_issues_pkey"),
        sa.CheckConstraint("issued >= 0", name="key_issues_issued_check"),
        schema=schema,
        comment="What a key that has a daily budget gave to owners on a UTC day.",
        postgresql_with={"fillfactor": 50},
    )


def downgrade() -> None:
    schema = op.get_context().opts["book_schema"]
    # Nobody may register between the look and the removal.
    op.execute(f"lock table {schema}.users, {schema}.api_keys in share mode")
    used = op.get_bind().scalar(
        sa.text(
            f"select exists (select from {schema}.users) or exists (select from {schema}.api_keys)"
        )
    )
    if used:
        from shared_ledger.errors import MigrationRefused

        raise MigrationRefused(
            "the downgrade would lose users or the keys of services. Keep this revision"
        )
    for table in ("key_issues", "api_keys", "users"):
        op.drop_table(table, schema=schema)
