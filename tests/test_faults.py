"""What is acknowledged is kept, once, whatever dies: the program, PostgreSQL or the connection."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

from builders import add, assert_sound, eventually, nonces, query, spend
from shared_ledger import (
    SHARED,
    Ledger,
    LedgerUnavailable,
    Posted,
    Refusal,
    SharedOperation,
    store,
    writer,
)
from shared_ledger.embedded import Cluster, temporary_cluster

pytestmark = pytest.mark.slow

SharedLedger = Ledger[SharedOperation]
HERE = Path(__file__).parent
OWNERS = [f"user{number}" for number in range(4)]


@pytest.fixture(scope="module")
def fragile() -> Iterator[Cluster]:
    """A PostgreSQL of its own, to be killed."""
    with temporary_cluster() as cluster:
        yield cluster


@pytest.fixture
def mortal(fragile: Cluster, schema: str) -> Iterator[SharedLedger]:
    """A ledger on the PostgreSQL that is to be killed."""
    with Ledger(SHARED, fragile.url, schema=schema, migrate=True) as ledger:
        yield ledger
        fragile.ensure_running()


class Posters:
    """Threads that post until they are told to stop, and repeat what was not acknowledged."""

    def __init__(self, ledger: SharedLedger) -> None:
        self.ledger = ledger
        self.acknowledged: dict[str, list[str]] = {owner_id: [] for owner_id in OWNERS}
        self.unavailable = 0
        self._going = True
        self._failures: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(owner_id,)) for owner_id in OWNERS
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._going = False
        for thread in self._threads:
            thread.join(120)
        assert not any(thread.is_alive() for thread in self._threads)
        assert not self._failures

    @property
    def count(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def more(self, count: int) -> None:
        """Wait until so many more are acknowledged."""
        target = self.count + count
        eventually(lambda: self.count >= target or self._failures, within_s=60)

    def _run(self, owner_id: str) -> None:
        try:
            number = 0
            while self._going:
                self._post(owner_id, number)
                number += 1
        except BaseException as failure:  # noqa: BLE001  # told by __exit__
            self._failures.append(failure)

    def _post(self, owner_id: str, number: int) -> None:
        batch = [add(owner_id, f"{number}a"), spend(owner_id, f"{number}b")]
        while True:
            try:
                if number % 2:
                    outcomes = self.ledger.post_batch(batch)
                else:
                    outcomes = [self.ledger.post(posting) for posting in batch]
            except LedgerUnavailable:
                self.unavailable += 1
                continue
            assert not [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
            self.acknowledged[owner_id] += [posting.nonce for posting in batch]
            return


def assert_each_once(posters: Posters, url: str, schema: str) -> None:
    for owner_id, acknowledged in posters.acknowledged.items():
        kept = nonces(url, schema, owner_id)
        assert kept == acknowledged, "each once, in the order in which it was acknowledged"
    assert_sound(url, schema)


# --- the program is killed ---

PROGRAM = """
import itertools, os, sys, threading
from builders import add, spend
from shared_ledger import SHARED, Ledger

url, schema, path, run = sys.argv[1:]
ledger = Ledger(SHARED, url, schema=schema)
acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def post(thread):
    owner_id = f"user{thread}"
    for number in itertools.count():
        nonce = f"{run}:{number}"
        if thread == 0:
            ledger.post_batch([add(owner_id, nonce + "a"), spend(owner_id, nonce + "b")])
        else:
            ledger.post(add(owner_id, nonce + "a"))
            ledger.post(spend(owner_id, nonce + "b"))
        # In the kernel's hands before the next one: what is written is kept if we are killed.
        os.write(acknowledged, f"{owner_id} {nonce}\\n".encode())

for thread in range(4):
    threading.Thread(target=post, args=(thread,)).start()
