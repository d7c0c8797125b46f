"""The book's migrations, and those that applications add to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.engine import Engine

from builders import (
    CLUB,
    SHOP,
    ClubOperation,
    add,
    adjust,
    assert_sound,
    bonus,
    gift,
    query,
    sign_up,
    spend,
)
from shared_ledger import (
    SHARED,
    AlreadyClaimed,
    Application,
    CaptureHold,
    ConfigurationError,
    Group,
    Ledger,
    MigrationRefused,
    NonceReused,
    Part,
    PlaceHold,
    Posting,
    Reversal,
    SchemaNotMigrated,
    SchemaTooNew,
    SharedOperation,
    Transfer,
)
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster, program
from shared_ledger.migrations import migrate, migrate_book, revision_of
from shared_ledger.schema import REVISIONS, VERSION_TABLE, book_tables

ROOT = Path(__file__).parent.parent
_databases = count(1)


@pytest.fixture
def url(cluster: Cluster) -> str:
    """The URL of a new, empty database."""
    name = f"migrations_{next(_databases)}"
    query(cluster.url, f"create database {name}")
    return cluster.url.replace("/postgres?", f"/{name}?")


@pytest.fixture
def empty(url: str) -> Iterator[Engine]:
    """An engine on a new, empty database."""
    engine = make_engine(url)
    yield engine
    engine.dispose()


def python_path(folder: Path) -> str:
    """Where a program of its own finds the application in the folder, and whatever we find."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def alembic(folder: Path, url: str, *arguments: str, **environment: str) -> str:
    """Run Alembic as a user does, and return what it said; its last line if it failed."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=folder,
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": python_path(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        assert "Traceback" not in done.stderr, done.stderr
        # Alembic writes its own line for an error, and exits with 255.
        raise Failed(done.stdout + done.stderr)
    return done.stdout + done.stderr


class Failed(Exception):
    """Alembic refused, in one clear line."""


def dump(url: str, schema: str) -> str:
    """The definition of everything in the schema but Alembic's own table."""
    done = subprocess.run(
        [
            program("pg_dump"),
            "--schema-only",
            "--no-owner",
            f"--schema={schema}",
            f"--exclude-table={schema}.{VERSION_TABLE}",
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    # A random key, one for each dump.
    return re.sub(r"^\\(un)?restrict .*$", "", done.stdout, flags=re.MULTILINE)


# --- the book ---


def test_upgrade_from_empty_is_all_that_a_ledger_needs(url: str) -> None:
    alembic(ROOT, url, "upgrade", "head")
    with Ledger(SHARED, url) as ledger:
        assert ledger.post(add("user1", "n1")).entry.balance_after == 10


def test_database_may_be_named_on_the_command_line(url: str) -> None:
    alembic(ROOT, "", "-x", f"url={url}", "upgrade", "head")
    assert query(url, f"select version_num from ledger.{VERSION_TABLE}") == [(REVISIONS[-1],)]


@pytest.mark.parametrize("schema", ["ledger", "books_2026", "public"])
def test_autogenerate_finds_nothing_right_after(url: str, schema: str) -> None:
    alembic(ROOT, url, "upgrade", "head", SHARED_LEDGER_SCHEMA=schema)
    said = alembic(ROOT, url, "check", SHARED_LEDGER_SCHEMA=schema)
    assert "No new upgrade operations detected." in said


def test_autogenerate_finds_nothing_where_the_schema_is_the_roles_own(url: str) -> None:
    # "ledger" is then the default schema, whose name PostgreSQL leaves out.
    query(url, "drop role if exists ledger")
    query(url, "create role ledger login superuser")
    own = url.replace("//postgres@", "//ledger@")
    alembic(ROOT, own, "upgrade", "head")
    assert "No new upgrade operations detected." in alembic(ROOT, own, "check")


def test_autogenerate_ignores_what_others_keep_in_the_schema(url: str, empty: Engine) -> None:
    migrate(empty, "ledger", [SHOP])
    query(url, "create table ledger.shop_version (version_num text)")
    query(url, "create table ledger.notes (note text)")
    assert "No new upgrade operations detected." in alembic(ROOT, url, "check")


def test_autogenerate_finds_what_is_missing(url: str, empty: Engine) -> None:
    migrate(empty, "ledger")
    query(url, "alter table ledger.accounts drop column version")
    with pytest.raises(Failed, match="New upgrade operations detected"):
        alembic(ROOT, url, "check")


def test_migrated_book_is_the_one_that_the_tables_describe(
    cluster: Cluster, url: str, empty: Engine
) -> None:
    migrate(empty, "book")
    query(cluster.url, f"create database {(other := f'created_{next(_databases)}')}")
    created = cluster.url.replace("/postgres?", f"/{other}?")
    query(created, "create schema book")
    engine = make_engine(created)
    book_tables("book").metadata.create_all(engine)
    engine.dispose()
    assert dump(url, "book") == dump(created, "book")


def test_schema_knows_the_revisions() -> None:
    folder = ROOT / "src/shared_ledger/migrations"
    script = ScriptDirectory(str(folder))
    revisions = [revision.revision for revision in script.walk_revisions()]
    assert list(REVISIONS) == revisions[::-1]
    assert Path(str(Config(ROOT / "alembic.ini").get_main_option("script_location"))) == folder


def test_downgrade_of_an_empty_book_leaves_nothing(url: str) -> None:
    alembic(ROOT, url, "upgrade", "head")
    alembic(ROOT, url, "downgrade", "base")
    left = query(url, "select relname from pg_class where relnamespace = 'ledger'::regnamespace")
    assert {name for (name,) in left} == {VERSION_TABLE, f"{VERSION_TABLE}_pkc"}
    alembic(ROOT, url, "upgrade", "head")
    assert "No new upgrade operations detected." in alembic(ROOT, url, "check")


def test_downgrade_of_a_book_with_entries_is_refused_in_one_line(url: str) -> None:
    with Ledger(SHARED, url, migrate=True) as ledger:
        ledger.post(add("user1", "n1"))
    with pytest.raises(Failed) as caught:
        alembic(ROOT, url, "downgrade", "base")
    assert str(caught.value).strip() == (
        "FAILED: the downgrade would delete the book, which holds entries"
    )
    assert query(url, "select count(*) from ledger.entries") == [(1,)]


def test_program_is_refused_the_same_downgrade(url: str, empty: Engine) -> None:
    migrate(empty, "ledger", [SHARED], revision="head")
    migrate(empty, "ledger", revision="base")
    with empty.connect() as connection:
        assert revision_of(connection, "ledger") is None
    with Ledger(SHARED, url, migrate=True) as ledger:
        ledger.post(add("user1", "n1"))
    with pytest.raises(MigrationRefused, match="would delete the book, which holds entries"):
        migrate(empty, "ledger", revision="base")


def test_program_that_finds_all_migrated_needs_no_rights_to_migrate(
    url: str, empty: Engine
) -> None:
    migrate(empty, "ledger", [SHARED])
    query(url, "drop role if exists clerk")
    query(url, "create role clerk login")
    for rights in (
        "usage on schema ledger",
        "select, insert on ledger.entries",
        "select, insert, update on ledger.accounts",
        "select on ledger.operations, ledger.version",
        "usage on sequence ledger.entries_id_seq",
    ):
        query(url, f"grant {rights} to clerk")
    with Ledger(SHARED, url.replace("//postgres@", "//clerk@"), migrate=True) as ledger:
        ledger.post(add("user1", "n1"))
        assert ledger.post(add("user1", "n1")).replayed
    query(url, "drop owned by clerk")


def test_revision_that_does_not_exist_is_refused(empty: Engine) -> None:
    with pytest.raises(ConfigurationError, match="the book has no revision '9999'"):
        migrate(empty, "ledger", revision="9999")


def test_programs_that_start_at_once_take_turns(url: str) -> None:
    def start(number: int) -> int:
        with Ledger(SHARED, url, migrate=True) as ledger:
            return ledger.post(add(f"user{number}", "n1")).entry.balance_after

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(start, range(6))) == [10] * 6


def test_books_are_migrated_at_once_by_the_threads_of_a_program(url: str) -> None:
    def start(number: int) -> int:
        with Ledger(SHOP, url, schema=f"book_{number}", migrate=True) as ledger:
            return ledger.post(adjust("user1", "n1", number)).entry.balance_after

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(start, range(1, 7))) == [1, 2, 3, 4, 5, 6]


