"""The FastAPI application over a ledger: one service at the root, and others beside it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from threading import Event
from typing import Any, ParamSpec

from fastapi import Depends, FastAPI, Request
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from sqlalchemy.engine import Engine
from starlette.datastructures import State
from starlette.responses import Response
from starlette.types import ASGIApp

from shared_ledger import __version__, migrations
from shared_ledger.access.counts import Counts
from shared_ledger.access.gate import Gate
from shared_ledger.access.store import AccessStore
from shared_ledger.access.tokens import Tokens
from shared_ledger.errors import ConfigurationError
from shared_ledger.ledger import Ledger
from shared_ledger.operations import Application
from shared_ledger.service import documentation, problems, routes
from shared_ledger.service.authorisation import (
    admitted,
    check_complete,
    check_plain,
    with_own,
)
from shared_ledger.service.body_limit import LimitedBodies
from shared_ledger.service.calls import application_engine
from shared_ledger.service.direct import DirectRoute, DirectRoutes, Ended
from shared_ledger.service.figures import shown, system_accounts
from shared_ledger.service.head import HeadRequests
from shared_ledger.service.headers import SafeHeaders
from shared_ledger.service.lags import lags_of
from shared_ledger.service.metrics import Metrics
from shared_ledger.service.mounts import Mounts
from shared_ledger.service.observed import ObservedRequests
from shared_ledger.service.observers import Observers
from shared_ledger.service.openapi import describe
from shared_ledger.service.pages import add_pages
from shared_ledger.service.parameters import check_query
from shared_ledger.service.rates import RateLimits
from shared_ledger.service.readiness import Readiness
from shared_ledger.service.service import (
    MAX_APPLICATION_BODY_BYTES,
    Service,
    Serving,
    plain,
)
from shared_ledger.service.state import SharedState
from shared_ledger.service.sweeper import sweeping
from shared_ledger.service.users import Doorkeeper
from shared_ledger.settings import Settings
from shared_ledger.writer import BatchReport

_P = ParamSpec("_P")


def create_app(
    served: Service | Application[Any],
    settings: Settings,
    *,
    beside: Sequence[Service] = (),
    on_ready: Callable[[Ledger[Any]], None] = lambda _: None,
    more_routes: Sequence[DirectRoute] = (),
    observers: Observers | None = None,
    watched: Callable[[], bool] | None = None,
) -> FastAPI:
    """Make the application of a service at the root; its ledger is open while it runs.

    ``beside`` are served below ``/api/v1/``, each with its own ledger on the same book.
    ``on_ready`` is called with the root's ledger when requests can be answered; ``more_routes`` are
    served beside the ledger's own at the root, and ask nobody for credentials. ``observers`` are
    told of requests; without them none is logged. While it is not ``watched``, nothing that is
    asked or written is counted, timed or logged: only to measure what that costs.

    Raises
    ------
    ConfigurationError
        If a route is in no row of the table of who may what, two services have one path, or a
        setting is no limit.
    """
    root = served if isinstance(served, Service) else plain(served)
    observers = observers or Observers()
    ledgers: dict[str, Ledger[Any]] = {}
    metrics = _metrics([root, *beside], settings, ledgers, lambda: app.state)
    counts = Counts(settings.cache_url)
    rates = RateLimits(settings, counts)
    leaving = Event()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with ExitStack() as opened:
            for service, part in parts.items():
                ledger = Ledger(
                    service.application,
                    settings.url,
                    data=settings.shared_ledger_data,
                    schema=settings.shared_ledger_schema,
                    observe=_noted(watched, partial(_observe, metrics, observers)),
                    observe_in=_noted(watched, metrics.entries.posted),
                    cache=settings.cache_url,
                    cache_ttl_s=settings.cache_ttl_s,
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
            doorkeeper = Doorkeeper(counts)
            opened.callback(doorkeeper.close)
            of_services = {service: part.state.ledger for service, part in parts.items()}
            readiness = Readiness(settings.shared_ledger_schema, of_services, counts, leaving)
            opened.callback(readiness.close)
            for part in parts.values():
                _share(part, gate, doorkeeper, engine)
                part.state.rates = rates
                part.state.readiness = readiness
            closing = opened.pop_all()
        try:
            async with _running(parts, ledger, metrics, settings, leaving):
                on_ready(ledger)
                yield
        finally:
            leaving.set()
            await asyncio.to_thread(closing.close)
            await counts.close()
            await observers.close()

    ended = _noted(watched, ObservedRequests(metrics.requests, observers.requests).ended)
    parts = {root: _made(root, settings, metrics, lifespan, more_routes=more_routes, ended=ended)}
    mounted: dict[str, FastAPI] = {}
    for service in beside:
        if service.path in mounted:
            raise ConfigurationError(f"two services are to be served below {service.path}")
        mounted[service.path] = parts[service] = _made(service, settings, metrics, ended=ended)
    app = parts[root]
    app.state.leaving = leaving
    production = settings.environment == "production"

    def outermost(inner: ASGIApp) -> ASGIApp:
        safe = SafeHeaders(Mounts(inner, mounted), production=production, leaving=leaving.is_set)
        return HeadRequests(observers.around(safe))

    _surround(app, outermost)
    return app


def _made(
    service: Service,
    settings: Settings,
    metrics: Metrics,
    lifespan: Callable[[FastAPI], Any] | None = None,
    *,
    ended: Ended,
    more_routes: Sequence[DirectRoute] = (),
) -> FastAPI:
    # Its documentation pages bring their own scripts: they work where there is no internet.
    app = FastAPIOffline(
        docs_url=None,
        redoc_url=None,
        title=service.title,
        version=__version__,
        description=service.description,
        openapi_tags=[{"name": name, "description": text} for name, text in service.tags.items()],
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=_operation_id,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state = SharedState()
    app.state.development = settings.environment == "development"
    app.state.rights = rights = with_own(service.rights)
    app.state.registered = service.registered
    app.state.metrics = metrics
    problems.install(app)
    add_pages(app)
    for router in routes.ROUTERS:
        app.include_router(router)
    for router in service.routers:
        check_plain(router.routes)
        # Whatever the route does: the table is asked first.
        app.include_router(
            router,
            dependencies=[Depends(admitted), Depends(check_query)],
            responses=documentation.READ_PROBLEMS,
        )

    @app.get(
        "/health",
        tags=["operation"],
        operation_id="health",
        summary="Is it alive?",
        openapi_extra=documentation.HEALTH,
    )
    async def health() -> dict[str, str]:
        """Tell that the process answers, and its version."""
        return {"status": "ok", "version": __version__}

    @app.get(
        "/health/ready",
        tags=["operation"],
        operation_id="ready",
        summary="Can it answer?",
        response_class=Response,
        openapi_extra=documentation.READY,
    )
    async def ready(request: Request) -> Response:
        """Tell whether requests should be sent here: the database is there, and migrated."""
        readiness: Readiness = request.app.state.readiness
        return await readiness.answer()

    @app.get(
        "/metrics",
        tags=["operation"],
        operation_id="metrics",
        summary="Show metrics",
        response_class=Response,
        openapi_extra=documentation.METRICS,
    )
    async def show_metrics(request: Request) -> Response:
        """Show what is counted and timed, as Prometheus reads it."""
        readiness: Readiness = request.app.state.readiness
        found, _ = await asyncio.gather(readiness.present(), metrics.measured.refresh())
        metrics.saw(found.facts)
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    own = [route for router in (*routes.ROUTERS, *service.routers) for route in router.routes]
    check_complete([*app.routes, *own], rights)
    direct = [route for route in own if isinstance(route, DirectRoute)]
    app.add_middleware(LimitedBodies, limit=MAX_APPLICATION_BODY_BYTES)
    _surround(app, lambda inner: DirectRoutes(inner, [*direct, *more_routes], ended))
    describe(app, service, rights, [*app.routes, *own])
    return app


@asynccontextmanager
async def _running(
    parts: Mapping[Service, FastAPI],
    ledger: Ledger[Any],
    metrics: Metrics,
    settings: Settings,
    leaving: Event,
) -> AsyncIterator[None]:
    """Run what runs beside the routes."""
    async with AsyncExitStack() as running:
        await running.enter_async_context(
            metrics.measured.of(ledger.url, settings.shared_ledger_schema)
        )
        await running.enter_async_context(metrics.watching())
        for service, part in parts.items():
            await running.enter_async_context(_alive(service, part, settings, leaving))
        await running.enter_async_context(sweeping(ledger, settings.sweep_interval_s))
        yield


@asynccontextmanager
async def _alive(
    service: Service, part: FastAPI, settings: Settings, leaving: Event
) -> AsyncIterator[None]:
    """Run what a service runs beside its routes."""
    if service.lifespan is None:
        part.state.own = None
        yield
        return
    serving = Serving(part.state.ledger, settings, leaving.is_set)
    async with service.lifespan(serving) as part.state.own:
        yield


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


def _surround(app: FastAPI, outer: Callable[[ASGIApp], ASGIApp]) -> None:
    """Put middleware around all of the framework's own.

    What is answered there needs none of it, and what fails within it is answered by then.
    """
    build = app.build_middleware_stack

    def surrounded() -> ASGIApp:
        return outer(build())

    app.build_middleware_stack = surrounded  # type: ignore[method-assign]  # as FastAPI's docs do


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


def _metrics(
    services: Sequence[Service],
    settings: Settings,
    ledgers: Mapping[str, Ledger[Any]],
    state: Callable[[], State],
) -> Metrics:
    schema = settings.shared_ledger_schema
    figures = [system_accounts(schema), *(each for one in services for each in one.figures)]
    lags = lags_of(tables for service in services for tables in service.message_tables)
    metrics = Metrics(
        ledgers.values,
        lambda: state().engine.pool if hasattr(state(), "engine") else None,
        [lags, *map(shown, figures)],
    )
    for service in services:
        metrics.entries.begin(service.application)
    return metrics


def _noted(watched: Callable[[], bool] | None, note: Callable[_P, None]) -> Callable[_P, None]:
    """Return what takes notes while it is watched; that is always if nobody is to be asked."""
    if watched is None:
        return note

    def perhaps(*args: _P.args, **kwargs: _P.kwargs) -> None:
        if watched():
            note(*args, **kwargs)

    return perhaps


def _observe(metrics: Metrics, observers: Observers, report: BatchReport) -> None:
    metrics.entries.batch(report)
    observers.batch(report)


def _operation_id(route: APIRoute) -> str:
    """Name a route as its function is named: what is generated from it keeps its names."""
    return route.name
