"""The commands about a whole book: bring it up to date, prove that it agrees."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_ledger.cli.options import (
    ApplicationOption,
    JsonOption,
    load_application,
    load_services,
)
from shared_ledger.cli.output import console, print_facts, print_json, print_line, print_table

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

    from shared_ledger.settings import Settings
    from shared_ledger.verify import Report

SHOWN = 20


def migrate(
    revision: Annotated[
        str, typer.Option(metavar="REVISION", help="Up or down to this one; base is none.")
    ] = "head",
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Bring the book up to date, and the tables and operations of its applications."""
    from shared_ledger import migrations
    from shared_ledger.settings import load_settings

    settings = load_settings()
    schema = settings.shared_ledger_schema
    owner = load_application(application)
    with open_engine(settings) as engine:
        before, known = _state(engine, schema, owner.name)
        # Without a book there is nowhere to write the operations.
        owners = [] if revision == migrations.BASE else [owner]
        migrations.migrate(engine, schema, owners, revision=revision)
        services = _migrate_services(settings) if revision == migrations.HEAD else []
        after, now = _state(engine, schema, owner.name)
    new = sorted(now - known)
    if json:
        print_json(
            {
                "schema": schema,
                "from": before,
                "to": after,
                "application": owner.name,
                "new_operations": new,
                "services": services,
            }
        )
        return
    step = f"is at revision {after or migrations.BASE}, as before"
    if before != after:
        first = migrations.BASE
        step = f"is now at revision {after or first}; it was at {before or first}"
    facts: list[tuple[str, object]] = [("application", owner.name)]
    if new:
        facts.append(("new operations", ", ".join(new)))
    else:
        facts.append(("operations", "no new ones"))
    if services:
        facts.append(("tables of", ", ".join(services)))
    print_facts(f"The book in the schema {schema} {step}", facts)


def verify(
    metrics: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Write what was found to this file, too, for Prometheus.",
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Prove that the book agrees with itself; others may post meanwhile."""
    from shared_ledger.schema import book_tables
    from shared_ledger.settings import load_settings
    from shared_ledger.verify import verify as run

    settings = load_settings()
    tables = book_tables(settings.shared_ledger_schema)
    check_created(settings)
    began = time.monotonic()
    with open_engine(settings) as engine, _progress() as show:
        _check_current(engine, settings.shared_ledger_schema)
        report = run(engine, tables, progress=show)
    seconds = time.monotonic() - began
    if metrics is not None:
        _write_metrics(report, settings.shared_ledger_schema, seconds, metrics)
    if json:
        print_json({"agrees": report.agrees, **_fields(report)})
    else:
        _show(report, seconds)
    if not report.agrees:
        raise typer.Exit(1)


def check_created(settings: Settings) -> None:
    """Raise ``SchemaNotMigrated`` rather than make an embedded database only to look into it."""
    from shared_ledger.errors import SchemaNotMigrated

    folder = settings.shared_ledger_data
    if settings.url is None and not (folder / "postgresql" / "PG_VERSION").is_file():
        raise SchemaNotMigrated(
            f"there is no embedded database in {folder.resolve()}: "
            "set DATABASE_URL or SHARED_LEDGER_DATA, or run `shared-ledger migrate`"
        )


@contextmanager
def open_engine(settings: Settings) -> Iterator[Engine]:
    """Open the configured database, without looking what is in it."""
    from shared_ledger.connections import Database, make_engine

    with Database(settings.url, data=settings.shared_ledger_data) as database:
        engine = make_engine(database.url)
        try:
            yield engine
        finally:
            engine.dispose()


def _migrate_services(settings: Settings) -> list[str]:
    """Migrate the tables of all services; return whose they are."""
    # Without what a service needs there is none to be served.
    if find_spec("fastapi") is None:
        return []
    from shared_ledger.connections import Database
    from shared_ledger.migrations import migrate, migrate_application

    services = load_services(settings)
    schema = settings.shared_ledger_schema
    with Database(settings.url, data=settings.shared_ledger_data) as database:
        with open_engine(settings) as engine:
            migrate(engine, schema, [service.application for service in services])
        for service in services:
            if service.migrations is not None:
                migrate_application(database.url, schema, service.migrations)
    return [service.application.name for service in services]


def _state(engine: Engine, schema: str, app: str) -> tuple[str | None, set[str]]:
    """Return the book's revision, and the operations that it knows of an application."""
    from shared_ledger import migrations
    from shared_ledger.schema import REVISIONS

    with engine.connect() as connection:
        revision = migrations.revision_of(connection, schema)
        if revision not in REVISIONS:
            return revision, set()
        return revision, migrations.known_operations(connection, schema, app)


def _check_current(engine: Engine, schema: str) -> None:
    """Raise if the tables are not those that this program knows."""
    from shared_ledger.errors import SchemaNotMigrated, SchemaTooNew
    from shared_ledger.migrations import revision_of
    from shared_ledger.schema import REVISIONS

    with engine.connect() as connection:
        revision = revision_of(connection, schema)
    if revision is None or revision in REVISIONS[:-1]:
        raise SchemaNotMigrated(
            f"there is no book at revision {REVISIONS[-1]} in the schema {schema!r}: "
            "run `shared-ledger migrate`"
        )
    if revision not in REVISIONS:
        raise SchemaTooNew(
            f"the book in the schema {schema!r} is at revision {revision}, which this version of "
            "shared-ledger does not know: upgrade the program"
        )


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each part of the work on a terminal's standard error."""
    if not sys.stderr.isatty():
        yield lambda *_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as RemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("entries"),
        RemainingColumn(),
        console=console(stderr=True),
        transient=True,
    ) as progress:
        tasks = {
            part: progress.add_task(f"Checking {part}", total=None) for part in ("ids", "accounts")
        }

        def show(part: str, done: int, total: int) -> None:
            progress.update(tasks[part], completed=done, total=total)

        yield show


def _write_metrics(report: Report, schema: str, seconds: float, file: Path) -> None:
    """Write a file that the textfile collector of the node exporter reads; all at once or not."""
    from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

    registry = CollectorRegistry()
    for name, about, value in (
        ("agrees", "Whether the book agreed with itself when it was last verified.", report.agrees),
        ("disagreements", "In how many things it did not.", report.count),
        ("entries", "How many entries were verified.", report.entries),
        ("duration_seconds", "How long that took.", seconds),
        ("completed_timestamp_seconds", "When that was done, since 1970.", time.time()),
    ):
        gauge = Gauge(f"shared_ledger_verify_{name}", about, ["schema"], registry=registry)
        gauge.labels(schema).set(value)
    write_to_textfile(str(file), registry)


def _fields(report: Report) -> dict[str, Any]:
    return {
        "entries": report.entries,
        "accounts": report.accounts,
        "count": report.count,
        "disagreements": report.disagreements,
    }


def _show(report: Report, seconds: float) -> None:
    size = f"{report.entries} entries, {report.accounts} accounts"
    if report.agrees:
        print_line(f"The book agrees: {size}, assets sum to zero ({seconds:.1f} s)", style="green")
        return
    print_line(f"The book does not agree: {report.count} disagreements in {size}", style="bold red")
    print_table(
        [
            ("Owner", "left"),
            ("Asset", "left"),
            ("What", "left"),
            ("Expected", "right"),
            ("Found", "right"),
            ("Entry", "right"),
        ],
        [
            (d.owner_id, d.asset, d.kind, d.expected, d.found, d.entry_id)
            for d in report.disagreements[:SHOWN]
        ],
    )
    if report.count > SHOWN:
        print_line(f"… and {report.count - SHOWN} more; --json shows {len(report.disagreements)}")