def test_migration_belongs_to_the_callers_transaction(empty: Engine) -> None:
    with empty.connect() as connection:
        migrate_book(connection, "ledger")
        assert revision_of(connection, "ledger") == REVISIONS[-1]
        connection.rollback()
        assert revision_of(connection, "ledger") is None


def test_offline_migration_is_refused_in_one_line(url: str) -> None:
    with pytest.raises(Failed, match=r"^FAILED: --sql is not supported"):
        alembic(ROOT, url, "upgrade", "head", "--sql")


def test_database_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=r"^FAILED: the database cannot be reached: "):
        alembic(ROOT, f"postgresql:///postgres?host={tmp_path}", "upgrade", "head")


# --- from a revision to the next ---


def old_book(url: str, engine: Engine) -> None:
    """A book of the first revision, as the program of that time wrote it."""
    migrate(engine, "ledger", revision="0001")
    query(
        url,
        """
        insert into ledger.entries (id, app, operation, owner_id, counterparty, asset, amount,
            balance_after, nonce, created_on, metadata, period)
        select nextval('ledger.entries_id_seq'), 'shared', operation::ledger.operation, 'user1',
            counterparty, 'credits', amount, balance_after, nonce, '2026-01-02', metadata, period
        from (values
            ('SIGNUP_CREDIT', '@issued', 3, 3, 'welcome', null, 'ever'),
            ('CREDIT_ADD', '@issued', 10, 13, '@old', '{"a": 1}'::jsonb, null),
            ('CREDIT_SPEND', '@spent', -1, 12, 'n1', null, null)
        ) as old (operation, counterparty, amount, balance_after, nonce, metadata, period)
        """,
    )
    query(
        url,
        """
        insert into ledger.accounts (owner_id, asset, posted, floor, version, changed_on)
        values ('user1', 'credits', 12, 0, 3, '2026-01-02'),
            ('@issued', 'credits', -13, null, 2, '2026-01-02'),
            ('@spent', 'credits', 1, null, 1, '2026-01-02')
        """,
    )


