"""The FastAPI application over one ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import Response

from shared_ledger import __version__
from shared_ledger.access.gate import Gate
from shared_ledger.access.store import AccessStore
from shared_ledger.access.tokens import Tokens
from shared_ledger.ledger import Ledger
from shared_ledger.operations import Application
from shared_ledger.service import documentation, problems, routes
from shared_ledger.service.authorisation import check_complete
from shared_ledger.service.direct import DirectRoute, DirectRoutes
from shared_ledger.service.metrics import MeasuredRequests, Metrics
from shared_ledger.service.sweeper import sweeping
from shared_ledger.service.users import Doorkeeper
from shared_ledger.settings import Settings

DESCRIPTION = """
One credits ledger for all of a team's applications: typed operations, posted exactly once, never
overspent. A service sends its key in the header `x-token`; a user registers, logs in, and sends the
token as `Authorization: Bearer …`.
"""


def create_app(
    application: Application[Any],
    settings: Settings,
    *,
    on_ready: Callable[[Ledger[Any]], None] = lambda _: None,
    more_routes: Sequence[DirectRoute] = (),
) -> FastAPI:
    """Make the service of one application; the ledger is open while it runs.

    ``on_ready`` is called with the ledger when it is open and requests can be answered;
    ``more_routes`` are served beside the ledger's own, and ask nobody for credentials.

    Raises
    ------
    ConfigurationError
        If a route is in no row of the table of who may what.
    """
    token = settings.api_token.get_secret_value()
    tokens = Tokens(
        settings.secret_key.get_secret_value(),
        settings.secret_key_previous.get_secret_value() or None,
        lifetime_s=settings.token_lifetime_s,
    )
    metrics = Metrics(lambda: app.state.ledger.queued if hasattr(app.state, "ledger") else 0)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Ledger(
            application,
            settings.url,
            data=settings.shared_ledger_data,
            schema=settings.shared_ledger_schema,
            observe=metrics.batch,
        ) as ledger:
            gate = Gate(AccessStore(ledger.url, ledger.tables), tokens, token)
            app.state.gate = gate
            app.state.doorkeeper = doorkeeper = Doorkeeper()
            app.state.ledger = ledger
            try:
                on_ready(ledger)
                async with sweeping(ledger, settings.sweep_interval_s):
                    yield
            finally:
                await asyncio.to_thread(doorkeeper.close)
                await asyncio.to_thread(gate.close)

    # Its documentation pages bring their own scripts: they work where there is no internet.
    app = FastAPIOffline(
        title="Shared Ledger",
        version=__version__,
        description=DESCRIPTION.strip(),
        lifespan=lifespan,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.development = settings.environment == "development"
    problems.install(app)
    for router in routes.ROUTERS:
        app.include_router(router)

    @app.get("/health", tags=["operation"], operation_id="health", summary="Is it alive?")
    async def health() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.get("/metrics", tags=["operation"], operation_id="metrics", summary="Prometheus metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    check_complete([*app.routes, *(route for router in routes.ROUTERS for route in router.routes)])
    direct = [
        route
        for router in routes.ROUTERS
        for route in router.routes
        if isinstance(route, DirectRoute)
    ]
    app.add_middleware(DirectRoutes, routes=[*direct, *more_routes])
    app.add_middleware(MeasuredRequests, metrics=metrics)
    _document(app)
    return app


def _document(app: FastAPI) -> None:
    """Add to the generated description what the bare routes refer to."""
    generate = app.openapi

    def described() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = generate()
            components = schema.setdefault("components", {})
            components.setdefault("schemas", {}).update(documentation.schemas())
            components["securitySchemes"] = documentation.SECURITY_SCHEMES
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend it
