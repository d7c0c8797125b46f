"""Claims, budgets, holds, transfers and reversals, many at once: nothing twice, nothing lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import create_engine

from builders import (
    CLUB,
    ClubOperation,
    assert_sound,
    bonus,
    buy,
    eventually,
    gift,
    query,
    reserve,
)
from shared_ledger import (
    AlreadyClaimed,
    BudgetSpent,
    CaptureHold,
    Group,
    Held,
    HoldClosed,
    HoldExceeded,
    HoldExpired,
    InsufficientCredits,
    Ledger,
    Part,
    Posted,
    Posting,
    Refusal,
    ReleaseHold,
    Request,
    Reversal,
    ReversalExceedsEntry,
    Transfer,
)
from shared_ledger.embedded import Cluster

Club = Ledger[ClubOperation]
HERE = Path(__file__).parent
OWNERS = [f"user{number}" for number in range(6)]


@pytest.fixture
def club(cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger over a new book, which is sound whatever a test does."""
    with Ledger(CLUB, cluster.url, schema=schema, migrate=True) as club:
        yield club
        assert_sound(cluster.url, schema)


def outcome_of(club: Club, request: Any) -> Any:
    try:
        return club.post(request)
    except Refusal as refusal:
        return refusal


def in_threads(club: Club, requests: Sequence[Any], threads: int = 16) -> list[Any]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda request: outcome_of(club, request), requests))


async def in_tasks(club: Club, requests: Sequence[Any]) -> list[Any]:
    return await asyncio.gather(*map(club.apost, requests), return_exceptions=True)


def kinds(outcomes: Sequence[Any]) -> Counter[str]:
    """How many were new, replayed, or refused for which reason."""
    return Counter(
        ("replayed" if outcome.replayed else "new")
        if isinstance(outcome, Posted | Held)
        else type(outcome).__name__
        for outcome in outcomes
    )


def deadlocks(url: str) -> int:
    # What the connections of the test have done is counted when they end.
    count: int = query(url, "select sum(deadlocks)::int from pg_stat_database")[0][0]
    return count


# --- processes ---

# Whoever posts in a process of its own says when it is ready, and all begin together.
_start: Any = None


def remember(start: Any) -> None:
    global _start  # noqa: PLW0603  # a barrier is inherited, and cannot be sent
    _start = start


