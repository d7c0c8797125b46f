"""Post inside the caller's own transaction: the same rules, with SQLAlchemy statements.

The caller's rows and the entry commit together or not at all. A refusal undoes nothing of the
caller's: all of it happens inside a savepoint. The accounts stay locked until the caller commits,
the system account included, which every other writer needs: commit soon.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.engine import Connection
from sqlalchemy.orm import Session

from shared_ledger.book import Account, AccountKey, ClaimKey, Entry, NonceKey, Outcome
from shared_ledger.decide import Book, Changes, Command, decide
from shared_ledger.errors import Refusal
from shared_ledger.schema import BookTables, select_entries
from shared_ledger.store import entry_of, utc


def post_within(executor: Connection | Session, tables: BookTables, command: Command) -> Outcome:
    """Decide and write one command in the executor's transaction; begins one if there is none."""
    connection = executor.connection() if isinstance(executor, Session) else executor
    with connection.begin_nested() as savepoint:
        book = _load(connection, tables, command)
        outcomes, changes = decide(book, [command])
        outcome = outcomes[0]
        if isinstance(outcome, Refusal) or not changes.entries:
            savepoint.rollback()
        else:
            _save(connection, tables, changes)
    return outcome


def _load(connection: Connection, tables: BookTables, command: Command) -> Book:
    accounts, entries = tables.accounts, tables.entries
    key: AccountKey = (command.owner_id, command.asset)
    lock = (
        sa.select(
            accounts.c.owner_id,
            accounts.c.asset,
            accounts.c.posted,
            accounts.c.held,
            accounts.c.floor,
            accounts.c.changed_on,
        )
        .where(accounts.c.owner_id == key[0], accounts.c.asset == key[1])
        .with_for_update(key_share=True)
    )
    row = connection.execute(lock).one_or_none()
    if row is None:
        # Opened before it is decided, so that two transactions that open it wait for each other
        # here; a refusal takes it back with the savepoint.
        connection.execute(
            postgresql.insert(accounts)
            .values(owner_id=key[0], asset=key[1], floor=0, changed_on=sa.func.clock_timestamp())
            .on_conflict_do_nothing()
        )
        row = connection.execute(lock).one()
    now, entry_id = connection.execute(
        sa.select(sa.func.clock_timestamp(), tables.entry_ids.next_value())
    ).one()
    found: dict[NonceKey, Entry] = {}
    recorded = connection.execute(
        select_entries(tables).where(
            entries.c.owner_id == command.owner_id,
            entries.c.app == command.app,
            entries.c.nonce == command.nonce,
        )
    ).one_or_none()
    if recorded is not None:
        found[command.owner_id, command.app, command.nonce] = entry_of(recorded)
    claims: dict[ClaimKey, str] = {}
    if command.once is not None:
        period = connection.execute(
            sa.select(sa.func.max(entries.c.period)).where(
                entries.c.owner_id == command.owner_id,
                entries.c.app == command.app,
                entries.c.operation == command.operation,
                entries.c.period.is_not(None),
            )
        ).scalar_one()
        if period is not None:
            claims[command.owner_id, command.app, command.operation] = period
    return Book(utc(now), [entry_id], {key: Account(*row)}, found, claims)


def _save(connection: Connection, tables: BookTables, changes: Changes) -> None:
    accounts, entries = tables.accounts, tables.entries
    entry = changes.entries[0]
    values: dict[str, Any] = {name: getattr(entry, name) for name in Entry.__struct_fields__}
    connection.execute(sa.insert(entries).values(values))
    for (owner_id, asset), posted in changes.posted.items():
        connection.execute(
            sa.update(accounts)
            .where(accounts.c.owner_id == owner_id, accounts.c.asset == asset)
            .values(posted=posted, version=accounts.c.version + 1, changed_on=entry.created_on)
        )
    for (owner_id, asset), gain in sorted(changes.system.items()):
        new = postgresql.insert(accounts).values(
            owner_id=owner_id, asset=asset, posted=gain, changed_on=entry.created_on
        )
        connection.execute(
            new.on_conflict_do_update(
                index_elements=[accounts.c.owner_id, accounts.c.asset],
                set_={
                    "posted": accounts.c.posted + new.excluded.posted,
                    "version": accounts.c.version + 1,
                    "changed_on": sa.func.greatest(accounts.c.changed_on, new.excluded.changed_on),
                },
            )
        )
