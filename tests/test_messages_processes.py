"""Processes that are killed, stand still or compete: nothing is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import SHOP, adjust, assert_sound, eventually, query
from contexts import (
    HERE,
    SHOP_CONTEXT,
    Note,
    engine_on,
    make_tables,
    notes_context,
    program,
    send,
    states,
    written,
)
from shared_ledger import Ledger
from shared_ledger.embedded import Cluster
from shared_ledger.messages import Envelope, Inbox, InProcess, Worker, running
from shared_ledger.messages.faults import JETSTREAM_POINTS, POINTS

pytestmark = pytest.mark.slow


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the contexts, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


# --- killed after every single step ---

# Forks a process for each step of an order's way. It first finishes what the one before it has
# left, then places an order of its own and kills itself at its step. A step that it does not come
# to is the end of the list for its point.
KILLED_AT_EACH_STEP = """
import asyncio, json, os, signal, sys
from builders import SHOP, query
from contexts import (
    SHOP_CONTEXT,
    SHOP_TABLES, Order, PaymentMade, ShopUnitOfWork, TillUnitOfWork, engine_on, payment_refused,
    place_order, till_context, transport_over,
)
from shared_ledger import Ledger
from shared_ledger.messages import Context, Inbox, Retries, handles, running
from shared_ledger.messages.faults import on_reach

url, schema, nats_url, *points = sys.argv[1:]
failed = set()

@handles(PaymentMade)
async def payment_made(message: PaymentMade, uow: ShopUnitOfWork) -> None:
    order = await uow.orders.find(message.order_id)
    order.become("paid")
    # Fails once in each process, after it has done its work.
    if message.order_id not in failed:
        failed.add(message.order_id)
        raise RuntimeError("the first time")

shop = Context(
    name="shop", tables=SHOP_TABLES, unit_of_work=ShopUnitOfWork,
    handlers=[payment_made, payment_refused],
)

async def all_done():
    left = f"select count(*) from {schema}.shop_orders where state <> 'paid'"
    inboxes = (
        f"select (select count(*) from {schema}.shop_inbox where state <> 'handled')"
        f" + (select count(*) from {schema}.till_inbox where state <> 'handled')"
        f" + (select count(*) from {schema}.shop_outbox where published_on is null)"
        f" + (select count(*) from {schema}.till_outbox where published_on is null)"
    )
    while query(url, left) != [(0,)] or query(url, inboxes) != [(0,)]:
        await asyncio.sleep(0.01)

async def run(order_id, point, number):
    with Ledger(SHOP, url, schema=schema, lanes=1) as ledger:
        async with engine_on(url, schema) as engine:
            inboxes = [Inbox(engine, context) for context in (shop, till_context(ledger))]
            retries = Retries(first_s=0.01, longest_s=0.01)
            async with (
                transport_over(nats_url, inboxes, schema) as transport,
                running(inboxes, transport, retries=retries, poll_s=0.05),
            ):
                # The client whose answer was lost asks again.
                for (before,) in query(url, f"select id from {schema}.asked"):
                    await place_order(engine, before)
                await all_done()
                query(url, f"insert into {schema}.asked values (%s)", order_id)
                reached = 0

                def at(name):
                    nonlocal reached
                    if name == point:
                        reached += 1
                        if reached == number:
                            os.kill(os.getpid(), signal.SIGKILL)

                on_reach(at)
                await place_order(engine, order_id)
                await all_done()
                on_reach(None)