@pytest.fixture(scope="module")
def processes() -> Iterator[ProcessPoolExecutor]:
    """Two other processes."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        2, mp_context=context, initializer=remember, initargs=(context.Barrier(3),)
    ) as pool:
        yield pool


def post_each(url: str, schema: str, requests: Sequence[Any], way: str) -> list[Any]:
    """Post one by one from threads or from coroutines, in another process."""
    with Ledger(CLUB, url, schema=schema) as club:
        _start.wait(60)
        if way == "threads":
            return in_threads(club, requests)
        return asyncio.run(in_tasks(club, requests))


def everywhere(
    processes: ProcessPoolExecutor, club: Club, schema: str, requests: Sequence[Any]
) -> list[Any]:
    """Post a quarter each from threads and coroutines of two processes, and the rest from here."""
    quarter = len(requests) // 4
    start = processes._initargs[0]  # the barrier of the fixture
    others = [
        processes.submit(post_each, club.url, schema, requests[:quarter], "threads"),
        processes.submit(post_each, club.url, schema, requests[quarter : 2 * quarter], "tasks"),
    ]
    start.wait(60)
    rest = requests[2 * quarter :]
    with ThreadPoolExecutor(1) as pool:
        tasks = pool.submit(asyncio.run, in_tasks(club, rest[::2]))
        outcomes = in_threads(club, rest[1::2]) + tasks.result(120)
    for other in others:
        outcomes += other.result(120)
    return outcomes


def test_a_thousand_claims_at_once_are_one(
    club: Club, schema: str, processes: ProcessPoolExecutor
) -> None:
    claims = [Posting(ClubOperation.WEEKLY, "ann", str(number)) for number in range(1_000)]
    outcomes = everywhere(processes, club, schema, claims)
    assert kinds(outcomes) == {"new": 1, "AlreadyClaimed": 999}
    assert club.balance("ann").balance == 2


def test_a_thousand_claims_spend_a_budget_exactly(
    club: Club, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    claims = [
        Posting(ClubOperation.PROMOTION, f"user{number % 97}", str(number), 4)
        for number in range(1_000)
    ]
    outcomes = everywhere(processes, club, schema, claims)
    assert kinds(outcomes) == {"new": 25, "BudgetSpent": 975}
    spent = f"select sum(amount)::int from {schema}.entries"
    assert query(cluster.url, spent) == [(100,)]
    # Each of them replays, and no other is given.
    again = everywhere(processes, club, schema, claims)
    assert kinds(again) == {"replayed": 25, "BudgetSpent": 975}


def test_same_claims_from_everywhere_are_one_entry_each(
    club: Club, schema: str, processes: ProcessPoolExecutor
) -> None:
    claims = [
        Posting(ClubOperation.DAILY_PROMOTION, f"user{number % 25}", "same", 2)
        for number in range(400)
    ]
    assert kinds(everywhere(processes, club, schema, claims)) == {"new": 25, "replayed": 375}


def test_a_claim_repeated_while_its_first_spends_the_budget_is_replayed(
    club: Club, cluster: Cluster
) -> None:
    # An owner without an account is not locked, so that the repetition waits for the budget only.
    claim = Posting(ClubOperation.PROMOTION, "ann", "same", 100)
    engine = create_engine(f"postgresql+psycopg{cluster.url.removeprefix('postgresql')}")
    waiting = "select count(*)::int from pg_stat_activity where wait_event_type = 'Lock'"
    with ThreadPoolExecutor(1) as pool, engine.connect() as connection:
        first = club.post_in(connection, claim)
        again = pool.submit(club.post_batch, [claim], atomic=True)
        eventually(lambda: query(cluster.url, waiting) != [(0,)])
        connection.commit()
        assert kinds([first, *again.result(30)]) == {"new": 1, "replayed": 1}
    engine.dispose()


def test_opposite_transfers_neither_deadlock_nor_lose(
    club: Club, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    club.post_batch([gift("ann", "funds", 500), bonus("ann", "bonus", 500, priority=1)])
    club.post_batch([gift("bob", "funds", 500), bonus("bob", "bonus", 500, priority=2)])
    before = deadlocks(cluster.url)
    chance = Random(5)
    transfers = []
    for number in range(800):
        source, destination = chance.sample(["ann", "bob"], 2)
        transfers.append(
            Transfer(
                source=source,
                destination=destination,
                amount=chance.randint(1, 40),
                nonce=str(number),
            )
        )
    outcomes = everywhere(processes, club, schema, transfers)
    assert set(kinds(outcomes)) <= {"new", "InsufficientCredits"}
    moved = Counter({"ann": 1_000, "bob": 1_000})
    for outcome in outcomes:
        if isinstance(outcome, Posted):
            for entry in (outcome.entry, *outcome.group):
                moved[entry.owner_id] += entry.amount
    assert {owner_id: club.balance(owner_id).balance for owner_id in ("ann", "bob")} == moved
    assert sum(moved.values()) == 2_000
    assert sum(club.balance(owner_id).expiring for owner_id in ("ann", "bob")) == 1_000
    assert deadlocks(cluster.url) == before


def test_accounts_opened_by_opposite_groups_at_once_are_opened_once(
    club: Club, schema: str, processes: ProcessPoolExecutor
) -> None:
    chance = Random(6)
    groups = []
    for number in range(200):
        owners = [f"user{number // 8}", f"friend{number // 8}", f"other{number // 8}"]
        chance.shuffle(owners)
        parts = [Part(ClubOperation.GIFT, owner_id, 1) for owner_id in owners]
        groups.append(Group(f"g{number}", parts))
    assert kinds(everywhere(processes, club, schema, groups)) == {"new": 200}
    assert club.balance("user0").balance == 8


def test_hold_is_captured_for_no_more_than_it_holds(
    club: Club, schema: str, processes: ProcessPoolExecutor
) -> None:
    club.post_batch([gift("ann", "funds", 100), bonus("ann", "bonus", 50)])
    hold = club.post(reserve("ann", "h", 100)).hold
    captures: list[Any] = [
        CaptureHold(hold.id, f"c{number}", 3, final=False) for number in range(200)
    ]
    outcomes = everywhere(processes, club, schema, captures)
    assert kinds(outcomes) == {"new": 33, "HoldExceeded": 167}
    balance = club.balance("ann")
    assert (balance.balance, balance.held) == (51, 1)


def test_hold_that_many_end_at_once_ends_once(
    club: Club, schema: str, processes: ProcessPoolExecutor
) -> None:
    club.post(gift("ann", "funds", 100))
    hold = club.post(reserve("ann", "h", 100)).hold
    endings: list[Any] = []
    for number in range(100):
        endings += [ReleaseHold(hold.id, f"r{number}"), CaptureHold(hold.id, f"c{number}", 40)]
    outcomes = everywhere(processes, club, schema, endings)
    assert kinds(outcomes) == {"new": 1, "HoldClosed": 199}
    balance = club.balance("ann")
    assert (balance.available, balance.held) in ((100, 0), (60, 0))


def test_holds_reserve_no_more_than_there_is(
    club: Club, schema: str, processes: ProcessPoolExecutor
) -> None:
    club.post_batch([gift("ann", "funds", 60), bonus("ann", "bonus", 40)])
    requests: list[Any] = [
        request
        for number in range(100)
        for request in (reserve("ann", f"h{number}", 3), buy("ann", f"b{number}", 2))
    ]
    outcomes = everywhere(processes, club, schema, requests)
    balance = club.balance("ann")
    assert balance.available < 2
    assert balance.held == 3 * sum(isinstance(outcome, Held) for outcome in outcomes)
    assert balance.balance == 100 - 2 * sum(isinstance(outcome, Posted) for outcome in outcomes)


def test_reversals_at_once_take_back_no_more_than_the_entry(
    club: Club, schema: str, processes: ProcessPoolExecutor
) -> None:
    club.post_batch([gift("ann", "funds", 60), bonus("ann", "bonus", 40)])
    sent = club.post(Transfer(source="ann", destination="bob", amount=100, nonce="t"))
    reversals = [
        Reversal(entry.id, f"r{number}", 7)
        for number in range(50)
        for entry in (sent.entry, *sent.group)
    ]
    outcomes = everywhere(processes, club, schema, reversals)
    # Either entry of the transfer may be named: the two with one nonce are one reversal.
    assert kinds(outcomes)["new"] == 14
    assert set(kinds(outcomes)) == {"new", "replayed", "ReversalExceedsEntry"}
    assert [club.balance(owner_id).balance for owner_id in ("ann", "bob")] == [98, 2]


def test_sweeps_at_once_book_each_expiry_once(
    club: Club, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    instant = timedelta(milliseconds=1)
    club.post_batch([bonus(f"user{n % 30}", str(n), 2, expires_in=instant) for n in range(90)])
    time.sleep(0.01)
    others = [gift(f"user{number % 30}", f"g{number}", 1) for number in range(60)]
    with ThreadPoolExecutor(4) as pool:
        sweeps = [pool.submit(club.sweep) for _ in range(8)]
        assert kinds(everywhere(processes, club, schema, others)) == {"new": 60}
        for sweep in sweeps:
            sweep.result(60)
    expired = f"select count(*), sum(amount)::int from {schema}.entries where operation = 'EXPIRY'"
    assert query(cluster.url, expired) == [(90, -180)]


# --- everything at once ---

EXPECTED = (
    AlreadyClaimed,
    BudgetSpent,
    HoldClosed,
    HoldExceeded,
    HoldExpired,
    InsufficientCredits,
    ReversalExceedsEntry,
)
"""The refusals that a book in which much happens may give."""

Done = list[Posted | Held]


class Step:
    """Do something, the same for the same name; ``done`` is what was not refused of it."""

    def __init__(self, club: Club, name: str) -> None:
        self.done: Done = []
        self._club = club
        self._name = name
        self._chance = Random(name)
        self._owner_id, self._other = self._chance.sample(OWNERS, 2)
        self._amount = self._chance.randint(1, 20)
        self._chance.choice([self._single, self._single, self._hold, self._reverse, self._batch])()

    def _post(self, request: Any) -> Any:
        try:
            self.done.append(self._club.post(request))
        except EXPECTED:
            return None
        return self.done[-1]

    def _lasting(self, *milliseconds: int) -> timedelta:
        return timedelta(milliseconds=self._chance.choice(milliseconds))

    def _single(self) -> None:
        owner_id, other, name, amount = self._owner_id, self._other, self._name, self._amount
        gain, loss = ClubOperation.BONUS, ClubOperation.PURCHASE
        parts = [Part(gain, owner_id, amount), Part(loss, other, -1), Part(loss, owner_id, -1)]
        lasting, priority = self._lasting(1, 200, 90_000), self._chance.randint(0, 3)
        requests = [
            gift(owner_id, name, amount),
            bonus(owner_id, name, amount, expires_in=lasting, priority=priority),
            buy(owner_id, name, amount),
            Posting(ClubOperation.DAILY_PROMOTION, owner_id, name, 1),
            Transfer(source=owner_id, destination=other, amount=amount, nonce=name),
            Group(name, parts),
        ]
        self._post(self._chance.choice(requests))

    def _hold(self) -> None:
        name, lasting = self._name, self._lasting(5, 60_000)
        held = self._post(reserve(self._owner_id, name, self._amount, expires_in=lasting))
        if held is None:
            return
        hold_id = held.hold.id
        self._post(CaptureHold(hold_id, name + "/1", max(1, self._amount // 3), final=False))
        ends = [CaptureHold(hold_id, name + "/2"), ReleaseHold(hold_id, name + "/2"), None]
        if (end := self._chance.choice(ends)) is not None:
            self._post(end)

    def _reverse(self) -> None:
        given = self._post(gift(self._owner_id, self._name, self._amount))
        spent = self._post(buy(self._owner_id, self._name + "/1", self._amount))
        for number, posted in enumerate((given, spent)):
            part, debt = self._chance.randint(1, self._amount), self._chance.random() < 0.3
            if posted is not None:
                nonce = f"{self._name}/r{number}"
                self._post(Reversal(posted.entry.id, nonce, part, allow_debt=debt))

    def _batch(self) -> None:
        owner_id, other, name = self._owner_id, self._other, self._name
        batch: list[Request[ClubOperation]] = [
            gift(other, name + "/1", 1),
            Transfer(source=owner_id, destination=other, amount=self._amount, nonce=name + "/2"),
            reserve(other, name + "/3", 2, expires_in=self._lasting(50)),
        ]
        results = self._club.post_batch(batch, atomic=True)
        self.done += [result for result in results if isinstance(result, Posted | Held)]
        assert len(self.done) in (0, 3), results


def step(club: Club, name: str) -> Done:
    """Do something, the same for the same name; return what was not refused of it."""
    return Step(club, name).done


def ids(done: Done) -> list[int]:
    return [one.entry.id if isinstance(one, Posted) else one.hold.id for one in done]


PROGRAM = """
import itertools, os, sys, threading
from builders import CLUB
from shared_ledger import Ledger
from test_credits_concurrency import ids, step

