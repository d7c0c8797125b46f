"""The book's migrations, and what an application's own migrations need.

``migrate`` brings a book up to date from a program. A team that works with Alembic uses it as
usual: the book's own environment is this folder, and an application's ``env.py`` calls
``run_application`` from ``shared_ledger.migrations.environment``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from shared_ledger.errors import SchemaNotMigrated, SchemaTooNew
from shared_ledger.operations import Application
from shared_ledger.schema import OPERATION_TYPE, REVISIONS, VERSION_TABLE, book_tables

HEAD = "head"


def migrate(
    engine: Engine,
    schema: str,
    applications: Sequence[Application[Any]] = (),
    *,
    revision: str = HEAD,
) -> None:
    """Bring the book in this schema up to date, and make the applications' operations known.

    Safe to call from several processes at once: they take turns.
    """
    with engine.begin() as connection:
        migrate_book(connection, schema, revision=revision)
    for application in applications:
        with engine.begin() as connection:
            add_operations(connection, schema, application.name, list(application.rules))


def migrate_book(connection: Connection, schema: str, *, revision: str = HEAD) -> None:
    """Bring the book up (or down) to a revision, inside the connection's transaction."""
    from alembic import command  # Alembic takes a while to import; most programs never migrate.
    from alembic.config import Config

    # Two programs that start at once must not both create the tables.
    connection.execute(
        sa.text("select pg_advisory_xact_lock(hashtext(:lock))"), {"lock": f"migrate {schema}"}
    )
    connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
    config = Config(attributes={"connection": connection, "schema": schema})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    if revision in REVISIONS and revision_of(connection, schema) in REVISIONS:
        below = REVISIONS.index(revision) < REVISIONS.index(str(revision_of(connection, schema)))
        (command.downgrade if below else command.upgrade)(config, revision)
    elif revision == "base":
        command.downgrade(config, revision)
    else:
        command.upgrade(config, revision)


def add_operations(connection: Connection, schema: str, app: str, operations: list[str]) -> None:
    """Let an application post these operations; does nothing for those that it may already."""
    table = book_tables(schema).operations
    for operation in operations:
        # Takes no time at any size: a new label changes no row.
        connection.execute(
            sa.text(f"alter type {schema}.{OPERATION_TYPE} add value if not exists '{operation}'")
        )
        connection.execute(
            sa.text(
                f"insert into {table.fullname} (app, operation) values (:app, :operation) "
                "on conflict do nothing"
            ),
            {"app": app, "operation": operation},
        )


def known_operations(connection: Connection, schema: str, app: str) -> set[str]:
    """Return the operations that the book lets an application post."""
    table = book_tables(schema).operations
    return set(connection.scalars(sa.select(table.c.operation).where(table.c.app == app)))


def revision_of(connection: Connection, schema: str) -> str | None:
    """Return the revision of the book in this schema, ``None`` if there is no book."""
    name = f"{schema}.{VERSION_TABLE}"
    if connection.scalar(sa.text("select to_regclass(:name)"), {"name": name}) is None:
        return None
    revision: str | None = connection.scalar(sa.text(f"select version_num from {name}"))
    return revision


def check(connection: Connection, schema: str, application: Application[Any]) -> None:
    """Check that the book is at this program's revision and knows the application's operations.

    Raises
    ------
    SchemaNotMigrated
        If it is missing or older, or an operation is not known to it.
    SchemaTooNew
        If it is at a revision that this program does not know.
    """
    revision = revision_of(connection, schema)
    if revision is None:
        raise SchemaNotMigrated(
            f"there is no book in the schema {schema!r} of this database: "
            "run `shared-ledger migrate`"
        )
    if revision not in REVISIONS:
        raise SchemaTooNew(
            f"the book in the schema {schema!r} is at revision {revision}, which this version of "
            f"shared-ledger does not know (it knows {REVISIONS[-1]}): upgrade the program"
        )
    if revision != REVISIONS[-1]:
        raise SchemaNotMigrated(
            f"the book in the schema {schema!r} is at revision {revision}, older than "
            f"{REVISIONS[-1]}: run `shared-ledger migrate`"
        )
    missing = application.rules.keys() - known_operations(connection, schema, application.name)
    if missing:
        raise SchemaNotMigrated(
            f"the book does not know {', '.join(sorted(missing))} of {application.name}: "
            "run the application's migrations, or `shared-ledger migrate`"
        )
