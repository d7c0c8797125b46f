"""Balances in Redis: found there, never old, and never another's."""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import ExitStack
from datetime import timedelta
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import generate_latest
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from builders import CLUB, add, bonus, fund, gift, query, reserve, spend
from documentation import block
from redis_server import RedisServer
from shared_ledger import (
    SHARED,
    Balance,
    ConfigurationError,
    InsufficientCredits,
    Ledger,
    LedgerClosed,
    SharedOperation,
    Transfer,
)
from shared_ledger.book import AccountKey, Reading
from shared_ledger.cache import CacheCounts
from shared_ledger.cache.balances import BLOCK_S, Cache
from shared_ledger.embedded import Cluster
from shared_ledger.service.metrics import Metrics
from shared_ledger.store import Store

SharedLedger = Ledger[SharedOperation]


class Desk:
    """Opens ledgers on one book, all of which know the same Redis."""

    def __init__(self, url: str, schema: str, redis: RedisServer) -> None:
        self.url = url
        self.schema = schema
        # Patient, because the machine may be busy: a call that takes long is not what is tested.
        self.cache = f"{redis.url}?socket_timeout=10&socket_connect_timeout=10"
        self._open = ExitStack()

    def ledger(self, application: Any = SHARED, **more: Any) -> Ledger[Any]:
        options: dict[str, Any] = {"cache": self.cache, "cache_ttl_s": 60, "lanes": 1} | more
        return self._open.enter_context(
            Ledger(application, self.url, schema=self.schema, migrate=True, **options)
        )

    def change_unseen(self, owner_id: str, balance: int) -> None:
        """Write a balance that no cache is told of, and no entry accounts for."""
        query(
            self.url,
            f"update {self.schema}.accounts set posted = %s where owner_id = %s",
            balance,
            owner_id,
        )

    def close(self) -> None:
        self._open.close()


@pytest.fixture
def desk(cluster: Cluster, schema: str, redis_server: RedisServer) -> Iterator[Desk]:
    desk = Desk(cluster.url, schema, redis_server)
    yield desk
    desk.close()


