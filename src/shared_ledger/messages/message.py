"""Messages: commands and events, and how they are written down and read again.

A context declares its messages as classes; ``key`` names the field whose value says to which
aggregate's order a message belongs::

    class RequestTransfer(Command, key="from_account_id"):
        from_account_id: str
        to_account_id: str
        amount: int

A message's type is the name of its class. Both, and the fields, are stored for years: a class is
not renamed, a field that is added has a default, and what cannot be read that way is a new
``version`` with an ``upcast`` from the older ones.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterable
from typing import Any, ClassVar, Literal, dataclass_transform
from uuid import UUID

import msgspec

from shared_ledger.errors import ConfigurationError
from shared_ledger.messages.errors import InvalidMessage, UnknownMessage, UnreadableMessage

MAX_PAYLOAD_BYTES = 256 * 1024
"""A transport may have a limit of its own; what it never takes would stop all that follows."""
MAX_KEY_LENGTH = 255

# Set by the class, so no field may have these names.
_KEPT_NAMES = frozenset({"key", "version", "upcast"})
# jsonb cannot hold a NUL: an odd number of backslashes before u0000 is one.
_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


class MessageType(msgspec.StructMeta):
    """Makes the classes of messages: frozen, with keyword arguments, and with a key.

    Raises
    ------
    TypeError
        If a class names no key, or one that is not a field.
    """

    key_field: str

    def __new__(  # noqa: PYI034  # Self cannot be that of a metaclass.
        cls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        key: str | None = None,
        frozen: Literal[True] = True,
    ) -> MessageType:
        """Make a class whose messages are ordered by the field ``key``."""
        made = super().__new__(cls, name, bases, namespace, frozen=frozen, kw_only=True)
        fields = made.__struct_fields__
        if kept := _KEPT_NAMES.intersection(fields):
            raise TypeError(f"{name} has a field {', '.join(sorted(kept))}: choose another name")
        if key is not None:
            made.key_field = key
        # Those of this module are what messages are derived from.
        if made.__module__ != __name__ and getattr(made, "key_field", None) not in fields:
            raise TypeError(f'{name} names none of its fields as its key: class {name}(…, key="…")')
        return made


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Message(msgspec.Struct, frozen=True, metaclass=MessageType):
    """What one context tells another; use ``Command`` or ``Event``."""

    version: ClassVar[int] = 1
    """Counts the meanings of the payload; a field that is added with a default makes no new one."""

    @property
    def key(self) -> str:
        """Whose order it belongs to: messages of one key are handled one after the other."""
        return str(getattr(self, type(self).key_field))

    @classmethod
    def upcast(cls, version: int, payload: dict[str, Any]) -> dict[str, Any]:
        """Convert the payload of an older ``version`` to that of this one."""
        del version
        return payload


class Command(Message):
    """Asks one context to do something; named in the imperative."""


class Event(Message):
    """Tells whoever wants to know that something has happened; named in the past tense."""


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """A message written down: what outboxes, transports and inboxes hold.

    ``id`` is the message's for ever; a repetition has the same. ``payload`` is a JSON object.
    """

    id: UUID
    key: str
    type: str
    version: int
    payload: msgspec.Raw

    @classmethod
    def of(cls, message: Message) -> Envelope:
        """Write a message down, with a new id.

        Raises
        ------
        InvalidMessage
            If it could not be read again, stored, or sent.
        """
        kind = type(message)
        name = kind.__name__
        try:
            payload = msgspec.json.encode(message)
            # Fields are not checked when a message is made: who sends it learns it here, and not
            # the operator from a dead letter.
            msgspec.json.decode(payload, type=kind)
        except (msgspec.MsgspecError, TypeError, ValueError) as error:
            raise InvalidMessage(name, str(error)) from None
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise InvalidMessage(name, f"its {len(payload)} bytes are over {MAX_PAYLOAD_BYTES}")
        if _NUL.search(payload):
            raise InvalidMessage(name, "it holds a NUL character")
        key = message.key
        if not 0 < len(key) <= MAX_KEY_LENGTH:
            raise InvalidMessage(
                name, f"the key has {len(key)} characters, not 1 to {MAX_KEY_LENGTH}"
            )
        return cls(
            id=new_id(), key=key, type=name, version=kind.version, payload=msgspec.Raw(payload)
        )

    @property
    def text(self) -> str:
        """The payload as JSON text."""
        return bytes(self.payload).decode()


class Catalogue:
    """The messages that a program knows, by their types' names.

    Raises
    ------
    ConfigurationError
        If two classes have one name.
    """

    def __init__(self, kinds: Iterable[type[Message]]) -> None:
        self._kinds: dict[str, type[Message]] = {}
        for kind in kinds:
            if self._kinds.setdefault(kind.__name__, kind) is not kind:
                raise ConfigurationError(f"there are two messages named {kind.__name__}")

    def decode(self, envelope: Envelope) -> Message:
        """Read a message: fields that it does not know are ignored, missing ones have defaults.

        Raises
        ------
        UnknownMessage
            If its type is not in the catalogue, or its version is newer.
        UnreadableMessage
            If the payload does not fit.
        """
        kind = self._kinds.get(envelope.type)
        if kind is None or envelope.version > kind.version:
            known = None if kind is None else kind.version
            raise UnknownMessage(envelope.type, envelope.version, known=known)
        payload = bytes(envelope.payload)
        try:
            if envelope.version < kind.version:
                old = msgspec.json.decode(payload, type=dict[str, Any])
                payload = msgspec.json.encode(kind.upcast(envelope.version, old))
            return msgspec.json.decode(payload, type=kind)
        except msgspec.MsgspecError as error:
            raise UnreadableMessage(envelope.type, envelope.version, str(error)) from None


def new_id() -> UUID:
    """Make a UUID of version 7 (RFC 9562, 5.7): later ones are greater, which indexes like."""
    milliseconds = time.time_ns() // 1_000_000
    return UUID(
        int=milliseconds << 80
        | 7 << 76
        | secrets.randbits(12) << 64
        | 0b10 << 62
        | secrets.randbits(62)
    )
