"""A service over a new book for one test, and callers of every kind."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, Literal

import httpx
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from builders import query
from shared_ledger import SHARED, Application
from shared_ledger.access.gate import Gate
from shared_ledger.access.keys import NewKey
from shared_ledger.access.passwords import hash_password
from shared_ledger.access.store import AccessStore
from shared_ledger.access.tokens import Tokens
from shared_ledger.ledger import Ledger
from shared_ledger.migrations import migrate
from shared_ledger.service import create_app
from shared_ledger.settings import Settings

OPERATOR = {"x-token": "the-operators-own-key-0123"}
SECRET_KEY = "the-signing-key-of-these-tests-0123456789"
PREVIOUS_KEY = "the-signing-key-of-before-these-tests-0123"
PASSWORD = "Test@1234"

_HASHED = hash_password(PASSWORD)


class Served:
    """A service that runs, as a test meets it."""

    def __init__(self, client: httpx.AsyncClient, app: Any, url: str, schema: str) -> None:
        self.client = client
        self.app = app
        self.url = url
        self.schema = schema
        self._numbers = count(1)

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

    def written(self) -> tuple[int, ...]:
        """How many rows there are of everything that a caller may write."""
        tables = ("entries", "holds", "users", "api_keys", "key_issues")
        counts = ", ".join(f"(select count(*) from {self.schema}.{table})" for table in tables)
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
    application: Application[Any] = SHARED,
    **more: Any,
) -> AsyncIterator[Served]:
    if engine is not None:
        migrate(engine, schema, [application])
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
    app = create_app(application, settings)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://ledger") as client,
    ):
        yield Served(client, app, url, schema)
