"""Redis that is down, slow, wrong or evicts: slower, and never backwards."""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any

import pytest

from builders import add, assert_sound, eventually, query
from redis_server import RedisServer
from shared_ledger import SHARED, Ledger, SharedOperation
from shared_ledger.book import AccountKey, Reading
from shared_ledger.cache import link
from shared_ledger.cache.balances import Cache
from shared_ledger.embedded import Cluster
from shared_ledger.store import Store

SharedLedger = Ledger[SharedOperation]
Open = Callable[..., SharedLedger]

OWNERS = ("ada", "bob", "eve")


@pytest.fixture
def opened(cluster: Cluster, schema: str, redis_server: RedisServer) -> Iterator[Open]:
    """Opens ledgers on one book, all of which know the same Redis."""
    with ExitStack() as stack:

        def opened(**more: Any) -> SharedLedger:
            options: dict[str, Any] = {"cache": redis_server.url, "cache_ttl_s": 60} | more
            return stack.enter_context(
                Ledger(SHARED, cluster.url, schema=schema, migrate=True, lanes=1, **options)
            )

        yield opened


def is_used(ledger: SharedLedger) -> bool:
    """Whether balances are found in Redis."""
    before = ledger.cache_counts.hits
    for _ in range(3):
        ledger.balance("nobody")
    return ledger.cache_counts.hits > before


class Witness:
    """Posts and reads, and sees to it that no balance is older than what was answered before."""

    def __init__(self) -> None:
        self._known: dict[str, int] = defaultdict(int)
        self._gate = threading.Lock()
        self._nonces = count()

    def post(self, ledger: SharedLedger, owner_id: str) -> None:
        posted = ledger.post(add(owner_id, str(next(self._nonces))))
        self._note(owner_id, posted.entry.balance_after)

    def ask(self, ledger: SharedLedger, owner_id: str) -> None:
        known = self._known[owner_id]
        balance = ledger.balance(owner_id).balance
        assert balance >= known, f"{owner_id} had {known} before"
        self._note(owner_id, balance)

    def _note(self, owner_id: str, balance: int) -> None:
        # Only ever added to, so that later is more.
        with self._gate:
            self._known[owner_id] = max(self._known[owner_id], balance)


def together(seconds: float, *jobs: Callable[[], None]) -> None:
    """Repeat each of the jobs in a thread of its own for so long, or until one fails."""
    ended = threading.Event()

    def repeated(job: Callable[[], None]) -> None:
        try:
            while not ended.is_set():
                job()
        except BaseException:
            ended.set()
            raise

    with ThreadPoolExecutor(len(jobs)) as pool:
        running = [pool.submit(repeated, job) for job in jobs]
        ended.wait(seconds)
        ended.set()
    for each in running:
        each.result()