killed = []
for point in points:
    number = 0
    while True:
        number += 1
        child = os.fork()
        if child == 0:
            asyncio.run(run(f"{point} {number}", point, number))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            break
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        killed.append([point, number])
print(json.dumps(killed))
"""


def test_killed_after_every_step_an_order_is_paid_once(
    cluster: Cluster, schema: str, carried_by: str
) -> None:
    points = [*POINTS, *(JETSTREAM_POINTS if carried_by else ())]
    with Ledger(SHOP, cluster.url, schema=schema, migrate=True, lanes=1) as ledger:
        ledger.post(adjust("ada", "funds", 100_000))
    make_tables(cluster.url, schema)
    query(cluster.url, f"create table {schema}.asked (id text primary key)")
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EACH_STEP, cluster.url, schema, carried_by, *points],
        cwd=HERE,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=280,
    )
    killed = json.loads(done.stdout)
    assert {point for point, _ in killed} == set(points)
    # The shop's own unit of work, those of both handlers, and the one that is done again.
    assert ["unit_of_work.after_save", 3] in killed
    assert ["worker.before_commit", 2] in killed
    assert ["relay.after_publish", 2] in killed
    asked = query(cluster.url, f"select count(*) from {schema}.asked")[0][0]
    assert asked == len(killed) + len(points)
    placed = query(
        cluster.url, f"select state, changes, count(*) from {schema}.shop_orders group by 1, 2"
    )
    assert placed == [("paid", 1, asked)]
    paid = query(
        cluster.url, f"select count(*), count(distinct entry_id) from {schema}.till_payments"
    )
    assert paid == [(asked, asked)]
    entries = query(
        cluster.url,
        f"select count(*), sum(amount) from {schema}.entries where operation = 'PURCHASE'",
    )
    assert entries == [(asked, -3 * asked)]
    assert states(cluster.url, schema, "shop") == {"handled": asked}
    assert states(cluster.url, schema, "till") == {"handled": asked}
    assert_sound(cluster.url, schema)


# --- several processes ---

WORKING = """
import asyncio, random, sys
from contexts import SHOP_CONTEXT, engine_on, notes_context, transport_over
from shared_ledger.messages import ConcurrentChange, Inbox, Retries, running

url, schema, nats_url, seed = sys.argv[1:]
chance = random.Random(int(seed))

async def on_note(note, uow):
    await asyncio.sleep(chance.random() / 100)
    fate = chance.random()
    if fate < 0.1:
        raise RuntimeError("by chance")
    if fate < 0.2:
        raise ConcurrentChange("something")
    if fate < 0.21:
        await asyncio.sleep(1_000)

async def main():
    async with engine_on(url, schema) as engine:
        inboxes = [Inbox(engine, SHOP_CONTEXT), Inbox(engine, notes_context(on_note))]
        retries = Retries(attempts=1_000, first_s=0.01, longest_s=0.1)
        async with (
            transport_over(nats_url, inboxes, schema) as transport,
            running(
                inboxes, transport, concurrency=2, retries=retries, timeout_s=1, poll_s=0.1
            ),
        ):
            await asyncio.sleep(1_000)

asyncio.run(main())
"""


async def test_key_keeps_its_order_with_workers_in_two_processes_that_fail_and_die(
    tables: AsyncEngine, cluster: Cluster, schema: str, carried_by: str
) -> None:
    lines, numbers = 12, 30

    def count() -> int:
        return len(written(cluster.url, schema))

    async def say(numbers: range) -> None:
        for number in numbers:
            await send(tables, *(Note(line=str(name), number=number) for name in range(lines)))

    with program(WORKING, cluster.url, schema, carried_by, 1):
        await say(range(10))
        for seed in range(3):
            target = count() + 40
            with program(WORKING, cluster.url, schema, carried_by, 10 + seed):
                await say(range(10 + 5 * seed, 15 + 5 * seed))
                eventually(lambda: count() >= target, within_s=100)  # noqa: B023
        with program(WORKING, cluster.url, schema, carried_by, 2):
            await say(range(25, numbers))
            eventually(lambda: count() >= lines * numbers, within_s=100)
    for name in range(lines):
        assert written(cluster.url, schema, str(name)) == list(range(numbers))
    failed = query(
        cluster.url, f"select count(*) from {schema}.notes_inbox where error is not null"
    )
    assert states(cluster.url, schema, "notes") == {"handled": lines * numbers}
    assert failed == [(0,)], "what was handled in the end has no error"
    attempts = query(cluster.url, f"select sum(attempts) from {schema}.notes_inbox")
    assert attempts[0][0] > 10, "nothing failed: the test shows nothing"


STANDING_STILL = """
import asyncio, sys, time
from contexts import engine_on, notes_context
from shared_ledger.messages import Inbox, Worker

