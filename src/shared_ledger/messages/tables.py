"""The two tables of a context's messages, and what the statements about them share.

They have no schema of their own: the engine says where they are, beside the book (see
``service.calls.application_engine``), and so does a migration that runs ``beside_book``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy import BigInteger, Column, DateTime, Identity, Index, Integer, MetaData, Table, Text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.sql.elements import TextClause

from shared_ledger.errors import ConfigurationError

_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,39}")
_IDENTIFIER = Text(collation="C")
_NOW = sa.text("clock_timestamp()")


@dataclass(frozen=True, slots=True)
class MessageTables:
    """The outbox and the inbox of one context."""

    prefix: str
    outbox: Table
    inbox: Table

    @property
    def outbox_channel(self) -> str:
        """What NOTIFY names when the outbox has something new."""
        return f"{self.prefix}_outbox"

    @property
    def inbox_channel(self) -> str:
        """What NOTIFY names when the inbox has something to do."""
        return f"{self.prefix}_inbox"


def message_tables(metadata: MetaData, prefix: str) -> MessageTables:
    """Make a context's ``<prefix>_outbox`` and ``<prefix>_inbox``.

    Raises
    ------
    ConfigurationError
        If names of tables and indexes cannot begin with the prefix.
    """
    if not _PREFIX.fullmatch(prefix):
        raise ConfigurationError(
            f"tables cannot be named {prefix!r}_…: 1 to 40 small letters, digits and underscores"
        )
    outbox = Table(
        f"{prefix}_outbox",
        metadata,
        # The order of publication.
        Column("id", BigInteger, Identity(always=True), primary_key=True),
        *_message_columns(),
        Column("created_on", DateTime(timezone=True), nullable=False, server_default=_NOW),
        Column("published_on", DateTime(timezone=True)),
        sa.UniqueConstraint("message_id", name=f"{prefix}_outbox_message_key"),
        comment="What a context told others, in the transaction that changed its tables.",
    )
    Index(
        f"{prefix}_outbox_unpublished_idx",
        outbox.c.id,
        postgresql_where=sa.text("published_on is null"),
    )
    inbox = Table(
        f"{prefix}_inbox",
        metadata,
        # The order of handling, among those of one key.
        Column("position", BigInteger, Identity(always=True), nullable=False),
        *_message_columns(),
        Column("received_on", DateTime(timezone=True), nullable=False, server_default=_NOW),
        Column("attempts", Integer, nullable=False, server_default="0"),
        Column("available_on", DateTime(timezone=True), nullable=False, server_default=_NOW),
        Column("state", _IDENTIFIER, nullable=False, server_default="new"),
        Column("error", Text),
        Column("handled_on", DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("message_id", name=f"{prefix}_inbox_pkey"),
        sa.CheckConstraint(
            "state in ('new', 'handled', 'dead', 'dropped')", name=f"{prefix}_inbox_state_check"
        ),
        sa.CheckConstraint(
            "(state = 'handled') = (handled_on is not null)", name=f"{prefix}_inbox_handled_check"
        ),
        comment="What a context was told; each once, and handled with its effect or not at all.",
    )
    # What is handled is in none of these: they stay as small as what is left to do.
    Index(f"{prefix}_inbox_new_idx", inbox.c.position, postgresql_where=sa.text("state = 'new'"))
    Index(
        f"{prefix}_inbox_line_idx",
        inbox.c.key,
        inbox.c.position,
        postgresql_where=sa.text("state in ('new', 'dead')"),
    )
    Index(
        f"{prefix}_inbox_failed_idx",
        inbox.c.position,
        postgresql_where=sa.text("state in ('new', 'dead') and attempts > 0"),
    )
    return MessageTables(prefix, outbox, inbox)


def _message_columns() -> list[Column[object]]:
    return [
        Column("message_id", sa.Uuid, nullable=False),
        Column("key", _IDENTIFIER, nullable=False),
        Column("type", _IDENTIFIER, nullable=False),
        Column("version", Integer, nullable=False),
        Column("payload", JSONB, nullable=False),
    ]


def book_of(connection: AsyncConnection) -> str:
    """Return the schema in which the connection has tables that name none."""
    sync = connection.sync_connection
    options: Mapping[str, Any] = {} if sync is None else sync.get_execution_options()
    schemas: Mapping[str | None, str] = options.get("schema_translate_map") or {}
    return schemas.get(None) or connection.dialect.default_schema_name or "public"


def about(connection: AsyncConnection, table: Table, text: str) -> TextClause:
    """Return a statement in which ``{table}`` is the table, where the connection has it."""
    return _statement(text, book_of(connection), table.name)


@lru_cache(maxsize=1_024)
def _statement(text: str, schema: str, table: str) -> TextClause:
    return sa.text(text.format(table=f'"{schema}"."{table}"'))
