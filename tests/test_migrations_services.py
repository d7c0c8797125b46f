"""The migrations of the services that come with the ledger: their tables are beside the book's."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from fastapi import FastAPI
from sqlalchemy.engine import Engine

from builders import add, eventually, query
from serving import SERVICES
from shared_ledger import SHARED, Ledger, SchemaNotMigrated, SchemaTooNew
from shared_ledger.apps import content
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster
from shared_ledger.migrations import (
    SCHEMA_ATTRIBUTE,
    migrate,
    migrate_application,
    migrate_book,
    revision_of,
)
from shared_ledger.schema import DEFAULT_SCHEMA, REVISIONS, book_tables
from shared_ledger.service import Service, create_app
from shared_ledger.settings import Settings

ROOT = Path(__file__).parent.parent
NOTHING_TO_DO = "No new upgrade operations detected."
_databases = count(1)

each_service = pytest.mark.parametrize(
    "service", SERVICES, ids=lambda service: service.application.name
)


@pytest.fixture
def url(cluster: Cluster) -> str:
    """The URL of a new, empty database."""
    name = f"services_{next(_databases)}"
    query(cluster.url, f"create database {name}")
    return cluster.url.replace("/postgres?", f"/{name}?")


@pytest.fixture
def empty(url: str) -> Iterator[Engine]:
    """An engine on a new, empty database."""
    engine = make_engine(url)
    yield engine
    engine.dispose()


class Failed(Exception):
    """A program ended with what it said last."""


def run(*arguments: str, environment: Mapping[str, str]) -> str:
    """Run a module of Python as a user does, and return what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    if done.returncode:
        raise Failed(said.strip())
    return said


def alembic(
    service: Service, url: str, name: str, *arguments: str, schema: str = DEFAULT_SCHEMA
) -> str:
    """Run a command of Alembic, in this process, and return what it said."""
    said = io.StringIO()
    config = Config(ROOT / "alembic.ini", ini_section=service.application.name, stdout=said)
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.attributes[SCHEMA_ATTRIBUTE] = schema
    getattr(command, name)(config, *arguments)
    return said.getvalue()


def shared_ledger(url: str, *arguments: str, schema: str = DEFAULT_SCHEMA) -> str:
    places = [f"shared_ledger.apps.{service.application.name}:SERVICE" for service in SERVICES]
    environment = {
        "DATABASE_URL": url,
        "SHARED_LEDGER_SCHEMA": schema,
        "SHARED_LEDGER_SERVICES": ",".join(places),
    }
    return run("shared_ledger.cli", *arguments, environment=environment)


def folder_of(service: Service) -> Path:
    assert service.migrations is not None
    return service.migrations


def head_of(service: Service) -> str:
    head = ScriptDirectory(str(folder_of(service))).get_current_head()
    assert head is not None
    return head


def migrate_all(url: str, engine: Engine, schema: str = DEFAULT_SCHEMA) -> None:
    migrate(engine, schema, [SHARED, *(service.application for service in SERVICES)])
    for service in SERVICES:
        migrate_application(url, schema, folder_of(service))


def tables_of(service: Service, engine: Engine, schema: str = DEFAULT_SCHEMA) -> set[str]:
    """The service's tables in the schema, that of its revision left out."""
    name = service.application.name
    found = sa.inspect(engine).get_table_names(schema)
    return {table for table in found if table.startswith(f"{name}_")} - {f"{name}_version"}


def revisions(url: str, schema: str = DEFAULT_SCHEMA) -> dict[str, str]:
    """At which revision the tables of each service are."""
    return {
        service.application.name: query(
            url, f"select version_num from {schema}.{service.application.name}_version"
        )[0][0]
        for service in SERVICES
    }


async def start(url: str, schema: str = DEFAULT_SCHEMA) -> FastAPI:
    """Start all services beside the shared operations on a database that is not embedded."""
    settings = Settings.model_validate({"database_url": url, "shared_ledger_schema": schema})
    app = create_app(SHARED, settings, beside=SERVICES)
    async with app.router.lifespan_context(app):
        return app


# --- from empty ---


