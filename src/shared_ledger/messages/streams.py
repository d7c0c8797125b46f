"""One connection to NATS, and the streams of messages in it; nothing else knows the library.

A connection that was lost is not mended: whoever used it opens another, and begins anew with what
the server has. So nothing is sent late by a buffer, and nobody waits for what has gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import errors as refusals
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from shared_ledger.errors import ConfigurationError
from shared_ledger.messages.errors import TransportUnavailable
from shared_ledger.messages.nats_address import NatsAddress

BATCH = 100
"""How many messages are asked for at once."""
PULL_S = 5.0
"""For how long the server waits for something to send."""
ANSWER_TIMEOUT_S = 5.0
CONNECT_TIMEOUT_S = 5
DUPLICATES_S = 120
"""For how long the server remembers the ids of messages."""

_CLOSE_TIMEOUT_S = 2
# A delivery is begun anew instead of waiting for anything to be sent twice.
_NEVER_AGAIN_S = 86_400
# How long the server remembers a delivery whose process has died.
_FORGOTTEN_S = 300
_NOT_STORED = 10077
# What must not be otherwise in a stream that was there before.
_THE_SAME = (
    "subjects",
    "retention",
    "discard",
    "storage",
    "max_bytes",
    "max_msgs_per_subject",
    "max_age",
)
_WITHOUT_JETSTREAM = frozenset({10039, 10076})

T = TypeVar("T")

_log = logging.getLogger("shared_ledger.messages")


class Stream(NamedTuple):
    """Where messages lie in NATS until they are received: a queue for one receiver."""

    name: str
    subject: str
    max_messages: int


class Stored(NamedTuple):
    """A message in a stream; ``sequence`` counts those of the stream, in their order."""

    sequence: int
    data: bytes
    reply: str


class Connection:
    """A connection to NATS JetStream, made by ``connect``."""

    def __init__(self, address: NatsAddress) -> None:
        self._address = address
        self._client = Client()
        # How long is waited for an answer is said below.
        self._jetstream: Any = self._client.jetstream(timeout=10 * ANSWER_TIMEOUT_S)
        self._ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.usable = True
        """False when it was lost, or something was not answered: open another."""

    async def open(self) -> None:
        """Connect, and log in; see ``connect``."""
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                await self._client.connect(
                    list(self._address.servers),
                    error_cb=_noted,
                    closed_cb=self._end,
                    name="shared-ledger",
                    allow_reconnect=False,
                    connect_timeout=CONNECT_TIMEOUT_S,
                    reconnect_time_wait=0,
                    max_reconnect_attempts=1,
                    **self._credentials(),
                )
            self._check_secure()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            reason = self._client.last_error or error
            text = " ".join(str(reason).split()) or f"no answer in {CONNECT_TIMEOUT_S} s"
            raise TransportUnavailable(f"NATS cannot be reached: {text}") from None

    async def aclose(self) -> None:
        """Close it; what was not answered may have been done or not."""
        self.usable = False
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._client.close()
        except (TimeoutError, OSError, nats.errors.Error) as error:
            _log.debug("a connection to NATS was not closed in order: %s", error)

    async def ensure(self, stream: Stream) -> None:
        """Make a stream, if there is none of this name.

        Raises
        ------
        ConfigurationError
            If there is one that could lose messages.
        TransportUnavailable
            If it cannot be made.
        """
        wanted = StreamConfig(
            name=stream.name,
            description="Messages of shared-ledger, until they are received.",
            subjects=[stream.subject],
            retention=RetentionPolicy.WORK_QUEUE,
            discard=DiscardPolicy.NEW,
            storage=StorageType.FILE,
            max_msgs=stream.max_messages,
            # With a limit in bytes or by subject, a server before 2.10.20 makes room for a message
            # by removing the oldest, though it is told to discard the new.
            max_bytes=-1,
            max_msgs_per_subject=-1,
            max_age=0,
            duplicate_window=DUPLICATES_S,
        )
        try:
            found = await self._answered(self._jetstream.stream_info(stream.name))
        except _NotFound:
            found = await self._answered(self._jetstream.add_stream(wanted))
        has = found.config
        for name in _THE_SAME:
            if getattr(has, name) != getattr(wanted, name):
                raise ConfigurationError(
                    f"the stream {stream.name} in NATS could lose messages: its {name} is "
                    f"{_shown(getattr(has, name))}, not {_shown(getattr(wanted, name))}; "
                    "change it, or choose another name"
                )

    async def publish(self, stream: Stream, message_id: str, data: bytes) -> None:
        """Have a message stored at the end of a stream; when it has returned, it is.

        Raises
        ------
        TransportUnavailable
            If it was not, or nobody knows; the stream may be full.
        """
        await self._answered(
            self._jetstream.publish(
                stream.subject, data, stream=stream.name, headers={"Nats-Msg-Id": message_id}
            )
        )

    async def deliver(self, stream: Stream) -> Delivery:
        """Begin to get a stream's messages, from the first; whoever got them before ends.

        Raises
        ------
        TransportUnavailable
            If that is not possible now.
        """
        js = self._jetstream
        for before in await self._answered(js.consumers_info(stream.name)):
            try:
                await self._answered(js.delete_consumer(stream.name, before.name))
            except _NotFound:
                _log.debug("the delivery %s of %s ended by itself", before.name, stream.name)
        # Another name each time: whatever is still on its way from, or to, an earlier delivery
        # cannot be taken for this one's.
        name = f"delivery-{secrets.token_hex(8)}"
        await self._answered(
            js.add_consumer(
                stream.name,
                ConsumerConfig(
                    name=name,
                    deliver_policy=DeliverPolicy.ALL,
                    ack_policy=AckPolicy.EXPLICIT,
                    ack_wait=_NEVER_AGAIN_S,
                    max_ack_pending=10 * BATCH,
                    inactive_threshold=_FORGOTTEN_S,
                    mem_storage=True,
                ),
            )
        )
        delivery = Delivery(self, stream, name)
        await self._answered(self._client.subscribe(delivery.inbox, cb=delivery.arrived))
        return delivery

    async def send(self, subjects: Sequence[str], data: bytes, reply: str = "") -> None:
        """Send the same to each of the subjects; answers, if there are any, go to ``reply``."""

        async def send() -> None:
            for subject in subjects:
                await self._client.publish(subject, data, reply)

        await self._answered(send())

    async def first_of(self, stream: Stream, sequence: int) -> int:
        """Return the sequence of the first message that a stream has from this one on."""
        found = await self._answered(
            self._jetstream.get_msg(stream.name, seq=sequence, subject=stream.subject, next=True)
        )
        return int(found.seq)

    async def wait_for(self, coming: Coroutine[Any, Any, T], longest_s: float) -> T:
        """Wait for something of this connection, for no longer than the connection lives."""
        task = asyncio.ensure_future(coming)
        either: list[asyncio.Future[Any]] = [task, self._ended]
        try:
            await asyncio.wait(either, timeout=longest_s, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
        finally:
            if not task.done():
                # What was asked may still happen.
                self.usable = False
                task.cancel()
        if self._ended.done():
            raise TransportUnavailable("the connection to NATS was lost")
        raise TransportUnavailable(f"NATS has not answered for {longest_s:g} s")

    async def _answered(self, asked: Coroutine[Any, Any, T]) -> T:
        try:
            return await self.wait_for(asked, ANSWER_TIMEOUT_S)
        except refusals.APIError as error:
            self._refuse(error)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            self.usable = False
            raise TransportUnavailable(f"NATS did not carry it out: {_sentence(error)}") from None

    def _refuse(self, error: refusals.APIError) -> NoReturn:
        if isinstance(error, refusals.NotFoundError):
            raise _NotFound(_sentence(error)) from None
        if error.err_code is None or error.err_code in _WITHOUT_JETSTREAM:
            # Of its own, or because nobody answers for it.
            raise TransportUnavailable("NATS runs without JetStream: start it with -js") from None
        if error.err_code == _NOT_STORED and "maximum" in _sentence(error):
            raise TransportUnavailable(
                "a stream in NATS is full, because its context does not run or is slow: "
                f"{_sentence(error)}"
            ) from None
        raise TransportUnavailable(f"NATS refused it: {_sentence(error)}") from None

    def _credentials(self) -> dict[str, Any]:
        # As functions, which are called when they are to be sent.
        address = self._address
        if address.token is not None:
            return {"token": lambda: self._told(address.token)}
        if address.user is not None:
            return {
                "user": lambda: self._told(address.user),
                "password": lambda: self._told(address.password),
            }
        return {}

    def _told(self, secret: str | None) -> str:
        self._check_secure()
        return secret or ""

    def _check_secure(self) -> None:
        """Refuse a server that speaks in the clear though its URL says ``tls://``."""
        server: Any = self._client
        if self._address.tls and not server._server_info.get("tls_required"):  # noqa: SLF001
            raise nats.errors.Error("its URL begins with tls://, but it offers no TLS")

    async def _end(self) -> None:
        self.usable = False
        if not self._ended.done():
            self._ended.set_result(None)


