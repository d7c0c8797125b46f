"""Messages over NATS JetStream: a server that dies, fills up or is away loses nothing, no order."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
import trustme
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import eventually, query
from contexts import (
    HERE,
    NOTES_TABLES,
    SHOP_CONTEXT,
    SHOP_TABLES,
    TILL_TABLES,
    Note,
    NotesUnitOfWork,
    RequestPayment,
    engine_on,
    make_tables,
    notes_context,
    program,
    send,
    states,
    transport_over,
    written,
)
from nats_server import NatsServer
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError
from shared_ledger.messages import (
    Context,
    Envelope,
    Inbox,
    Relay,
    Retries,
    TransportUnavailable,
    handles,
    running,
)
from shared_ledger.messages.bell import Bell
from shared_ledger.messages.jetstream import JetStream
from shared_ledger.messages.nats_address import NatsAddress, nats_address

SOON = Retries(first_s=0.01, longest_s=0.2)
SECRET = "hunter2-and-more"


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the contexts, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever waits for a server that comes back look more often."""
    monkeypatch.setattr("shared_ledger.messages.delivery._PAUSES", SOON)
    monkeypatch.setattr("shared_ledger.messages.delivery.LOOK_S", 0.1)


@asynccontextmanager
async def talking_to(server: NatsServer) -> AsyncIterator[JetStreamContext]:
    """The library's own view of a server."""
    client = await nats.connect(server.url)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def comes_true(fact: Callable[[], object], within_s: float = 60) -> None:
    """Wait for a fact while other tasks go on."""
    await asyncio.to_thread(eventually, fact, within_s=within_s)


def line(name: str, count: int) -> list[Note]:
    return [Note(line=name, number=number) for number in range(count)]


def received(url: str, schema: str, name: str) -> list[int]:
    """The numbers of the notes of a line, in the order in which they are in the inbox."""
    text = f"select payload->>'number' from {schema}.notes_inbox where key = %s order by position"
    return [int(number) for (number,) in query(url, text, name)]


# --- the way there ---


async def test_message_is_in_the_stream_until_it_is_received(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    async with transport_over(nats_server.url, [inbox], schema) as transport:
        await send(tables, *line("a", 3))
        relay = Relay(tables, SHOP_TABLES, transport)
        assert await relay.publish() == 3
        async with talking_to(nats_server) as js:
            # Nobody has run the context yet: they wait for the first time that somebody does.
            assert (await js.stream_info(f"{schema}-notes")).state.messages == 3
            async with transport.delivering(inbox):
                await comes_true(lambda: states(cluster.url, schema, "notes") == {"new": 3})
                async with asyncio.timeout(10):
                    # It happens in the server: there is no event to wait for.
                    while (await js.stream_info(f"{schema}-notes")).state.messages:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
    assert received(cluster.url, schema, "a") == [0, 1, 2]


async def test_only_contexts_that_want_a_message_are_sent_it(
    tables: AsyncEngine, schema: str, nats_server: NatsServer
) -> None:
    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context())]
    async with transport_over(nats_server.url, inboxes, schema) as transport:
        await transport.publish([Envelope.of(note) for note in line("a", 2)])
    async with talking_to(nats_server) as js:
        assert (await js.stream_info(f"{schema}-notes")).state.messages == 2
        assert (await js.stream_info(f"{schema}-shop")).state.messages == 0


