"""One throw-away PostgreSQL for the run, and a fresh book in it for each test."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from sqlalchemy.engine import Engine

from nats_server import NatsServer
from redis_server import RedisServer
from shared_ledger import SHARED, Ledger, SharedOperation
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster, temporary_cluster

_numbers = count(1)


@pytest.fixture(autouse=True)
def _levels_of_logs() -> Iterator[None]:
    """What a service in the test's process says of logs is not said to the next test."""
    loggers = [logging.getLogger(), *map(logging.getLogger, logging.root.manager.loggerDict)]
    before = [(logger, logger.level, list(logger.handlers), logger.propagate) for logger in loggers]
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers
        logger.propagate = propagate
    known = set(loggers)
    for name in list(logging.root.manager.loggerDict):
        if (logger := logging.getLogger(name)) not in known:
            logger.setLevel(logging.NOTSET)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A PostgreSQL that lives as long as the test run."""
    with temporary_cluster() as cluster:
        yield cluster


@pytest.fixture
def schema() -> str:
    """The name of a schema that no other test uses; nothing is in it yet."""
    return f"book_{next(_numbers)}"


@pytest.fixture
def ledger(cluster: Cluster, schema: str) -> Iterator[Ledger[SharedOperation]]:
    """An open ledger of the shared operations over a new book in ``schema``."""
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True) as ledger:
        yield ledger


@pytest.fixture
def engine(cluster: Cluster) -> Iterator[Engine]:
    """An SQLAlchemy engine on the run's PostgreSQL, for any schema."""
    engine = make_engine(cluster.url)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def _run_redis() -> Iterator[RedisServer]:
    """A Redis that lives as long as the test run."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_server(_run_redis: RedisServer) -> Iterator[RedisServer]:
    """The run's Redis, which runs and is empty; a test may kill or pause it."""
    if not _run_redis.running:
        _run_redis.start()
    _run_redis.flush()
    yield _run_redis
    if _run_redis.running:
        _run_redis.resume()


@pytest.fixture(scope="session")
def _run_nats() -> Iterator[NatsServer]:
    """A NATS that lives as long as the test run."""
    with NatsServer() as server:
        yield server


@pytest.fixture
def nats_server(_run_nats: NatsServer) -> Iterator[NatsServer]:
    """The run's NATS, which runs; a test may kill or pause it. Streams are named by the schema."""
    if not _run_nats.running:
        _run_nats.start()
    yield _run_nats
    if _run_nats.running:
        _run_nats.resume()


@pytest.fixture(params=["in process", "over NATS"])
def carried_by(request: pytest.FixtureRequest) -> str:
    """What carries messages, for ``transport_over``: a URL of NATS, or none."""
    if request.param == "in process":
        return ""
    server: NatsServer = request.getfixturevalue("nats_server")
    return server.url


class Clock:
    """A database clock that stands still until a test moves it.

    ``url`` is the cluster's, but its sessions find another ``clock_timestamp()`` and
    ``transaction_timestamp()`` before PostgreSQL's own, in a schema that no other clock uses.
    """

    def __init__(self, cluster: Cluster, start: datetime | None = None) -> None:
        self._plain = cluster.url
        self.schema = f"clock_{next(_numbers)}"
        separator = "&" if "?" in cluster.url else "?"
        self.url = f"{cluster.url}{separator}options=-csearch_path%3D{self.schema}%2Cpg_catalog"
        self._run("create schema {clock}")
        self._run("create table {clock}.present (at timestamptz not null)")
        self._run(
            "insert into {clock}.present values (coalesce(%s, pg_catalog.clock_timestamp()))", start
        )
        for name in ("clock_timestamp", "transaction_timestamp"):
            self._run(
                f"create function {{clock}}.{name}() returns timestamptz "
                "language sql volatile as 'select at from {clock}.present'"
            )

    def now(self) -> datetime:
        """The time at which it stands, UTC."""
        at: datetime = self._run("select at from {clock}.present")[0][0]
        return at.astimezone(UTC)

    def move(self, step: timedelta) -> None:
        """Let so much time pass at once; negative sets it back."""
        self._run("update {clock}.present set at = at + %s", step)

    def close(self) -> None:
        """Drop its schema; sessions of ``url`` then have no such clock any more."""
        self._run("drop schema {clock} cascade")

    def _run(self, text: LiteralString, *parameters: object) -> list[Any]:
        with psycopg.connect(self._plain, autocommit=True) as connection:
            query = sql.SQL(text).format(clock=sql.Identifier(self.schema))
            cursor = connection.execute(query, parameters or None)
            return cursor.fetchall() if cursor.description else []


@pytest.fixture
def clock(cluster: Cluster) -> Iterator[Clock]:
    """A clock of this test alone."""
    clock = Clock(cluster)
    yield clock
    clock.close()


@pytest.fixture
def moving_url(clock: Clock) -> str:
    """The URL of sessions for which ``clock`` tells the time."""
    return clock.url


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL that its system user can reach, root's tests included.

    Not under ``tmp_path``: that is private, so that root's data would be put elsewhere and stay.
    """
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    folder.chmod(0o755)
    yield folder / "data"
    shutil.rmtree(folder)