OLD_ENTRIES = (
    "select id, app, operation::text, owner_id, counterparty, asset, amount, balance_after, nonce, "
    "created_on, metadata, period from ledger.entries order by id"
)


def test_old_book_is_upgraded_with_all_it_holds_and_no_entry_is_rewritten(
    url: str, empty: Engine
) -> None:
    old_book(url, empty)
    file = "select pg_relation_filenode('ledger.entries')"
    before, kept = query(url, file), query(url, OLD_ENTRIES)
    migrate(empty, "ledger", [SHARED])
    assert query(url, file) == before
    assert query(url, OLD_ENTRIES) == kept
    with Ledger(SHARED, url) as ledger:
        assert ledger.balance("user1").available == 12
        assert [entry.nonce for entry in ledger.history("user1").entries] == [
            "n1",
            "@old",
            "welcome",
        ]
        assert ledger.balance("user1", at=datetime(2026, 1, 1, tzinfo=UTC)).balance == 0
        assert ledger.balance("user1", at=datetime(2026, 1, 3, tzinfo=UTC)).balance == 12
    assert_sound(url, "ledger")


def test_nonces_and_claims_of_an_old_book_still_count(url: str, empty: Engine) -> None:
    old_book(url, empty)
    with Ledger(SHARED, url, migrate=True) as ledger:
        for posting in (
            sign_up("user1"),
            add("user1", "@old", metadata={"a": 1}),
            spend("user1", "n1"),
        ):
            assert ledger.post(posting).replayed
        with pytest.raises(NonceReused):
            ledger.post(add("user1", "n1"))
        with pytest.raises(AlreadyClaimed):
            ledger.post(sign_up("user1", "again"))
        assert ledger.balance("user1").balance == 12
    assert_sound(url, "ledger")


