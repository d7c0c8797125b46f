"""Many at once, in threads, coroutines and processes: nothing lost, nothing twice, no overspend."""

from __future__ import annotations

import asyncio
import multiprocessing
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from builders import (
    SHOP,
    ShopOperation,
    add,
    assert_sound,
    balances,
    eventually,
    fund,
    locked_account,
    nonces,
    query,
    sign_up,
    spend,
)
from shared_ledger import (
    SHARED,
    AlreadyClaimed,
    InsufficientCredits,
    Ledger,
    LedgerClosed,
    LedgerOverloaded,
    Outcome,
    Posted,
    Posting,
    Refusal,
    SharedOperation,
)
from shared_ledger.embedded import Cluster

SharedLedger = Ledger[SharedOperation]
HERE = Path(__file__).parent


def outcome_of(ledger: SharedLedger, posting: Posting[SharedOperation]) -> Outcome:
    try:
        return ledger.post(posting)
    except Refusal as refusal:
        return refusal


def kinds(outcomes: Sequence[Outcome]) -> Counter[str]:
    """How many were new, replayed, or refused for which reason."""
    return Counter(
        ("replayed" if outcome.replayed else "new")
        if isinstance(outcome, Posted)
        else type(outcome).__name__
        for outcome in outcomes
    )


def in_threads(
    count: int, ledger: SharedLedger, postings: Sequence[Posting[SharedOperation]]
) -> list[Outcome]:
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda posting: outcome_of(ledger, posting), postings))


async def in_tasks(
    ledger: SharedLedger, postings: Sequence[Posting[SharedOperation]]
) -> list[Outcome]:
    answers = await asyncio.gather(
        *(ledger.apost(posting) for posting in postings), return_exceptions=True
    )
    return [answer for answer in answers if isinstance(answer, Posted | Refusal)]


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
        2, mp_context=context, initializer=remember, initargs=(context.Barrier(2),)
    ) as pool:
        yield pool


def post_each(
    url: str, schema: str, postings: Sequence[Posting[SharedOperation]], threads: int
) -> list[Outcome]:
    """Post one by one from several threads, in another process."""
    with Ledger(SHARED, url, schema=schema) as ledger:
        _start.wait(60)
        return in_threads(threads, ledger, postings)


def post_batches(
    url: str, schema: str, batches: Sequence[Sequence[Posting[SharedOperation]]]
) -> list[Outcome]:
    """Post batch by batch, in another process."""
    with Ledger(SHARED, url, schema=schema) as ledger:
        _start.wait(60)
        return [outcome for batch in batches for outcome in ledger.post_batch(batch)]


def post_purchases(url: str, schema: str, count: int) -> list[Outcome]:
    """Post as another application, in another process."""
    with Ledger(SHOP, url, schema=schema) as ledger:
        _start.wait(60)
        return [
            outcome
            for number in range(count)
            for outcome in ledger.post_batch(
                [Posting(ShopOperation.PURCHASE, "user1", str(number), -1)]
            )
        ]


def both(
    processes: ProcessPoolExecutor,
    first: tuple[Callable[..., list[Outcome]], tuple[Any, ...]],
    second: tuple[Callable[..., list[Outcome]], tuple[Any, ...]],
) -> tuple[list[Outcome], list[Outcome]]:
    futures = [processes.submit(work, *arguments) for work, arguments in (first, second)]
    return futures[0].result(120), futures[1].result(120)


def deadlocks(url: str) -> int:
    # What the connections of the test have done is counted when they end.
    count: int = query(url, "select sum(deadlocks)::int from pg_stat_database")[0][0]
    return count


# --- exactly as many spends as there are credits ---

CREDITS = 60
SPENDS = 150


