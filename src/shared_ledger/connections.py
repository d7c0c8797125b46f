"""Which database: a URL, ``DATABASE_URL``, or the embedded PostgreSQL when there is neither."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from shared_ledger.embedded import Cluster, open_cluster
from shared_ledger.errors import ConfigurationError, LedgerUnavailable
from shared_ledger.store import Store, connect, connect_async

DATA_VARIABLE = "SHARED_LEDGER_DATA"
URL_VARIABLE = "DATABASE_URL"


class Database:
    """A PostgreSQL to connect to; the embedded one runs for as long as this is open."""

    def __init__(self, url: str | None = None, *, data: Path | str | None = None) -> None:
        url = url or os.environ.get(URL_VARIABLE)
        self.cluster: Cluster | None = None
        if url:
            self.url = libpq_url(url)
        else:
            self.cluster = open_cluster(Path(data or os.environ.get(DATA_VARIABLE) or "data"))
            self.url = self.cluster.url

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded PostgreSQL."""
        return self.cluster is not None

    def store(self, schema: str) -> Store:
        """Open a connection to a book; an embedded PostgreSQL that died is started again.

        Raises
        ------
        LedgerUnavailable
            If the database cannot be reached.
        """
        try:
            return Store(self.url, schema)
        except LedgerUnavailable:
            if self.cluster is None:
                raise
            self.cluster.ensure_running()
            return Store(self.url, schema)

    def close(self) -> None:
        """Let go of the embedded PostgreSQL; the last one to do so stops it."""
        if self.cluster is not None:
            self.cluster.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def libpq_url(url: str) -> str:
    """Return the URL as PostgreSQL's own library reads it, without the name of a driver.

    Raises
    ------
    ConfigurationError
        If it is not a URL of PostgreSQL. The message does not repeat it: it may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    dialect = scheme.partition("+")[0]
    if not separator or dialect not in ("postgresql", "postgres"):
        raise ConfigurationError(
            "the database URL is not one of PostgreSQL: it begins with postgresql://"
        )
    return f"postgresql://{rest}"


def make_engine(url: str, *, pool_size: int = 5, wait_s: float = 30) -> Engine:
    """Make an SQLAlchemy engine; connections are opened when they are needed.

    When all are in use, and the ten more that are opened then, ``wait_s`` is how long one waits.
    """
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, autocommit=False),
        pool_size=pool_size,
        pool_timeout=wait_s,
        pool_pre_ping=True,
        # An error shows the statement, and not what somebody wrote into it.
        hide_parameters=True,
    )


def make_async_engine(url: str, *, pool_size: int = 5, wait_s: float = 30) -> AsyncEngine:
    """``make_engine`` for coroutines."""
    return create_async_engine(
        "postgresql+psycopg://",
        async_creator=lambda: connect_async(url),
        pool_size=pool_size,
        pool_timeout=wait_s,
        pool_pre_ping=True,
        hide_parameters=True,
    )