"""


@pytest.mark.parametrize("run", range(4))
def test_killed_program_loses_nothing_that_was_acknowledged(
    cluster: Cluster, ledger: SharedLedger, schema: str, tmp_path: Path, run: int
) -> None:
    path = tmp_path / "acknowledged"
    path.touch()
    target = random.Random(run).randint(1, 400)
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, cluster.url, schema, path, str(run)], cwd=HERE
    )
    try:
        eventually(lambda: len(path.read_text().splitlines()) >= target, within_s=60)
    finally:
        program.send_signal(signal.SIGKILL)
        program.wait()
    lines = [line.split() for line in path.read_text().splitlines()]
    assert len(lines) >= target
    kept = {owner_id: nonces(cluster.url, schema, owner_id) for owner_id in OWNERS}
    for owner_id, nonce in lines:
        assert kept[owner_id].count(f"{nonce}a") == 1
        assert kept[owner_id].count(f"{nonce}b") == 1

    # Whoever does not know what became of the last one repeats everything.
    done = Counter(owner_id for owner_id, _ in lines)
    for owner_id in OWNERS:
        batch = []
        for number in range(done[owner_id] + 1):
            batch.append(add(owner_id, f"{run}:{number}a"))
            batch.append(spend(owner_id, f"{run}:{number}b"))
        outcomes = ledger.post_batch(batch)
        replayed = [isinstance(outcome, Posted) and outcome.replayed for outcome in outcomes]
        assert all(replayed[: 2 * done[owner_id]])
        assert sorted(nonces(cluster.url, schema, owner_id)) == sorted(
            posting.nonce for posting in batch
        )
        assert ledger.balance(owner_id).balance == 9 * (done[owner_id] + 1)
    assert_sound(cluster.url, schema)


# --- PostgreSQL is killed ---


def test_killed_postgresql_loses_nothing_that_was_acknowledged(
    fragile: Cluster, mortal: SharedLedger, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GIVE_UP_AFTER_S", 100)  # The machine may be busy.
    chance = random.Random(7)
    with Posters(mortal) as posters:
        for _ in range(5):
            posters.more(chance.randint(1, 300))
            fragile.kill()
            time.sleep(chance.choice([0, 0.1, 0.5]))
            fragile.ensure_running()
        posters.more(50)
    assert_each_once(posters, fragile.url, schema)
    # It was away for less than the writer waits: nobody has noticed.
    assert posters.unavailable == 0


def test_terminated_connections_lose_nothing_that_was_acknowledged(
    fragile: Cluster, mortal: SharedLedger, schema: str
) -> None:
    chance = random.Random(8)
    terminated = 0
    with Posters(mortal) as posters:
        for _ in range(25):
            posters.more(chance.randint(1, 40))
            terminated += len(
                query(
                    fragile.url,
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where application_name = 'shared-ledger'",
                )
            )
        posters.more(20)
    assert terminated >= 25
    assert_each_once(posters, fragile.url, schema)
    assert posters.unavailable == 0


def test_database_that_stays_away_is_unavailable_and_comes_back(
    fragile: Cluster, mortal: SharedLedger, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GIVE_UP_AFTER_S", 0.2)
    mortal.post(add("user0", "before"))
    mortal.balance("user0")
    fragile.kill()
    for _ in range(3):
        with pytest.raises(LedgerUnavailable):
            mortal.post(add("user0", "n1"))
        with pytest.raises(LedgerUnavailable):
            mortal.post_batch([add("user0", "n2"), add("user1", "n2")])
        with pytest.raises(LedgerUnavailable):
            mortal.balance("user0")
        with pytest.raises(LedgerUnavailable):
            mortal.history("user0")
        with pytest.raises(LedgerUnavailable):
            Ledger(SHARED, fragile.url, schema=schema)
    fragile.ensure_running()
    assert not mortal.post(add("user0", "n1")).replayed
    assert mortal.balance("user0").balance == 20
    assert [entry.nonce for entry in mortal.history("user0").entries] == ["n1", "before"]


async def test_coroutines_are_told_that_the_database_stays_away(
    fragile: Cluster, mortal: SharedLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GIVE_UP_AFTER_S", 0.2)
    await mortal.apost(add("user0", "before"))
    fragile.kill()
    with pytest.raises(LedgerUnavailable):
        await mortal.apost(add("user0", "n1"))
    with pytest.raises(LedgerUnavailable):
        await mortal.apost_batch([add("user0", "n1")])
    with pytest.raises(LedgerUnavailable):
        await mortal.abalance("user0")
    with pytest.raises(LedgerUnavailable):
        await mortal.ahistory("user0")
    fragile.ensure_running()
    assert not (await mortal.apost(add("user0", "n1"))).replayed


def test_close_does_not_wait_for_a_database_that_stays_away(
    fragile: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GIVE_UP_AFTER_S", 0.2)
    ledger = Ledger(SHARED, fragile.url, schema=schema, migrate=True)
    ledger.post(add("user0", "n1"))
    fragile.kill()
    try:
        ledger.close()
    finally:
        fragile.ensure_running()
    assert query(fragile.url, f"select nonce from {schema}.entries") == [("n1",)]


# --- the connection is cut ---


class Proxy:
    """Forwards to PostgreSQL, and cuts the connection when it is told to."""

    def __init__(self, url: str) -> None:
        self._target = parse_qs(urlsplit(url).query)["host"][0] + "/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = (
            f"postgresql://postgres@127.0.0.1:{self._listener.getsockname()[1]}/postgres"
            "?sslmode=disable&gssencmode=disable"
        )
        self.cuts = 0
        """How often a connection was cut."""
        self.cut: Callable[[bytes], bool] = lambda _: False
        """Asked with what the client sends; true cuts the connection."""
        self.deliver = True
        """Whether the server still gets what the client sent when it is cut."""
        self._muted: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._target)
                threading.Thread(target=self._up, args=(client, server), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while sent := client.recv(65536):
                if self.cut(sent):
                    self.cuts += 1
                    # The client hears nothing more, whatever the server answers.
                    self._muted.add(client)
                    if not self.deliver:
                        break
                    client.settimeout(0.2)
                server.sendall(sent)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        while True:
            try:
                received = server.recv(65536)
            except OSError:
                received = b""
            if not received:
                break
            # Read on, so that the server can go on, even if nobody listens any more.
            if client not in self._muted:
                with suppress(OSError):
                    client.sendall(received)
        for end in (client, server):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    proxy = Proxy(url)
    try:
        yield proxy
    finally:
        proxy.close()


def once(found: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    """The first time only."""
    done = threading.Event()

    def cut(sent: bytes) -> bool:
        if done.is_set() or not found(sent):
            return False
        done.set()
        return True

    return cut


@pytest.mark.parametrize("delivered", [True, False])
def test_commit_whose_answer_is_lost_is_done_once(
    cluster: Cluster, schema: str, *, delivered: bool
) -> None:
    with (
        proxied(cluster.url) as proxy,
        Ledger(SHARED, proxy.url, schema=schema, migrate=True) as ledger,
    ):
        proxy.deliver = delivered
        proxy.cut = once(lambda sent: b"commit" in sent)
        posted = ledger.post(add("user1", "n1"))
        assert proxy.cuts == 1
        assert posted.entry.balance_after == 10
        # The writer's own repetition found the entry, if it had been committed.
        assert posted.replayed is delivered
        assert ledger.post(add("user1", "n1")).entry == posted.entry
        assert nonces(cluster.url, schema, "user1") == ["n1"]
    assert_sound(cluster.url, schema)


def test_commit_that_is_still_going_on_is_never_refused(
    cluster: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A lost transaction that hangs in its commit keeps the account locked. "Busy" would say that
    # nothing was recorded, and then it is.
    monkeypatch.setattr(store, "LOCK_TIMEOUT_MS", 100)
    with (
        proxied(cluster.url) as proxy,
        Ledger(SHARED, proxy.url, schema=schema, migrate=True) as ledger,
    ):
        ledger.post(add("user1", "opened"))
        query(
            cluster.url,
            f"create function {schema}.linger() returns trigger language plpgsql "
            "as $$ begin perform pg_sleep(2); return null; end $$",
        )
        query(
            cluster.url,
            f"create constraint trigger linger after insert on {schema}.entries "
            f"deferrable initially deferred for each row execute function {schema}.linger()",
        )
        proxy.cut = once(lambda sent: b"commit" in sent)
        # The next connection sends the text of its statements anew.
        query(
            cluster.url,
            "select pg_terminate_backend(pid) from pg_stat_activity "
            "where application_name = 'shared-ledger'",
        )
        with pytest.raises(LedgerUnavailable):
            ledger.post(add("user1", "n1"))
        query(cluster.url, f"drop trigger linger on {schema}.entries")
        assert ledger.post(add("user1", "n1")).replayed
    assert nonces(cluster.url, schema, "user1") == ["opened", "n1"]
    assert_sound(cluster.url, schema)


@pytest.mark.parametrize("delivered", [True, False])
def test_connection_cut_anywhere_writes_each_posting_once(
    cluster: Cluster, schema: str, *, delivered: bool
) -> None:
    with (
        proxied(cluster.url) as proxy,
        Ledger(SHARED, proxy.url, schema=schema, migrate=True, lanes=1) as ledger,
    ):
        proxy.deliver = delivered
        ledger.post_batch([add("user0", "opened"), add("user1", "opened")])
        for place in range(12):
            counted = iter(range(1_000))
            proxy.cut = once(lambda _, counted=counted, place=place: next(counted) == place)  # type: ignore[misc]  # bound now
            batch = [
                add("user0", f"{place}a"),
                add(f"new{place}", "n1"),
                add("user1", f"{place}b", metadata={"place": place}),
            ]
            outcomes = ledger.post_batch(batch)
            assert all(isinstance(outcome, Posted) for outcome in outcomes)
            again = ledger.post_batch(batch)
            assert [outcome.entry for outcome in again if isinstance(outcome, Posted)] == [
                outcome.entry for outcome in outcomes if isinstance(outcome, Posted)
            ]
        assert proxy.cuts > 6
    assert query(cluster.url, f"select count(*) from {schema}.entries") == [(2 + 12 * 3,)]
    assert_sound(cluster.url, schema)


def test_connection_that_is_refused_is_unavailable(
    cluster: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GIVE_UP_AFTER_S", 0.2)
    monkeypatch.setattr(store, "CONNECT_TIMEOUT_S", 2)
    with (
        proxied(cluster.url) as proxy,
        Ledger(SHARED, proxy.url, schema=schema, migrate=True) as ledger,
    ):
        proxy.cut = lambda _: True
        proxy.deliver = False
        with pytest.raises(LedgerUnavailable):
            ledger.post(add("user1", "n1"))
        proxy.cut = lambda _: False
        assert not ledger.post(add("user1", "n1")).replayed


def test_too_many_connections_is_unavailable_and_not_a_refusal(
    fragile: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GIVE_UP_AFTER_S", 0.2)
    with Ledger(SHARED, fragile.url, schema=schema, migrate=True) as ledger:
        others: list[psycopg.Connection[object]] = []
        with suppress(psycopg.OperationalError):
            while True:
                others.append(psycopg.connect(fragile.url))
        with pytest.raises(LedgerUnavailable, match="too many clients"):
            ledger.post(add("user1", "n1"))
        for other in others:
            other.close()
        eventually(lambda: _can_post(ledger))


def _can_post(ledger: SharedLedger) -> bool:
    try:
        ledger.post(add("user1", "n1"))
    except LedgerUnavailable:
        return False
    return True


def test_table_that_is_altered_meanwhile_is_written_to(
    cluster: Cluster, ledger: SharedLedger, schema: str
) -> None:
    # "cached plan must not change result type": what a later migration does to a running writer.
    ledger.post(add("user1", "n1"))
    ledger.balance("user1")
    query(cluster.url, f"alter table {schema}.accounts alter column owner_id type varchar(300)")
    query(cluster.url, f"alter table {schema}.entries alter column nonce type varchar(300)")
    assert not ledger.post(add("user1", "n2")).replayed
    assert ledger.post(add("user1", "n2")).replayed
    assert ledger.balance("user1").balance == 20


def test_standby_is_unavailable_and_not_a_refusal(
    cluster: Cluster, ledger: SharedLedger, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "GIVE_UP_AFTER_S", 0.2)
    read_only = f"{cluster.url}&options=-c%20default_transaction_read_only%3Don"
    with Ledger(SHARED, read_only, schema=schema) as other:
        ledger.post(add("user1", "n1"))
        assert other.balance("user1").balance == 10
        with pytest.raises(LedgerUnavailable, match="read-only transaction"):
            other.post(add("user1", "n2"))
