"""What an ``env.py`` calls: ``run_book`` for the book, ``run_application`` for an application.

An application's whole ``env.py`` is::

    from bookings import BOOKINGS, metadata
    from shared_ledger.migrations.environment import run_application

    run_application(BOOKINGS, target_metadata=metadata)

Its revisions live in its own folder and are counted in a table of its own, so applications migrate
independently of each other. The database is ``-x url=…``, else ``sqlalchemy.url`` of the
``alembic.ini``, else ``DATABASE_URL``, else the embedded one; ``SHARED_LEDGER_SCHEMA`` names the
book's schema.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.util.exc import CommandError
from sqlalchemy.engine import Connection

from shared_ledger.connections import Database, make_engine
from shared_ledger.errors import LedgerError
from shared_ledger.migrations import SCHEMA_ATTRIBUTE, check_known, migrate_book, take_turns
from shared_ledger.migrations.operations import register_operations_hook
from shared_ledger.operations import Application
from shared_ledger.schema import DEFAULT_SCHEMA, VERSION_TABLE, BookTables, book_tables

MAX_NAME_WITH_KEY = 63 - len("_version_pkc")


def run_book() -> None:
    """Run the book's own migrations."""
    schema = _schema()
    tables = book_tables(schema).metadata

    with _connected() as connection:
        names = {table.name for table in tables.sorted_tables}

        def of_the_book(name: str | None, kind: str, _: Any) -> bool:
            if kind == "schema":
                return name == schema
            return kind != "table" or name in names

        take_turns(connection, schema)
        # What is in the default schema is compared without the schema's name. That may be the
        # book's, if it is that of the role or "public"; so make it another's.
        connection.execute(sa.text("set local search_path to pg_catalog"))
        connection.dialect.default_schema_name = "pg_catalog"
        connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        context.configure(
            connection=connection,
            target_metadata=tables,
            version_table=VERSION_TABLE,
            version_table_schema=schema,
            include_schemas=True,
            include_name=of_the_book,
            book_schema=schema,
        )
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


def run_application(
    application: Application[Any],
    *,
    target_metadata: sa.MetaData | None = None,
    beside_book: bool = False,
) -> None:
    """Run an application's migrations; the book is brought up to date first.

    ``beside_book`` says where tables without a schema of their own live: in the book's schema, and
    not in the database's default one.

    ``revision --autogenerate`` compares the application's tables and its operations with the
    database, and writes the complete migration. The application's tables are those of
    ``target_metadata`` and, in the same schemas, those named ``<application>_…``: a table of that
    name that is no longer in ``target_metadata`` is dropped. All others are left alone.
    """
    schema = _schema()
    register_operations_hook()

    with _connected() as connection:
        migrate_book(connection, schema)
        connection.commit()
        take_turns(connection, schema)
        if beside_book:
            # For this transaction, which is all of the migration.
            connection.execute(sa.text(f'set local search_path to "{schema}", public'))
            connection.dialect.default_schema_name = schema
        own = _Own(connection, application.name, target_metadata, book_tables(schema))
        context.configure(
            connection=connection,
            target_metadata=target_metadata if target_metadata is not None else sa.MetaData(),
            version_table=f"{application.name}_version",
            version_table_schema=schema,
            # Its key is called "<application>_version_pkc", for which long names leave no room.
            version_table_pk=len(application.name) <= MAX_NAME_WITH_KEY,
            include_schemas=True,
            include_name=own.name,
            include_object=own.thing,
            book_schema=schema,
            application=application,
        )
        for current in context.get_context().get_current_heads():
            check_known(context.script, application.name, current)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()


class _Own:
    """Which tables of a database that others use too are an application's own."""

    def __init__(
        self, connection: Connection, app: str, metadata: sa.MetaData | None, book: BookTables
    ) -> None:
        self._app = app
        self._connection = connection
        self._default = connection.dialect.default_schema_name
        self._book = {(book.schema, table.name) for table in book.metadata.sorted_tables}
        self._book.add((book.schema, VERSION_TABLE))
        self._tables = {
            (table.schema or self._default, table.name)
            for table in (metadata.sorted_tables if metadata is not None else ())
        }
        self._schemas = {schema for schema, _ in self._tables - self._book}
        self._apps = {app, *connection.scalars(sa.select(book.operations.c.app).distinct())}

    def name(self, name: str | None, kind: str, parents: Any) -> bool:
        """Tell whether something in the database is to be compared."""
        if kind == "schema":
            return (name or self._default) in self._schemas
        if kind != "table" or name is None:
            return True
        if parents["schema_name"] is None and name not in self._in_default:
            return False
        qualified = (parents["schema_name"] or self._default, name)
        if qualified in self._book or name in {f"{app}_version" for app in self._apps}:
            return False
        return qualified in self._tables or self._owner(name) == self._app

    def thing(self, thing: Any, name: str | None, kind: str, *_: Any) -> bool:
        """Tell whether something of the metadata is to be compared."""
        return kind != "table" or (thing.schema or self._default, name) not in self._book

    @cached_property
    def _in_default(self) -> frozenset[str]:
        # Without a schema's name, the tables of every schema on the search path are found: those
        # of the same application on another book too.
        return frozenset(sa.inspect(self._connection).get_table_names(self._default))

    def _owner(self, table: str) -> str | None:
        # The longest name that fits: "shop_items_prices" is not of "shop" if there is "shop_items".
        owners = [app for app in self._apps if table.startswith(f"{app}_")]
        return max(owners, key=len, default=None)


def _schema() -> str:
    given: str | None = context.config.attributes.get(SCHEMA_ATTRIBUTE)
    return given or os.environ.get("SHARED_LEDGER_SCHEMA") or DEFAULT_SCHEMA


@contextmanager
def _connected() -> Iterator[Connection]:
    """Connect to the database; what goes wrong is one line on Alembic's command line."""
    if context.is_offline_mode():
        raise CommandError("--sql is not supported: what a migration does depends on the book")
    url = context.get_x_argument(as_dictionary=True).get("url")
    url = url or context.config.get_main_option("sqlalchemy.url")
    try:
        with Database(url) as database:
            engine = make_engine(database.url)
            try:
                with engine.connect() as connection:
                    yield connection
            finally:
                engine.dispose()
    except LedgerError as error:
        raise CommandError(str(error)) from error