@each_service
def test_upgrade_from_empty_makes_book_and_tables(
    service: Service, url: str, empty: Engine
) -> None:
    arguments = ("-n", service.application.name, "upgrade", "head")
    run("alembic", *arguments, environment={"DATABASE_URL": url})
    assert tables_of(service, empty)
    with Ledger(service.application, url) as ledger:
        assert ledger.balance("user1").balance == 0


async def test_an_embedded_database_is_migrated_by_the_start_itself(data: Path) -> None:
    app = create_app(SHARED, Settings(shared_ledger_data=data), beside=SERVICES)
    for _ in range(2):
        async with app.router.lifespan_context(app):
            ledger: Ledger[str] = app.state.ledger  # type: ignore[type-var]
            engine = make_engine(ledger.url)
            assert all(tables_of(service, engine) for service in SERVICES)
            assert revisions(ledger.url) == {s.application.name: head_of(s) for s in SERVICES}
            engine.dispose()


async def test_another_database_is_left_alone_until_the_operator_migrates_it(
    url: str, empty: Engine
) -> None:
    with pytest.raises(SchemaNotMigrated) as caught:
        await start(url)
    assert str(caught.value) == (
        "there is no book in the schema 'ledger' of this database: run `shared-ledger migrate`"
    )
    # As it is left by a program that knows no services: the book, and operations.
    migrate(empty, DEFAULT_SCHEMA, [SHARED, *(service.application for service in SERVICES)])
    with pytest.raises(SchemaNotMigrated) as caught:
        await start(url)
    assert str(caught.value) == (
        f"the tables of content are at revision base, older than {head_of(content.SERVICE)}: "
        "run `shared-ledger migrate`"
    )
    assert not any(tables_of(service, empty) for service in SERVICES)
    names = ", ".join(service.application.name for service in SERVICES)
    assert f"tables of {names}" in " ".join(shared_ledger(url, "migrate").split())
    await start(url)
    assert "as before" in shared_ledger(url, "migrate")


def test_the_program_says_in_one_line_what_to_run(url: str, empty: Engine) -> None:
    migrate(empty, DEFAULT_SCHEMA, [SHARED, *(service.application for service in SERVICES)])
    with pytest.raises(Failed) as caught:
        shared_ledger(url, "serve", "--port", "0")
    assert "run `shared-ledger migrate`" in " ".join(str(caught.value).split())


# --- autogenerate ---


@each_service
@pytest.mark.parametrize("schema", ["ledger", "books_2026", "public"])
def test_autogenerate_finds_nothing_right_after(
    service: Service, url: str, empty: Engine, schema: str
) -> None:
    migrate_all(url, empty, schema)
    assert tables_of(service, empty, schema)
    assert NOTHING_TO_DO in alembic(service, url, "check", schema=schema)


@each_service
def test_autogenerate_finds_a_table_that_is_missing(
    service: Service, url: str, empty: Engine
) -> None:
    migrate_all(url, empty)
    table = min(tables_of(service, empty))
    query(url, f"drop table ledger.{table} cascade")
    with pytest.raises(CommandError, match=f"add_table.*{table}"):
        alembic(service, url, "check")


@each_service
def test_another_default_schema_is_neither_written_nor_looked_at(
    service: Service, url: str, empty: Engine
) -> None:
    # Tables of the same names are where PostgreSQL would look first.
    migrate_all(url, empty, "decoy")
    query(url, f"alter database {url.partition('?')[0].rpartition('/')[2]} set search_path = decoy")
    before = query(url, "select oid, relname from pg_class order by oid")
    migrate_all(url, empty, "books")
    after = query(url, "select oid, relname from pg_class order by oid")
    assert after[: len(before)] == before
    assert tables_of(service, empty, "books") == tables_of(service, empty, "decoy")
    assert NOTHING_TO_DO in alembic(service, url, "check", schema="books")
    query(url, f"drop table books.{min(tables_of(service, empty, 'books'))} cascade")
    with pytest.raises(CommandError, match="add_table"):
        alembic(service, url, "check", schema="books")


# --- revisions that do not fit ---


