"""The tables of a book: one PostgreSQL schema holds one book.

These SQLAlchemy tables are the one truth for the queries, for Alembic and for applications that
join the book with tables of their own. ``book_tables(schema)`` makes them for a schema's name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import (
    DDL,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Index,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
)
from sqlalchemy.dialects.postgresql import ARRAY, ENUM, JSONB

from shared_ledger.errors import ConfigurationError
from shared_ledger.operations import LEDGER_OPERATIONS, SHARED_OPERATION_VALUES

DEFAULT_SCHEMA = "ledger"
MAX_SCHEMAS = 64
"""Of how many books a process keeps tables and statements; those of others are made anew."""
REVISIONS = ("0001", "0002", "0003")
"""The book's migrations, oldest first; a test holds this against the migrations themselves."""

# No application has this table: theirs are named "<application>_version".
VERSION_TABLE = "version"
OPERATION_TYPE = "operation"
NONCE_INDEX = "entries_nonce_key"
CLAIM_INDEX = "entries_claim_key"
ENTRIES_ID_SEQUENCE = "entries_id_seq"

_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")

# PostgreSQL compares text by bytes in this collation: fastest, and in the order that Python sorts.
_IDENTIFIER = Text(collation="C")

APPEND_ONLY_FUNCTION = """
create or replace function {schema}.refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'entries are append-only: % is refused', tg_op
        using errcode = 'restrict_violation', hint = 'Post a reversal instead.';
end
$$
"""

# Statement triggers that never fire on INSERT: the hot path pays nothing for them.
APPEND_ONLY_TRIGGER = """
create trigger entries_append_only before update or delete or truncate on {schema}.entries
    for each statement execute function {schema}.refuse_change()
"""


ENTRY_COLUMNS = (
    "id",
    "app",
    "operation",
    "owner_id",
    "counterparty",
    "asset",
    "amount",
    "balance_after",
    "nonce",
    "created_on",
    "metadata",
    "period",
    "held_after",
    "expiring_after",
    "effective_on",
    "group_id",
    "reverses",
    "hold_id",
    "expires_on",
    "priority",
)
"""The columns of an entry in the order of the fields of ``book.Entry``."""

HOLD_COLUMNS = (
    "id",
    "app",
    "operation",
    "owner_id",
    "counterparty",
    "asset",
    "amount",
    "nonce",
    "created_on",
    "expires_on",
    "captured",
    "state",
    "closed_on",
    "closed_by",
    "grant_ids",
    "grant_amounts",
)
"""The columns of a hold in the order of the fields of ``book.Hold``, its grants in two arrays."""

BURN_COLUMNS = ("entry_id", "grant_id", "amount")

GRANT_COLUMNS = (
    "id",
    "entry_id",
    "app",
    "owner_id",
    "asset",
    "amount",
    "remaining",
    "priority",
    "granted_on",
    "expires_on",
    "expired",
)
"""The columns of a grant in the order of the fields of ``book.Grant``."""


@dataclass(frozen=True, slots=True)
class BookTables:
    """The tables of one book."""

    schema: str
    metadata: MetaData
    accounts: Table
    entries: Table
    holds: Table
    grants: Table
    burns: Table
    budgets: Table
    operations: Table
    users: Table
    api_keys: Table
    key_issues: Table
    entry_ids: Sequence


def checked_schema(name: str) -> str:
    """Return the name if it can be used without quoting anywhere.

    Raises
    ------
    ConfigurationError
        If it is not lower-case letters, digits and underscores.
    """
    if not _SCHEMA_NAME.fullmatch(name) or name.startswith("pg_"):
        raise ConfigurationError(
            f"the schema {name!r} is not a name of lower-case letters, digits and underscores"
        )
    return name


