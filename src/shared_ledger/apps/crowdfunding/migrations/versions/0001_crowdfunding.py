"""The first tables of Satoshi Spark: those of its contexts, and of the simulated node."""

from collections.abc import Sequence

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision: str = "0001"
down_revision: str | None = None
branch_labels: Sequence[str] | None = None
depends_on: Sequence[str] | None = None


def upgrade() -> None:
    op.add_ledger_operations(
        "crowdfunding",
        [
            "DAILY_REWARD",
            "SIGNUP_CREDIT",
            "CREDIT_SPEND",
            "CREDIT_ADD",
            "DEPOSIT",
            "WITHDRAWAL",
            "WITHDRAWAL_FEE",
            "DONATION",
            "DONATION_RECEIVED",
            "DONATION_RETURNED",
            "DONATION_REFUND",
            "PAYOUT",
            "PAYOUT_RECEIVED",
        ],
    )
    _make_accounting()
    _make_auth()
    _make_bitcoin()
    _make_campaigns()
    _make_dashboard()
    _make_sim()


def _make_accounting() -> None:
    op.create_table(
        "crowdfunding_accounting_accounts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_table(
        "crowdfunding_accounting_inbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "received_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "available_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(collation="C"), server_default="new", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("handled_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'handled') = (handled_on is not null)",
            name="crowdfunding_accounting_inbox_handled_check",
        ),
        sa.CheckConstraint(
            "state in ('new', 'handled', 'dead', 'dropped')",
            name="crowdfunding_accounting_inbox_state_check",
        ),
        sa.PrimaryKeyConstraint("message_id", name="crowdfunding_accounting_inbox_pkey"),
        comment="What a context was told; each once, and handled with its effect or not at all.",
    )
    op.create_index(
        "crowdfunding_accounting_inbox_failed_idx",
        "crowdfunding_accounting_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead') and attempts > 0"),
    )
    op.create_index(
        "crowdfunding_accounting_inbox_line_idx",
        "crowdfunding_accounting_inbox",
        ["key", "position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead')"),
    )
    op.create_index(
        "crowdfunding_accounting_inbox_new_idx",
        "crowdfunding_accounting_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state = 'new'"),
    )
    op.create_table(
        "crowdfunding_accounting_outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_on", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", name="crowdfunding_accounting_outbox_message_key"),
        comment="What a context told others, in the transaction that changed its tables.",
    )
    op.create_index(
        "crowdfunding_accounting_outbox_unpublished_idx",
        "crowdfunding_accounting_outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("published_on is null"),
    )
    op.create_table(
        "crowdfunding_accounting_reservations",
        sa.Column("payment_hash", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("amount_hold_id", sa.BigInteger(), nullable=False),
        sa.Column("fee_hold_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "state in ('held', 'captured', 'released')",
            name="crowdfunding_accounting_reservations_state",
        ),
        sa.PrimaryKeyConstraint("payment_hash"),
    )


def _make_auth() -> None:
    op.create_table(
        "crowdfunding_auth_accounts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("username", sa.Text(), nullable=False),
        sa.Column("registered_on", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_table(
        "crowdfunding_auth_inbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "received_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "available_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(collation="C"), server_default="new", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("handled_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'handled') = (handled_on is not null)",
            name="crowdfunding_auth_inbox_handled_check",
        ),
        sa.CheckConstraint(
            "state in ('new', 'handled', 'dead', 'dropped')",
            name="crowdfunding_auth_inbox_state_check",
        ),
        sa.PrimaryKeyConstraint("message_id", name="crowdfunding_auth_inbox_pkey"),
        comment="What a context was told; each once, and handled with its effect or not at all.",
    )
    op.create_index(
        "crowdfunding_auth_inbox_failed_idx",
        "crowdfunding_auth_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead') and attempts > 0"),
    )
    op.create_index(
        "crowdfunding_auth_inbox_line_idx",
        "crowdfunding_auth_inbox",
        ["key", "position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead')"),
    )
    op.create_index(
        "crowdfunding_auth_inbox_new_idx",
        "crowdfunding_auth_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state = 'new'"),
    )
    op.create_table(
        "crowdfunding_auth_outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_on", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", name="crowdfunding_auth_outbox_message_key"),
        comment="What a context told others, in the transaction that changed its tables.",
    )
    op.create_index(
        "crowdfunding_auth_outbox_unpublished_idx",
        "crowdfunding_auth_outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("published_on is null"),
    )


