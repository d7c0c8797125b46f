"""Contexts' tables are touched only by their owners: each has a role of its own in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy.exc import ProgrammingError

from builders import assert_sound, query
from contexts import engine_on
from shared_ledger import Ledger
from shared_ledger.apps.crowdfunding.accounting.operations import CROWDFUNDING
from shared_ledger.apps.crowdfunding.contexts import NAMES
from shared_ledger.apps.crowdfunding.crowdfunding import commands
from shared_ledger.apps.crowdfunding.crowdfunding.queries import view_campaigns_query
from shared_ledger.apps.crowdfunding.dashboard.rebuilding import rebuild
from shared_ledger.apps.crowdfunding.tables import metadata
from shared_ledger.embedded import Cluster
from spark_sagas import SAGAS, make_world, world_of
from sparking import Spark, migrate_spark

PREFIXES = {
    "auth": ("crowdfunding_auth_",),
    "accounting": ("crowdfunding_accounting_",),
    "bitcoin": ("crowdfunding_bitcoin_", "crowdfunding_sim_"),
    "crowdfunding": ("crowdfunding_campaigns",),
    "dashboard": ("crowdfunding_dashboard_",),
}
NOBODY = "nobody"


def owner_of(table: str) -> str:
    """The context whose table it is; the book is the accounting's."""
    owners = [name for name, prefixes in PREFIXES.items() if table.startswith(prefixes)]
    if not table.startswith("crowdfunding_"):
        owners.append("accounting")
    (owner,) = owners
    return owner


def make_roles(url: str, schema: str) -> None:
    """Make a role for each context, which may use its own tables alone; and one without rights."""
    for name in (*NAMES, NOBODY):
        query(url, f"create role {schema}_{name} login")
        query(url, f"grant usage on schema {schema} to {schema}_{name}")
    kinds = {"r": "table", "p": "table", "S": "sequence"}
    for table, kind in relations(url, schema):
        role = f"{schema}_{owner_of(table)}"
        query(url, f"grant all on {kinds[kind]} {schema}.{table} to {role}")


def relations(url: str, schema: str) -> list[tuple[str, str]]:
    """The tables and sequences, but for those that say which migrations were done."""
    return [
        (table, kind)
        for table, kind in query(
            url,
            "select relname::text, relkind::text from pg_class "
            "where relnamespace = %s::regnamespace and relkind in ('r', 'p', 'S')",
            schema,
        )
        if table != "crowdfunding_version"
    ]


def url_of(cluster: Cluster, schema: str, name: str) -> str:
    """The database, for the role of a context."""
    before, everybody, after = cluster.url.partition("//postgres@")
    assert everybody
    return f"{before}//{schema}_{name}@{after}"


@asynccontextmanager
async def spark_apart(cluster: Cluster, schema: str, roles: dict[str, str]) -> AsyncIterator[Spark]:
    """All contexts, each with an engine of its own, whose role is the one of another if so said."""
    migrate_spark(cluster.url, schema)
    make_roles(cluster.url, schema)
    make_world(cluster.url, schema)
    async with AsyncExitStack() as leaving:
        engines = {
            name: await leaving.enter_async_context(
                engine_on(url_of(cluster, schema, roles.get(name, name)), schema)
            )
            for name in (*NAMES, NOBODY)
        }
        ledger = leaving.enter_context(
            Ledger(CROWDFUNDING, url_of(cluster, schema, "accounting"), schema=schema)
        )
        # What names no context may do nothing.
        yield Spark(cluster.url, schema, engines.pop(NOBODY), ledger, engines)


async def test_each_context_needs_its_own_tables_alone(
    cluster: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "REFUNDS_AT_ONCE", 2)
    async with spark_apart(cluster, schema, {}) as spark, world_of(spark) as world:
        for kind in SAGAS:
            saga = kind(spark, world, kind.__name__)
            await saga.prepare()
            await saga.play()
            await saga.check([])
        spark.assert_sound()
        shown, _ = await view_campaigns_query(spark.engines["crowdfunding"], limit=100, after=None)
        assert len(shown) == sum(hasattr(kind, "goal") for kind in SAGAS)
        (handled,) = world.look("select count(*) from {book}.crowdfunding_dashboard_inbox")
        async with spark.engines["dashboard"].begin() as connection:
            assert await rebuild(connection) == handled[0]
        spark.assert_sound()
    assert_sound(cluster.url, schema)


async def test_context_may_do_nothing_with_the_table_of_another(
    cluster: Cluster, schema: str
) -> None:
    async with spark_apart(cluster, schema, {}) as spark:
        for name in (*NAMES, NOBODY):
            allowed = query(
                cluster.url,
                "select relname::text from pg_class where relnamespace = %s::regnamespace "
                "and relkind in ('r', 'p') and has_table_privilege(%s, oid, "
                "'select, insert, update, delete, truncate, references, trigger')",
                schema,
                f"{schema}_{name}",
            )
            assert {owner_of(table) for (table,) in allowed} == {name} - {NOBODY}
        with pytest.raises(ProgrammingError, match="permission denied for table"):
            await view_campaigns_query(spark.engines["dashboard"], limit=1, after=None)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "dashboard"])
async def test_context_with_the_rights_of_another_can_do_nothing(
    cluster: Cluster, schema: str, name: str
) -> None:
    async with spark_apart(cluster, schema, {name: "dashboard"}) as spark:
        with pytest.raises(ProgrammingError, match="permission denied for table"):
            await spark.settle()


def test_every_table_is_a_contexts() -> None:
    assert {owner_of(table) for table in metadata.tables} == set(NAMES)
