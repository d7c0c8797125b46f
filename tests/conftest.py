"""One throw-away PostgreSQL for the run, and a fresh book in it for each test."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

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


@pytest.fixture
def data() -> Iterator[Path]:
    """A folder for an embedded PostgreSQL that its system user can reach, root's tests included.

    Not under ``tmp_path``: that is private, so that root's data would be put elsewhere and stay.
    """
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    folder.chmod(0o755)
    yield folder / "data"
    shutil.rmtree(folder)