url, schema, path, run = sys.argv[1:]
club = Ledger(CLUB, url, schema=schema)
acknowledged = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

def work(thread):
    for number in itertools.count():
        done = ids(step(club, f"{run}.{thread}.{number}"))
        # In the kernel's hands before the next one: what is written is kept if we are killed.
        line = " ".join(map(str, [thread, number, *done]))
        os.write(acknowledged, f"{line}\\n".encode())

def fail(failed):
    sys.__excepthook__(failed.exc_type, failed.exc_value, failed.exc_traceback)
    os._exit(1)

threading.excepthook = fail
for thread in range(4):
    threading.Thread(target=work, args=(thread,)).start()
"""


def start(url: str, schema: str, path: Path, run: object) -> subprocess.Popen[bytes]:
    """Start a program that does everything until it is killed."""
    arguments = [url, schema, str(path), str(run)]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], cwd=HERE)


def finished(path: Path) -> dict[str, list[int]]:
    """The steps that a program finished, and the ids of what was not refused in them."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {
        f"{thread}.{number}": list(map(int, done))
        for thread, number, *done in (line.split() for line in lines)
    }


@pytest.mark.slow
def test_processes_that_do_everything_at_once_leave_a_sound_book(
    club: Club, cluster: Cluster, schema: str, tmp_path: Path
) -> None:
    club.post_batch([gift(owner_id, "funds", 200) for owner_id in OWNERS])
    before = deadlocks(cluster.url)
    paths = [tmp_path / str(run) for run in range(3)]
    programs = [start(cluster.url, schema, path, run) for run, path in enumerate(paths)]
    try:
        eventually(lambda: all(len(finished(path)) > 10 for path in paths), within_s=60)
        until = time.monotonic() + 10
        number = 0
        while time.monotonic() < until:
            number += 1
            step(club, f"here.{number}")
            club.sweep()
        assert [program.poll() for program in programs] == [None] * 3, "none has failed"
    finally:
        for program in programs:
            program.kill()
            program.wait()
    assert min(len(finished(path)) for path in paths) > 100
    eventually(lambda: not open_transactions(cluster.url, schema))
    assert deadlocks(cluster.url) == before