class Delivery:
    """A stream's messages, each once, in order, from the first that was there when it began."""

    def __init__(self, connection: Connection, stream: Stream, name: str) -> None:
        self._connection = connection
        self._stream = stream
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{stream.name}.{name}"
        self._arrived: asyncio.Queue[Msg] = asyncio.Queue()
        self._asked = 0
        self._last = 0
        self.inbox = f"_INBOX.{name}"

    async def arrived(self, message: Msg) -> None:
        """Take a message from the connection."""
        self._arrived.put_nowait(message)

    async def pull(self) -> list[Stored]:
        """Return the next messages as soon as there are any; none if there are none for 5 s.

        Raises
        ------
        TransportUnavailable
            If the delivery has ended, or is not in order: begin another.
        """
        if not self._asked:
            asked = {"batch": BATCH, "expires": int(PULL_S * 1e9)}
            await self._connection.send([self._next], json.dumps(asked).encode(), self.inbox)
            self._asked = BATCH
        arrived = [await self._connection.wait_for(self._arrived.get(), PULL_S + ANSWER_TIMEOUT_S)]
        while not self._arrived.empty():
            arrived.append(self._arrived.get_nowait())
        messages = []
        for message in arrived:
            if message.reply:
                messages.append(await self._in_order(message))
                self._asked -= 1
            else:
                self._hear(message.headers or {})
        return messages

    async def done(self, messages: Sequence[Stored]) -> None:
        """Have messages removed from the stream; what is lost of this, is delivered again."""
        await self._connection.send([message.reply for message in messages], b"+ACK")

    async def _in_order(self, message: Msg) -> Stored:
        """Check that nothing in the stream is between this message and the one before it."""
        sequence = message.metadata.sequence.stream
        following = self._last + 1
        if sequence != following:
            # There is a gap where messages were removed, and only there.
            first = await self._connection.first_of(self._stream, following)
            if sequence != first:
                raise TransportUnavailable(
                    f"message {sequence} of the stream {self._stream.name} came before {first}"
                )
        self._last = sequence
        return Stored(sequence, message.data, message.reply)

    def _hear(self, headers: dict[str, str]) -> None:
        """Take what the server says of the request: that its time is over, or of its end."""
        if headers.get("Status") != "408":
            reason = headers.get("Description") or headers.get("Status") or "for no reason"
            raise TransportUnavailable(f"NATS ended the delivery of {self._stream.name}: {reason}")
        self._asked = 0


async def connect(address: NatsAddress) -> Connection:
    """Open a connection, to be closed by whoever asked for it.

    Raises
    ------
    TransportUnavailable
        If no server can be reached, or lets us in.
    """
    connection = Connection(address)
    try:
        await connection.open()
    except BaseException:
        await connection.aclose()
        raise
    return connection


class _NotFound(TransportUnavailable):
    """There is no such stream, consumer or message."""


async def _noted(error: Exception) -> None:
    """Take what the library says beside; whoever waits for an answer is told himself."""
    _log.debug("NATS: %s", error)


def _sentence(error: BaseException) -> str:
    description = getattr(error, "description", None) or str(error)
    return " ".join(description.removeprefix("nats: ").split()) or type(error).__name__


def _shown(value: object) -> str:
    return str(getattr(value, "value", value))
