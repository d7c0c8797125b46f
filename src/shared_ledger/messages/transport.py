"""How messages get from an outbox to the inboxes of the contexts that want them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Any, Protocol

from shared_ledger.errors import ConfigurationError
from shared_ledger.messages.handlers import Context
from shared_ledger.messages.inbox import Inbox
from shared_ledger.messages.message import Command, Envelope, Message


class Transport(Protocol):
    """Brings every message at least once to every context that wants it.

    Messages of one key come for the first time in the order in which they were published.
    """

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Take messages in this order; when it has returned, they cannot be lost any more.

        Whatever it raises, all of them are published again, with the same ids.
        """
        ...

    def delivering(self, inbox: Inbox) -> AbstractAsyncContextManager[None]:
        """Give an inbox what its context wants, while the block runs.

        What is published while it does not run waits for the next time.
        """
        ...


class InProcess:
    """Writes messages into the inboxes of all contexts that want them, on their databases.

    All contexts are named when it is made, those that other processes run too: a message is
    written into their inboxes, whether they run or not.

    Raises
    ------
    ConfigurationError
        If two contexts handle one command, or mean different messages by one name.
    """

    def __init__(self, inboxes: Collection[Inbox]) -> None:
        self._inboxes = tuple(inboxes)
        check_contexts([inbox.context for inbox in self._inboxes])

    async def publish(self, envelopes: Sequence[Envelope]) -> None:
        """Write messages into the inboxes, one inbox after the other."""
        for inbox in self._inboxes:
            wanted = [envelope for envelope in envelopes if envelope.type in inbox.types]
            if wanted:
                await inbox.receive(wanted)

    def delivering(self, inbox: Inbox) -> AbstractAsyncContextManager[None]:
        """Check that the inbox is one of those that it writes into."""
        if all(inbox.context is not known.context for known in self._inboxes):
            raise ConfigurationError(f"nothing is delivered to {inbox.context.name}: name it")
        return nullcontext()


def check_contexts(contexts: Collection[Context[Any]]) -> None:
    """Check that it is clear who is sent which message.

    Raises
    ------
    ConfigurationError
        If two contexts handle one command, or mean different messages by one name.
    """
    handled_by: dict[str, str] = {}
    kinds: dict[str, type[Message]] = {}
    for context in contexts:
        for kind in context.kinds:
            if kinds.setdefault(kind.__name__, kind) is not kind:
                raise ConfigurationError(f"there are two messages named {kind.__name__}")
            other = handled_by.setdefault(kind.__name__, context.name)
            if issubclass(kind, Command) and other != context.name:
                raise ConfigurationError(
                    f"the command {kind.__name__} is for one context, "
                    f"but {other} and {context.name} handle it"
                )
