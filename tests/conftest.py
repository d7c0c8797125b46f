"""One throw-away PostgreSQL for the run, and a fresh book in it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy.engine import Engine

from shared_ledger import SHARED, Ledger, SharedOperation
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster, temporary_cluster

_numbers = count(1)


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