@pytest.fixture
async def async_engine(cluster: Cluster) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(cluster.url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    await engine.dispose()


# --- found ---


def test_a_balance_that_was_read_is_found_in_redis(desk: Desk) -> None:
    ledger = desk.ledger()
    ledger.post(add("ada", "1"))
    assert ledger.balance("ada").balance == 10
    desk.change_unseen("ada", 77)
    assert ledger.balance("ada").balance == 10
    assert desk.ledger().balance("ada").balance == 10
    assert desk.ledger(cache=None).balance("ada").balance == 77
    assert ledger.cache_counts == CacheCounts(hits=1, misses=1, failures=0)


async def test_coroutines_find_it_too(desk: Desk) -> None:
    ledger = desk.ledger()
    await ledger.apost(add("ada", "1"))
    assert (await ledger.abalance("ada")).balance == 10
    desk.change_unseen("ada", 77)
    assert (await ledger.abalance("ada")).balance == 10


def test_all_of_a_balance_is_found(desk: Desk) -> None:
    club = desk.ledger(CLUB)
    club.post(gift("ada", "1", 5))
    club.post(bonus("ada", "2", 7))
    club.post(reserve("ada", "3", 4))
    read, found = club.balance("ada"), club.balance("ada")
    assert found == read == Balance("ada", 12, 8, 4, "credits", expiring=7)
    assert club.cache_counts.hits == 1


def test_an_owner_of_whom_nobody_has_heard_is_found_until_he_has_an_account(desk: Desk) -> None:
    ledger = desk.ledger()
    assert ledger.balance("ada") == ledger.balance("ada") == Balance("ada", 0, 0, 0, "credits")
    assert ledger.cache_counts.hits == 1
    ledger.post(add("ada", "1"))
    assert ledger.balance("ada").balance == 10


def test_a_balance_is_kept_for_its_time_at_most(desk: Desk) -> None:
    ledger = desk.ledger(cache_ttl_s=0.5)
    ledger.post(add("ada", "1"))
    began = time.monotonic()
    assert ledger.balance("ada").balance == 10
    desk.change_unseen("ada", 77)
    while ledger.balance("ada").balance == 10:
        assert time.monotonic() < began + 10
    assert ledger.cache_counts.hits > 0
    # It lives from before it was read.
    assert time.monotonic() - began < 5


def test_what_was_at_a_time_is_never_kept(desk: Desk) -> None:
    ledger = desk.ledger()
    posted = ledger.post(add("ada", "1"))
    for _ in range(2):
        assert ledger.balance("ada", at=posted.entry.created_on).balance == 10
    assert ledger.cache_counts == CacheCounts()


def test_what_was_done_is_counted_for_prometheus(desk: Desk) -> None:
    ledgers = [desk.ledger(), desk.ledger()]
    for ledger in ledgers:
        ledger.balance("ada")
    metrics = Metrics(lambda: ledgers)
    shown = generate_latest(metrics.registry).decode()
    assert "shared_ledger_cache_hits_total 1.0" in shown
    assert "shared_ledger_cache_misses_total 1.0" in shown
    assert "shared_ledger_cache_failures_total 0.0" in shown


# --- forgotten ---


def test_what_one_ledger_posts_the_others_see_at_once(desk: Desk) -> None:
    ledgers = [desk.ledger() for _ in range(3)]
    for number in range(60):
        posted = ledgers[number % 3].post(add("ada", str(number)))
        for ledger in ledgers:
            assert ledger.balance("ada").balance == posted.entry.balance_after
    hits = sum(ledger.cache_counts.hits for ledger in ledgers)
    assert hits == 60 * 2, "one of the three read it for all"


def test_both_sides_of_a_transfer_are_forgotten(desk: Desk) -> None:
    ledger, other = desk.ledger(), desk.ledger()
    ledger.post(add("ada", "1"))
    assert (other.balance("ada").balance, other.balance("bob").balance) == (10, 0)
    ledger.post(Transfer(source="ada", destination="bob", amount=4, nonce="t"))
    assert (other.balance("ada").balance, other.balance("bob").balance) == (6, 4)


def test_a_batch_of_many_owners_is_forgotten(desk: Desk) -> None:
    ledger = desk.ledger()
    owners = [f"owner {number}" for number in range(2_500)]
    for balance in (10, 20):
        ledger.post_batch([add(owner_id, str(balance)) for owner_id in owners])
        assert {ledger.balance(owner_id).balance for owner_id in owners[::100]} == {balance}
    assert ledger.cache_counts.failures == 0


def test_a_replay_or_refusal_is_the_first_to_tell_of_what_nobody_told_redis(desk: Desk) -> None:
    ledger, killed = desk.ledger(), desk.ledger(cache=None)
    assert ledger.balance("ada").balance == 0
    killed.post(add("ada", "1"))
    assert ledger.balance("ada").balance == 0, "what is kept must be old for this test"
    assert ledger.post(add("ada", "1")).replayed
    assert ledger.balance("ada").balance == 10
    for number in range(10):
        killed.post(spend("ada", f"spend {number}"))
    assert ledger.balance("ada").balance == 10, "what is kept must be old for this test"
    with pytest.raises(InsufficientCredits):
        ledger.post(spend("ada", "one more"))
    assert ledger.balance("ada").balance == 0


def test_what_is_swept_stays_what_it_was(desk: Desk) -> None:
    club = desk.ledger(CLUB)
    club.post(bonus("ada", "1", 7, expires_in=timedelta(seconds=1)))
    club.post(gift("ada", "2", 3))
    assert club.balance("ada").balance == 10
    while club.sweep() == 0:
        time.sleep(0.05)
    assert club.balance("ada").balance == 3


# --- what expires ---


@pytest.mark.parametrize("kind", ["hold", "grant"])
def test_nothing_is_found_after_it_has_expired(desk: Desk, kind: str) -> None:
    club = desk.ledger(CLUB)
    club.post(gift("ada", "1", 5))
    second = timedelta(seconds=1)
    if kind == "hold":
        ends = club.post(reserve("ada", "2", 5, expires_in=second)).hold.expires_on
        before, after = 0, 5
    else:
        granted = club.post(bonus("ada", "2", 5, expires_in=second)).entry.expires_on
        assert granted is not None
        ends, before, after = granted, 10, 5
    while True:
        begun = query(desk.url, "select clock_timestamp()")[0][0]
        available = club.balance("ada").available
        ended = query(desk.url, "select clock_timestamp()")[0][0]
        if begun >= ends:
            break
        assert available == before or ended >= ends
    assert available == after
    assert club.cache_counts.hits > 1


def test_what_is_due_is_not_kept(desk: Desk) -> None:
    club = desk.ledger(CLUB)
    club.post(bonus("ada", "1", 5, expires_in=timedelta(milliseconds=50)))
    time.sleep(0.1)
    for _ in range(3):
        assert club.balance("ada").balance == 0
    assert club.cache_counts == CacheCounts(hits=0, misses=3, failures=0)


# --- the caller's own transaction ---


def test_a_callers_transaction_is_seen_after_its_commit_and_not_before(
    desk: Desk, engine: Engine
) -> None:
    ledger, other = desk.ledger(), desk.ledger()
    assert other.balance("ada").balance == 0
    with engine.connect() as connection:
        for number in range(3):
            ledger.post_in(connection, add("ada", str(number)))
            assert other.balance("ada").balance == 0
        connection.commit()
        assert other.balance("ada").balance == 30
        ledger.post_in(connection, add("ada", "not to be"))
        connection.rollback()
        assert other.balance("ada").balance == 30
        ledger.post_in(connection, spend("ada", "again"))
        connection.commit()
        assert other.balance("ada").balance == 29


def test_a_session_is_seen_after_its_commit(desk: Desk, engine: Engine) -> None:
    ledger, other = desk.ledger(), desk.ledger()
    for number in range(1, 4):
        other.balance("ada")
        with Session(engine) as session, session.begin():
            ledger.post_in(session, add("ada", str(number)))
        assert other.balance("ada").balance == 10 * number


def test_what_a_callers_transaction_replays_is_forgotten(desk: Desk, engine: Engine) -> None:
    ledger, killed = desk.ledger(), desk.ledger(cache=None)
    assert ledger.balance("ada").balance == 0
    killed.post(add("ada", "1"))
    with engine.begin() as connection:
        assert ledger.post_in(connection, add("ada", "1")).replayed
    assert ledger.balance("ada").balance == 10


@pytest.mark.parametrize("kind", [AsyncConnection, AsyncSession])
async def test_an_asynchronous_transaction_is_seen_and_does_not_block_the_loop(
    desk: Desk, async_engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch, kind: type[Any]
) -> None:
    threads = []
    really = Cache.block

    def watched(cache: Cache, keys: Collection[AccountKey]) -> None:
        threads.append(threading.current_thread())
        really(cache, keys)

    monkeypatch.setattr(Cache, "block", watched)
    ledger, other = desk.ledger(), desk.ledger()
    for number in range(1, 4):
        await other.abalance("ada")
        if kind is AsyncSession:
            async with AsyncSession(async_engine) as session, session.begin():
                await ledger.apost_in(session, add("ada", str(number)))
        else:
            async with async_engine.begin() as connection:
                await ledger.apost_in(connection, add("ada", str(number)))
        assert (await other.abalance("ada")).balance == 10 * number
    assert len(threads) == 3
    assert threading.current_thread() not in threads


def test_a_ledger_that_cannot_tell_redis_posts_in_no_transaction(
    desk: Desk, engine: Engine
) -> None:
    ledger = desk.ledger()
    ledger.close()
    with engine.connect() as connection, pytest.raises(LedgerClosed):
        ledger.post_in(connection, add("ada", "1"))


def test_a_transaction_that_commits_after_the_ledger_is_closed_is_seen(
    desk: Desk, engine: Engine
) -> None:
    ledger, other = desk.ledger(), desk.ledger()
    assert other.balance("ada").balance == 0
    with engine.begin() as connection:
        ledger.post_in(connection, add("ada", "1"))
        ledger.close()
    assert other.balance("ada").balance == 10


# --- leases: two readers and a writer, step by step ---

ADA = ("ada", "credits")


def reading(balance: int, version: int, *, lasts_s: float | None = None) -> dict[Any, Reading]:
    return {ADA: Reading(Balance("ada", balance, balance, 0, "credits"), version, lasts_s)}


@pytest.fixture
def caches(redis_server: RedisServer) -> Iterator[list[Cache]]:
    """Three processes' caches of one book."""
    url = f"{redis_server.url}?socket_timeout=10&socket_connect_timeout=10"
    caches = [Cache(url, "a book", ttl_s=60) for _ in range(3)]
    yield caches
    for cache in caches:
        assert cache.counts.failures == 0
        cache.close()


def kept(cache: Cache) -> int | None:
    """The balance that is kept; if none is, it takes a lease."""
    found, _ = cache.take([ADA])
    return found[ADA].balance if found else None


def test_what_was_read_with_a_lease_is_kept(caches: list[Cache]) -> None:
    _, token = caches[0].take([ADA])
    caches[0].put(token, reading(10, 1))
    assert [kept(cache) for cache in caches] == [10, 10, 10]


def test_what_was_read_before_a_posting_is_not_kept_after_it(caches: list[Cache]) -> None:
    reader, writer, _ = caches
    _, token = reader.take([ADA])
    writer.forget([ADA])
    reader.put(token, reading(10, 1))
    assert kept(writer) is None


def test_what_was_read_before_an_eviction_is_not_kept_after_it(
    caches: list[Cache], redis_server: RedisServer
) -> None:
    reader, other, _ = caches
    _, token = reader.take([ADA])
    redis_server.flush()
    reader.put(token, reading(10, 1))
    assert kept(other) is None


def test_who_has_no_lease_keeps_nothing(caches: list[Cache]) -> None:
    first, second, third = caches
    _, token = first.take([ADA])
    _, late = second.take([ADA])
    second.put(late, reading(10, 1))
    assert kept(third) is None
    first.put(token, reading(10, 1))
    assert kept(third) == 10


@pytest.mark.parametrize("version", [-1, 0, 1, 9, 10**15])
def test_nothing_older_is_kept_than_what_another_read_meanwhile(
    caches: list[Cache], version: int
) -> None:
    first, second, third = caches
    _, token = first.take([ADA])
    _, late = second.take([ADA])
    # A posting committed between the two readings, and has not reached Redis yet.
    second.put(late, reading(20, version + 1))
    first.put(token, reading(10, version))
    assert kept(third) is None


@pytest.mark.parametrize("version", [-1, 0, 1, 9, 10**15])
def test_what_is_kept_is_removed_by_who_read_something_newer(
    caches: list[Cache], version: int
) -> None:
    first, second, third = caches
    _, token = first.take([ADA])
    _, late = second.take([ADA])
    first.put(token, reading(10, version))
    second.put(late, reading(20, version + 1))
    assert kept(third) is None


def test_what_is_kept_stays_if_another_read_the_same(caches: list[Cache]) -> None:
    first, second, third = caches
    _, token = first.take([ADA])
    _, late = second.take([ADA])
    first.put(token, reading(10, 1))
    second.put(late, reading(10, 1))
    assert kept(third) == 10


def test_an_account_that_was_opened_is_newer_than_none(desk: Desk) -> None:
    ledger = desk.ledger()
    store = Store(desk.url, desk.schema)
    before = store.balances([ADA])[ADA]
    ledger.post(add("ada", "1"))
    opened = store.balances([ADA])[ADA]
    ledger.post(add("ada", "2"))
    changed = store.balances([ADA])[ADA]
    store.close()
    assert before.version < opened.version < changed.version


def test_nothing_is_kept_that_expired_while_it_was_read(caches: list[Cache]) -> None:
    first, second, _ = caches
    _, token = first.take([ADA])
    time.sleep(0.05)
    first.put(token, reading(10, 1, lasts_s=0.04))
    assert kept(second) is None


def test_what_is_blocked_is_neither_kept_nor_freed_by_a_posting(
    caches: list[Cache], redis_server: RedisServer
) -> None:
    reader, writer, caller = caches
    _, before = reader.take([ADA])
    caller.block([ADA])
    reader.put(before, reading(10, 1))
    assert kept(reader) is None
    # One that committed before the blocked transaction, and comes late.
    writer.forget([ADA])
    _, after = reader.take([ADA])
    reader.put(after, reading(10, 1))
    assert kept(reader) is None
    with redis_server.connect() as redis:
        (name,) = redis.keys("*ada")
        left_ms = redis.pttl(name)
    assert isinstance(left_ms, int)
    assert 0 < left_ms <= BLOCK_S * 1_000


# --- nobody else's ---


def test_no_owner_gets_anothers_balance_of_any_asset(desk: Desk, caches: list[Cache]) -> None:
    parts = ["a", "b", ":", "a:b", "b:a", "1:a", "7:credits:a", "{a}", "*", "a b", "ä", "💰" * 100]
    parts += ["x" * 255, "x" * 254, "\\", '"', "1", "11", "é:ü"]
    keys = list(product(parts, parts))
    cache, other, _ = caches
    _, token = cache.take(keys)
    cache.put(
        token,
        {
            key: Reading(Balance(key[0], number, number, 0, key[1]), 1)
            for number, key in enumerate(keys)
        },
    )
    found, _ = other.take(keys)
    assert {key: balance.balance for key, balance in found.items()} == {
        key: number for number, key in enumerate(keys)
    }
    ledger = desk.ledger()
    for number, owner_id in enumerate(parts):
        ledger.post_batch([add(owner_id, str(nonce)) for nonce in range(number)])
    for _ in range(2):
        assert [ledger.balance(owner_id).balance for owner_id in parts] == [
            10 * number for number in range(len(parts))
        ]
    assert ledger.cache_counts.hits == len(parts)


def test_what_lies_under_anothers_name_is_not_served(desk: Desk, redis_server: RedisServer) -> None:
    ledger = desk.ledger()
    ledger.post(add("ada", "1"))
    ledger.balance("ada")
    ledger.balance("bob")
    with redis_server.connect() as redis:
        (ada,), (bob,) = redis.keys("*:ada"), redis.keys("*:bob")
        value = redis.get(ada)
        assert isinstance(value, bytes)
        redis.set(bob, value)
    assert ledger.balance("bob").balance == 0


def test_books_in_other_schemas_and_databases_are_kept_apart(
    cluster: Cluster, schema: str, redis_server: RedisServer
) -> None:
    query(cluster.url, f"create database other_{schema}")
    databases = [cluster.url, cluster.url.replace("/postgres?", f"/other_{schema}?")]
    assert databases[0] != databases[1]
    books = [(url, name) for url in databases for name in (schema, f"{schema}_too")]
    with ExitStack() as stack:
        desks = [Desk(url, name, redis_server) for url, name in books]
        for desk in desks:
            stack.callback(desk.close)
        ledgers = [desk.ledger() for desk in desks]
        for number, ledger in enumerate(ledgers):
            ledger.post_batch([add("ada", str(nonce)) for nonce in range(number)])
        for _ in range(2):
            assert [ledger.balance("ada").balance for ledger in ledgers] == [0, 10, 20, 30]
        assert [ledger.cache_counts.hits for ledger in ledgers] == [1, 1, 1, 1]


def test_a_book_that_was_made_anew_finds_nothing_of_the_old(
    cluster: Cluster, schema: str, redis_server: RedisServer
) -> None:
    for balance in (7, 0):
        if balance:
            fund(cluster.url, schema, "ada", balance)
        desk = Desk(cluster.url, schema, redis_server)
        assert desk.ledger().balance("ada").balance == balance
        desk.close()
        query(cluster.url, f"drop schema {schema} cascade")


def test_a_book_that_cannot_be_named_is_not_kept(
    cluster: Cluster,
    schema: str,
    redis_server: RedisServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    query(cluster.url, f"create database plain_{schema}")
    own = cluster.url.replace("/postgres?", f"/plain_{schema}?")
    fund(own, schema, "ada", 7)
    for statement in (
        f"create role plain_{schema} login",
        "revoke execute on function pg_control_system() from public",
        f"grant usage on schema {schema} to plain_{schema}",
        f"grant select on all tables in schema {schema} to plain_{schema}",
    ):
        query(own, statement)
    url = own.replace("postgres@", f"plain_{schema}@")
    with Ledger(SHARED, url, schema=schema, migrate=False, cache=redis_server.url) as ledger:
        assert ledger.balance("ada").balance == ledger.balance("ada").balance == 7
        assert ledger.cache_counts == CacheCounts()
    assert "pg_control_system" in caplog.text
    with redis_server.connect() as redis:
        assert redis.dbsize() == 0


# --- how it is told where Redis is ---


@pytest.mark.parametrize(
    "url",
    [
        "http://redis:6379",
        "redis://",
        "unix://",
        "hunter2",
        "redis://:hunter2@redis:port",
        "redis://redis?hunter2=1",
        "redis://redis?socket_timeout=hunter2",
    ],
)
def test_a_url_that_cannot_work_is_refused_and_not_repeated(
    cluster: Cluster, schema: str, url: str
) -> None:
    with pytest.raises(ConfigurationError, match="Redis URL") as caught:
        Ledger(SHARED, cluster.url, schema=schema, migrate=True, cache=url)
    assert "hunter2" not in str(caught.value).replace("option 'hunter2'", "")


@pytest.mark.parametrize("seconds", [0, -1, 3_601, float("nan")])
def test_a_time_to_live_that_cannot_work_is_refused(desk: Desk, seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="seconds"):
        desk.ledger(cache_ttl_s=seconds)


def test_a_url_may_hold_a_database_and_a_password(desk: Desk, redis_server: RedisServer) -> None:
    with redis_server.connect() as redis:
        redis.execute_command("ACL SETUSER ledger on >p@ss ~* +@all")
    ledger = desk.ledger(
        cache=redis_server.url.replace("redis://", "redis://ledger:p%40ss@").replace("/0", "/3")
    )
    ledger.balance("ada")
    ledger.balance("ada")
    assert ledger.cache_counts == CacheCounts(hits=1, misses=1, failures=0)


def test_without_the_package_it_is_said_what_to_install(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("shared_ledger.cache.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigurationError, match=r"install shared-ledger\[service\]"):
        desk.ledger()


def test_the_guide_prints_what_its_comment_says(
    redis_server: RedisServer,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written = block("docs/cache.md", "program")
    code = written.replace("redis://localhost:6379/0", f"{redis_server.url}?socket_timeout=10")
    assert code != written
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("SHARED_LEDGER_DATA", str(data))
    exec(code, {})
    assert capsys.readouterr().out.splitlines() == re.findall(r"print\(.*\)  # (.*)", code)
