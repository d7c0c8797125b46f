"""The FastAPI application over a ledger: one service at the root, and others beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.engine import Engine
from starlette.responses import Response

from shared_ledger import __version__, migrations
from shared_ledger.access.gate import Gate
from shared_ledger.access.store import AccessStore
from shared_ledger.access.tokens import Tokens
from shared_ledger.errors import ConfigurationError
from shared_ledger.ledger import Ledger
from shared_ledger.operations import Application
from shared_ledger.service import documentation, problems, routes
from shared_ledger.service.authorisation import RIGHTS, admitted, check_complete
from shared_ledger.service.calls import application_engine
from shared_ledger.service.direct import DirectRoute, DirectRoutes
from shared_ledger.service.metrics import MeasuredRequests, Metrics
from shared_ledger.service.mounts import Mounts
from shared_ledger.service.service import Service, plain
from shared_ledger.service.sweeper import sweeping
from shared_ledger.service.users import Doorkeeper
from shared_ledger.settings import Settings, load_settings


def create_app(
    served: Service | Application[Any],
    settings: Settings,
    *,
    beside: Sequence[Service] = (),
    on_ready: Callable[[Ledger[Any]], None] = lambda _: None,
    more_routes: Sequence[DirectRoute] = (),
) -> FastAPI:
    """Make the application of a service at the root; its ledger is open while it runs.

    ``beside`` are served below ``/api/v1/``, each with its own ledger on the same book.
    ``on_ready`` is called with the root's ledger when requests can be answered; ``more_routes`` are
    served beside the ledger's own at the root, and ask nobody for credentials.

    Raises
    ------
    ConfigurationError
        If a route is in no row of the table of who may what, or two services have one path.
    """
    root = served if isinstance(served, Service) else plain(served)
    metrics = Metrics(lambda: sum(ledger.queued for ledger in ledgers.values()))
    ledgers: dict[str, Ledger[Any]] = {}

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as opened:
            for service, part in parts.items():
                ledger = Ledger(
                    service.application,
                    settings.url,
                    data=settings.shared_ledger_data,
                    schema=settings.shared_ledger_schema,
                    observe=metrics.batch,
                )
                opened.callback(ledger.close)
                ledgers[service.path] = part.state.ledger = ledger
            ledger = app.state.ledger
            engine = application_engine(ledger.url, settings.shared_ledger_schema)
            opened.callback(engine.dispose)
            for service in parts:
                _migrate(service, ledger.url, engine, settings)
            gate = Gate(AccessStore(ledger.url, ledger.tables), _tokens(settings), _token(settings))
            opened.callback(gate.close)
            doorkeeper = Doorkeeper()
            opened.callback(doorkeeper.close)
            for part in parts.values():
                _share(part, gate, doorkeeper, engine)
            closing = opened.pop_all()
        try:
            on_ready(ledger)
            async with sweeping(ledger, settings.sweep_interval_s):
                yield
        finally:
            await asyncio.to_thread(closing.close)

    parts = {root: _made(root, settings, metrics, lifespan, more_routes)}
    mounted: dict[str, FastAPI] = {}
    for service in beside:
        if service.path in mounted:
            raise ConfigurationError(f"two services are to be served below {service.path}")
        mounted[service.path] = parts[service] = _made(service, settings, metrics)
    app = parts[root]
    app.add_middleware(Mounts, mounted=mounted)
    app.add_middleware(MeasuredRequests, metrics=metrics)
    return app


def alone(service: Service) -> FastAPI:
    """Make the application of one service, as the environment says, for ``uvicorn module:app``.

    What is wrong with the settings ends the program with one line.
    """
    try:
        return create_app(service, load_settings())
    except ConfigurationError as error:
        raise SystemExit(f"shared-ledger: {error}") from None


def _made(
    service: Service,
    settings: Settings,
    metrics: Metrics,
    lifespan: Callable[[FastAPI], Any] | None = None,
    more_routes: Sequence[DirectRoute] = (),
) -> FastAPI:
    # Its documentation pages bring their own scripts: they work where there is no internet.
    app = FastAPIOffline(
        title=service.title,
        version=__version__,
        description=service.description,
        openapi_tags=[{"name": name, "description": text} for name, text in service.tags.items()],
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.development = settings.environment == "development"
    app.state.rights = rights = {**service.rights, **RIGHTS}
    problems.install(app)
    for router in routes.ROUTERS:
        app.include_router(router)
    for router in service.routers:
        # Whatever the route does: the table is asked first.
        app.include_router(
            router, dependencies=[Depends(admitted)], responses=documentation.APPLICATION_PROBLEMS
        )

    @app.get("/health", tags=["operation"], operation_id="health", summary="Is it alive?")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", tags=["operation"], operation_id="metrics", summary="Prometheus metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    own = [route for router in (*routes.ROUTERS, *service.routers) for route in router.routes]
    check_complete([*app.routes, *own], rights)
    direct = [route for route in own if isinstance(route, DirectRoute)]
    app.add_middleware(DirectRoutes, routes=[*direct, *more_routes])
    _document(app, rights)
    return app


def _migrate(service: Service, url: str, engine: Engine, settings: Settings) -> None:
    """Bring an application's own tables up to date, of an embedded database, or check that."""
    if service.migrations is None:
        return
    schema = settings.shared_ledger_schema
    if settings.url is None:
        migrations.migrate_application(url, schema, service.migrations)
    with engine.connect() as connection:
        migrations.check_application(
            connection, schema, service.application.name, service.migrations
        )


def _share(app: FastAPI, gate: Gate, doorkeeper: Doorkeeper, engine: Engine) -> None:
    app.state.gate = gate
    app.state.doorkeeper = doorkeeper
    app.state.engine = engine


def _tokens(settings: Settings) -> Tokens:
    return Tokens(
        settings.secret_key.get_secret_value(),
        settings.secret_key_previous.get_secret_value() or None,
        lifetime_s=settings.token_lifetime_s,
    )


def _token(settings: Settings) -> str:
    return settings.api_token.get_secret_value()


def _operation_id(route: APIRoute) -> str:
    """Name a route as its function is named: what is generated from it keeps its names."""
    return route.name


def _document(app: FastAPI, rights: Mapping[tuple[str, str], Any]) -> None:
    """Add to the generated description what the routes refer to, and who may call them."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(documentation.schemas())
            components["securitySchemes"] = documentation.SECURITY_SCHEMES
            for path, methods in schema["paths"].items():
                for method, route in methods.items():
                    if rights[method.upper(), path] is not None:
                        route.setdefault("security", documentation.CREDENTIALS)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend it
