"""The commands that run for longer: the service, and the measurements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from shared_ledger.cli.options import (
    ApplicationOption,
    JsonOption,
    load_application,
    load_services,
    where,
)
from shared_ledger.cli.output import print_facts, print_json
from shared_ledger.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_ledger.ledger import Ledger
    from shared_ledger.operations import Application
    from shared_ledger.service import Service

# Typer knows no larger one; the settings check it again.
MAX_PORT = 65_535


def serve(
    service: Annotated[
        str | None,
        typer.Argument(
            metavar="[SERVICE]",
            show_default=False,
            help="One of the configured services, such as content, alone and at the root.",
        ),
    ] = None,
    *,
    context: Annotated[
        list[str] | None,
        typer.Option(
            "--context",
            metavar="NAME",
            show_default=False,
            help="Run only this context of the service here; may be given again.",
        ),
    ] = None,
    separate: Annotated[
        bool,
        typer.Option(
            "--separate",
            help="Run each context of the service in a process of its own, over NATS; "
            "for development.",
        ),
    ] = False,
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
    beside = load_services(settings)
    served: Service | Application[Any]
    if service is None:
        served = load_application(application)
        if context or separate:
            raise ConfigurationError("--context and --separate are of a service: name it")
    else:
        served = _named(service, beside)
        beside = []
        if application is not None:
            raise ConfigurationError("--application and a service are two things to serve: say one")
    if separate:
        from shared_ledger.cli.separate import run_separately

        raise typer.Exit(run_separately(cast("Service", served), settings))
    if context:
        settings = settings.model_copy(update={"shared_ledger_contexts": ",".join(context)})
    name, rules = _of(served)
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
                    "application": name,
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
            ("application", f"{name}: {', '.join(rules)}"),
            *((service.application.name, f"{url}{service.path}/docs") for service in beside),
            ("database", f"{database}, schema {settings.shared_ledger_schema}"),
            ("environment", settings.environment),
        ]
        if settings.api_token.get_secret_value() == DEVELOPMENT_TOKEN:
            facts.append(("token", f"x-token: {DEVELOPMENT_TOKEN} (for development only)"))
        print_facts("Shared Ledger is ready; Ctrl-C ends it", facts)

    run(served, settings, beside=beside, on_ready=show, listener=listener)


def _named(name: str, services: Sequence[Service]) -> Service:
    for each in services:
        if each.application.name == name:
            return each
    known = ", ".join(each.application.name for each in services) or "none"
    raise ConfigurationError(
        f"no service named {name} is configured (SHARED_LEDGER_SERVICES): there is {known}"
    )


def _of(served: Service | Application[Any]) -> tuple[str, Iterable[str]]:
    from shared_ledger.service import Service

    application = served.application if isinstance(served, Service) else served
    return application.name, application.rules


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
