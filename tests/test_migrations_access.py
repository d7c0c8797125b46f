"""The revision that brings users and keys: up from a book in use, and down again."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from builders import query
from shared_ledger import SHARED, Ledger, Posting, SharedOperation
from shared_ledger.access.keys import NewKey
from shared_ledger.access.store import AccessStore
from shared_ledger.embedded import Cluster
from shared_ledger.errors import MigrationRefused
from shared_ledger.migrations import migrate
from shared_ledger.schema import book_tables

TABLES = ("users", "api_keys", "key_issues")


def there(engine: Engine, schema: str) -> list[str]:
    inspector = sa.inspect(engine)
    return [table for table in TABLES if inspector.has_table(table, schema)]


def test_a_book_in_use_gets_users_and_keys_and_keeps_its_entries(
    cluster: Cluster, engine: Engine, schema: str
) -> None:
    migrate(engine, schema, [SHARED])
    with Ledger(SHARED, cluster.url, schema=schema) as ledger:
        ledger.post(Posting(SharedOperation.CREDIT_ADD, "user1", "n"))
    entries = query(cluster.url, f"select * from {schema}.entries")
    migrate(engine, schema, revision="0002")
    assert there(engine, schema) == []
    migrate(engine, schema)
    assert there(engine, schema) == list(TABLES)
    assert query(cluster.url, f"select * from {schema}.entries") == entries


@pytest.mark.parametrize("what", ["user", "key"])
def test_going_back_is_refused_when_users_or_keys_would_be_lost(
    cluster: Cluster, engine: Engine, schema: str, what: str
) -> None:
    migrate(engine, schema)
    with AccessStore(cluster.url, book_tables(schema)) as store:
        if what == "user":
            store.add_user("ada", "hash")
        else:
            store.add_key(NewKey("shop", None, None, None), "ada")
    with pytest.raises(MigrationRefused):
        migrate(engine, schema, revision="0002")
    assert there(engine, schema) == list(TABLES)
