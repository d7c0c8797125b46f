"""The book's migrations, and what an application's own migrations need.

``migrate`` brings a book up to date from a program. A team that works with Alembic uses it as
usual: the book's own environment is this folder, and an application's ``env.py`` calls
``run_application`` from ``shared_ledger.migrations.environment``.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from shared_ledger.errors import (
    ConfigurationError,
    LedgerError,
    MigrationRefused,
    SchemaNotMigrated,
    SchemaTooNew,
)
from shared_ledger.operations import Application
from shared_ledger.schema import OPERATION_TYPE, REVISIONS, VERSION_TABLE, book_tables

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

HEAD = "head"
BASE = "base"

SCHEMA_ATTRIBUTE = "book_schema"
"""Tells an application's ``env.py`` which book it is for."""

# Alembic keeps the migration that runs in a global variable, one for all threads. An application's
# migration begins with the book's, in the same thread.
_one_at_a_time = threading.RLock()


def migrate(
    engine: Engine,
    schema: str,
    applications: Sequence[Application[Any]] = (),
    *,
    revision: str = HEAD,
) -> None:
    """Bring the book in this schema up to date, and make the applications' operations known.

    Safe to call from several processes and threads at once: they take turns.

    Raises
    ------
    SchemaTooNew
        If the book is at a revision that this program does not know.
    MigrationRefused
        If going back to ``revision`` would lose entries.
    """
    with engine.begin() as connection:
        migrate_book(connection, schema, revision=revision)
    for application in applications if revision != BASE else ():
        with engine.begin() as connection:
            add_operations(connection, schema, application.name, list(application.rules))


def migrate_book(connection: Connection, schema: str, *, revision: str = HEAD) -> None:
    """Bring the book up (or down) to a revision, inside the connection's transaction.

    Raises as ``migrate``.
    """
    take_turns(connection, schema)
    path = ("", *REVISIONS)
    ends = {BASE: "", HEAD: REVISIONS[-1]}
    if ends.get(revision, revision) not in path:
        raise ConfigurationError(f"the book has no revision {revision!r}: {', '.join(REVISIONS)}")
    current = revision_of(connection, schema) or ""
    if current not in path:
        raise SchemaTooNew(_too_new(schema, current))
    here, there = path.index(current), path.index(ends.get(revision, revision))
    if here == there:
        return

    from alembic.config import Config  # Takes a while to import; most programs never migrate.
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationStep
    from alembic.script import ScriptDirectory

    connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
    script = ScriptDirectory(str(Path(__file__).parent))
    step = (
        MigrationStep.upgrade_from_script if here < there else MigrationStep.downgrade_from_script
    )
    between = path[here + 1 : there + 1] if here < there else path[here:there:-1]
    # Not by Alembic's commands: those make `alembic.context` their own, and an application's
    # env.py, which may be what called this, still needs it.
    environment = EnvironmentContext(
        Config(),
        script,
        fn=lambda *_: [step(script.revision_map, script.get_revision(name)) for name in between],
    )
    environment.configure(
        connection=connection,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        book_schema=schema,
    )
    with _one_at_a_time:
        environment.run_migrations()


def migrate_application(url: str, schema: str, folder: Path) -> None:
    """Bring an application's own tables up to date; ``folder`` is its Alembic environment.

    Raises as ``migrate``.
    """
    from alembic import command
    from alembic.util.exc import CommandError

    config = _config(folder, url)
    config.attributes[SCHEMA_ATTRIBUTE] = schema
    try:
        with _one_at_a_time:
            command.upgrade(config, HEAD)
    except CommandError as error:
        # Alembic's command line knows no other errors.
        if isinstance(error.__cause__, LedgerError):
            raise error.__cause__ from None
        raise MigrationRefused(f"the migrations in {folder} failed: {error}") from error


def check_application(connection: Connection, schema: str, name: str, folder: Path) -> str:
    """Return the revision of the application's tables, if they are as this program has them.

    Raises
    ------
    SchemaNotMigrated
        If a migration of the application was not run yet.
    SchemaTooNew
        If they are at a revision that this program does not know.
    """
    from alembic.script import ScriptDirectory

    current = _recorded(connection, schema, f"{name}_version")
    script = ScriptDirectory(str(folder))
    check_known(script, name, current)
    head = script.get_current_head()
    if current != head:
        raise SchemaNotMigrated(
            f"the tables of {name} are at revision {current or BASE}, older than {head}: "
            "run `shared-ledger migrate`"
        )
    return current or BASE


def check_known(script: ScriptDirectory, name: str, current: str | None) -> None:
    """Raise ``SchemaTooNew`` if an application has no revision such as its tables are at."""
    if current is not None and current not in {each.revision for each in script.walk_revisions()}:
        raise SchemaTooNew(
            f"the tables of {name} are at revision {current}, which this version of it does not "
            f"know (it knows {script.get_current_head()}): upgrade the program"
        )


def _config(folder: Path, url: str) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return config


def take_turns(connection: Connection, schema: str) -> None:
    """Wait for other programs that migrate this schema; until the end of the transaction."""
    connection.execute(
        sa.text("select pg_advisory_xact_lock(hashtext(:lock))"), {"lock": f"migrate {schema}"}
    )


def add_operations(
    connection: Connection, schema: str, app: str, operations: Sequence[str]
) -> None:
    """Let an application post these operations; does nothing for those that it may already."""
    known = known_operations(connection, schema, app)
    table = book_tables(schema).operations
    for operation in operations:
        if operation in known:
            continue
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
    return _recorded(connection, schema, VERSION_TABLE)


def _recorded(connection: Connection, schema: str, table: str) -> str | None:
    # Not by to_regclass, which remembers from before ``take_turns`` that there is no such table.
    there = connection.scalar(
        sa.text(
            "select true from pg_class join pg_namespace on pg_namespace.oid = relnamespace "
            "where nspname = :schema and relname = :table"
        ),
        {"schema": schema, "table": table},
    )
    if not there:
        return None
    revision: str | None = connection.scalar(sa.text(f"select version_num from {schema}.{table}"))
    return revision


def check(connection: Connection, schema: str, application: Application[Any]) -> str:
    """Return the book's revision, if it is this program's and knows the application's operations.

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
        raise SchemaTooNew(_too_new(schema, revision))
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
    return revision


def _too_new(schema: str, revision: str) -> str:
    return (
        f"the book in the schema {schema!r} is at revision {revision}, which this version of "
        f"shared-ledger does not know (it knows {REVISIONS[-1]}): upgrade the program"
    )