def test_threads_spend_what_there_is_and_no_more(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    fund(cluster.url, schema, "user1", CREDITS)
    outcomes = in_threads(16, ledger, [spend("user1", str(number)) for number in range(SPENDS)])
    assert kinds(outcomes) == {"new": CREDITS, "InsufficientCredits": SPENDS - CREDITS}
    assert ledger.balance("user1").balance == 0
    assert_sound(cluster.url, schema)


async def test_coroutines_spend_what_there_is_and_no_more(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    fund(cluster.url, schema, "user1", CREDITS)
    outcomes = await in_tasks(ledger, [spend("user1", str(number)) for number in range(SPENDS)])
    assert kinds(outcomes) == {"new": CREDITS, "InsufficientCredits": SPENDS - CREDITS}
    assert_sound(cluster.url, schema)


def test_processes_spend_what_there_is_and_no_more(
    ledger: SharedLedger, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    fund(cluster.url, schema, "user1", CREDITS)
    first, second = both(
        processes,
        (post_each, (cluster.url, schema, [spend("user1", f"a{n}") for n in range(SPENDS)], 8)),
        (post_batches, (cluster.url, schema, [[spend("user1", f"b{n}")] for n in range(SPENDS)])),
    )
    assert kinds(first + second) == {"new": CREDITS, "InsufficientCredits": 2 * SPENDS - CREDITS}
    left = [
        outcome.entry.balance_after for outcome in first + second if isinstance(outcome, Posted)
    ]
    assert sorted(left) == list(range(CREDITS))
    assert ledger.balance("user1").balance == 0
    assert_sound(cluster.url, schema)


def test_refusal_is_true_when_it_is_given(ledger: SharedLedger) -> None:
    ledger.post(add("user1", "funds"))
    outcomes = in_threads(8, ledger, [spend("user1", str(n), amount=-1) for n in range(20)])
    for outcome in outcomes:
        if isinstance(outcome, InsufficientCredits):
            assert (outcome.available, outcome.required) == (0, 1)


# --- the same nonce ---


@pytest.mark.parametrize("posting", [add("user1", "n1"), sign_up("user1", "n1")])
async def test_same_nonce_at_once_is_one_entry(
    ledger: SharedLedger, cluster: Cluster, schema: str, posting: Posting[SharedOperation]
) -> None:
    outcomes = await in_tasks(ledger, [posting] * 100)
    assert kinds(outcomes) == {"new": 1, "replayed": 99}
    outcomes += in_threads(8, ledger, [posting] * 50)
    entries = {outcome.entry.id for outcome in outcomes if isinstance(outcome, Posted)}
    assert len(entries) == 1
    assert nonces(cluster.url, schema, "user1") == ["n1"]


def test_same_nonces_from_two_processes_are_one_entry_each(
    ledger: SharedLedger, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    fund(cluster.url, schema, "user1", CREDITS)
    postings = [spend("user1", str(number)) for number in range(100)]
    first, second = both(
        processes,
        (post_each, (cluster.url, schema, postings, 8)),
        (post_each, (cluster.url, schema, postings[::-1], 8)),
    )
    counts = kinds(first + second)
    assert counts["new"] == CREDITS
    assert counts["new"] + counts["replayed"] + counts["InsufficientCredits"] == 200
    assert ledger.balance("user1").balance == 0
    by_nonce: dict[str, set[int]] = {}
    for outcome in first + second:
        if isinstance(outcome, Posted):
            by_nonce.setdefault(outcome.entry.nonce, set()).add(outcome.entry.id)
    assert all(len(ids) == 1 for ids in by_nonce.values())
    assert_sound(cluster.url, schema)


async def test_two_hundred_claims_at_once_are_one(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    outcomes = await in_tasks(ledger, [sign_up("user1", str(number)) for number in range(200)])
    assert kinds(outcomes) == {"new": 1, "AlreadyClaimed": 199}
    assert ledger.balance("user1").balance == 3


def test_claims_from_two_processes_are_one(
    ledger: SharedLedger, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    owners = [f"user{number}" for number in range(100)]
    first, second = both(
        processes,
        (post_each, (cluster.url, schema, [sign_up(owner, "a") for owner in owners], 8)),
        (post_each, (cluster.url, schema, [sign_up(owner, "b") for owner in owners], 8)),
    )
    for one, other in zip(first, second, strict=True):
        assert kinds([one, other]) == {"new": 1, "AlreadyClaimed": 1}
    assert_sound(cluster.url, schema)


# --- processes that meet ---


def test_accounts_opened_by_two_processes_at_once_are_opened_once(
    ledger: SharedLedger, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    owners = [f"user{number}" for number in range(150)]
    first, second = both(
        processes,
        (post_batches, (cluster.url, schema, [[add(owner, "a")] for owner in owners])),
        (post_batches, (cluster.url, schema, [[add(owner, "b")] for owner in owners])),
    )
    assert kinds(first + second) == {"new": 300}
    accounts = balances(cluster.url, schema)
    assert {accounts[owner, "credits"] for owner in owners} == {20}
    assert accounts["@issued", "credits"] == -3_000
    assert_sound(cluster.url, schema)


def test_accounts_are_opened_in_the_order_in_which_they_are_locked(
    cluster: Cluster, schema: str
) -> None:
    # In any other order, two batches that open the same accounts could wait for each other.
    owners = ["b", "d", "a", "é", "c", "B"]
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True, lanes=1) as ledger:
        ledger.post_batch([add(owner, "n1") for owner in owners])
    rows = query(
        cluster.url, f"select owner_id from {schema}.accounts where floor = 0 order by ctid"
    )
    assert [owner for (owner,) in rows] == sorted(owners)


def test_batches_in_opposite_order_do_not_deadlock(
    ledger: SharedLedger, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    owners = [f"user{number:02}" for number in range(20)]
    ledger.post_batch([add(owner, "opened") for owner in owners])
    before = deadlocks(cluster.url)
    rounds = range(60)
    first, second = both(
        processes,
        (
            post_batches,
            (cluster.url, schema, [[add(owner, f"a{n}") for owner in owners] for n in rounds]),
        ),
        (
            post_batches,
            (
                cluster.url,
                schema,
                [[spend(owner, f"b{n}") for owner in owners[::-1]] for n in rounds],
            ),
        ),
    )
    assert len(first + second) == 2_400
    assert set(kinds(first + second)) <= {"new", "InsufficientCredits"}
    assert deadlocks(cluster.url) == before
    assert_sound(cluster.url, schema)


def test_two_applications_spend_one_balance_from_two_processes(
    ledger: SharedLedger, cluster: Cluster, schema: str, processes: ProcessPoolExecutor
) -> None:
    fund(cluster.url, schema, "user1", CREDITS)
    first, second = both(
        processes,
        (post_batches, (cluster.url, schema, [[spend("user1", str(n))] for n in range(SPENDS)])),
        (post_purchases, (cluster.url, schema, SPENDS)),
    )
    assert kinds(first + second) == {"new": CREDITS, "InsufficientCredits": 2 * SPENDS - CREDITS}
    assert ledger.balance("user1").balance == 0
    assert_sound(cluster.url, schema)


def test_two_lanes_and_many_owners_lose_nothing(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    def batch(number: int) -> list[Outcome]:
        return ledger.post_batch([add(f"user{n % 50}", f"{number}/{n}") for n in range(400)])

    with ThreadPoolExecutor(4) as pool:
        outcomes = [outcome for outcomes in pool.map(batch, range(8)) for outcome in outcomes]
    assert kinds(outcomes) == {"new": 3_200}
    assert balances(cluster.url, schema)["@issued", "credits"] == -32_000
    assert_sound(cluster.url, schema)


# --- a queue that is full ---


def test_full_queue_refuses_at_once_and_writes_nothing_of_it(cluster: Cluster, schema: str) -> None:
    with (
        Ledger(SHARED, cluster.url, schema=schema, migrate=True, lanes=1, max_queue=3) as ledger,
        ThreadPoolExecutor(3) as pool,
    ):
        ledger.post(add("user1", "opened"))
        with locked_account(cluster.url, schema, "user1"):
            taken = [pool.submit(ledger.post, spend("user1", str(number))) for number in range(3)]
            eventually(lambda: ledger.queued == 3)
            with pytest.raises(LedgerOverloaded):
                ledger.post(spend("user1", "refused"))
            with pytest.raises(LedgerOverloaded):
                ledger.post_batch([spend("user1", "refused"), spend("user2", "refused")])
        assert kinds([future.result() for future in taken]) == {"new": 3}
        assert "refused" not in nonces(cluster.url, schema, "user1")
        assert not ledger.post(spend("user1", "refused")).replayed
        assert ledger.queued == 0


async def test_full_queue_refuses_coroutines_at_once(cluster: Cluster, schema: str) -> None:
    async with Ledger(
        SHARED, cluster.url, schema=schema, migrate=True, lanes=1, max_queue=1
    ) as ledger:
        await ledger.apost(add("user1", "opened"))
        with locked_account(cluster.url, schema, "user1"):
            first = asyncio.create_task(ledger.apost(spend("user1", "taken")))
            await asyncio.sleep(0)
            with pytest.raises(LedgerOverloaded):
                await ledger.apost(spend("user1", "refused"))
        assert not (await first).replayed
    assert nonces(cluster.url, schema, "user1") == ["opened", "taken"]


def test_batch_larger_than_the_queue_is_taken_when_nothing_waits(
    cluster: Cluster, schema: str
) -> None:
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True, max_queue=2) as ledger:
        assert kinds(ledger.post_batch([add("user1", str(n)) for n in range(10)])) == {"new": 10}


# --- the end ---


def test_close_answers_everything_that_was_taken(cluster: Cluster, schema: str) -> None:
    ledger = Ledger(SHARED, cluster.url, schema=schema, migrate=True, lanes=1)
    ledger.post(add("user1", "opened"))
    with ThreadPoolExecutor(6) as pool:
        with locked_account(cluster.url, schema, "user1"):
            taken = [pool.submit(ledger.post, spend("user1", str(number))) for number in range(5)]
            eventually(lambda: ledger.queued == 5)
            closing = threading.Thread(target=ledger.close)
            closing.start()
            eventually(lambda: _is_closed(ledger))
            assert closing.is_alive()
        assert kinds([future.result() for future in taken]) == {"new": 5}
        closing.join(30)
    assert len(nonces(cluster.url, schema, "user1")) == 6


def _is_closed(ledger: SharedLedger) -> bool:
    try:
        ledger.post(add("user2", "too late"))
    except LedgerClosed:
        return True
    return False


async def test_everything_is_closed_after_close(ledger: SharedLedger) -> None:
    ledger.post(add("user1", "n1"))
    ledger.close()
    ledger.close()
    for call in (
        lambda: ledger.post(add("user1", "n2")),
        lambda: ledger.post_batch([add("user1", "n2")]),
        lambda: ledger.balance("user1"),
        lambda: ledger.history("user1"),
    ):
        with pytest.raises(LedgerClosed):
            call()
    for coroutine in (
        ledger.apost(add("user1", "n2")),
        ledger.apost_batch([add("user1", "n2")]),
        ledger.abalance("user1"),
        ledger.ahistory("user1"),
    ):
        with pytest.raises(LedgerClosed):
            await coroutine


def test_closed_ledger_keeps_no_connection(cluster: Cluster, schema: str) -> None:
    others = "select count(*) from pg_stat_activity where application_name = 'shared-ledger'"
    before = query(cluster.url, others)[0][0]
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True) as ledger:
        ledger.post_batch([add(f"user{n}", "n1") for n in range(500)])
        ledger.balance("user1")
        ledger.history("user1")
        assert query(cluster.url, others)[0][0] > before
    eventually(lambda: query(cluster.url, others)[0][0] == before)


def script(text: str, *arguments: str) -> str:
    """Run a program of its own; return what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", text, *arguments],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


FORKS = """
import os, signal, sys, threading
from builders import add
from shared_ledger import SHARED, Ledger, LedgerClosed

ledger = Ledger(SHARED, sys.argv[1], schema=sys.argv[2])
ledger.history("user1")
going = True

def post(thread):
    number = 0
    while going:
        number += 1
        ledger.post(add(f"user{thread}", str(number)))
        ledger.balance(f"user{thread}")

threads = [threading.Thread(target=post, args=(thread,)) for thread in range(4)]
for thread in threads:
    thread.start()
for _ in range(20):
    # As if a thread were just queueing something: the child's copies of the locks stay locked.
    gates = (ledger._writer._gate, ledger._reader._gate)
    for gate in gates:
        gate.acquire()
    child = os.fork()
    if not child:
        signal.alarm(20)
        refused = 0
        for call in (
            lambda: ledger.post(add("child", "n1")),
            lambda: ledger.post_batch([add("child", "n1")]),
            lambda: ledger.balance("child"),
            lambda: ledger.history("child"),
        ):
            try:
                call()
            except LedgerClosed:
                refused += 1
        ledger.close()
        os._exit(refused)
    for gate in gates:
        gate.release()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
going = False
for thread in threads:
    thread.join()
ledger.history("user1")
print(ledger.balance("child").balance)
ledger.close()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing forks there")
def test_forked_child_is_told_and_does_not_hang(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    said = script(FORKS, cluster.url, schema).split()
    assert said == ["4"] * 20 + ["0"]
    assert_sound(cluster.url, schema)


def test_program_that_forgets_to_close_ends(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    text = """
import sys
from builders import add
from shared_ledger import SHARED, Ledger
print(Ledger(SHARED, sys.argv[1], schema=sys.argv[2]).post(add("user1", "n1")).entry.amount)
"""
    assert script(text, cluster.url, schema) == "10\n"
    assert ledger.balance("user1").balance == 10


# --- coroutines that give up ---


async def test_cancelled_coroutine_does_not_hurt_its_neighbours(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    await ledger.apost(add("user1", "opened"))
    with locked_account(cluster.url, schema, "user1"):
        tasks = [asyncio.create_task(ledger.apost(spend("user1", str(n)))) for n in range(6)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.sleep(0)
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(answer, asyncio.CancelledError) for answer in answers] == [True, False] * 3
    assert all(isinstance(answer, Posted) for answer in answers[1::2])
    # They were taken, and repeating them is safe.
    assert kinds(await in_tasks(ledger, [spend("user1", str(n)) for n in range(6)])) == {
        "replayed": 6
    }


async def test_cancelled_batch_does_not_hurt_its_neighbours(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    await ledger.apost(add("user1", "opened"))
    with locked_account(cluster.url, schema, "user1"):
        batch = asyncio.create_task(ledger.apost_batch([spend("user1", "a"), spend("user1", "b")]))
        single = asyncio.create_task(ledger.apost(spend("user1", "c")))
        await asyncio.sleep(0)
        batch.cancel()
        await asyncio.sleep(0)
    assert not (await single).replayed
    assert batch.cancelled()
    assert kinds(await ledger.apost_batch([spend("user1", "a"), spend("user1", "b")])) == {
        "replayed": 2
    }


def test_closed_event_loop_does_not_break_the_writer(
    ledger: SharedLedger, cluster: Cluster, schema: str
) -> None:
    ledger.post(add("user1", "opened"))
    loop = asyncio.new_event_loop()
    tasks: list[asyncio.Task[Posted]] = []

    async def begin() -> None:
        tasks.append(asyncio.create_task(ledger.apost(spend("user1", "left alone"))))
        await asyncio.sleep(0)

    with ThreadPoolExecutor(1) as pool:
        with locked_account(cluster.url, schema, "user1"):
            loop.run_until_complete(begin())
            loop.close()
            other = pool.submit(ledger.post, spend("user1", "waited for"))
            eventually(lambda: ledger.queued == 2)
        assert not other.result().replayed
    eventually(lambda: ledger.queued == 0)
    assert ledger.post(spend("user1", "left alone")).replayed
    tasks[0]._log_destroy_pending = False  # type: ignore[attr-defined]  # asyncio would complain


def test_two_event_loops_share_a_ledger(ledger: SharedLedger) -> None:
    async def some(name: str) -> Counter[str]:
        return kinds(await in_tasks(ledger, [add("user1", f"{name}{n}") for n in range(50)]))

    with ThreadPoolExecutor(2) as pool:
        counts = list(pool.map(lambda name: asyncio.run(some(name)), "ab"))
    assert counts == [{"new": 50}, {"new": 50}]
    assert ledger.balance("user1").balance == 1_000


def test_claim_and_its_repetition_at_once(ledger: SharedLedger) -> None:
    postings = [sign_up("user1", str(number % 10)) for number in range(100)]
    outcomes = in_threads(8, ledger, postings)
    counts = kinds(outcomes)
    assert counts["new"] == 1
    assert counts["replayed"] == 9
    assert counts[AlreadyClaimed.__name__] == 90