def test_old_entries_can_be_reversed_and_old_credits_held(url: str, empty: Engine) -> None:
    old_book(url, empty)
    with Ledger(SHARED, url, migrate=True) as ledger:
        spent = ledger.history("user1").entries[0]
        assert ledger.post(Reversal(spent.id, "r")).entry.balance_after == 13
        held = ledger.post(PlaceHold(SharedOperation.CREDIT_SPEND, "user1", "h")).hold
        ledger.post(CaptureHold(held.id, "c"))
        ledger.post(Transfer(source="user1", destination="user2", amount=12, nonce="t"))
    assert_sound(url, "ledger")


def test_upgraded_old_book_is_the_one_that_the_tables_describe(url: str, empty: Engine) -> None:
    old_book(url, empty)
    migrate(empty, "ledger")
    assert "No new upgrade operations detected." in alembic(ROOT, url, "check")


def test_downgrade_to_the_first_revision_keeps_all_if_nothing_new_was_used(
    cluster: Cluster, url: str, empty: Engine
) -> None:
    with Ledger(SHARED, url, migrate=True) as ledger:
        ledger.post_batch([sign_up("user1"), add("user1", "n1"), spend("user1", "n2")])
    kept = query(url, OLD_ENTRIES)
    alembic(ROOT, url, "downgrade", "0001")
    assert query(url, OLD_ENTRIES) == kept
    with pytest.raises(SchemaNotMigrated, match=f"at revision 0001, older than {REVISIONS[-1]}"):
        Ledger(SHARED, url)

    query(cluster.url, f"create database {(other := f'older_{next(_databases)}')}")
    older = cluster.url.replace("/postgres?", f"/{other}?")
    engine = make_engine(older)
    migrate(engine, "ledger", revision="0001")
    engine.dispose()
    # PostgreSQL cannot drop a label, and one that is not used does no harm.
    labels = re.compile(r",\n    'TRANSFER',\n    'REVERSAL',\n    'EXPIRY'")
    assert labels.sub("", dump(url, "ledger")) == dump(older, "ledger")

    alembic(ROOT, url, "upgrade", "head")
    with Ledger(SHARED, url) as ledger:
        assert ledger.post(add("user1", "n1")).replayed
        assert ledger.balance("user1").available == 12
    assert_sound(url, "ledger")


@pytest.mark.parametrize(
    "request_",
    [
        PlaceHold(ClubOperation.PURCHASE, "ann", "h", 1),
        Transfer(source="ann", destination="bob", amount=1, nonce="t"),
        Group("g", [Part(ClubOperation.GIFT, "ann", 1)]),
        Reversal(1, "r"),
        Reversal(1, "r", operation=ClubOperation.PURCHASE),
        bonus("ann", "b", 1),
        Posting(ClubOperation.PROMOTION, "ann", "p", 1),
    ],
    ids=lambda request: type(request).__name__,
)
def test_downgrade_that_would_lose_what_is_new_is_refused_in_one_line(
    url: str, empty: Engine, request_: Any
) -> None:
    with Ledger(CLUB, url, migrate=True) as club:
        club.post(gift("ann", "funds", 10))
        assert club.history("ann").entries[0].id == 1
        club.post(request_)
    tables = "select relname, relnatts from pg_class where relnamespace = 'ledger'::regnamespace"
    before = query(url, tables + " order by 1"), query(url, "select * from ledger.entries")
    with pytest.raises(MigrationRefused, match=r"^the downgrade would lose .*Keep this revision$"):
        migrate(empty, "ledger", revision="0001")
    with pytest.raises(MigrationRefused):
        migrate(empty, "ledger", revision="base")
    after = query(url, tables + " order by 1"), query(url, "select * from ledger.entries")
    assert after == before
    with Ledger(CLUB, url) as club:
        assert club.post_batch([request_])[0].replayed


# --- a ledger on a book that does not fit ---


