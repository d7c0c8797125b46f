"""What becomes of a message in its context: failures, retries, wrong declarations, lag."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import SHOP, adjust, eventually, query
from contexts import (
    NOTES_TABLES,
    SHOP_CONTEXT,
    SHOP_TABLES,
    Note,
    NotesUnitOfWork,
    RequestPayment,
    ShopLedger,
    engine_on,
    make_tables,
    notes_context,
    send,
    states,
    till_context,
    transport_over,
    work_off,
    written,
)
from shared_ledger import Ledger
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError
from shared_ledger.messages import (
    ConcurrentChange,
    Context,
    Envelope,
    Event,
    Inbox,
    InProcess,
    Lag,
    Retries,
    UnitOfWork,
    Worker,
    handles,
    lag_of,
    running,
)
from shared_ledger.messages.inbox import INTERRUPTED, Taken
from shared_ledger.messages.tables import about

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


# --- failures of handlers ---


async def test_failure_leaves_nothing_of_the_effect(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    async def fail(_: Note, uow: UnitOfWork) -> None:
        uow.emit(Note(line="b", number=1))
        raise RuntimeError("no")

    await send(tables, Note(line="a", number=0))
    later = Retries(first_s=1_000, longest_s=1_000)
    await work_off(tables, [notes_context(fail)], retries=later)
    assert written(cluster.url, schema) == []
    assert query(cluster.url, f"select * from {schema}.notes_outbox") == []
    rows = query(cluster.url, f"select state, attempts, error from {schema}.notes_inbox")
    ((state, attempts, error),) = rows
    assert (state, attempts) == ("new", 1)
    assert error.startswith("RuntimeError: no (test_messages_handling.py:")


async def test_conflict_is_tried_again_at_once_and_is_no_failure(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    tries = 0

    async def conflict_twice(_: Note, __: UnitOfWork) -> None:
        nonlocal tries
        tries += 1
        if tries <= 2:
            raise ConcurrentChange("something")

    await send(tables, Note(line="a", number=0))
    await work_off(tables, [notes_context(conflict_twice)])
    assert written(cluster.url, schema) == [0]
    assert query(cluster.url, f"select state, attempts from {schema}.notes_inbox") == [
        ("handled", 0)
    ]


async def test_handler_that_hangs_is_stopped_and_tried_again(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    tries = 0

    async def hang(_: Note, uow: UnitOfWork) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            await asyncio.sleep(1_000)
        if tries == 2:
            # In the database, which has to be told to stop.
            await uow.connection.execute(sa.text("select pg_sleep(1000)"))

    inbox = Inbox(tables, notes_context(hang))
    await inbox.receive([Envelope.of(Note(line="a", number=0))])
    worker = Worker(inbox, timeout_s=0.3, retries=SOON)
    errors = []
    for _ in range(2):
        assert await worker.handle_next()
        errors += query(cluster.url, f"select attempts, error from {schema}.notes_inbox")
        await asyncio.sleep(0.02)
    text = "HandlerTimedOut: the handler of Note took longer than 0.3 s"
    assert errors == [(1, text), (2, text)]
    assert await worker.handle_next()
    assert written(cluster.url, schema) == [0]
    sleeping = "select count(*) from pg_stat_activity where query like 'select pg_sleep%'"
    await comes_true(lambda: query(cluster.url, f"{sleeping} and state = 'active'") == [(0,)])


async def test_lost_connection_is_a_failure_that_leaves_nothing(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    tries = 0

    async def lose_it(_: Note, uow: UnitOfWork) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            pid = await uow.connection.scalar(sa.text("select pg_backend_pid()"))
            await asyncio.to_thread(query, cluster.url, "select pg_terminate_backend(%s)", pid)

    inbox = Inbox(tables, notes_context(lose_it))
    await inbox.receive([Envelope.of(Note(line="a", number=0))])
    worker = Worker(inbox, retries=SOON)
    assert await worker.handle_next()
    rows = query(cluster.url, f"select state, attempts, error from {schema}.notes_inbox")
    assert rows[0][:2] == ("new", 1)
    assert "terminating connection" in rows[0][2]
    assert written(cluster.url, schema) == []
    await asyncio.sleep(0.02)
    assert await worker.handle_next()
    assert written(cluster.url, schema) == [0]


async def test_failure_counts_only_if_nobody_has_tried_since(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inbox = Inbox(tables, notes_context())
    envelope = Envelope.of(Note(line="a", number=0))
    await inbox.receive([envelope])

    async def fail(attempts: int) -> None:
        async with tables.begin() as connection:
            taken = Taken(envelope, attempts)
            await inbox.mark_failed(
                connection, taken, error="no", attempts=attempts + 1, limit=2, delay_s=0
            )

    text = f"select state, attempts from {schema}.notes_inbox"
    for _ in range(3):
        await fail(0)
        assert query(cluster.url, text) == [("new", 1)]
    for _ in range(2):
        await fail(1)
        assert query(cluster.url, text) == [("dead", 2)]


async def test_try_is_counted_before_it_begins_if_the_worker_came_after_the_message(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    text = f"select state, attempts, error from {schema}.notes_inbox where key = 'a'"
    seen = []

    async def look(_: Note, __: UnitOfWork) -> None:
        seen.extend(await asyncio.to_thread(query, cluster.url, text))

    inbox = Inbox(tables, notes_context(look))
    await inbox.receive([Envelope.of(Note(line="a", number=0))])
    worker = Worker(inbox)
    assert await worker.handle_next()
    assert seen == [("new", 1, INTERRUPTED)]
    assert query(cluster.url, text) == [("handled", 0, None)]
    # What comes when it is there is one transaction.
    text = text.replace("'a'", "'b'")
    await inbox.receive([Envelope.of(Note(line="b", number=0))])
    assert await worker.handle_next()
    assert seen[1:] == [("new", 0, None)]


async def test_message_whose_last_try_ended_with_its_process_is_handled_alone(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inside: list[str] = []
    may_end = {name: asyncio.Event() for name in "abcd"}

    async def stay(note: Note, _: UnitOfWork) -> None:
        inside.append(note.line)
        await may_end[note.line].wait()
        inside.remove(note.line)

    async def are_inside(names: list[str]) -> None:
        async with asyncio.timeout(60):
            # In the handlers themselves: there is no event to wait for.
            while sorted(inside) != names:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        # Whoever else would come has the time to.
        await asyncio.sleep(0.3)
        assert sorted(inside) == names

    inbox = Inbox(tables, notes_context(stay))
    await inbox.receive([Envelope.of(Note(line=name, number=0)) for name in "abcd"])
    query(
        cluster.url,
        f"update {schema}.notes_inbox set attempts = 1, error = %s where key = 'c'",
        INTERRUPTED,
    )
    worker = Worker(inbox)
    tasks = [asyncio.create_task(worker.handle_next()) for _ in range(4)]
    await are_inside(["a", "b"])
    may_end["a"].set()
    await are_inside(["b"])
    may_end["b"].set()
    await are_inside(["c"])
    may_end["c"].set()
    await are_inside(["d"])
    may_end["d"].set()
    assert await asyncio.gather(*tasks) == [True] * 4
    assert states(cluster.url, schema, "notes") == {"handled": 4}


async def test_failure_that_comes_with_the_commit_is_counted(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    query(
        cluster.url,
        f"alter table {schema}.notes_written add constraint once unique (line) "
        "deferrable initially deferred",
    )
    inbox = Inbox(tables, notes_context())
    await inbox.receive([Envelope.of(note) for note in line("a", 2)])
    worker = Worker(inbox)
    assert await worker.handle_next()
    assert await worker.handle_next()
    rows = query(
        cluster.url, f"select state, attempts, error from {schema}.notes_inbox order by position"
    )
    assert rows[0][:2] == ("handled", 0)
    assert rows[1][:2] == ("new", 1)
    assert rows[1][2].startswith("IntegrityError: duplicate key value")
    assert written(cluster.url, schema) == [0]


async def test_context_goes_on_when_the_database_is_back(
    tables: AsyncEngine, cluster: Cluster, schema: str, carried_by: str
) -> None:
    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context())]
    async with (
        transport_over(carried_by, inboxes, schema) as transport,
        running(inboxes, transport, poll_s=0.05),
    ):
        for number in range(5):
            await send(tables, Note(line="a", number=number))
            query(
                cluster.url,
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where pid <> pg_backend_pid() and query ~ %s",
                rf"{schema}\W+\.\W+notes_inbox",
            )
            await tables.dispose()
        await comes_true(lambda: written(cluster.url, schema) == list(range(5)))


async def test_stopped_context_finishes_what_is_in_hand(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    inside = asyncio.Event()

    async def take_a_while(_: Note, __: UnitOfWork) -> None:
        inside.set()
        await asyncio.sleep(0.3)

    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context(take_a_while))]
    async with running(inboxes, InProcess(inboxes)):
        await send(tables, *line("a", 2))
        await inside.wait()
    assert written(cluster.url, schema) == [0]
    assert states(cluster.url, schema, "notes") == {"handled": 1, "new": 1}


# --- declared wrongly ---


def test_command_for_two_contexts_is_refused(ledger_of_shop: ShopLedger, tables: Any) -> None:
    @handles(RequestPayment)
    async def also(_: RequestPayment, __: NotesUnitOfWork) -> None:
        return

    other = Context(
        name="notes", tables=NOTES_TABLES, unit_of_work=NotesUnitOfWork, handlers=[also]
    )
    with pytest.raises(ConfigurationError, match="RequestPayment is for one context, but till and"):
        InProcess([Inbox(tables, till_context(ledger_of_shop)), Inbox(tables, other)])


def test_two_handlers_of_one_message_are_refused() -> None:
    context = notes_context()
    with pytest.raises(ConfigurationError, match="notes has two handlers of Note"):
        Context(
            name="notes",
            tables=NOTES_TABLES,
            unit_of_work=NotesUnitOfWork,
            handlers=[*context.handlers, *notes_context().handlers],
        )


async def test_context_that_the_transport_does_not_know_is_refused(tables: AsyncEngine) -> None:
    with pytest.raises(ConfigurationError, match="nothing is delivered to notes"):
        async with running([Inbox(tables, notes_context())], InProcess([])):
            pass


def test_one_name_for_two_messages_is_refused(tables: Any) -> None:
    class Other(Event, key="line"):
        line: str

    Other.__name__ = "Note"

    @handles(Other)
    async def also(_: Other, __: NotesUnitOfWork) -> None:
        return

    other = Context(name="other", tables=SHOP_TABLES, unit_of_work=NotesUnitOfWork, handlers=[also])
    with pytest.raises(ConfigurationError, match="two messages named Note"):
        InProcess([Inbox(tables, notes_context()), Inbox(tables, other)])


# --- how far behind, how fast ---


async def test_lag_tells_what_is_left_to_do(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    async def fail(note: Note, _: UnitOfWork) -> None:
        if note.line == "a":
            raise RuntimeError("no")

    await send(tables, *line("a", 3), *line("b", 2))
    query(
        cluster.url,
        f"update {schema}.shop_outbox set created_on = created_on - interval '1 hour' where id = 2",
    )
    async with tables.connect() as connection:
        before = await lag_of(connection, SHOP_TABLES)
        assert (before.unpublished, before.new, before.dead) == (5, 0, 0)
        assert 3_600 < before.oldest_unpublished_s < 3_700
        assert before.oldest_unhandled_s == 0
    await work_off(tables, [notes_context(fail)], retries=Retries(attempts=1))
    query(
        cluster.url,
        f"update {schema}.notes_inbox set received_on = received_on - interval '1 day' "
        "where state = 'dead'",
    )
    async with tables.connect() as connection:
        sent = await lag_of(connection, SHOP_TABLES)
        received = await lag_of(connection, NOTES_TABLES)
    assert sent == Lag(0, 0, 0, 0, 0)
    assert (received.unpublished, received.new, received.dead) == (0, 2, 1)
    assert 86_400 < received.oldest_unhandled_s < 86_500


@pytest.mark.parametrize("statistics", [None, "that nothing is new"])
async def test_search_for_work_reads_neither_what_is_done_nor_what_waits(
    tables: AsyncEngine, schema: str, statistics: str | None
) -> None:
    filled = (
        "insert into {table} (message_id, key, type, version, payload, state, attempts, handled_on)"
        " select gen_random_uuid(), 'k' || i % :keys, 'Note', 1, 'null', cast(:state as text),"
        " case when :state = 'new' then 0 else 1 end,"
        " case when :state = 'handled' then now() end from generate_series(1, :count) as i"
    )
    table = NOTES_TABLES.inbox
    async with tables.connect() as connection:
        done = {"keys": 100, "state": "handled", "count": 10_000}
        await connection.execute(about(connection, table, filled), done)
        if statistics:
            await connection.execute(about(connection, table, "analyze {table}"))
        for rows in ({"keys": 1, "state": "dead", "count": 1}, done | {"state": "new"}):
            await connection.execute(about(connection, table, filled), rows)
        await connection.commit()
        inbox = Inbox(tables, notes_context())
        taken = await inbox.take(connection, busy=["k1"], since=datetime.now(UTC), idle_s=10)
        assert taken is not None
        assert taken.envelope.key == "k2"
        text = (
            "select seq_tup_read, idx_scan, idx_tup_fetch, current_setting('enable_sort') "
            "from pg_stat_xact_user_tables where schemaname = :schema and relname = 'notes_inbox'"
        )
        ((read, searches, fetched, sorts),) = await connection.execute(
            sa.text(text), {"schema": schema}
        )
    assert read == 0
    assert searches < 10
    assert fetched < 10
    assert sorts == "on", "the handler's own statements are planned as usual"