@lru_cache(maxsize=MAX_SCHEMAS)
def book_tables(schema: str = DEFAULT_SCHEMA) -> BookTables:
    """Return the tables of the book in this schema.

    Raises
    ------
    ConfigurationError
        If the schema's name is not lower-case letters, digits and underscores.
    """
    metadata = MetaData(schema=checked_schema(schema))
    operation = ENUM(
        *SHARED_OPERATION_VALUES,
        *LEDGER_OPERATIONS,
        name=OPERATION_TYPE,
        schema=schema,
        metadata=metadata,
    )
    accounts = Table(
        "accounts",
        metadata,
        Column("posted", BigInteger, nullable=False, server_default="0"),
        Column("held", BigInteger, nullable=False, server_default="0"),
        Column("floor", BigInteger),
        Column("version", BigInteger, nullable=False, server_default="0"),
        Column("changed_on", DateTime(timezone=True), nullable=False),
        Column("owner_id", _IDENTIFIER, nullable=False),
        Column("asset", _IDENTIFIER, nullable=False),
        # What of it will expire; nothing of it does before due_on.
        Column("expiring", BigInteger, nullable=False, server_default="0"),
        Column("due_on", DateTime(timezone=True)),
        # How far it may be below its floor. Only a reversal raises it.
        Column("debt", BigInteger, nullable=False, server_default="0"),
        PrimaryKeyConstraint("owner_id", "asset", name="accounts_pkey"),
        CheckConstraint(
            "floor is null or posted - held >= floor - debt", name="accounts_floor_check"
        ),
        CheckConstraint("held >= 0", name="accounts_held_check"),
        CheckConstraint("expiring >= 0", name="accounts_expiring_check"),
        CheckConstraint("debt >= 0", name="accounts_debt_check"),
        # Room on each page for the next version of its rows, so that no index changes.
        postgresql_with={"fillfactor": 50},
    )
    Index(
        "accounts_due_idx",
        accounts.c.due_on,
        postgresql_where=accounts.c.due_on.is_not(None),
    )
    entry_ids = Sequence(
        ENTRIES_ID_SEQUENCE, schema=schema, metadata=metadata, data_type=BigInteger
    )
    entries = Table(
        "entries",
        metadata,
        Column("id", BigInteger, nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("balance_after", BigInteger, nullable=False),
        Column("created_on", DateTime(timezone=True), nullable=False),
        Column("operation", operation, nullable=False),
        Column("app", _IDENTIFIER, nullable=False),
        Column("asset", _IDENTIFIER, nullable=False),
        Column("owner_id", _IDENTIFIER, nullable=False),
        Column("counterparty", _IDENTIFIER, nullable=False),
        Column("nonce", _IDENTIFIER, nullable=False),
        Column("period", _IDENTIFIER),
        # Without metadata it is SQL's null, and not the null of JSON.
        Column("metadata", JSONB(none_as_null=True)),
        # Nothing is stored for these in a plain posting.
        Column("held_after", BigInteger),
        Column("expiring_after", BigInteger),
        Column("effective_on", DateTime(timezone=True)),
        Column("group_id", BigInteger),
        Column("reverses", BigInteger),
        Column("hold_id", BigInteger),
        Column("expires_on", DateTime(timezone=True)),
        Column("priority", SmallInteger),
        # An owner's history in order; entries can be spread over nodes by owner.
        PrimaryKeyConstraint("owner_id", "asset", "id", name="entries_pkey"),
        # The nonce first: it decides nearly every comparison alone, and nonces that grow with time
        # are appended to the index instead of being spread over it (docs/decisions/0006).
        UniqueConstraint("nonce", "owner_id", "app", name=NONCE_INDEX),
        CheckConstraint("left(counterparty, 1) = '@'", name="entries_counterparty_check"),
    )
    Index(
        CLAIM_INDEX,
        entries.c.owner_id,
        entries.c.app,
        entries.c.operation,
        entries.c.period,
        unique=True,
        postgresql_where=entries.c.period.is_not(None),
    )
    # Ids grow as rows are appended, so a block range index finds an id at next to no cost.
    Index(
        "entries_id_idx",
        entries.c.id,
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 16, "autosummarize": "on"},
    )
    Index(
        "entries_reverses_idx",
        entries.c.reverses,
        postgresql_where=entries.c.reverses.is_not(None),
    )
    holds = Table(
        "holds",
        metadata,
        Column("id", BigInteger, nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("captured", BigInteger, nullable=False, server_default="0"),
        Column("created_on", DateTime(timezone=True), nullable=False),
        Column("expires_on", DateTime(timezone=True), nullable=False),
        Column("closed_on", DateTime(timezone=True)),
        Column("closed_by", BigInteger),
        Column("operation", operation, nullable=False),
        Column("state", _IDENTIFIER, nullable=False, server_default="open"),
        Column("app", _IDENTIFIER, nullable=False),
        Column("asset", _IDENTIFIER, nullable=False),
        Column("owner_id", _IDENTIFIER, nullable=False),
        Column("counterparty", _IDENTIFIER, nullable=False),
        Column("nonce", _IDENTIFIER, nullable=False),
        # The expiring credits that it reserves now, in the order they are spent.
        Column("grant_ids", ARRAY(BigInteger), nullable=False, server_default="{}"),
        Column("grant_amounts", ARRAY(BigInteger), nullable=False, server_default="{}"),
        PrimaryKeyConstraint("id", name="holds_pkey"),
        CheckConstraint("amount > 0 and captured between 0 and amount", name="holds_amount_check"),
        CheckConstraint(
            "state in ('open', 'captured', 'released', 'expired')", name="holds_state_check"
        ),
        CheckConstraint("(state = 'open') = (closed_on is null)", name="holds_closed_check"),
        postgresql_with={"fillfactor": 70},
    )
    Index(
        "holds_open_idx",
        holds.c.owner_id,
        holds.c.asset,
        holds.c.expires_on,
        postgresql_where=sa.text("state = 'open'"),
    )
    grants = Table(
        "grants",
        metadata,
        Column("id", BigInteger, nullable=False),
        Column("entry_id", BigInteger, nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("remaining", BigInteger, nullable=False),
        Column("expired", BigInteger, nullable=False, server_default="0"),
        Column("granted_on", DateTime(timezone=True), nullable=False),
        Column("expires_on", DateTime(timezone=True), nullable=False),
        Column("priority", SmallInteger, nullable=False),
        Column("app", _IDENTIFIER, nullable=False),
        Column("asset", _IDENTIFIER, nullable=False),
        Column("owner_id", _IDENTIFIER, nullable=False),
        PrimaryKeyConstraint("id", name="grants_pkey"),
        CheckConstraint("remaining between 0 and amount", name="grants_remaining_check"),
        CheckConstraint("expired >= 0", name="grants_expired_check"),
        postgresql_with={"fillfactor": 70},
    )
    # The live ones of an account, in the order they are spent.
    Index(
        "grants_live_idx",
        grants.c.owner_id,
        grants.c.asset,
        grants.c.priority,
        grants.c.expires_on,
        postgresql_where=grants.c.remaining > 0,
    )
    Index("grants_entry_idx", grants.c.entry_id)
    burns = Table(
        "burns",
        metadata,
        Column("entry_id", BigInteger, nullable=False),
        Column("grant_id", BigInteger, nullable=False),
        Column("amount", BigInteger, nullable=False),
        PrimaryKeyConstraint("entry_id", "grant_id", name="burns_pkey"),
        comment="Which grants paid for which entry; negative: what it gave back.",
    )
    budgets = Table(
        "budgets",
        metadata,
        Column("spent", BigInteger, nullable=False),
        # Entries with larger ids are counted; those of before the budget are not.
        Column("after_id", BigInteger, nullable=False),
        Column("app", _IDENTIFIER, nullable=False),
        Column("operation", _IDENTIFIER, nullable=False),
        Column("period", _IDENTIFIER, nullable=False),
        PrimaryKeyConstraint("app", "operation", "period", name="budgets_pkey"),
        CheckConstraint("spent >= 0", name="budgets_spent_check"),
        comment="What operations that have a budget have given, ever and on a UTC day.",
        postgresql_with={"fillfactor": 50},
    )
    operations = Table(
        "operations",
        metadata,
        Column("app", _IDENTIFIER, nullable=False),
        Column("operation", _IDENTIFIER, nullable=False),
        PrimaryKeyConstraint("app", "operation", name="operations_pkey"),
        comment="Which application may post which operation; kept by its migrations.",
    )
    users, api_keys, key_issues = _access_tables(metadata)
    for statement in (APPEND_ONLY_FUNCTION, APPEND_ONLY_TRIGGER):
        event.listen(
            entries,
            "after_create",
            DDL(statement.format(schema=schema).replace("%", "%%")),  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
        )
    return BookTables(
        schema=schema,
        metadata=metadata,
        accounts=accounts,
        entries=entries,
        holds=holds,
        grants=grants,
        burns=burns,
        budgets=budgets,
        operations=operations,
        users=users,
        api_keys=api_keys,
        key_issues=key_issues,
        entry_ids=entry_ids,
    )


def _access_tables(metadata: MetaData) -> tuple[Table, Table, Table]:
    """Make the tables of who may call."""
    users = Table(
        "users",
        metadata,
        Column("created_on", DateTime(timezone=True), nullable=False),
        Column("is_admin", Boolean, nullable=False, server_default=sa.false()),
        # In small letters: a name in other letters is the same name.
        Column("folded", _IDENTIFIER, nullable=False),
        Column("username", _IDENTIFIER, nullable=False),
        Column("password_hash", Text, nullable=False),
        PrimaryKeyConstraint("folded", name="users_pkey"),
        CheckConstraint("folded = lower(username)", name="users_folded_check"),
        comment="Who logs in; a user's name is the id of the account that he owns.",
    )
    api_keys = Table(
        "api_keys",
        metadata,
        Column("daily_budget", BigInteger),
        Column("created_on", DateTime(timezone=True), nullable=False),
        Column("rotated_on", DateTime(timezone=True)),
        Column("revoked_on", DateTime(timezone=True)),
        Column("previous_until", DateTime(timezone=True)),
        Column("id", _IDENTIFIER, nullable=False),
        Column("name", _IDENTIFIER, nullable=False),
        Column("created_by", _IDENTIFIER, nullable=False),
        # Null: every application, every operation.
        Column("app", _IDENTIFIER),
        Column("operations", ARRAY(_IDENTIFIER)),
        Column("digest", LargeBinary, nullable=False),
        # The secret of before a rotation, for as long as it still opens.
        Column("previous_digest", LargeBinary),
        PrimaryKeyConstraint("id", name="api_keys_pkey"),
        CheckConstraint("daily_budget >= 0", name="api_keys_budget_check"),
        CheckConstraint(
            "(previous_digest is null) = (previous_until is null)", name="api_keys_previous_check"
        ),
        comment="The keys of services; of a key's secret there is only a digest.",
    )
    key_issues = Table(
        "key_issues",
        metadata,
        Column("issued", BigInteger, nullable=False),
        Column("day", Date, nullable=False),
        Column("key_id", _IDENTIFIER, nullable=False),
        PrimaryKeyConstraint("key_id", "day", name="key_issues_pkey"),
        CheckConstraint("issued >= 0", name="key_issues_issued_check"),
        comment="What a key that has a daily budget gave to owners on a UTC day.",
        postgresql_with={"fillfactor": 50},
    )
    return users, api_keys, key_issues


def select_entries(tables: BookTables) -> sa.Select[*tuple[Any, ...]]:
    """Select entries, with the columns in the order of ``ENTRY_COLUMNS``."""
    # As text: the enum in the database knows labels of applications that this program does not.
    return sa.select(
        *(
            sa.cast(column, Text) if column.name == "operation" else column
            for column in (tables.entries.c[name] for name in ENTRY_COLUMNS)
        )
    )
