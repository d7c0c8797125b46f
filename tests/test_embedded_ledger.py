"""A ledger on the embedded PostgreSQL."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared_ledger import SHARED, Ledger, Posting, SharedOperation
from shared_ledger.connections import Database


@pytest.fixture(autouse=True)
def no_database_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)


def credit(nonce: str) -> Posting[SharedOperation]:
    return Posting(SharedOperation.CREDIT_ADD, "ada", nonce)


def test_it_migrates_itself_and_keeps_what_was_posted(data: Path) -> None:
    with Ledger(SHARED, data=data) as ledger:
        ledger.post(credit("one"))
    with Ledger(SHARED, data=data) as ledger:
        assert ledger.post(credit("one")).replayed
        assert ledger.balance("ada").balance == 10


def test_a_server_that_died_is_started_again(data: Path) -> None:
    with Ledger(SHARED, data=data) as ledger, Database(data=data) as database:
        ledger.post(credit("one"))
        assert ledger.balance("ada").balance == 10
        assert database.cluster is not None
        database.cluster.kill()
        assert not ledger.post(credit("two")).replayed
        assert ledger.balance("ada").balance == 20
        database.cluster.kill()
        assert ledger.balance("ada").balance == 20
