"""What an ``env.py`` calls: ``run_book`` for the book, ``run_application`` for an application.

An application's whole ``env.py`` is::

    from bookings import BOOKINGS, metadata
    from shared_ledger.migrations.environment import run_application

    run_application(BOOKINGS, target_metadata=metadata)

Its revisions live in its own folder and are counted in a table of its own, so applications migrate
independently of each other. The database is ``-x url=…``, else ``sqlalchemy.url`` of the
``alembic.ini``, else ``DATABASE_URL``, else the embedded one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from alembic import context
from sqlalchemy.engine import Connection

from shared_ledger.connections import Database, make_engine
from shared_ledger.migrations import migrate_book
from shared_ledger.migrations.operations import register_operations_hook
from shared_ledger.operations import Application
from shared_ledger.schema import DEFAULT_SCHEMA, VERSION_TABLE, book_tables


def run_book() -> None:
    """Run the book's own migrations, in the caller's transaction if it brought one."""
    schema = _schema()
    given: Connection | None = context.config.attributes.get("connection")
    if given is not None:
        _run_book(given, schema)
        return
    with _connected() as connection:
        connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        _run_book(connection, schema)
        connection.commit()


def _run_book(connection: Connection, schema: str) -> None:
    context.configure(
        connection=connection,
        target_metadata=book_tables(schema).metadata,
        version_table=VERSION_TABLE,
        version_table_schema=schema,
        include_schemas=True,
        include_name=lambda name, kind, _: kind != "schema" or name == schema,
        book_schema=schema,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_application(
    application: Application[Any], *, target_metadata: sa.MetaData | None = None
) -> None:
    """Run an application's migrations; the book is brought up to date first.

    ``revision --autogenerate`` compares the application's tables (``target_metadata``; those of
    other applications are left alone if they are not named ``<application>_…``) and its operations
    with the database, and writes the complete migration.
    """
    schema = _schema()
    register_operations_hook()
    names = set(target_metadata.tables) if target_metadata is not None else set()

    def own(name: str | None, kind: str, parents: Any) -> bool:
        if kind != "table" or name is None:
            return True
        qualified = parents["schema_qualified_table_name"]
        return qualified in names or name.startswith(f"{application.name}_")

    with _connected() as connection:
        migrate_book(connection, schema)
        connection.commit()
        context.configure(
            connection=connection,
            target_metadata=target_metadata if target_metadata is not None else sa.MetaData(),
            version_table=f"{application.name}_version",
            version_table_schema=schema,
            include_name=own,
            book_schema=schema,
            application=application,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


def _schema() -> str:
    given: str | None = context.config.attributes.get("schema")
    return given or os.environ.get("SHARED_LEDGER_SCHEMA") or DEFAULT_SCHEMA


@contextmanager
def _connected() -> Iterator[Connection]:
    url = context.get_x_argument(as_dictionary=True).get("url")
    url = url or context.config.get_main_option("sqlalchemy.url")
    with Database(url) as database:
        engine = make_engine(database.url)
        with engine.connect() as connection:
            yield connection
        engine.dispose()
