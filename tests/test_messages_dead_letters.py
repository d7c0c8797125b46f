"""Messages that fail every time: they are dead, seen, and retried or dropped by an operator."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncIterator
from uuid import UUID

import msgspec
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import query
from contexts import (
    NOTES_TABLES,
    Note,
    engine_on,
    make_tables,
    notes_context,
    send,
    states,
    work_off,
    written,
)
from shared_ledger.embedded import Cluster
from shared_ledger.messages import (
    DeadLetter,
    DeadLetterNotFound,
    Envelope,
    Inbox,
    Retries,
    UnitOfWork,
    UnreadableMessage,
    Worker,
    dead_letters,
)
from shared_ledger.messages.failures import described

# Tried again at once, since the database's clock is not waited for.
AT_ONCE = Retries(attempts=3, first_s=0)


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the contexts, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


class Ward:
    """Notes of which one fails until it is healed."""

    def __init__(self) -> None:
        self.sick: set[int] = {0}
        self.tries: list[int] = []

    async def fail(self, note: Note, _: UnitOfWork) -> None:
        self.tries.append(note.number)
        if note.line == "a" and note.number in self.sick:
            raise RuntimeError("sick")


async def found(engine: AsyncEngine) -> list[DeadLetter]:
    async with engine.connect() as connection:
        return await dead_letters.find(connection, NOTES_TABLES)


async def change(engine: AsyncEngine, what: str, message_id: UUID) -> None:
    async with engine.begin() as connection:
        await getattr(dead_letters, what)(connection, NOTES_TABLES, message_id)


async def test_message_is_dead_after_so_many_attempts(
    tables: AsyncEngine, cluster: Cluster, schema: str, caplog: pytest.LogCaptureFixture
) -> None:
    ward = Ward()
    await send(tables, Note(line="a", number=0))
    with caplog.at_level(logging.WARNING, "shared_ledger.messages"):
        await work_off(tables, [notes_context(ward.fail)], retries=AT_ONCE)
    assert ward.tries == [0, 0, 0]
    assert states(cluster.url, schema, "notes") == {"dead": 1}
    assert written(cluster.url, schema) == []
    (letter,) = await found(tables)
    assert (letter.key, letter.type, letter.version, letter.attempts) == ("a", "Note", 1, 3)
    assert letter.payload == {"line": "a", "number": 0}
    assert letter.error.startswith("RuntimeError: sick (test_messages_dead_letters.py:")
    levels = [record.levelname for record in caplog.records]
    assert levels == ["WARNING", "WARNING", "ERROR"]
    assert "notes failed to handle Note" in caplog.text
    assert "of a, attempt 3, and it is dead now: RuntimeError: sick" in caplog.text


def test_ten_attempts_and_some_minutes_unless_something_else_is_said() -> None:
    retries = Retries()
    assert retries.attempts == 10
    random.seed(1)
    for failures in range(1, 12):
        longest = min(300, 2 ** (failures - 1))
        delays = [retries.delay_s(failures) for _ in range(1_000)]
        assert longest / 2 <= min(delays) < 0.55 * longest
        assert 0.95 * longest < max(delays) <= longest
    assert retries.delay_s(10_000) <= 300


async def test_dead_letter_stops_its_key_and_no_other(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    ward = Ward()
    await send(tables, *(Note(line=line, number=n) for n in range(3) for line in "ab"))
    await work_off(tables, [notes_context(ward.fail)], retries=AT_ONCE)
    # What comes later waits, too.
    await send(tables, Note(line="a", number=3), Note(line="b", number=3))
    await work_off(tables, [notes_context(ward.fail)], retries=AT_ONCE)
    assert written(cluster.url, schema, "a") == []
    assert written(cluster.url, schema, "b") == [0, 1, 2, 3]
    (letter,) = await found(tables)
    assert letter.waiting == 3


async def test_retried_letter_is_handled_and_then_those_that_waited(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    ward = Ward()
    await send(tables, *(Note(line="a", number=number) for number in range(3)))
    await work_off(tables, [notes_context(ward.fail)], retries=AT_ONCE)
    (letter,) = await found(tables)
    ward.sick.clear()
    await change(tables, "retry", letter.id)
    await work_off(tables, [notes_context(ward.fail)])
    assert written(cluster.url, schema) == [0, 1, 2]
    assert await found(tables) == []


async def test_retried_letter_that_fails_again_has_as_many_attempts_again(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    ward = Ward()
    await send(tables, *(Note(line="a", number=number) for number in range(2)))
    await work_off(tables, [notes_context(ward.fail)], retries=AT_ONCE)
    (letter,) = await found(tables)
    await change(tables, "retry", letter.id)
    await work_off(tables, [notes_context(ward.fail)], retries=AT_ONCE)
    assert ward.tries == [0] * 6
    assert [again.id for again in await found(tables)] == [letter.id]
    assert written(cluster.url, schema) == []


async def test_dropped_letter_is_never_handled_and_lets_the_others_pass(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    ward = Ward()
    await send(tables, *(Note(line="a", number=number) for number in range(3)))
    await work_off(tables, [notes_context(ward.fail)], retries=AT_ONCE)
    (letter,) = await found(tables)
    await change(tables, "drop", letter.id)
    ward.sick.clear()
    # The same message comes again, from a relay that does not know that it has sent it.
    query(cluster.url, f"update {schema}.shop_outbox set published_on = null")
    await work_off(tables, [notes_context(ward.fail)])
    assert written(cluster.url, schema) == [1, 2]
    assert states(cluster.url, schema, "notes") == {"dropped": 1, "handled": 2}
    assert await found(tables) == []


@pytest.mark.parametrize("what", ["retry", "drop"])
async def test_only_dead_letters_are_retried_or_dropped(tables: AsyncEngine, what: str) -> None:
    await send(tables, Note(line="a", number=0))
    inbox = Inbox(tables, notes_context())
    envelope = Envelope.of(Note(line="a", number=0))
    await inbox.receive([envelope])
    for message_id in (envelope.id, UUID(int=7)):
        with pytest.raises(DeadLetterNotFound, match=str(message_id)):
            await change(tables, what, message_id)
    await Worker(inbox).handle_next()
    with pytest.raises(DeadLetterNotFound):
        await change(tables, what, envelope.id)


async def test_dead_letters_are_listed_oldest_first_up_to_a_limit(tables: AsyncEngine) -> None:
    async def fail(_: Note, __: UnitOfWork) -> None:
        raise RuntimeError("no")

    await send(tables, *(Note(line=f"line {number}", number=number) for number in range(5)))
    await work_off(tables, [notes_context(fail)], retries=Retries(attempts=1))
    assert [letter.payload["number"] for letter in await found(tables)] == [0, 1, 2, 3, 4]
    async with tables.connect() as connection:
        some = await dead_letters.find(connection, NOTES_TABLES, limit=2)
    assert [letter.payload["number"] for letter in some] == [0, 1]


@pytest.mark.parametrize(
    ("stored", "error"),
    [
        (("Letter", 1, "{}"), "UnknownMessage: Letter of version 1 came, but"),
        (("Note", 2, "{}"), "UnknownMessage: Note of version 2 came, but"),
        (("Note", 1, '{"line": 3}'), "UnreadableMessage: Note of version 1 cannot be read: Expect"),
    ],
)
async def test_message_that_cannot_be_read_is_dead_and_not_lost(
    tables: AsyncEngine, cluster: Cluster, schema: str, stored: tuple[str, int, str], error: str
) -> None:
    store = f"update {schema}.notes_inbox set type = %s, version = %s, payload = %s::text::jsonb"
    inbox = Inbox(tables, notes_context())
    await inbox.receive([Envelope.of(Note(line="a", number=0))])
    query(cluster.url, store, *stored)
    worker = Worker(inbox, retries=AT_ONCE)
    while await worker.handle_next():
        pass
    (letter,) = await found(tables)
    assert letter.error.startswith(error)
    # A program that can read it does so.
    query(cluster.url, store, "Note", 1, '{"line": "a", "number": 7}')
    await change(tables, "retry", letter.id)
    assert await worker.handle_next()
    assert written(cluster.url, schema) == [7]


# --- what is written down of a failure ---


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("no", "RuntimeError: no"),
        ("", "RuntimeError"),
        ("first line\nsecond line", "RuntimeError: first line"),
        ("postgresql://user:hunter2@host/db", "RuntimeError: postgresql://user:…@host/db"),
        ("token eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.x", "RuntimeError: token ….x"),
        ("macaroon " + "0201036c6e6402f801030a10" * 4, "RuntimeError: macaroon …"),
        ("preimage " + "ab0" * 21 + "c", "RuntimeError: preimage …"),
        ("key " + "0123456789abcdef" * 2, "RuntimeError: key …"),
        (
            "id 01a1fe8e-28b9-7c14-b4e2-8939cb2f7d8f",
            "RuntimeError: id 01a1fe8e-28b9-7c14-b4e2-8939cb2f7d8f",
        ),
        (
            "crowdfunding_campaigns_creator_of_campaign_check",
            "RuntimeError: crowdfunding_campaigns_creator_of_campaign_check",
        ),
        ("x " * 1_000, "RuntimeError: " + "x " * 250),
    ],
)
def test_failure_is_described_without_secrets(message: str, kept: str) -> None:
    assert described(RuntimeError(message)) == kept


async def test_what_the_database_shows_of_rows_is_left_out(
    tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    query(cluster.url, f"create unique index once on {schema}.notes_written (line)")
    inbox = Inbox(tables, notes_context())
    secret = "hunter2"
    await inbox.receive([Envelope.of(Note(line=secret, number=number)) for number in range(2)])
    worker = Worker(inbox)
    while await worker.handle_next():
        pass
    rows = query(cluster.url, f"select error from {schema}.notes_inbox where attempts > 0")
    ((error,),) = rows
    text = 'IntegrityError: duplicate key value violates unique constraint "once"'
    assert error.startswith(text)
    assert secret not in error


def test_unreadable_message_does_not_repeat_what_was_in_it() -> None:
    envelope = Envelope.of(Note(line="a", number=0))
    broken = msgspec.structs.replace(envelope, payload=msgspec.Raw(b'{"line": ["hunter2"]}'))
    with pytest.raises(UnreadableMessage) as caught:
        notes_context().catalogue.decode(broken)
    assert "hunter2" not in str(caught.value)
