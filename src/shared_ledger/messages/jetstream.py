"""The transport over NATS JetStream, for contexts that run in different processes and places.

::

    async with JetStream("nats://localhost", [SHOP, TILL]) as transport:
        async with running([Inbox(engine, SHOP)], transport):
            ...

Each context has a stream of its own, into which a relay publishes what the context wants, and from
which one of the context's processes at a time delivers to the inbox. A message is removed from the
stream when it is committed in the inbox. What is promised is in ``docs/messages.md``.

The library is imported when one is made: who needs no NATS needs no library of it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from shared_ledger.errors import ConfigurationError
from shared_ledger.messages.delivery import Delivering
from shared_ledger.messages.faults import reached
from shared_ledger.messages.handlers import Context
from shared_ledger.messages.inbox import Inbox
from shared_ledger.messages.message import Envelope
from shared_ledger.messages.nats_address import nats_address
from shared_ledger.messages.transport import check_contexts

if TYPE_CHECKING:
    from shared_ledger.messages.streams import Connection, Stream

STREAM = "shared_ledger"
MAX_MESSAGES = 100_000

_STREAM = re.compile(r"[A-Za-z0-9_]{1,100}")
_CONTEXT = re.compile(r"[A-Za-z0-9_-]{1,100}")


class JetStream:
    """Carries messages over NATS JetStream; an asynchronous context manager, open inside.

    NATS need not be there when it is opened: what cannot be published, or delivered, waits.

    Parameters
    ----------
    url
        ``nats://USER:PASSWORD@HOST:4222``, ``nats://TOKEN@HOST``, or ``tls://``; several servers of
        a cluster are separated by commas.
    contexts
        All that are sent anything here, those that other processes run too: a message is stored for
        them whether they run or not. The same in all processes.
    stream
        What the names of streams and subjects begin with: ``NAME-CONTEXT`` and ``NAME.CONTEXT``.
        Another one for each book on one NATS.
    max_messages
        How many a stream that is made here holds before it takes no more.

    Raises
    ------
    ConfigurationError
        If the URL is none, a name cannot be that of a stream, two contexts handle one command, or
        mean different messages by one name; or the library is not installed.
    """

    def __init__(
        self,
        url: str,
        contexts: Collection[Context[Any]],
        *,
        stream: str = STREAM,
        max_messages: int = MAX_MESSAGES,
    ) -> None:
        if not _STREAM.fullmatch(stream):
            raise ConfigurationError(
                f"streams cannot be named {stream!r}-…: up to 100 letters, digits and underscores"
            )
        check_contexts(contexts)
        self._address = nats_address(url)
        self._contexts = tuple(contexts)
        self._library = _library()
        self._streams: dict[str, Stream] = {
            context.name: self._library.Stream(
                f"{stream}-{_named(context)}", f"{stream}.{context.name}", max_messages
            )
            for context in contexts
        }
        self._wanted = {
            context.name: frozenset(kind.__name__ for kind in context.kinds) for context in contexts
        }
        self._publishing: Connection | None = None
        self._connecting = asyncio.Lock()
        self._open = False

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Store messages in the streams of the contexts that want them, one after the other.

        Each is stored before the next is sent: so none can come before another of its key, however
        many are lost or repeated on the way.

        Raises
        ------
        TransportUnavailable
            If NATS cannot be reached, or a stream is full.
        """
        connection = await self._connection()
        for context, stream in self._streams.items():
            for envelope in envelopes:
                if envelope.type in self._wanted[context]:
                    data = msgspec.json.encode(envelope)
                    await connection.publish(stream, str(envelope.id), data)
                    reached("jetstream.after_publish")

    @asynccontextmanager
    async def delivering(self, inbox: Inbox) -> AsyncIterator[None]:
        """Deliver to an inbox while the block runs, as soon as NATS can be reached."""
        if all(inbox.context is not known for known in self._contexts):
            raise ConfigurationError(f"nothing is delivered to {inbox.context.name}: name it")
        task = asyncio.create_task(
            Delivering(inbox, self._streams[inbox.context.name], self._connect).run(),
            name=f"delivering to {inbox.context.name}",
        )
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        if self._publishing is not None:
            await self._publishing.aclose()
            self._publishing = None

    async def _connection(self) -> Connection:
        """Return the connection over which is published; a new one if that was lost."""
        async with self._connecting:
            if not self._open:
                raise RuntimeError("the transport is not open: use it in `async with`")
            if self._publishing is not None and not self._publishing.usable:
                await self._publishing.aclose()
                self._publishing = None
            if self._publishing is None:
                self._publishing = await self._connect()
            return self._publishing

    async def _connect(self) -> Connection:
        """Connect, and see to it that all contexts have their streams."""
        connection: Connection = await self._library.connect(self._address)
        try:
            for stream in self._streams.values():
                await connection.ensure(stream)
        except BaseException:
            await connection.aclose()
            raise
        return connection


def _named(context: Context[Any]) -> str:
    if not _CONTEXT.fullmatch(context.name):
        raise ConfigurationError(
            f"the context {context.name!r} cannot have a stream in NATS: "
            "its name is up to 100 letters, digits, hyphens and underscores"
        )
    return context.name


def _library() -> ModuleType:
    try:
        from shared_ledger.messages import streams
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "nats":
            raise
        raise ConfigurationError(
            "nats-py is not installed: pip install 'shared-ledger[nats]'"
        ) from None
    return streams