def test_ledger_without_a_book_says_what_to_run(url: str) -> None:
    with pytest.raises(SchemaNotMigrated) as caught:
        Ledger(SHARED, url)
    assert str(caught.value) == (
        "there is no book in the schema 'ledger' of this database: run `shared-ledger migrate`"
    )


def test_ledger_on_a_newer_book_says_so(url: str, empty: Engine) -> None:
    migrate(empty, "ledger", [SHARED])
    query(url, f"update ledger.{VERSION_TABLE} set version_num = '9999'")
    for again in (False, True):
        with pytest.raises(SchemaTooNew, match="is at revision 9999, which this version"):
            Ledger(SHARED, url, migrate=again)


def test_ledger_on_an_older_book_says_so(
    url: str, empty: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(empty, "ledger", [SHARED])
    monkeypatch.setattr("shared_ledger.migrations.REVISIONS", (*REVISIONS, "9999"))
    with pytest.raises(SchemaNotMigrated, match=rf"revision {REVISIONS[-1]}, older than 9999"):
        Ledger(SHARED, url)


def test_ledger_of_an_application_that_is_not_migrated_says_what_is_missing(
    url: str, empty: Engine
) -> None:
    migrate(empty, "ledger", [Application("shop", SharedOperation)])
    with pytest.raises(SchemaNotMigrated) as caught:
        Ledger(SHOP, url)
    assert str(caught.value) == (
        "the book does not know ADJUSTMENT, CONTENT_ACCESS, LOYALTY_POINT, PURCHASE, REFUND_ITEM "
        "of shop: run the application's migrations, or `shared-ledger migrate`"
    )


@pytest.mark.parametrize("schema", ["", "Ledger", "a-b", 'a"b', "pg_ledger", "1a", "a" * 64])
def test_schema_that_needs_quotes_is_refused(url: str, schema: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the schema .* is not a name"):
        Ledger(SHARED, url, schema=schema)


# --- an application's own migrations ---


class Project:
    """A user's application in a folder of its own, as the guide has it."""

    def __init__(self, folder: Path, url: str, name: str = "bookings", *, schema: str = "") -> None:
        self.folder = folder / name
        self.url = url
        self.name = name
        self.metadata_schema = schema
        versions = self.folder / "migrations/versions"
        versions.mkdir(parents=True)
        self.write(
            "alembic.ini",
            """
            [alembic]
            script_location = %(here)s/migrations
            """,
        )
        self.write(
            "migrations/env.py",
            f"""
            from {name} import APPLICATION, metadata

            from shared_ledger.migrations.environment import run_application

            run_application(APPLICATION, target_metadata=metadata)
            """,
        )
        template = ROOT / "src/shared_ledger/migrations/script.py.mako"
        (self.folder / "migrations/script.py.mako").write_text(template.read_text())
        self.declare(["BOOKING"], columns=["room"])

    def write(self, path: str, text: str) -> None:
        (self.folder / path).write_text(dedent(text).lstrip())

    def declare(self, operations: list[str], *, columns: list[str]) -> None:
        """Write the package: its operations, and a table with these columns."""
        members = "".join(f'{name} = "{name}"\n    ' for name in operations)
        rules = "".join(f"Operation.{name}: Rule.fixed(-1), " for name in operations)
        text_columns = "".join(f'sa.Column("{name}", sa.Text), ' for name in columns)
        self.write(
            f"{self.name}.py",
            f"""
import sqlalchemy as sa

from shared_ledger import Application, BaseLedgerOperation, Rule

class Operation(BaseLedgerOperation):
    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    {members}

APPLICATION = Application("{self.name}", Operation, rules={{{rules}}})
metadata = sa.MetaData(schema={self.metadata_schema or None!r})
sa.Table(
    "{self.name}_{self.name}",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True),
    {text_columns}
)
""",
        )

    def alembic(self, *arguments: str) -> str:
        return alembic(self.folder, self.url, *arguments)

    def revise(self, message: str) -> str:
        """Let Alembic write a migration, and return its two functions."""
        before = set((self.folder / "migrations/versions").glob("*.py"))
        self.alembic("revision", "--autogenerate", "-m", message)
        (new,) = set((self.folder / "migrations/versions").glob("*.py")) - before
        return new.read_text().partition("def upgrade")[2]

    def post(self, operation: str, nonce: str) -> None:
        """Post in a process of its own, which imports the application as it is now."""
        program = f"""
from {self.name} import APPLICATION, Operation
from shared_ledger import Ledger, Posting
with Ledger(APPLICATION, {self.url!r}) as ledger:
    ledger.post(Posting(Operation.CREDIT_ADD, "user1", "{nonce} before"))
    ledger.post(Posting(Operation.{operation}, "user1", "{nonce}"))
"""
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONPATH": python_path(self.folder)},
            check=True,
        )

    def finds_nothing(self) -> bool:
        return "No new upgrade operations detected." in self.alembic("check")


@pytest.fixture
def bookings(tmp_path: Path, url: str) -> Project:
    """An application whose first revision has been written and applied."""
    project = Project(tmp_path, url)
    project.revise("begin")
    project.alembic("upgrade", "head")
    return project


def test_first_revision_is_complete(tmp_path: Path, url: str) -> None:
    project = Project(tmp_path, url)
    migration = project.revise("begin")
    assert migration.count("op.") == 4
    assert (
        'op.add_ledger_operations("bookings", ["DAILY_REWARD", "SIGNUP_CREDIT", "CREDIT_SPEND", '
        '"CREDIT_ADD", "BOOKING"])'
    ) in migration
    assert re.search(r"op\.create_table\(\W*bookings_bookings", migration)
    assert "op.drop_table('bookings_bookings')" in migration
    assert 'op.remove_ledger_operations("bookings", [' in migration
    project.alembic("upgrade", "head")
    assert project.finds_nothing()
    project.post("BOOKING", "n1")
    assert query(url, "select operation::text from ledger.entries where nonce = 'n1'") == [
        ("BOOKING",)
    ]


@pytest.mark.parametrize("schema", ["ledger", "apart"])
def test_applications_tables_may_be_in_any_schema(tmp_path: Path, url: str, schema: str) -> None:
    query(url, f"create schema {schema}")
    project = Project(tmp_path, url, schema=schema)
    assert "create_table" in project.revise("begin")
    project.alembic("upgrade", "head")
    assert project.finds_nothing()
    project.declare(["BOOKING"], columns=["room", "floor"])
    assert "op.add_column('bookings_bookings'" in project.revise("floor")


@pytest.mark.slow
def test_added_operation_is_a_migration_of_its_own_that_keeps_all_rows(bookings: Project) -> None:
    bookings.post("BOOKING", "n1")
    before = query(bookings.url, "select * from ledger.entries order by id")
    bookings.declare(["BOOKING", "CANCELLATION"], columns=["room"])
    with pytest.raises(Failed, match="add_ledger_operations"):
        bookings.alembic("check")
    migration = bookings.revise("cancel")
    assert 'op.add_ledger_operations("bookings", ["CANCELLATION"])' in migration
    assert migration.count("op.") == 2
    bookings.alembic("upgrade", "head")
    assert query(bookings.url, "select * from ledger.entries order by id") == before
    assert bookings.finds_nothing()
    bookings.post("CANCELLATION", "n2")


@pytest.mark.slow
def test_downgrade_is_refused_when_entries_use_the_operation(bookings: Project) -> None:
    bookings.declare(["BOOKING", "CANCELLATION"], columns=["room"])
    bookings.revise("cancel")
    bookings.alembic("upgrade", "head")
    bookings.post("CANCELLATION", "n1")
    with pytest.raises(Failed) as caught:
        bookings.alembic("downgrade", "-1")
    assert str(caught.value).strip() == (
        "FAILED: the downgrade would lose entries: bookings has posted CANCELLATION. "
        "Entries are never deleted; keep this revision"
    )
    bookings.post("CANCELLATION", "n2")


@pytest.mark.slow
def test_downgrade_takes_back_what_is_not_used_and_upgrade_gives_it_again(
    bookings: Project,
) -> None:
    bookings.declare(["BOOKING", "CANCELLATION"], columns=["room"])
    bookings.revise("cancel")
    bookings.alembic("upgrade", "head")
    bookings.post("BOOKING", "n1")
    bookings.alembic("downgrade", "-1")
    known = query(bookings.url, "select operation from ledger.operations where app = 'bookings'")
    assert ("BOOKING",) in known
    assert ("CANCELLATION",) not in known
    bookings.alembic("upgrade", "head")
    assert bookings.finds_nothing()
    bookings.post("CANCELLATION", "n2")


def test_dropped_table_of_an_application_is_found(bookings: Project) -> None:
    query(bookings.url, "create table bookings_old (id int)")
    assert "op.drop_table('bookings_old')" in bookings.revise("tidy")


@pytest.mark.slow
@pytest.mark.parametrize("other", ["visits", "bookings_extra"])
def test_applications_see_only_their_own(bookings: Project, tmp_path: Path, other: str) -> None:
    second = Project(tmp_path, bookings.url, other)
    second.declare(["VISIT", "BOOKING"], columns=["room"])
    migration = second.revise("begin")
    assert "bookings_bookings" not in migration
    assert f"op.create_table('{other}_{other}'" in migration
    second.alembic("upgrade", "head")
    assert bookings.finds_nothing()
    assert second.finds_nothing()
    bookings.declare(["BOOKING", "CANCELLATION"], columns=["room"])
    migration = bookings.revise("cancel")
    assert migration.count("op.") == 2
    assert "CANCELLATION" in migration
    bookings.alembic("upgrade", "head")
    assert second.finds_nothing()
    assert "No new upgrade operations detected." in alembic(ROOT, bookings.url, "check")


def test_operation_that_another_application_uses_is_taken_back_from_one(
    bookings: Project, tmp_path: Path
) -> None:
    second = Project(tmp_path, bookings.url, "visits")
    second.revise("begin")
    second.alembic("upgrade", "head")
    second.post("BOOKING", "n1")
    bookings.alembic("downgrade", "base")
    known = query(bookings.url, "select distinct app from ledger.operations order by app")
    assert known == [("shared",), ("visits",)]


def test_application_brings_the_book_up_to_date_first(tmp_path: Path, url: str) -> None:
    project = Project(tmp_path, url)
    project.alembic("upgrade", "head")
    assert query(url, f"select version_num from ledger.{VERSION_TABLE}") == [(REVISIONS[-1],)]


def test_book_and_application_migrate_in_another_schema(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_LEDGER_SCHEMA", "books")
    project = Project(tmp_path, url)
    project.revise("begin")
    project.alembic("upgrade", "head")
    assert project.finds_nothing()
    assert query(
        url, "select to_regclass('ledger.entries'), to_regclass('books.entries')::text"
    ) == [(None, "books.entries")]


@pytest.mark.slow
def test_operation_is_added_to_a_million_entries_without_touching_them(
    url: str, empty: Engine
) -> None:
    migrate(empty, "ledger", [SHARED])
    query(
        url,
        """
        insert into ledger.entries (id, amount, balance_after, created_on, operation, app, asset,
            owner_id, counterparty, nonce)
        select n, 10, 10, now(), 'CREDIT_ADD', 'shared', 'credits', 'user' || n, '@issued', 'n1'
        from generate_series(1, 1000000) as n
        """,
    )
    file = "select pg_relation_filenode('ledger.entries'), pg_relation_size('ledger.entries')"
    before = query(url, file)
    reads = "select seq_tup_read from pg_stat_user_tables where relname = 'entries'"
    with empty.connect() as connection:
        scanned = connection.scalar(sa.text(reads))
    migrate(empty, "ledger", [SHOP])
    assert query(url, file) == before
    assert query(url, reads) == [(scanned,)]
    with Ledger(SHOP, url) as ledger:
        assert ledger.post(adjust("user0", "n1", 5)).entry.operation == "ADJUSTMENT"