def open_transactions(url: str, schema: str) -> int:
    """How many transactions hold anything of the book."""
    rows = query(
        url,
        "select 1 from pg_locks join pg_class on relation = pg_class.oid "
        "where relnamespace = %s::regnamespace",
        schema,
    )
    return len(rows)


@pytest.mark.slow
@pytest.mark.parametrize("run", range(3))
def test_killed_program_that_is_repeated_has_done_everything_once(
    club: Club, cluster: Cluster, schema: str, tmp_path: Path, run: int
) -> None:
    club.post_batch([gift(owner_id, "funds", 200) for owner_id in OWNERS])
    path = tmp_path / "acknowledged"
    target = Random(run).randint(50, 400)
    program = start(cluster.url, schema, path, run)
    try:
        eventually(lambda: len(finished(path)) >= target, within_s=60)
    finally:
        os.kill(program.pid, signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
    acknowledged = finished(path)
    assert len(acknowledged) >= target
    eventually(lambda: not open_transactions(cluster.url, schema))
    assert_sound(cluster.url, schema)

    # Whoever does not know what became of the last ones repeats everything.
    last = Counter(name.partition(".")[0] for name in acknowledged)
    repeated: dict[str, list[int]] = {}

    def repeat(thread: str) -> None:
        for number in range(last[thread] + 1):
            name = f"{thread}.{number}"
            done = step(club, f"{run}.{name}")
            repeated[name] = ids(done)
            replayed = {number for one, number in zip(done, ids(done), strict=True) if one.replayed}
            assert replayed >= set(acknowledged.get(name, ()))

    with ThreadPoolExecutor(4) as pool:
        for repetition in [pool.submit(repeat, thread) for thread in last]:
            repetition.result(120)
    assert_sound(cluster.url, schema)
    for name, done in repeated.items():
        again = step(club, f"{run}.{name}")
        assert [number for one, number in zip(again, ids(again), strict=True) if one.replayed] == [
            *done
        ]