async def test_repetition_is_not_stored_twice(
    tables: AsyncEngine, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    envelopes = [Envelope.of(note) for note in line("a", 5)]
    async with transport_over(nats_server.url, [inbox], schema) as transport:
        await transport.publish(envelopes[:3])
        await transport.publish(envelopes)
        nats_server.kill()
        nats_server.start()
        with pytest.raises(TransportUnavailable, match="NATS"):
            await transport.publish(envelopes)
        await transport.publish(envelopes)
    async with talking_to(nats_server) as js:
        assert (await js.stream_info(f"{schema}-notes")).state.messages == 5


class Halting:
    """A transport that stops in the middle of what it is given, after having done it twice."""

    def __init__(self, inner: JetStream, seed: int) -> None:
        self._inner = inner
        self._chance = random.Random(seed)

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        done = self._chance.randint(0, len(envelopes))
        await self._inner.publish(envelopes[:done])
        if self._chance.random() < 0.7:
            raise TransportUnavailable("the answer was lost")
        await self._inner.publish(envelopes)

    def delivering(self, inbox: Inbox) -> Any:
        return self._inner.delivering(inbox)


async def test_repeated_publication_keeps_the_order(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    async with JetStream(nats_server.url, [inbox.context], stream=schema) as transport:
        relay = Relay(tables, SHOP_TABLES, Halting(transport, 3), batch=7)
        for number in range(20):
            await send(tables, *(Note(line=name, number=number) for name in "abc"))
        failures = 0
        async with transport.delivering(inbox):
            while True:
                try:
                    if not await relay.publish():
                        break
                except TransportUnavailable:
                    failures += 1
            await comes_true(lambda: states(cluster.url, schema, "notes") == {"new": 60})
    assert failures > 3
    for name in "abc":
        assert received(cluster.url, schema, name) == list(range(20))


# --- one after the other, whoever delivers ---


@pytest.mark.usefixtures("_impatient")
async def test_inbox_that_cannot_receive_gets_all_of_it_later(
    tables: AsyncEngine,
    cluster: Cluster,
    schema: str,
    nats_server: NatsServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox(tables, notes_context())
    async with (
        transport_over(nats_server.url, [inbox], schema) as transport,
        transport.delivering(inbox),
    ):
        await transport.publish([Envelope.of(note) for note in line("a", 50)])
        await comes_true(lambda: len(received(cluster.url, schema, "a")) == 50)
        query(cluster.url, f"alter table {schema}.notes_inbox rename to away")
        envelopes = [Envelope.of(Note(line="a", number=number)) for number in range(50, 200)]
        await transport.publish(envelopes)
        await comes_true(lambda: "cannot be delivered for now" in caplog.text)
        query(cluster.url, f"alter table {schema}.away rename to notes_inbox")
        await comes_true(lambda: len(received(cluster.url, schema, "a")) == 200)
    assert received(cluster.url, schema, "a") == list(range(200))
    assert "notes_inbox" in caplog.text


@pytest.mark.usefixtures("_impatient")
async def test_one_process_at_a_time_delivers(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    async with AsyncExitStack() as leaving:
        transports = [
            await leaving.enter_async_context(transport_over(nats_server.url, [inbox], schema))
            for _ in range(3)
        ]
        for transport in transports:
            await leaving.enter_async_context(transport.delivering(inbox))
        for number in range(100):
            await transports[number % 3].publish([Envelope.of(Note(line="a", number=number))])
            await asyncio.sleep(0.01)
        await comes_true(lambda: len(received(cluster.url, schema, "a")) == 100)
        async with talking_to(nats_server) as js:
            (delivery,) = await js.consumers_info(f"{schema}-notes")
            assert delivery.delivered is not None
            assert delivery.delivered.consumer_seq == 100, "nobody took it from another"
    assert received(cluster.url, schema, "a") == list(range(100))


@pytest.mark.usefixtures("_impatient")
async def test_message_that_another_took_out_of_the_delivery_is_not_passed_over(
    tables: AsyncEngine,
    cluster: Cluster,
    schema: str,
    nats_server: NatsServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox(tables, notes_context())
    stream = f"{schema}-notes"
    async with (
        transport_over(nats_server.url, [inbox], schema) as transport,
        talking_to(nats_server) as js,
        transport.delivering(inbox),
    ):
        await transport.publish([Envelope.of(Note(line="a", number=0))])
        await comes_true(lambda: received(cluster.url, schema, "a") == [0])
        (delivery,) = await js.consumers_info(stream)
        # A request that stands beside the one of the delivery gets every other message.
        client = js._nc
        theirs = await client.subscribe("theirs")
        await client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{delivery.name}", b'{"batch": 5}', "theirs"
        )
        await client.flush()
        await transport.publish(
            [Envelope.of(Note(line="a", number=number)) for number in range(1, 9)]
        )
        stolen = await theirs.next_msg(10)
        assert stolen.data, "nothing was taken: the test shows nothing"
        await comes_true(lambda: len(received(cluster.url, schema, "a")) == 9)
    assert received(cluster.url, schema, "a") == list(range(9))
    assert "came before" in caplog.text


@pytest.mark.usefixtures("_impatient")
async def test_delivery_that_was_deleted_is_begun_anew(
    tables: AsyncEngine,
    cluster: Cluster,
    schema: str,
    nats_server: NatsServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox(tables, notes_context())
    async with (
        transport_over(nats_server.url, [inbox], schema) as transport,
        talking_to(nats_server) as js,
        transport.delivering(inbox),
    ):
        for number in range(3):
            await transport.publish([Envelope.of(Note(line="a", number=number))])
            await comes_true(lambda: len(received(cluster.url, schema, "a")) > number)  # noqa: B023
            (delivery,) = await js.consumers_info(f"{schema}-notes")
            await js.delete_consumer(f"{schema}-notes", delivery.name)
    assert received(cluster.url, schema, "a") == [0, 1, 2]
    assert "NATS ended the delivery" in caplog.text


async def test_gap_where_messages_were_deleted_is_passed_over(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    async with (
        transport_over(nats_server.url, [inbox], schema) as transport,
        talking_to(nats_server) as js,
    ):
        await transport.publish([Envelope.of(note) for note in line("a", 6)])
        for sequence in (1, 3, 4):
            await js.delete_msg(f"{schema}-notes", sequence)
        async with transport.delivering(inbox):
            await comes_true(lambda: received(cluster.url, schema, "a") == [1, 4, 5])


STANDING_STILL = """
import asyncio, os, signal, sys
from contexts import engine_on, notes_context, transport_over
from shared_ledger.messages import Inbox, delivery
from shared_ledger.messages.faults import on_reach

url, schema, nats_url = sys.argv[1:]
delivery.LEAD_IDLE_S = 0.5

def stop(point):
    if point == "inbox.before_receive":
        on_reach(None)
        print("has messages", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)

async def main():
    async with engine_on(url, schema) as engine:
        inbox = Inbox(engine, notes_context())
        async with transport_over(nats_url, [inbox], schema) as transport:
            on_reach(stop)
            async with transport.delivering(inbox):
                await asyncio.sleep(1_000)

asyncio.run(main())
"""


@pytest.mark.usefixtures("_impatient")
async def test_process_that_stands_still_is_replaced_and_does_no_harm_when_it_goes_on(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    async with transport_over(nats_server.url, [inbox], schema) as transport:
        with program(STANDING_STILL, cluster.url, schema, nats_server.url) as still:
            assert still.stdout is not None
            await transport.publish([Envelope.of(note) for note in line("a", 20)])
            assert await asyncio.to_thread(still.stdout.readline) == b"has messages\n"
            async with transport.delivering(inbox):
                await comes_true(lambda: len(received(cluster.url, schema, "a")) == 20)
                still.send_signal(signal.SIGCONT)
                for number in range(20, 60):
                    await transport.publish([Envelope.of(Note(line="a", number=number))])
                    await asyncio.sleep(0.02)
                await comes_true(lambda: len(received(cluster.url, schema, "a")) == 60)
    assert received(cluster.url, schema, "a") == list(range(60))


# --- a server that is away, or full ---


@pytest.mark.usefixtures("_impatient")
async def test_server_that_is_away_at_the_start_is_waited_for_and_at_the_end_is_not(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context())]
    nats_server.kill()
    began = time.monotonic()
    async with (
        transport_over(nats_server.url, inboxes, schema) as transport,
        running(inboxes, transport, poll_s=0.05),
    ):
        assert time.monotonic() - began < 4
        await send(tables, *line("a", 5))
        await asyncio.sleep(0.5)
        nats_server.start()
        await comes_true(lambda: written(cluster.url, schema) == [0, 1, 2, 3, 4])
        nats_server.kill()
        await send(tables, *line("b", 5))
        await asyncio.sleep(0.1)
        began = time.monotonic()
    assert time.monotonic() - began < 8
    assert written(cluster.url, schema) == [0, 1, 2, 3, 4]


async def test_server_that_does_not_answer_is_not_waited_for_at_the_end(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inboxes = [Inbox(tables, SHOP_CONTEXT), Inbox(tables, notes_context())]
    async with (
        transport_over(nats_server.url, inboxes, schema) as transport,
        running(inboxes, transport),
    ):
        await send(tables, *line("a", 1))
        await comes_true(lambda: written(cluster.url, schema) == [0])
        nats_server.pause()
        began = time.monotonic()
    assert time.monotonic() - began < 8


@pytest.mark.usefixtures("_impatient")
async def test_full_stream_takes_no_more_until_its_context_runs(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    bell = Bell()
    async with JetStream(
        nats_server.url, [inbox.context], stream=schema, max_messages=40
    ) as transport:
        relay = Relay(tables, SHOP_TABLES, transport, pauses=SOON, bell=bell, poll_s=0.05)
        await send(tables, *line("a", 150))
        with pytest.raises(TransportUnavailable, match="is full, because its context"):
            await relay.publish()
        async with talking_to(nats_server) as js:
            state = (await js.stream_info(f"{schema}-notes")).state
        assert (state.messages, state.first_seq) == (40, 1), "the oldest were thrown away"
        text = f"select count(*) from {schema}.shop_outbox where published_on is null"
        assert query(cluster.url, text) == [(150,)]
        publishing = asyncio.create_task(relay.run())
        async with transport.delivering(inbox):
            await comes_true(lambda: query(cluster.url, text) == [(0,)])
            await comes_true(lambda: len(received(cluster.url, schema, "a")) == 150)
        bell.close()
        await publishing
    assert received(cluster.url, schema, "a") == list(range(150))


async def test_what_follows_a_message_that_was_refused_is_not_stored_before_it(
    tables: AsyncEngine, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    long, short = (Envelope.of(Note(line=name, number=0)) for name in ("x" * 250, "x"))
    async with (
        transport_over(nats_server.url, [inbox], schema) as transport,
        talking_to(nats_server) as js,
    ):
        await transport.publish([])
        config = (await js.stream_info(f"{schema}-notes")).config
        await js.update_stream(config, max_msg_size=500)
        with pytest.raises(TransportUnavailable, match="message size exceeds maximum"):
            await transport.publish([long, short])
        assert (await js.stream_info(f"{schema}-notes")).state.messages == 0
        await transport.publish([short])
        assert (await js.stream_info(f"{schema}-notes")).state.messages == 1


async def test_stream_that_is_gone_is_made_again(
    tables: AsyncEngine, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    envelopes = [Envelope.of(note) for note in line("a", 2)]
    async with (
        transport_over(nats_server.url, [inbox], schema) as transport,
        talking_to(nats_server) as js,
    ):
        await transport.publish(envelopes[:1])
        await js.delete_stream(f"{schema}-notes")
        with pytest.raises(TransportUnavailable):
            await transport.publish(envelopes)
        await transport.publish(envelopes)
        assert (await js.stream_info(f"{schema}-notes")).state.messages == 2


async def test_stream_is_kept_in_files_within_its_limit_and_for_any_time(
    tables: AsyncEngine, schema: str, nats_server: NatsServer
) -> None:
    inbox = Inbox(tables, notes_context())
    async with transport_over(nats_server.url, [inbox], schema) as transport:
        await transport.publish([Envelope.of(Note(line="a", number=0))])
    async with talking_to(nats_server) as js:
        config = (await js.stream_info(f"{schema}-notes")).config
    assert (config.storage, config.retention, config.discard) == ("file", "workqueue", "new")
    assert (config.max_bytes, config.max_age, config.max_msgs) == (-1, 0, 100_000)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"retention": RetentionPolicy.LIMITS}, "its retention is limits, not workqueue"),
        ({"max_age": 60}, "its max_age is 60"),
        # Which the server would keep by removing the oldest.
        ({"max_bytes": 1_000_000}, "its max_bytes is 1000000, not -1"),
    ],
)
async def test_stream_that_could_lose_messages_is_refused(
    tables: AsyncEngine,
    schema: str,
    nats_server: NatsServer,
    wrong: dict[str, Any],
    told: str,
) -> None:
    inbox = Inbox(tables, notes_context())
    config = {
        "subjects": [f"{schema}.notes"],
        "retention": RetentionPolicy.WORK_QUEUE,
        "discard": "new",
        **wrong,
    }
    async with (
        talking_to(nats_server) as js,
        transport_over(nats_server.url, [inbox], schema) as transport,
    ):
        await js.add_stream(name=f"{schema}-notes", **config)
        with pytest.raises(ConfigurationError, match=told):
            await transport.publish([Envelope.of(Note(line="a", number=0))])


@pytest.mark.usefixtures("_impatient")
async def test_message_of_nobody_stops_the_context_until_it_is_deleted(
    tables: AsyncEngine,
    cluster: Cluster,
    schema: str,
    nats_server: NatsServer,
    caplog: pytest.LogCaptureFixture,
) -> None:
    inbox = Inbox(tables, notes_context())
    async with (
        transport_over(nats_server.url, [inbox], schema) as transport,
        talking_to(nats_server) as js,
    ):
        await transport.publish([Envelope.of(Note(line="a", number=0))])
        await js.publish(f"{schema}.notes", b'{"hello": 1}')
        await transport.publish([Envelope.of(Note(line="a", number=1))])
        async with transport.delivering(inbox):
            told = f"message 2 of the stream {schema}-notes is none of ours"
            await comes_true(lambda: told in caplog.text)
            assert received(cluster.url, schema, "a") == []
            await js.delete_msg(f"{schema}-notes", 2)
            await comes_true(lambda: received(cluster.url, schema, "a") == [0, 1])


# --- how it ends ---

ENDING = """
import asyncio, os, signal, sys
from contexts import SHOP_CONTEXT, Note, engine_on, notes_context, send, transport_over, written
from shared_ledger.messages import Inbox, running

url, schema, nats_url, server, what = sys.argv[1:]

async def main():
    # How slow the machine is, is not the matter.
    asyncio.get_running_loop().slow_callback_duration = 60
    async with engine_on(url, schema) as engine:
        inboxes = [Inbox(engine, SHOP_CONTEXT), Inbox(engine, notes_context())]
        async with transport_over(nats_url, inboxes, schema) as transport:
            async with running(inboxes, transport):
                await send(engine, Note(line="a", number=0))
                while written(url, schema) != [0]:
                    await asyncio.sleep(0.01)
                os.kill(int(server), getattr(signal, what))
                if what == "SIGKILL":
                    await asyncio.sleep(0.3)

asyncio.run(main())
"""


@pytest.mark.parametrize("what", ["SIGCONT", "SIGKILL", "SIGSTOP"])
def test_program_ends_without_a_word_whatever_the_server_does(
    cluster: Cluster, schema: str, what: str
) -> None:
    make_tables(cluster.url, schema)
    with NatsServer() as server:
        assert server._process is not None
        done = subprocess.run(
            [
                *(sys.executable, "-X", "dev", "-c", ENDING),
                *(cluster.url, schema, server.url, str(server._process.pid), what),
            ],
            cwd=HERE,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        server.resume()
    assert done.returncode == 0, done.stderr
    words = [
        words
        for words in done.stderr.splitlines()
        # What it says of the server itself is what it is there for.
        if "for now" not in words
    ]
    assert words == []


# --- who may, and secrets ---


async def tried(url: str, inbox: Inbox, schema: str) -> None:
    async with transport_over(url, [inbox], schema) as transport:
        await transport.publish([Envelope.of(Note(line="a", number=0))])


@pytest.mark.parametrize(
    ("options", "right", "wrong"),
    [
        (("--user", "ada@home", "--pass", SECRET), f"ada%40home:{SECRET}", f"ada%40home:x{SECRET}"),
        (("--auth", SECRET), SECRET, f"x{SECRET}"),
    ],
)
@pytest.mark.usefixtures("_impatient")
async def test_credentials_of_the_url_let_in_and_are_never_shown(
    tables: AsyncEngine,
    schema: str,
    caplog: pytest.LogCaptureFixture,
    *,
    options: tuple[str, ...],
    right: str,
    wrong: str,
) -> None:
    inbox = Inbox(tables, notes_context())
    with caplog.at_level(logging.DEBUG), NatsServer(*options) as server:
        at = server.url.removeprefix("nats://")
        await tried(f"nats://{right}@{at}", inbox, schema)
        for credentials in (f"{wrong}@", ""):
            with pytest.raises(TransportUnavailable, match="Authorization Violation") as caught:
                await tried(f"nats://{credentials}{at}", inbox, schema)
            assert SECRET not in repr(caught.value)
        async with (
            transport_over(f"nats://{wrong}@{at}", [inbox], schema) as transport,
            transport.delivering(inbox),
        ):
            await comes_true(lambda: "cannot be delivered for now" in caplog.text)
    assert SECRET not in caplog.text


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """The options of a server whose certificate for localhost this process trusts."""
    authority = trustme.CA()
    trusted, key, chain = (tmp_path / name for name in ("trusted.pem", "key.pem", "chain.pem"))
    authority.cert_pem.write_to_path(str(trusted))
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(str(key))
    issued.cert_chain_pems[0].write_to_path(str(chain))
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    return ("--tls", "--tlscert", str(chain), "--tlskey", str(key))


async def test_tls_is_spoken_where_the_url_says_so(
    tables: AsyncEngine,
    schema: str,
    certificate: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inbox = Inbox(tables, notes_context())
    with NatsServer(*certificate) as server:
        await tried(f"tls://localhost:{server.port}", inbox, schema)
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(TransportUnavailable, match="CERTIFICATE_VERIFY_FAILED"):
            await tried(f"tls://localhost:{server.port}", inbox, schema)


async def test_secret_is_not_sent_in_the_clear_where_the_url_says_tls(
    tables: AsyncEngine, schema: str
) -> None:
    heard = bytearray()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"version": "2.9.10", "auth_required": true, "headers": true}\r\n')
        while data := await reader.read(1_000):
            heard.extend(data)
        writer.close()

    inbox = Inbox(tables, notes_context())
    async with await asyncio.start_server(listen, "127.0.0.1", 0) as eavesdropper:
        port = eavesdropper.sockets[0].getsockname()[1]
        for credentials in (f"ada:{SECRET}@", f"{SECRET}@"):
            with pytest.raises(TransportUnavailable, match="offers no TLS"):
                await tried(f"tls://{credentials}127.0.0.1:{port}", inbox, schema)
    assert SECRET.encode() not in heard


async def test_server_without_jetstream_is_told(tables: AsyncEngine, schema: str) -> None:
    inbox = Inbox(tables, notes_context())
    told = "without JetStream: start it with -js"
    with NatsServer(jetstream=False) as server, pytest.raises(TransportUnavailable, match=told):
        await tried(server.url, inbox, schema)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("nats://host", NatsAddress(("nats://host:4222",), tls=False)),
        ("tls://host:4443/", NatsAddress(("tls://host:4443",), tls=True)),
        ("nats://[::1]:1", NatsAddress(("nats://[::1]:1",), tls=False)),
        (
            "nats://ada:a%2Cb%40c@one:1, nats://two",
            NatsAddress(
                ("nats://one:1", "nats://two:4222"), tls=False, user="ada", password="a,b@c"
            ),
        ),
        ("nats://to%40ken@host", NatsAddress(("nats://host:4222",), tls=False, token="to@ken")),
    ],
)
def test_url_of_nats_is_read(url: str, address: NatsAddress) -> None:
    assert nats_address(url) == address
    assert "a,b@c" not in repr(address)
    assert "to@ken" not in repr(address)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "http://hunter2@host",
        "nats://",
        "nats://hunter2@host:port",
        "nats://host/hunter2",
        "nats://host?hunter2",
        "nats://:hunter2@host",
        "nats://host,hunter2",
    ],
)
def test_what_is_no_url_of_nats_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not one of NATS: it is nats://HOST") as caught:
        nats_address(url)
    assert "hunter2" not in str(caught.value)


# --- declared wrongly ---


async def test_context_that_the_transport_does_not_know_is_refused(
    tables: AsyncEngine, nats_server: NatsServer
) -> None:
    async with JetStream(nats_server.url, [SHOP_CONTEXT]) as transport:
        with pytest.raises(ConfigurationError, match="nothing is delivered to notes"):
            async with running([Inbox(tables, notes_context())], transport):
                pass


def test_names_that_streams_cannot_have_are_refused() -> None:
    named = Context(name="a.b", tables=NOTES_TABLES, unit_of_work=NotesUnitOfWork, handlers=[])
    with pytest.raises(ConfigurationError, match=r"the context 'a\.b' cannot have a stream"):
        JetStream("nats://host", [named])
    with pytest.raises(ConfigurationError, match="streams cannot be named 'a-b'-…"):
        JetStream("nats://host", [], stream="a-b")


def test_command_for_two_contexts_is_refused() -> None:
    @handles(RequestPayment)
    async def take(_: RequestPayment, __: Any) -> None:
        return

    contexts = [
        Context(name=name, tables=tables, unit_of_work=NotesUnitOfWork, handlers=[take])
        for name, tables in (("one", NOTES_TABLES), ("two", TILL_TABLES))
    ]
    with pytest.raises(ConfigurationError, match="RequestPayment is for one context, but one and"):
        JetStream("nats://host", contexts)


def test_library_is_needed_only_where_messages_go_over_nats() -> None:
    text = """
import sys
sys.modules["nats"] = None
from shared_ledger.messages.jetstream import JetStream
try:
    JetStream("nats://host", [])
except Exception as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "ConfigurationError nats-py is not installed: pip install 'shared-ledger[nats]'\n"
    )


async def test_transport_that_is_not_open_publishes_nothing(nats_server: NatsServer) -> None:
    transport = JetStream(nats_server.url, [notes_context()])
    with pytest.raises(RuntimeError, match="not open"):
        await transport.publish([Envelope.of(Note(line="a", number=0))])


# --- all of it at once ---

CARRYING = """
import asyncio, random, sys
from contexts import SHOP_CONTEXT, engine_on, notes_context, transport_over
from shared_ledger.messages import Inbox, Retries, delivery, relay, running

url, schema, nats_url = sys.argv[1:]
soon = Retries(first_s=0.01, longest_s=0.2)
delivery._PAUSES = soon
delivery.LOOK_S = 0.1
relay.Relay.__init__.__kwdefaults__["pauses"] = soon

async def main():
    async with engine_on(url, schema) as engine:
        inboxes = [Inbox(engine, SHOP_CONTEXT), Inbox(engine, notes_context())]
        async with (
            transport_over(nats_url, inboxes, schema) as transport,
            running(inboxes, transport, poll_s=0.1),
        ):
            await asyncio.sleep(1_000)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_thousands_of_messages_come_in_order_while_servers_and_processes_are_killed(
    tables: AsyncEngine, cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    lines, numbers = 10, 250
    chance = random.Random(1)
    killed = {"server": 0, "process": 0}

    def count() -> int:
        return sum(states(cluster.url, schema, "notes").values())

    async def say() -> None:
        for number in range(numbers):
            await send(tables, *(Note(line=str(name), number=number) for name in range(lines)))
            await asyncio.sleep(0.02)

    def run(processes: ExitStack) -> subprocess.Popen[bytes]:
        return processes.enter_context(program(CARRYING, cluster.url, schema, nats_server.url))

    saying = asyncio.create_task(say())
    while count() < lines * numbers:
        with ExitStack() as first, ExitStack() as second:
            run(first)
            run(second)
            for _ in range(4):
                target = min(count() + chance.randint(20, 200), lines * numbers)
                await comes_true(lambda: count() >= target, within_s=100)  # noqa: B023
                if chance.random() < 0.6:
                    killed["server"] += 1
                    nats_server.kill()
                    await asyncio.sleep(chance.random() / 5)
                    nats_server.start()
                else:
                    killed["process"] += 1
                    first.close()
                    run(first)
    await saying
    with program(CARRYING, cluster.url, schema, nats_server.url):
        all_done = {"handled": lines * numbers}
        await comes_true(lambda: states(cluster.url, schema, "notes") == all_done, within_s=100)
    assert min(killed.values()) >= 2, killed
    # One outbox, one stream: not only those of a key are in order.
    text = (
        f"select sent.id from {schema}.notes_inbox join {schema}.shop_outbox as sent "
        "using (message_id) order by position"
    )
    ids = [number for (number,) in query(cluster.url, text)]
    assert ids == sorted(ids)
    for name in range(lines):
        assert received(cluster.url, schema, str(name)) == list(range(numbers))
        assert written(cluster.url, schema, str(name)) == list(range(numbers))
