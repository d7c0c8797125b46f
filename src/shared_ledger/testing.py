"""What an application's tests need: its service in this process, on a book that is thrown away.

::

    @pytest.fixture(scope="module")
    def served() -> Iterator[TemporaryService]:
        with temporary_service(SERVICE) as served:
            yield served

    def test_a_booking_costs_four_credits(served: TemporaryService) -> None:
        user = served.user(credits=10)
        assert user.post("/bookings", {"title": "room 7", "nonce": "n1"}).status_code == 201
        assert user.credits() == 6

Everything is real, and as it is in production: PostgreSQL, the application's migrations, its
routes, and who may call them; only how often is not limited. It needs
``shared-ledger[service,client,embedded]``.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from itertools import count
from typing import Any
from uuid import uuid4

import httpx
import sqlalchemy as sa
from fastapi import FastAPI
from pydantic import SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from sqlalchemy.engine import Engine

from shared_ledger.access.gate import Gate
from shared_ledger.access.keys import NewKey, check_new
from shared_ledger.access.passwords import hash_password
from shared_ledger.book import Posting
from shared_ledger.connections import libpq_url, make_engine
from shared_ledger.embedded import temporary_cluster
from shared_ledger.ledger import Ledger
from shared_ledger.migrations import migrate, migrate_application
from shared_ledger.operations import INT64_MAX, Application, Rule, SharedOperation
from shared_ledger.service.app import create_app
from shared_ledger.service.service import Service
from shared_ledger.settings import Settings

__all__ = ["CallerClient", "TemporaryService", "UserClient", "temporary_service"]

_GIFTS = Application(
    "testing",
    SharedOperation,
    rules={SharedOperation.CREDIT_ADD: Rule.variable(minimum=1, maximum=INT64_MAX)},
)
"""Gives what a test asks for, whatever the application's own rules say."""


class CallerClient:
    """Sends requests as one caller, and returns the answers; paths are the application's own."""

    def __init__(self, wire: _Wire, headers: Mapping[str, str]) -> None:
        self._wire = wire
        self._headers = headers

    def get(self, path: str) -> httpx.Response:
        """Get what is at a path."""
        return self.request("GET", path)

    def post(self, path: str, body: object = None) -> httpx.Response:
        """Post a body of JSON, or none."""
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Send any request. What the application raises and does not answer is raised here."""
        return self._wire.send(method, path, body, self._headers)


class UserClient(CallerClient):
    """Sends requests as a user who is logged in; ``name`` is also the owner of his account."""

    def __init__(
        self, wire: _Wire, headers: Mapping[str, str], name: str, ledger: Ledger[Any]
    ) -> None:
        super().__init__(wire, headers)
        self.name = name
        self._ledger = ledger

    def credits(self) -> int:
        """Return how many credits the user can spend now."""
        return self._ledger.balance(self.name).available


class TemporaryService:
    """A service that runs in this process, made by ``temporary_service``; for any thread.

    Attributes
    ----------
    ledger
        The application's, for what its routes do not show.
    nobody
        Sends requests without credentials.
    """

    def __init__(
        self, wire: _Wire, gate: Gate, ledger: Ledger[Any], gifts: Ledger[SharedOperation]
    ) -> None:
        self.ledger = ledger
        self.nobody = CallerClient(wire, {})
        self._wire = wire
        self._gate = gate
        self._gifts = gifts
        self._password_hash = hash_password(secrets.token_urlsafe())
        self._numbers = count(1)

    def user(self, name: str | None = None, *, credits: int = 0) -> UserClient:  # noqa: A002
        """Register a user, under a new name if none is given, and give him credits."""
        name = name or f"user{next(self._numbers)}"
        self._gate.store.add_user(name, self._password_hash)
        if credits:
            self.give(name, credits)
        headers = {"authorization": f"Bearer {self._gate.tokens.issue(name)}"}
        return UserClient(self._wire, headers, name, self.ledger)

    def key(self, *operations: str) -> CallerClient:
        """Make a key of the application, for these operations or for all, and send with it."""
        application = self.ledger.application
        asked = NewKey("a test", application.name, operations or None, None)
        _, key = self._gate.store.add_key(check_new(asked, application), "a test")
        return CallerClient(self._wire, {"x-token": key})

    def give(self, owner_id: str, credits: int) -> None:  # noqa: A002  # what it is
        """Give an owner credits, as another application would."""
        nonce = str(uuid4())
        self._gifts.post(Posting(SharedOperation.CREDIT_ADD, owner_id, nonce, credits))


@contextmanager
def temporary_service(service: Service, *, url: str | None = None) -> Iterator[TemporaryService]:
    """Serve an application, alone at the root, on a new book of its own; all is gone afterwards.

    The book is in a throw-away embedded PostgreSQL or, in a schema of its own, in that of ``url``.
    Neither the environment nor a file ``.env`` is looked at.

    Raises
    ------
    ConfigurationError, EmbeddedUnavailable, LedgerUnavailable
        If it cannot be served, or there is no PostgreSQL.
    MigrationRefused, SchemaNotMigrated
        If the application's migrations fail, or lack something that it has.
    """
    with ExitStack() as opened:
        url = libpq_url(url) if url else opened.enter_context(temporary_cluster()).url
        schema = f"testing_{secrets.token_hex(8)}"
        engine = make_engine(url)
        opened.callback(engine.dispose)
        opened.callback(_drop, engine, schema)
        migrate(engine, schema, [service.application, _GIFTS])
        if service.migrations is not None:
            migrate_application(url, schema, service.migrations)
        gifts = opened.enter_context(Ledger(_GIFTS, url, schema=schema, lanes=1))
        settings = _Settings(
            database_url=SecretStr(url),
            shared_ledger_schema=schema,
            environment="production",
            secret_key=SecretStr(secrets.token_urlsafe(32)),
            rate_limit_user="",
            rate_limit_anonymous="",
        )
        app = create_app(service, settings)
        wire = opened.enter_context(_wired(app))
        yield TemporaryService(wire, app.state.gate, app.state.ledger, gifts)


class _Settings(Settings):
    """Settings that are what they are said to be, and nothing else."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # as pydantic calls it
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


class _Wire:
    """Takes requests to an application whose event loop has a thread of its own."""

    def __init__(self, client: httpx.AsyncClient, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._loop = loop

    def send(
        self, method: str, path: str, body: object, headers: Mapping[str, str]
    ) -> httpx.Response:
        request = self._client.request(method, path, json=body, headers=headers)
        return asyncio.run_coroutine_threadsafe(request, self._loop).result()


@contextmanager
def _wired(app: FastAPI) -> Iterator[_Wire]:
    """Run an application on an event loop of its own, in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="shared-ledger-testing")
    thread.start()
    running = AsyncExitStack()

    async def begin() -> httpx.AsyncClient:
        await running.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app=app)
        client = httpx.AsyncClient(transport=transport, base_url="http://testing")
        return await running.enter_async_context(client)

    try:
        client = asyncio.run_coroutine_threadsafe(begin(), loop).result()
        yield _Wire(client, loop)
    finally:
        try:
            asyncio.run_coroutine_threadsafe(running.aclose(), loop).result()
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


def _drop(engine: Engine, schema: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.schema.DropSchema(schema, cascade=True, if_exists=True))