@pytest.fixture
def delays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes between reading and keeping, and between commit and telling Redis."""
    balances, forget = Store.balances, Cache.forget

    def slow_balances(store: Store, keys: Collection[AccountKey]) -> dict[AccountKey, Reading]:
        found = balances(store, keys)
        time.sleep(random.choice((0, 0, 0.002, 0.01)))
        return found

    def slow_forget(cache: Cache, keys: Collection[AccountKey]) -> None:
        time.sleep(random.choice((0, 0, 0.002, 0.01)))
        forget(cache, keys)

    monkeypatch.setattr(Store, "balances", slow_balances)
    monkeypatch.setattr(Cache, "forget", slow_forget)


# --- Redis is there ---


@pytest.mark.usefixtures("delays")
def test_nobody_sees_a_balance_go_backwards_whatever_is_evicted(
    opened: Open, redis_server: RedisServer, cluster: Cluster, schema: str
) -> None:
    patient = f"{redis_server.url}?socket_timeout=10&socket_connect_timeout=10"
    ledgers = [opened(cache=patient) for _ in range(3)]
    witness = Witness()

    def post() -> None:
        witness.post(random.choice(ledgers), random.choice(OWNERS))
        time.sleep(random.choice((0, 0.005, 0.02)))

    def ask() -> None:
        witness.ask(random.choice(ledgers), random.choice(OWNERS))

    with redis_server.connect() as client:

        def evict() -> None:
            for key in client.keys("*"):
                if random.random() < 0.3:
                    client.delete(key)
            time.sleep(random.choice((0.001, 0.01)))

        together(6, post, post, evict, *[ask] * 6)
    counts = [ledger.cache_counts for ledger in ledgers]
    assert sum(each.failures for each in counts) == 0
    assert sum(each.hits for each in counts) > 100
    assert sum(each.misses for each in counts) > 100
    assert_sound(cluster.url, schema)


def test_a_connection_that_redis_closed_is_replaced_and_nothing_failed(
    opened: Open, redis_server: RedisServer
) -> None:
    ledger = opened()
    eventually(lambda: is_used(ledger))
    failures = ledger.cache_counts.failures
    with redis_server.connect() as client:
        for _ in range(5):
            client.client_kill_filter(_type="normal", skipme=True)
            ledger.post(add("ada", str(random.random())))
    assert ledger.cache_counts.failures == failures
    assert is_used(ledger)


# --- Redis goes away ---


def test_a_ledger_opens_without_redis_and_uses_it_when_it_is_there(
    opened: Open, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    redis_server.kill()
    ledger = opened()
    ledger.post(add("ada", "1"))
    assert ledger.balance("ada").balance == 10
    assert ledger.cache_counts.failures == 1
    redis_server.start()
    eventually(lambda: is_used(ledger))
    assert ledger.balance("ada").balance == 10
    said = [record.message for record in caplog.records if record.name == "shared_ledger.cache"]
    assert len(said) == 2, said
    assert said[0].startswith("Redis is not used, all balances are read from PostgreSQL: Error")
    assert said[1] == "Redis is used again"


def test_redis_killed_amid_traffic_fails_nobody_and_is_used_again(
    opened: Open, redis_server: RedisServer, cluster: Cluster, schema: str
) -> None:
    ledgers = [opened() for _ in range(2)]
    witness = Witness()
    began = time.monotonic()
    killed = threading.Event()

    def disturb() -> None:
        if not killed.is_set() and time.monotonic() > began + 1:
            redis_server.kill()
            killed.set()
        time.sleep(0.01)

    together(
        3,
        disturb,
        lambda: witness.post(random.choice(ledgers), random.choice(OWNERS)),
        *[lambda: witness.ask(random.choice(ledgers), random.choice(OWNERS))] * 4,
    )
    assert killed.is_set()
    assert all(ledger.cache_counts.failures > 0 for ledger in ledgers)
    redis_server.start()
    for ledger in ledgers:
        eventually(lambda ledger=ledger: is_used(ledger))  # type: ignore[misc]  # mypy cannot tell
    for owner_id in OWNERS:
        for ledger in ledgers:
            witness.ask(ledger, owner_id)
    assert_sound(cluster.url, schema)


def test_a_redis_that_hangs_delays_and_fails_nobody(
    opened: Open, redis_server: RedisServer
) -> None:
    ledger = opened()
    ledger.post(add("ada", "1"))
    ledger.balance("ada")
    redis_server.pause()
    began = time.monotonic()
    for number in range(2, 50):
        ledger.post(add("ada", str(number)))
        assert ledger.balance("ada").balance == 10 * number
    # It was waited for once or twice, and not for each.
    assert time.monotonic() - began < 5
    assert ledger.cache_counts.failures < 5
    redis_server.resume()
    assert ledger.balance("ada").balance == 490
    eventually(lambda: is_used(ledger))
    assert ledger.balance("ada").balance == 490


def test_what_redis_could_not_be_told_it_is_told_when_it_is_back(
    opened: Open, redis_server: RedisServer
) -> None:
    writer, idle = opened(), opened()
    eventually(lambda: is_used(idle))
    for owner_id in OWNERS:
        idle.balance(owner_id)
    redis_server.pause()
    for owner_id in OWNERS:
        writer.post(add(owner_id, "1"))
    redis_server.resume()
    # Who noticed nothing finds what is old until then: kept for 60 seconds, and gone within a few.
    eventually(
        lambda: [idle.balance(owner_id).balance for owner_id in OWNERS] == [10] * 3, within_s=10
    )


def test_what_was_seen_while_redis_hung_does_not_vanish_when_it_is_back(
    opened: Open, redis_server: RedisServer
) -> None:
    reader, untold = opened(), opened(cache=None)
    eventually(lambda: is_used(reader))
    assert reader.balance("ada").balance == 0
    redis_server.pause()
    untold.post(add("ada", "1"))
    assert reader.balance("ada").balance == 10
    redis_server.resume()
    deadline = time.monotonic() + 10
    while not is_used(reader):
        assert reader.balance("ada").balance == 10
        assert time.monotonic() < deadline
    assert reader.balance("ada").balance == 10


def test_a_snapshot_of_before_is_not_served(
    opened: Open, redis_server: RedisServer, cluster: Cluster, schema: str
) -> None:
    ledger = opened()
    eventually(lambda: is_used(ledger))
    assert ledger.balance("ada").balance == 0
    redis_server.save()
    redis_server.kill()
    ledger.post(add("ada", "1"))
    redis_server.start()
    with redis_server.connect() as client:
        assert [key for key in client.keys("*") if key.endswith(b":ada")], "the old value is there"
    assert opened().balance("ada").balance == 10
    eventually(lambda: is_used(ledger))
    assert ledger.balance("ada").balance == 10


def test_within_one_ledger_nothing_goes_backwards_whatever_redis_does(
    opened: Open,
    redis_server: RedisServer,
    cluster: Cluster,
    schema: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(link, "RETRY_S", 0.05)
    ledger, other, untold = opened(), opened(), opened(cache=None)
    witness = Witness()
    nonces = count()

    def disturb() -> None:
        time.sleep(random.uniform(0, 0.4))
        match random.choice(("hang", "restart", "flush")):
            case "hang":
                redis_server.pause()
                time.sleep(random.uniform(0, 0.3))
                redis_server.resume()
            case "restart":
                if random.random() < 0.5:
                    redis_server.save()
                redis_server.kill()
                time.sleep(random.uniform(0, 0.2))
                redis_server.start()
            case _:
                redis_server.flush()

    def post_elsewhere() -> None:
        elsewhere = random.choice((other, untold))
        elsewhere.post(add(random.choice(OWNERS), f"elsewhere {next(nonces)}"))
        time.sleep(0.005)

    def read_elsewhere() -> None:
        other.balance(random.choice(OWNERS))

    together(
        8,
        disturb,
        post_elsewhere,
        read_elsewhere,
        lambda: witness.post(ledger, random.choice(OWNERS)),
        *[lambda: witness.ask(ledger, random.choice(OWNERS))] * 4,
    )
    assert ledger.cache_counts.failures > 0
    assert ledger.cache_counts.hits > 0
    assert_sound(cluster.url, schema)


# --- Redis is wrong ---


def test_a_redis_that_takes_no_writes_is_left_alone(
    opened: Open, redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    ledger = opened()
    eventually(lambda: is_used(ledger))
    caplog.clear()
    with redis_server.connect() as client:
        client.config_set("maxmemory", "1")
        try:
            for number in range(1, 30):
                ledger.post(add("ada", str(number)))
                assert ledger.balance("ada").balance == 10 * number
                time.sleep(0.1)
            said = [r.message for r in caplog.records if r.name == "shared_ledger.cache"]
            assert len(said) == 1, said
            assert "maxmemory" in said[0]
        finally:
            client.config_set("maxmemory", "0")
    eventually(lambda: is_used(ledger))


@pytest.mark.parametrize("junk", [b"", b"=", b"=1 1 ", b"= x", b"=9 9 \xff", b"junk", b"?"])
def test_what_is_not_a_balance_is_not_served(
    opened: Open, redis_server: RedisServer, junk: bytes
) -> None:
    ledger = opened()
    ledger.post(add("ada", "1"))
    ledger.balance("ada")
    with redis_server.connect() as client:
        (name,) = client.keys("*:ada")
        client.set(name, junk)
        assert ledger.balance("ada").balance == 10
        ledger.post(add("ada", "2"))
        assert ledger.balance("ada").balance == 20
        eventually(lambda: is_used(ledger))


def test_a_name_that_holds_something_else_fails_nobody(
    opened: Open, redis_server: RedisServer
) -> None:
    ledger = opened()
    ledger.post(add("ada", "1"))
    ledger.balance("ada")
    with redis_server.connect() as client:
        (name,) = client.keys("*:ada")
        client.delete(name)
        client.lpush(name, "something else")
        for number in range(2, 5):
            assert ledger.balance("ada").balance == 10 * (number - 1)
            ledger.post(add("ada", str(number)))
    eventually(lambda: is_used(ledger))


def test_postgresql_that_is_down_is_said_so_by_what_is_not_kept(
    opened: Open, cluster: Cluster
) -> None:
    ledger = opened()
    eventually(lambda: is_used(ledger))
    query(
        cluster.url,
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where application_name = 'shared-ledger' and pid <> pg_backend_pid()",
    )
    ledger.post(add("ada", "1"))
    assert ledger.balance("ada").balance == 10