def _make_bitcoin() -> None:
    op.create_table(
        "crowdfunding_bitcoin_cursors",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("node_id"),
        comment="Up to where the settled invoices of a node are known.",
    )
    op.create_table(
        "crowdfunding_bitcoin_deposits",
        sa.Column("payment_hash", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("payment_request", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state in ('received', 'credited')) = (received > 0)",
            name="crowdfunding_bitcoin_deposits_received",
        ),
        sa.CheckConstraint(
            "state in ('open', 'received', 'credited', 'expired')",
            name="crowdfunding_bitcoin_deposits_state",
        ),
        sa.PrimaryKeyConstraint("payment_hash"),
    )
    op.create_index(
        "crowdfunding_bitcoin_deposits_account_idx",
        "crowdfunding_bitcoin_deposits",
        ["account_id"],
        unique=False,
    )
    op.create_index(
        "crowdfunding_bitcoin_deposits_due_idx",
        "crowdfunding_bitcoin_deposits",
        ["due_on"],
        unique=False,
        postgresql_where=sa.text("due_on IS NOT NULL"),
    )
    op.create_table(
        "crowdfunding_bitcoin_inbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "received_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "available_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(collation="C"), server_default="new", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("handled_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'handled') = (handled_on is not null)",
            name="crowdfunding_bitcoin_inbox_handled_check",
        ),
        sa.CheckConstraint(
            "state in ('new', 'handled', 'dead', 'dropped')",
            name="crowdfunding_bitcoin_inbox_state_check",
        ),
        sa.PrimaryKeyConstraint("message_id", name="crowdfunding_bitcoin_inbox_pkey"),
        comment="What a context was told; each once, and handled with its effect or not at all.",
    )
    op.create_index(
        "crowdfunding_bitcoin_inbox_failed_idx",
        "crowdfunding_bitcoin_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead') and attempts > 0"),
    )
    op.create_index(
        "crowdfunding_bitcoin_inbox_line_idx",
        "crowdfunding_bitcoin_inbox",
        ["key", "position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead')"),
    )
    op.create_index(
        "crowdfunding_bitcoin_inbox_new_idx",
        "crowdfunding_bitcoin_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state = 'new'"),
    )
    op.create_table(
        "crowdfunding_bitcoin_outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_on", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", name="crowdfunding_bitcoin_outbox_message_key"),
        comment="What a context told others, in the transaction that changed its tables.",
    )
    op.create_index(
        "crowdfunding_bitcoin_outbox_unpublished_idx",
        "crowdfunding_bitcoin_outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("published_on is null"),
    )
    op.create_table(
        "crowdfunding_bitcoin_withdrawals",
        sa.Column("payment_hash", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("payment_request", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("max_fee", sa.BigInteger(), nullable=False),
        sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fee", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("begun_on", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(due_on is not null) = (state in ('reserved', 'paying'))",
            name="crowdfunding_bitcoin_withdrawals_due",
        ),
        sa.CheckConstraint(
            "state in ('requested', 'reserved', 'paying', 'paid', 'succeeded', 'failing', "
            "'failed', 'refused')",
            name="crowdfunding_bitcoin_withdrawals_state",
        ),
        sa.PrimaryKeyConstraint("payment_hash"),
    )
    op.create_index(
        "crowdfunding_bitcoin_withdrawals_account_idx",
        "crowdfunding_bitcoin_withdrawals",
        ["account_id"],
        unique=False,
    )
    op.create_index(
        "crowdfunding_bitcoin_withdrawals_due_idx",
        "crowdfunding_bitcoin_withdrawals",
        ["due_on"],
        unique=False,
        postgresql_where=sa.text("due_on IS NOT NULL"),
    )


def _make_campaigns() -> None:
    op.create_table(
        "crowdfunding_campaigns",
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("creator_id", sa.Text(), nullable=False),
        sa.Column("creator_username", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("goal", sa.BigInteger(), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("total_raised", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("refund_batches", sa.BigInteger(), nullable=False),
        sa.Column("due_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "kind in ('keep_it_all', 'all_or_nothing')", name="crowdfunding_campaigns_kind"
        ),
        sa.CheckConstraint(
            "state in ('open', 'closing', 'paying_out', 'refunding', 'succeeded', 'failed', "
            "'ended')",
            name="crowdfunding_campaigns_state",
        ),
        sa.CheckConstraint(
            "goal >= 1 and total_raised >= 0", name="crowdfunding_campaigns_amounts"
        ),
        sa.PrimaryKeyConstraint("campaign_id"),
    )
    op.create_index(
        "crowdfunding_campaigns_due_idx",
        "crowdfunding_campaigns",
        ["due_on"],
        unique=False,
        postgresql_where=sa.text("due_on IS NOT NULL"),
    )
    op.create_index(
        "crowdfunding_campaigns_newest_idx",
        "crowdfunding_campaigns",
        ["created_on", "campaign_id"],
        unique=False,
    )
    op.create_table(
        "crowdfunding_campaigns_inbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "received_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "available_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(collation="C"), server_default="new", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("handled_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'handled') = (handled_on is not null)",
            name="crowdfunding_campaigns_inbox_handled_check",
        ),
        sa.CheckConstraint(
            "state in ('new', 'handled', 'dead', 'dropped')",
            name="crowdfunding_campaigns_inbox_state_check",
        ),
        sa.PrimaryKeyConstraint("message_id", name="crowdfunding_campaigns_inbox_pkey"),
        comment="What a context was told; each once, and handled with its effect or not at all.",
    )
    op.create_index(
        "crowdfunding_campaigns_inbox_failed_idx",
        "crowdfunding_campaigns_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead') and attempts > 0"),
    )
    op.create_index(
        "crowdfunding_campaigns_inbox_line_idx",
        "crowdfunding_campaigns_inbox",
        ["key", "position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead')"),
    )
    op.create_index(
        "crowdfunding_campaigns_inbox_new_idx",
        "crowdfunding_campaigns_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state = 'new'"),
    )
    op.create_table(
        "crowdfunding_campaigns_outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_on", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", name="crowdfunding_campaigns_outbox_message_key"),
        comment="What a context told others, in the transaction that changed its tables.",
    )
    op.create_index(
        "crowdfunding_campaigns_outbox_unpublished_idx",
        "crowdfunding_campaigns_outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("published_on is null"),
    )
    op.create_table(
        "crowdfunding_campaigns_donations",
        sa.Column("donation_id", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("donor_id", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint(
            "state in ('requested', 'registered', 'rejected', 'refunding', 'refunded')",
            name="crowdfunding_campaigns_donations_state",
        ),
        sa.CheckConstraint("amount >= 1", name="crowdfunding_campaigns_donations_amount"),
        sa.ForeignKeyConstraint(
            ["campaign_id"],
            ["crowdfunding_campaigns.campaign_id"],
        ),
        sa.PrimaryKeyConstraint("donation_id"),
    )
    op.create_index(
        "crowdfunding_campaigns_donations_state_idx",
        "crowdfunding_campaigns_donations",
        ["campaign_id", "state", "donation_id"],
        unique=False,
    )


def _make_dashboard() -> None:
    op.create_table(
        "crowdfunding_dashboard_accounts",
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("username", sa.Text(), nullable=True),
        sa.Column("balance", sa.BigInteger(), nullable=False),
        sa.Column("entry_id", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("account_id"),
    )
    op.create_table(
        "crowdfunding_dashboard_activity",
        sa.Column("entry_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("account_id", sa.Text(), nullable=False),
        sa.Column("operation", sa.Text(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("about", sa.Text(), nullable=False),
        sa.Column("created_on", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("entry_id"),
    )
    op.create_index(
        "crowdfunding_dashboard_activity_idx",
        "crowdfunding_dashboard_activity",
        ["account_id", "entry_id"],
        unique=False,
    )
    op.create_table(
        "crowdfunding_dashboard_campaigns",
        sa.Column("campaign_id", sa.Text(), nullable=False),
        sa.Column("creator_id", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("goal", sa.BigInteger(), nullable=False),
        sa.Column("deadline", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("total_raised", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("campaign_id"),
    )
    op.create_index(
        "crowdfunding_dashboard_campaigns_idx",
        "crowdfunding_dashboard_campaigns",
        ["creator_id", "deadline"],
        unique=False,
    )
    op.create_table(
        "crowdfunding_dashboard_inbox",
        sa.Column("position", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "received_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column(
            "available_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("state", sa.Text(collation="C"), server_default="new", nullable=False),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("handled_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(state = 'handled') = (handled_on is not null)",
            name="crowdfunding_dashboard_inbox_handled_check",
        ),
        sa.CheckConstraint(
            "state in ('new', 'handled', 'dead', 'dropped')",
            name="crowdfunding_dashboard_inbox_state_check",
        ),
        sa.PrimaryKeyConstraint("message_id", name="crowdfunding_dashboard_inbox_pkey"),
        comment="What a context was told; each once, and handled with its effect or not at all.",
    )
    op.create_index(
        "crowdfunding_dashboard_inbox_failed_idx",
        "crowdfunding_dashboard_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead') and attempts > 0"),
    )
    op.create_index(
        "crowdfunding_dashboard_inbox_line_idx",
        "crowdfunding_dashboard_inbox",
        ["key", "position"],
        unique=False,
        postgresql_where=sa.text("state in ('new', 'dead')"),
    )
    op.create_index(
        "crowdfunding_dashboard_inbox_new_idx",
        "crowdfunding_dashboard_inbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("state = 'new'"),
    )
    op.create_table(
        "crowdfunding_dashboard_outbox",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=True), nullable=False),
        sa.Column("message_id", sa.Uuid(), nullable=False),
        sa.Column("key", sa.Text(collation="C"), nullable=False),
        sa.Column("type", sa.Text(collation="C"), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("payload", postgresql.JSONB(astext_type=sa.Text()), nullable=False),
        sa.Column(
            "created_on",
            sa.DateTime(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.Column("published_on", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("message_id", name="crowdfunding_dashboard_outbox_message_key"),
        comment="What a context told others, in the transaction that changed its tables.",
    )
    op.create_index(
        "crowdfunding_dashboard_outbox_unpublished_idx",
        "crowdfunding_dashboard_outbox",
        ["id"],
        unique=False,
        postgresql_where=sa.text("published_on is null"),
    )


def _make_sim() -> None:
    op.create_table(
        "crowdfunding_sim_invoices",
        sa.Column("payment_hash", sa.Text(collation="C"), nullable=False),
        sa.Column("payment_request", sa.Text(), nullable=False),
        sa.Column("preimage", sa.LargeBinary(), nullable=False),
        sa.Column("is_own", sa.Boolean(), nullable=False),
        sa.Column("amount_msat", sa.BigInteger(), nullable=True),
        sa.Column("expires_on", sa.DateTime(timezone=True), nullable=False),
        sa.Column("received_msat", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("settle_index", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "(settle_index is null) = (received_msat = 0) and (is_own or settle_index is null)",
            name="crowdfunding_sim_invoices_settled",
        ),
        sa.CheckConstraint("amount_msat > 0", name="crowdfunding_sim_invoices_amount"),
        sa.PrimaryKeyConstraint("payment_hash"),
        sa.UniqueConstraint("settle_index"),
    )
    op.create_table(
        "crowdfunding_sim_node",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("outsider_key", sa.LargeBinary(), nullable=False),
        sa.Column("settle_index", sa.BigInteger(), server_default="0", nullable=False),
        sa.CheckConstraint("id = 1", name="crowdfunding_sim_node_only"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "crowdfunding_sim_payments",
        sa.Column("payment_hash", sa.Text(collation="C"), nullable=False),
        sa.Column("amount_msat", sa.BigInteger(), nullable=False),
        sa.Column("fee_msat", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(collation="C"), server_default="in_flight", nullable=False),
        sa.Column("outcome", sa.Text(collation="C"), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("resolves_on", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(outcome = 'hang') = (resolves_on is null)", name="crowdfunding_sim_payments_resolved"
        ),
        sa.CheckConstraint(
            "outcome in ('succeed', 'fail', 'hang')", name="crowdfunding_sim_payments_outcome"
        ),
        sa.CheckConstraint(
            "state in ('in_flight', 'succeeded', 'failed')", name="crowdfunding_sim_payments_state"
        ),
        sa.PrimaryKeyConstraint("payment_hash"),
    )
    op.create_table(
        "crowdfunding_sim_plans",
        sa.Column("payment_hash", sa.Text(collation="C"), nullable=False),
        sa.Column("outcome", sa.Text(collation="C"), nullable=False),
        sa.Column("lost", sa.Text(collation="C"), nullable=True),
        sa.Column("fee_msat", sa.BigInteger(), nullable=True),
        sa.Column("delay_s", sa.Double(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.CheckConstraint("lost in ('request', 'answer')", name="crowdfunding_sim_plans_lost"),
        sa.CheckConstraint(
            "outcome in ('succeed', 'fail', 'hang')", name="crowdfunding_sim_plans_outcome"
        ),
        sa.CheckConstraint("delay_s >= 0", name="crowdfunding_sim_plans_delay"),
        sa.CheckConstraint("fee_msat >= 0", name="crowdfunding_sim_plans_fee"),
        sa.PrimaryKeyConstraint("payment_hash"),
    )


def downgrade() -> None:
    for table in (
        "crowdfunding_campaigns_donations",
        "crowdfunding_sim_plans",
        "crowdfunding_sim_payments",
        "crowdfunding_sim_node",
        "crowdfunding_sim_invoices",
        "crowdfunding_dashboard_outbox",
        "crowdfunding_dashboard_inbox",
        "crowdfunding_dashboard_campaigns",
        "crowdfunding_dashboard_activity",
        "crowdfunding_dashboard_accounts",
        "crowdfunding_campaigns_outbox",
        "crowdfunding_campaigns_inbox",
        "crowdfunding_campaigns",
        "crowdfunding_bitcoin_withdrawals",
        "crowdfunding_bitcoin_outbox",
        "crowdfunding_bitcoin_inbox",
        "crowdfunding_bitcoin_deposits",
        "crowdfunding_bitcoin_cursors",
        "crowdfunding_auth_outbox",
        "crowdfunding_auth_inbox",
        "crowdfunding_auth_accounts",
        "crowdfunding_accounting_reservations",
        "crowdfunding_accounting_outbox",
        "crowdfunding_accounting_inbox",
        "crowdfunding_accounting_accounts",
    ):
        op.drop_table(table)
    op.remove_ledger_operations(
        "crowdfunding",
        [
            "DAILY_REWARD",
            "SIGNUP_CREDIT",
            "CREDIT_SPEND",
            "CREDIT_ADD",
            "DEPOSIT",
            "WITHDRAWAL",
            "WITHDRAWAL_FEE",
            "DONATION",
            "DONATION_RECEIVED",
            "DONATION_RETURNED",
            "DONATION_REFUND",
            "PAYOUT",
            "PAYOUT_RECEIVED",
        ],
    )