url, schema = sys.argv[1:]

async def stand_still(note, uow):
    print("inside", flush=True)
    time.sleep(1_000)

async def main():
    async with engine_on(url, schema) as engine:
        await Worker(Inbox(engine, notes_context(stand_still)), timeout_s=0.5).handle_next()

asyncio.run(main())
"""


async def test_process_that_stands_still_loses_its_message_to_another(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inbox = Inbox(tables, notes_context())
    await inbox.receive([Envelope.of(Note(line="a", number=number)) for number in range(2)])
    worker = Worker(inbox)
    with program(STANDING_STILL, cluster.url, schema) as still:
        assert still.stdout is not None
        assert still.stdout.readline() == b"inside\n"
        assert not await worker.handle_next()
        deadline = time.monotonic() + 60
        while not await worker.handle_next():
            assert time.monotonic() < deadline
        assert await worker.handle_next()
    assert written(cluster.url, schema) == [0, 1]


DYING = """
import asyncio, os, signal, sys
from contexts import SHOP_CONTEXT, engine_on, notes_context
from shared_ledger.messages import Inbox, InProcess, Retries, running

url, schema = sys.argv[1:]

async def die_of_some(note, uow):
    # Others are in hand when it dies.
    await asyncio.sleep(0.02)
    if note.line == "deadly" and note.number == 1:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with engine_on(url, schema) as engine:
        inboxes = [Inbox(engine, SHOP_CONTEXT), Inbox(engine, notes_context(die_of_some))]
        retries = Retries(attempts=3, first_s=0.01, longest_s=0.01)
        async with running(inboxes, InProcess(inboxes), retries=retries, poll_s=0.05):
            await asyncio.sleep(1_000)

asyncio.run(main())
"""


def test_message_that_kills_its_process_each_time_is_dead_in_the_end_and_no_other(
    cluster: Cluster, schema: str
) -> None:
    make_tables(cluster.url, schema)
    names = ["deadly", *"abcdefgh"]

    async def say() -> None:
        async with engine_on(cluster.url, schema) as engine:
            for number in range(3):
                await send(engine, *(Note(line=name, number=number) for name in names))

    asyncio.run(say())
    done = {"handled": 25, "dead": 1, "new": 1}
    deaths = 0
    while states(cluster.url, schema, "notes") != done:
        assert deaths < 6, states(cluster.url, schema, "notes")
        running = subprocess.Popen([sys.executable, "-c", DYING, cluster.url, schema], cwd=HERE)
        try:
            eventually(
                lambda: (
                    running.poll() is not None  # noqa: B023
                    or states(cluster.url, schema, "notes") == done
                ),
                within_s=60,
            )
            if running.poll() is not None:
                assert running.returncode == -signal.SIGKILL
                deaths += 1
        finally:
            running.kill()
            running.wait()
    # The first process may have been there before the message, and then does not count its try.
    assert deaths in (3, 4)
    text = f"select attempts, error from {schema}.notes_inbox where state = 'dead'"
    assert query(cluster.url, text) == [
        (3, "the process ended, or lost the database, while it was handled")
    ]
    assert written(cluster.url, schema, "deadly") == [0]
    for name in "abcdefgh":
        assert written(cluster.url, schema, name) == [0, 1, 2]


# --- many ---


@pytest.mark.timeout(900)
async def test_ten_thousand_messages_all_come_in_order(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    numbers, lines = 200, 50
    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context())]
    async with running(inboxes, InProcess(inboxes)):
        for number in range(numbers):
            await send(tables, *(Note(line=str(name), number=number) for name in range(lines)))
        async with asyncio.timeout(800):
            all_done = {"handled": numbers * lines}
            # It happens in the database: there is no event to wait for.
            while states(cluster.url, schema, "notes") != all_done:  # noqa: ASYNC110
                await asyncio.sleep(0.2)
    for name in range(lines):
        assert written(cluster.url, schema, str(name)) == list(range(numbers))
