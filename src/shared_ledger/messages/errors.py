"""What goes wrong with messages and aggregates.

::

    LedgerError
    ├── LedgerUnavailable
    │   ├── ConcurrentChange     somebody else changed the same thing; nothing was written
    │   └── TransportUnavailable what carries messages is away, or full; they wait
    ├── InvalidMessage           a message that cannot be sent; names what is wrong
    ├── UnknownMessage           a message of a type or version that this program does not know
    ├── UnreadableMessage        a message whose payload does not fit its type
    ├── HandlerTimedOut          a handler that took too long; its transaction was rolled back
    └── DeadLetterNotFound       there is no such dead letter
"""

from __future__ import annotations

from uuid import UUID

from shared_ledger.errors import LedgerError, LedgerUnavailable


class ConcurrentChange(LedgerUnavailable):
    """Somebody else changed the same thing at the same time; nothing was written. Try again.

    ``what`` names it for the operator.
    """

    def __init__(self, what: str) -> None:
        super().__init__(f"somebody else changed {what} at the same time; try again")
        self.what = what


class TransportUnavailable(LedgerUnavailable):
    """What carries messages cannot be reached, or takes none; they wait, and are sent again."""


class InvalidMessage(LedgerError):
    """A message cannot be sent as it is; ``problem`` says why."""

    def __init__(self, type_name: str, problem: str) -> None:
        super().__init__(f"{type_name} cannot be sent: {problem}")
        self.type_name = type_name
        self.problem = problem


class UnknownMessage(LedgerError):
    """A message of a type, or of so new a version, that the program does not know."""

    def __init__(self, type_name: str, version: int, *, known: int | None) -> None:
        knows = f"no message {type_name}" if known is None else f"{type_name} up to version {known}"
        super().__init__(
            f"{type_name} of version {version} came, but this program knows {knows}: "
            "upgrade it, then retry the message"
        )
        self.type_name = type_name
        self.version = version
        self.known = known


class UnreadableMessage(LedgerError):
    """The payload of a message does not fit its type; ``problem`` says where."""

    def __init__(self, type_name: str, version: int, problem: str) -> None:
        super().__init__(f"{type_name} of version {version} cannot be read: {problem}")
        self.type_name = type_name
        self.version = version
        self.problem = problem


class HandlerTimedOut(LedgerError):
    """A handler took longer than ``timeout_s`` seconds; what it did was rolled back."""

    def __init__(self, type_name: str, timeout_s: float) -> None:
        super().__init__(f"the handler of {type_name} took longer than {timeout_s} s")
        self.type_name = type_name
        self.timeout_s = timeout_s


class DeadLetterNotFound(LedgerError):
    """There is no dead letter with this id."""

    def __init__(self, message_id: UUID) -> None:
        super().__init__(f"there is no dead letter {message_id}")
        self.message_id = message_id