@each_service
async def test_tables_at_a_newer_revision_are_refused(
    service: Service, url: str, empty: Engine
) -> None:
    migrate_all(url, empty)
    name = service.application.name
    query(url, f"update ledger.{name}_version set version_num = '9999'")
    sentence = (
        f"the tables of {name} are at revision 9999, which this version of it does not know "
        f"(it knows {head_of(service)}): upgrade the program"
    )
    with pytest.raises(SchemaTooNew) as caught:
        await start(url)
    assert str(caught.value) == sentence
    with pytest.raises(SchemaTooNew) as caught:
        migrate_application(url, DEFAULT_SCHEMA, folder_of(service))
    assert str(caught.value) == sentence
    with pytest.raises(CommandError) as failed:
        alembic(service, url, "upgrade", "head")
    assert str(failed.value) == sentence
    assert revisions(url)[name] == "9999"


@each_service
def test_downgrade_of_tables_without_rows_leaves_the_book(
    service: Service, url: str, empty: Engine
) -> None:
    migrate_all(url, empty)
    with Ledger(SHARED, url) as ledger:
        ledger.post(add("user1", "n1"))
    alembic(service, url, "downgrade", "base")
    assert not tables_of(service, empty)
    name = service.application.name
    others = {other.application.name for other in SERVICES} - {name}
    known = query(url, "select distinct app from ledger.operations")
    assert {app for (app,) in known} == {"shared"} | others
    with Ledger(SHARED, url) as ledger:
        assert ledger.post(add("user1", "n1")).replayed
    assert query(url, "select version_num from ledger.version") == [(REVISIONS[-1],)]
    alembic(service, url, "upgrade", "head")
    assert NOTHING_TO_DO in alembic(service, url, "check")


@each_service
def test_downgrade_that_would_lose_entries_is_refused(
    service: Service, url: str, empty: Engine
) -> None:
    migrate_all(url, empty)
    with Ledger(service.application, url) as ledger:
        ledger.post(add("user1", "n1"))
    before = tables_of(service, empty)
    with pytest.raises(CommandError, match=r"^the downgrade would lose entries: "):
        alembic(service, url, "downgrade", "base")
    assert tables_of(service, empty) == before
    assert revisions(url)[service.application.name] == head_of(service)


# --- at once ---


def test_programs_that_migrate_at_once_take_turns(url: str, empty: Engine) -> None:
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: shared_ledger(url, "migrate"), range(3)))
    assert revisions(url) == {service.application.name: head_of(service) for service in SERVICES}
    for service in SERVICES:
        assert NOTHING_TO_DO in alembic(service, url, "check")


def test_a_program_that_looked_before_it_waited_sees_what_was_migrated_meanwhile(
    url: str, empty: Engine
) -> None:
    with empty.connect() as first, empty.connect() as second, ThreadPoolExecutor(1) as pool:
        # PostgreSQL remembers that there is no such table, and forgets it when it looks at others.
        assert revision_of(second, DEFAULT_SCHEMA) is None
        second.commit()
        migrate_book(first, DEFAULT_SCHEMA)
        waiting = pool.submit(migrate_book, second, DEFAULT_SCHEMA)
        locks = "select count(*) from pg_locks where locktype = 'advisory' and not granted"
        eventually(lambda: query(url, locks) == [(1,)])
        first.commit()
        waiting.result()
        assert revision_of(second, DEFAULT_SCHEMA) == REVISIONS[-1]


def test_threads_that_migrate_books_at_once_take_turns(url: str) -> None:
    def migrated(number: int) -> dict[str, str]:
        engine = make_engine(url)
        try:
            migrate_all(url, engine, f"book_{number}")
        finally:
            engine.dispose()
        return revisions(url, f"book_{number}")

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(migrated, range(4)))
    assert found == [{service.application.name: head_of(service) for service in SERVICES}] * 4


# --- the tables themselves ---


def test_no_two_services_and_no_book_share_a_table(url: str, empty: Engine) -> None:
    migrate_all(url, empty)
    owned = [tables_of(service, empty) for service in SERVICES]
    versions = {f"{service.application.name}_version" for service in SERVICES}
    book = {table.name for table in book_tables(DEFAULT_SCHEMA).metadata.sorted_tables}
    there = set(sa.inspect(empty).get_table_names(DEFAULT_SCHEMA))
    assert there == book | versions | {"version"} | set().union(*owned)
