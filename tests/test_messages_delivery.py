"""From one context to another: at least once on the way, exactly once in effect, in order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import SHOP, adjust, assert_sound, eventually, query
from contexts import (
    SHOP_CONTEXT,
    SHOP_TABLES,
    Note,
    ShopLedger,
    engine_on,
    make_tables,
    notes_context,
    place_order,
    send,
    states,
    till_context,
    transport_over,
    work_off,
    written,
)
from shared_ledger import Ledger
from shared_ledger.embedded import Cluster
from shared_ledger.messages import (
    Envelope,
    Inbox,
    InProcess,
    Relay,
    Retries,
    UnitOfWork,
    Worker,
    lag_of,
    running,
)
from shared_ledger.messages.bell import Bell

SOON = Retries(first_s=0.001, longest_s=0.01)


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the contexts, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


@pytest.fixture
def ledger_of_shop(cluster: Cluster, schema: str) -> Iterator[ShopLedger]:
    with Ledger(SHOP, cluster.url, schema=schema, migrate=True, lanes=1) as ledger:
        ledger.post(adjust("ada", "funds", 100))
        yield ledger


async def comes_true(fact: Callable[[], object]) -> None:
    """Wait for a fact while other tasks go on."""
    await asyncio.to_thread(eventually, fact, within_s=60)


def line(name: str, count: int) -> list[Note]:
    return [Note(line=name, number=number) for number in range(count)]


# --- the whole way ---


async def test_order_is_paid_over_both_contexts(
    tables: AsyncEngine, ledger_of_shop: ShopLedger, cluster: Cluster, schema: str, carried_by: str
) -> None:
    inboxes = [Inbox(tables, context) for context in (SHOP_CONTEXT, till_context(ledger_of_shop))]
    # Nobody looks: notices alone carry it, from one context to the other and back.
    async with (
        transport_over(carried_by, inboxes, schema) as transport,
        running(inboxes, transport, poll_s=1_000),
    ):
        for number in range(10):
            await place_order(tables, f"o{number}")
        await place_order(tables, "too dear", amount=101)
        text = f"select count(*) from {schema}.shop_orders where state <> 'placed'"
        await comes_true(lambda: query(cluster.url, text) == [(11,)])
    text = f"select order_id, state, changes from {schema}.shop_orders order by order_id"
    assert query(cluster.url, text) == [
        *((f"o{number}", "paid", 1) for number in range(10)),
        ("too dear", "refused", 1),
    ]
    assert ledger_of_shop.balance("ada").balance == 70
    assert_sound(cluster.url, schema)


async def test_without_notifications_it_comes_by_looking(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context())]
    async with running(inboxes, InProcess(inboxes), listens=False, poll_s=0.05):
        await asyncio.sleep(0.2)
        await send(tables, *line("a", 3))
        await comes_true(lambda: written(cluster.url, schema) == [0, 1, 2])


async def test_notifications_tell_before_anybody_looks(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context())]
    async with running(inboxes, InProcess(inboxes), poll_s=1_000):
        for number in range(0, 9, 3):
            for sent in range(number, number + 3):
                await send(tables, Note(line="a", number=sent))
                await comes_true(lambda: len(written(cluster.url, schema)) > sent)  # noqa: B023
            # The connection that listens may be lost; a new one takes its place.
            text = "select pg_terminate_backend(pid) from pg_stat_activity where query ilike %s"
            assert query(cluster.url, text, 'listen "notes_inbox"%') == [(True,)]


async def test_message_that_nobody_wants_is_published_to_nobody(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    await send(tables, *line("a", 3))
    await work_off(tables, [SHOP_CONTEXT])
    async with tables.connect() as connection:
        assert (await lag_of(connection, SHOP_TABLES)).unpublished == 0
    assert states(cluster.url, schema, "shop") == {}


# --- at least once ---


class Doubtful:
    """A transport that does everything twice, and half the time says that it did nothing."""

    def __init__(self, inner: InProcess, seed: int) -> None:
        self._inner = inner
        self._chance = random.Random(seed)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        done = self._chance.randint(0, len(envelopes))
        await self._inner.publish(envelopes[:done])
        await self._inner.publish(envelopes[:done])
        if self._chance.random() < 0.5:
            raise ConnectionError("the answer was lost")
        await self._inner.publish(envelopes)

    def delivering(self, inbox: Inbox) -> AbstractAsyncContextManager[None]:
        return self._inner.delivering(inbox)


@pytest.mark.parametrize("seed", range(5))
async def test_repetitions_have_no_effect(
    tables: AsyncEngine, cluster: Cluster, schema: str, seed: int
) -> None:
    inbox = Inbox(tables, notes_context())
    transport = Doubtful(InProcess([inbox]), seed)
    relay = Relay(tables, SHOP_TABLES, transport, batch=7)
    worker = Worker(inbox)
    chance = random.Random(seed)
    for number in range(10):
        await send(tables, *(Note(line=name, number=number) for name in "abc"))
    failures = 0
    while True:
        try:
            if not await relay.publish():
                break
        except ConnectionError:
            failures += 1
        if chance.random() < 0.5:
            await worker.handle_next()
    # All of it once more, as if the relay had never noted anything.
    query(cluster.url, f"update {schema}.shop_outbox set published_on = null")
    while await worker.handle_next():
        pass
    await work_off(tables, [notes_context()])
    assert failures > 0
    for name in "abc":
        assert written(cluster.url, schema, name) == list(range(10))
    assert states(cluster.url, schema, "notes") == {"handled": 30}


async def test_repetition_inside_a_batch_is_dropped(tables: AsyncEngine) -> None:
    inbox = Inbox(tables, notes_context())
    first, second = (Envelope.of(note) for note in line("a", 2))
    assert await inbox.receive([first, second, first]) == 2
    assert await inbox.receive([second, first]) == 0


async def test_positions_follow_the_order_of_the_batch(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inbox = Inbox(tables, notes_context())
    envelopes = [Envelope.of(note) for note in line("a", 500)]
    random.Random(1).shuffle(envelopes)
    await inbox.receive(envelopes[:10])
    await inbox.receive(envelopes)
    rows = query(cluster.url, f"select message_id from {schema}.notes_inbox order by position")
    assert [message_id for (message_id,) in rows] == [envelope.id for envelope in envelopes]


# --- the relay ---


async def test_only_one_relay_publishes(tables: AsyncEngine) -> None:
    published: list[str] = []
    inside, go_on = asyncio.Event(), asyncio.Event()

    class Slow(InProcess):
        async def publish(self, envelopes: Sequence[Envelope]) -> None:
            inside.set()
            await go_on.wait()
            published.extend(envelope.text for envelope in envelopes)

    await send(tables, *line("a", 3))
    first, second = (Relay(tables, SHOP_TABLES, Slow([])) for _ in range(2))
    publishing = asyncio.create_task(first.publish())
    await inside.wait()
    assert await second.publish() == 0
    go_on.set()
    assert await publishing == 3
    assert await second.publish() == 0
    assert len(published) == 3


async def test_relays_of_two_books_do_not_wait_for_each_other(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    make_tables(cluster.url, f"{schema}_other")
    async with engine_on(cluster.url, f"{schema}_other") as other:
        await send(tables, *line("a", 1))
        await send(other, *line("a", 1))
        both = asyncio.Barrier(2)

        class Meeting(InProcess):
            async def publish(self, envelopes: Sequence[Envelope]) -> None:
                await asyncio.wait_for(both.wait(), 30)

        relays = [Relay(engine, SHOP_TABLES, Meeting([])) for engine in (tables, other)]
        assert await asyncio.gather(*(relay.publish() for relay in relays)) == [1, 1]


async def test_relay_goes_on_when_the_transport_is_back(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inbox = Inbox(tables, notes_context())
    refusals = iter([ConnectionError("away"), OSError("still away"), RuntimeError("a bug")])

    class Failing(InProcess):
        async def publish(self, envelopes: Sequence[Envelope]) -> None:
            for refusal in refusals:
                raise refusal
            await super().publish(envelopes)

    await send(tables, *line("a", 250))
    bell = Bell()
    relay = Relay(tables, SHOP_TABLES, Failing([inbox]), pauses=SOON, bell=bell)
    task = asyncio.create_task(relay.run())
    await comes_true(lambda: states(cluster.url, schema, "notes") == {"new": 250})
    bell.close()
    await task
    await work_off(tables, [notes_context()])
    assert written(cluster.url, schema) == list(range(250))


async def test_transport_that_hangs_is_given_up(tables: AsyncEngine) -> None:
    class Hanging(InProcess):
        async def publish(self, envelopes: Sequence[Envelope]) -> None:
            await asyncio.sleep(1_000)

    await send(tables, *line("a", 1))
    with pytest.raises(TimeoutError):
        await Relay(tables, SHOP_TABLES, Hanging([]), timeout_s=0.1).publish()
    assert await Relay(tables, SHOP_TABLES, InProcess([])).publish() == 1


async def test_relay_that_stands_still_loses_its_lock(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    async def publish_elsewhere() -> None:
        async with engine_on(cluster.url, schema) as engine:
            relay = Relay(engine, SHOP_TABLES, InProcess([]))
            while await relay.publish() == 0:
                time.sleep(0.05)  # noqa: ASYNC251  # In a thread of its own.

    class Still(InProcess):
        async def publish(self, envelopes: Sequence[Envelope]) -> None:
            # All of the process stands still, so it cannot even notice that it takes too long.
            with ThreadPoolExecutor(1) as pool:
                pool.submit(asyncio.run, publish_elsewhere()).result(60)

    await send(tables, *line("a", 1))
    relay = Relay(tables, SHOP_TABLES, Still([]), timeout_s=0.2)
    with pytest.raises((TimeoutError, sa.exc.DBAPIError)):
        await relay.publish()


# --- the order of a key ---


async def test_message_waits_for_the_retry_of_the_one_before_it(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    tried: list[tuple[str, int]] = []

    async def fail_once(note: Note, _: UnitOfWork) -> None:
        tried.append((note.line, note.number))
        if tried.count(("a", 0)) == 1 and note == Note(line="a", number=0):
            raise RuntimeError("not yet")

    context = notes_context(fail_once)
    await send(tables, *line("a", 3), *line("b", 3))
    await work_off(tables, [context], retries=Retries(first_s=1_000, longest_s=1_000))
    assert written(cluster.url, schema, "a") == []
    assert written(cluster.url, schema, "b") == [0, 1, 2]
    assert tried.count(("a", 0)) == 1
    query(cluster.url, f"update {schema}.notes_inbox set available_on = now()")
    await work_off(tables, [context])
    assert written(cluster.url, schema, "a") == [0, 1, 2]


async def test_failed_message_is_tried_again_when_its_time_has_come(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    tries = 0

    async def fail_thrice(_: Note, __: UnitOfWork) -> None:
        nonlocal tries
        tries += 1
        if tries <= 3:
            raise RuntimeError("not yet")

    inbox = Inbox(tables, notes_context(fail_thrice))
    inboxes = [Inbox(tables, SHOP_CONTEXT), inbox]
    # Nobody looks but for the retry's sake.
    retries = Retries(first_s=0.05, longest_s=0.2)
    async with running(inboxes, InProcess(inboxes), retries=retries, poll_s=1_000):
        await send(tables, *line("a", 2))
        await comes_true(lambda: written(cluster.url, schema) == [0, 1])
    assert tries == 5


async def test_messages_of_other_keys_are_handled_at_the_same_time(tables: AsyncEngine) -> None:
    together = asyncio.Barrier(4)

    async def meet(_: Note, __: UnitOfWork) -> None:
        await together.wait()

    inbox = Inbox(tables, notes_context(meet))
    await inbox.receive([Envelope.of(Note(line=name, number=0)) for name in "abcd"])
    worker = Worker(inbox, timeout_s=30)
    done = await asyncio.gather(*(worker.handle_next() for _ in range(4)))
    assert done == [True] * 4
    assert not await worker.handle_next()


async def test_messages_of_one_key_are_never_handled_at_the_same_time(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inside = 0

    async def alone(_: Note, __: UnitOfWork) -> None:
        nonlocal inside
        inside += 1
        await asyncio.sleep(0.005)
        assert inside == 1
        inside -= 1

    inbox = Inbox(tables, notes_context(alone))
    await inbox.receive([Envelope.of(note) for note in line("a", 30)])
    # Each as in a process of its own: they know nothing of each other's keys.
    workers = [Worker(inbox) for _ in range(6)]

    async def work(worker: Worker) -> None:
        while states(cluster.url, schema, "notes").get("new"):
            await worker.handle_next()

    async with asyncio.timeout(60):
        await asyncio.gather(*map(work, workers))
    assert states(cluster.url, schema, "notes") == {"handled": 30}
    assert written(cluster.url, schema) == list(range(30))
