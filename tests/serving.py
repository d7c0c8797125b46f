"""A service over a new book for one test, and callers of every kind."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Literal

import httpx
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from builders import query
from shared_ledger import SHARED, Application, apps
from shared_ledger.access.gate import Gate
from shared_ledger.access.keys import NewKey
from shared_ledger.access.passwords import hash_password
from shared_ledger.access.store import AccessStore
from shared_ledger.access.tokens import Tokens
from shared_ledger.ledger import Ledger
from shared_ledger.migrations import migrate, migrate_application
from shared_ledger.service import Service, create_app
from shared_ledger.service.observers import Observers
from shared_ledger.settings import Settings

BASE_URL = "http://ledger"
OPERATOR = {"x-token": "the-operators-own-key-0123"}
SECRET_KEY = "the-signing-key-of-these-tests-0123456789"
PREVIOUS_KEY = "the-signing-key-of-before-these-tests-0123"
PASSWORD = "Test@1234"

SERVICES: tuple[Service, ...] = tuple(
    importlib.import_module(f"{apps.__name__}.{module.name}").SERVICE
    for module in pkgutil.iter_modules(apps.__path__)
)
"""Those that come with the ledger."""

_HASHED = hash_password(PASSWORD)


class Served:
    """A service that runs, as a test meets it."""

    def __init__(self, client: httpx.AsyncClient, app: Any, url: str, schema: str) -> None:
        self.client = client
        self.app = app
        self.url = url
        self.schema = schema
        self._numbers = count(1)
        self._tables: tuple[str, ...] | None = None

    @property
    def store(self) -> AccessStore:
        return self.gate.store

    @property
    def gate(self) -> Gate:
        gate: Gate = self.app.state.gate
        return gate

    @property
    def ledger(self) -> Ledger[Any]:
        ledger: Ledger[Any] = self.app.state.ledger
        return ledger

    def user(self, username: str, *, is_admin: bool = False) -> dict[str, str]:
        """Add a user, and return the header that he sends."""
        self.store.add_user(username, _HASHED, is_admin=is_admin)
        return bearer(self.gate.tokens.issue(username))

    def key(
        self,
        application: str | None = "shared",
        operations: tuple[str, ...] | None = None,
        daily_budget: int | None = None,
    ) -> dict[str, str]:
        """Add a key, and return the header that its service sends."""
        return {"x-token": self.new_key(application, operations, daily_budget)[1]}

    def new_key(
        self,
        application: str | None = "shared",
        operations: tuple[str, ...] | None = None,
        daily_budget: int | None = None,
    ) -> tuple[str, str]:
        """Add a key, and return its id and what its service sends."""
        made, key = self.store.add_key(
            NewKey("a service", application, operations, daily_budget), "ada"
        )
        return made.id, key

    def nonce(self) -> str:
        return f"nonce {next(self._numbers)}"

    async def post(
        self, headers: Mapping[str, str], operation: str, owner_id: str, **more: Any
    ) -> httpx.Response:
        body = {"operation": operation, "owner_id": owner_id, "nonce": self.nonce()} | more
        return await self.client.post("/ledger", json=body, headers=headers)

    async def log_in(self, username: str, password: str = PASSWORD) -> httpx.Response:
        form = {"username": username, "password": password}
        return await self.client.post("/auth/token", data=form)

    def at(self, path: str) -> Served:
        """The same, as it is met below a path."""
        client = httpx.AsyncClient(transport=self.client._transport, base_url=f"{BASE_URL}{path}")
        below = Served(client, self.app, self.url, self.schema)
        below._numbers = self._numbers
        return below

    def written(self) -> tuple[int, ...]:
        """How many rows there are of everything that a caller may write, the services' too."""
        known = ("entries", "holds", "users", "api_keys", "key_issues")
        if self._tables is None:
            found = query(
                self.url, "select tablename from pg_tables where schemaname = %s", self.schema
            )
            self._tables = (*known, *sorted({name for (name,) in found} - set(known)))
        counts = ", ".join(f"(select count(*) from {self.schema}.{name})" for name in self._tables)
        row: tuple[int, ...] = query(self.url, f"select {counts}")[0]
        return row


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def tokens(secret: str = SECRET_KEY, lifetime_s: int = 1_800) -> Tokens:
    return Tokens(secret, lifetime_s=lifetime_s)


def kind(answer: httpx.Response) -> str:
    """The name of a problem."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    return str(answer.json()["type"]).removeprefix("urn:shared-ledger:problem:")


@asynccontextmanager
async def serving(
    url: str,
    schema: str,
    engine: Engine | None,
    *,
    environment: Literal["development", "production"] = "production",
    application: Service | Application[Any] = SHARED,
    beside: Sequence[Service] = (),
    observers: Observers | None = None,
    watched: Callable[[], bool] | None = None,
    **more: Any,
) -> AsyncIterator[Served]:
    """Serve an application at the root, and services beside it; ``engine`` is to migrate all."""
    if engine is not None:
        migrate_all(url, schema, engine, [application, *beside])
    settings = Settings(
        database_url=SecretStr(url),
        shared_ledger_schema=schema,
        environment=environment,
        api_token=SecretStr(OPERATOR["x-token"]),
        secret_key=SecretStr(SECRET_KEY),
        secret_key_previous=SecretStr(PREVIOUS_KEY),
        sweep_interval_s=0,
        **more,
    )
    app = create_app(application, settings, beside=beside, observers=observers, watched=watched)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client,
    ):
        yield Served(client, app, url, schema)


def migrate_all(
    url: str, schema: str, engine: Engine, served: Sequence[Service | Application[Any]]
) -> None:
    """Do what ``shared-ledger migrate`` does."""
    migrate(
        engine, schema, [one.application if isinstance(one, Service) else one for one in served]
    )
    for one in served:
        if isinstance(one, Service) and one.migrations is not None:
            migrate_application(url, schema, one.migrations)
