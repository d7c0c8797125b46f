"""The commands that run for longer: the service, and the measurements."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_ledger.cli.options import (
    ApplicationOption,
    JsonOption,
    load_application,
    load_services,
    where,
)
from shared_ledger.cli.output import print_facts, print_json

if TYPE_CHECKING:
    from shared_ledger.ledger import Ledger

# Typer knows no larger one; the settings check it again.
MAX_PORT = 65_535


def serve(
    host: Annotated[
        str | None,
        typer.Option(metavar="HOST", show_default=False, help="Where to listen (or HOST)."),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=MAX_PORT,
            metavar="PORT",
            show_default=False,
            help="0 is any free one (or PORT).",
        ),
    ] = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Serve the ledger and its applications over HTTP until Ctrl-C."""
    from shared_ledger.service.server import listen
    from shared_ledger.service.server import serve as run
    from shared_ledger.settings import DEVELOPMENT_TOKEN, load_settings

    settings = load_settings()
    given = {"host": host, "port": port}
    settings = settings.model_copy(update={k: v for k, v in given.items() if v is not None})
    served = load_application(application)
    beside = load_services(settings)
    # Before the database is started: a port that is in use is the commonest mistake.
    listener = listen(settings.host, settings.port)
    number = listener.getsockname()[1]
    url = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{number}"

    def show(ledger: Ledger[Any]) -> None:
        database = where(settings, _server_version(ledger.url))
        if json:
            print_json(
                {
                    "url": url,
                    "docs": f"{url}/docs",
                    "application": served.name,
                    "services": {
                        service.application.name: f"{url}{service.path}" for service in beside
                    },
                    "database": database,
                    "schema": settings.shared_ledger_schema,
                    "environment": settings.environment,
                }
            )
            return
        facts: list[tuple[str, object]] = [
            ("service", url),
            ("docs", f"{url}/docs"),
            ("application", f"{served.name}: {', '.join(served.rules)}"),
            *((service.application.name, f"{url}{service.path}/docs") for service in beside),
            ("database", f"{database}, schema {settings.shared_ledger_schema}"),
            ("environment", settings.environment),
        ]
        if settings.api_token.get_secret_value() == DEVELOPMENT_TOKEN:
            facts.append(("token", f"x-token: {DEVELOPMENT_TOKEN} (for development only)"))
        print_facts("Shared Ledger is ready; Ctrl-C ends it", facts)

    run(served, settings, beside=beside, on_ready=show, listener=listener)


def bench(
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Write the figures to this file."),
    ] = None,
    entries: Annotated[
        int, typer.Option(min=0, metavar="N", help="Entries already stored before measuring.")
    ] = 0,
    scale: Annotated[
        float, typer.Option(min=0.001, metavar="FLOAT", help="How long to measure; 1 is normal.")
    ] = 1.0,
) -> None:
    """Measure how fast this machine posts, on a throw-away database."""
    from shared_ledger.bench.main import run

    raise typer.Exit(run(scale, entries, json))


def _server_version(url: str) -> str:
    import sqlalchemy as sa

    from shared_ledger.connections import make_engine

    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            version: str = connection.execute(sa.text("show server_version")).scalar_one()
            return version.partition(" ")[0]
    finally:
        engine.dispose()
