"""Everything this library raises, in one tree.

::

    LedgerError
    ├── ConfigurationError           a URL, a setting or an application that cannot work
    ├── EmbeddedUnavailable          the private PostgreSQL could not be started
    ├── SchemaNotMigrated            the book's tables are missing or older than the code
    ├── SchemaTooNew                 the book's tables are newer than the code
    ├── MigrationRefused             a migration that would lose what the book holds
    ├── LedgerClosed                 used after close()
    ├── LedgerOverloaded             the writer's queue is full; nothing was written
    ├── LedgerUnavailable            the database could not be reached; the outcome may be unknown
    └── Refusal                      the ledger said no; nothing was written
        ├── InvalidPosting           a field is wrong; names it
        ├── InsufficientCredits      the floor would be passed
        ├── NonceReused              same nonce, another body; names the first differing field
        ├── AlreadyClaimed           an operation that is allowed once per period, again
        ├── BudgetSpent              what an operation may give in all, or in a day, is spent
        ├── BalanceOutOfRange        the balance would leave the range of int64
        ├── HoldNotFound             no such hold of this application
        ├── HoldExpired              the hold's time is over
        ├── HoldClosed               the hold was captured or released before
        ├── HoldExceeded             a capture of more than the hold has left
        ├── EntryNotFound            no such entry of this application
        ├── NotReversible            an entry that cannot be reversed
        ├── ReversalExceedsEntry     a reversal of more than the entry has left
        ├── BatchRefused             another posting of an atomic batch was refused
        ├── AccountBusy              another transaction keeps the account locked
        └── RejectedByDatabase       the database's own last line refused it

A ``Refusal`` is a value in the answer of a batch and is raised by the call that posts one entry.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

__all__ = [
    "AccountBusy",
    "AlreadyClaimed",
    "BalanceOutOfRange",
    "BatchRefused",
    "BudgetSpent",
    "ConfigurationError",
    "EmbeddedUnavailable",
    "EntryNotFound",
    "HoldClosed",
    "HoldExceeded",
    "HoldExpired",
    "HoldNotFound",
    "InsufficientCredits",
    "InvalidPosting",
    "LedgerClosed",
    "LedgerError",
    "LedgerOverloaded",
    "LedgerUnavailable",
    "MigrationRefused",
    "NonceReused",
    "NotReversible",
    "Refusal",
    "RejectedByDatabase",
    "ReversalExceedsEntry",
    "SchemaNotMigrated",
    "SchemaTooNew",
]


class LedgerError(Exception):
    """The ledger could not do what was asked."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").partition("\n")[0])


class ConfigurationError(LedgerError):
    """A setting or a declaration cannot work as it is."""


class EmbeddedUnavailable(LedgerError):
    """The embedded PostgreSQL could not be started."""


class SchemaNotMigrated(LedgerError):
    """The database is not migrated: run `shared-ledger migrate`."""


class SchemaTooNew(LedgerError):
    """The database is newer than this version of shared-ledger: upgrade the program."""


class MigrationRefused(LedgerError):
    """The migration would lose entries."""


class LedgerClosed(LedgerError):
    """The ledger is closed."""


class LedgerOverloaded(LedgerError):
    """The writer's queue is full; nothing was written. Try again in a moment."""


class LedgerUnavailable(LedgerError):
    """The database cannot be reached. Posting again with the same nonce is safe."""


class Refusal(LedgerError):
    """The ledger refused a posting; nothing was recorded and the nonce is free.

    ``code`` is the refusal's stable name for programs, ``data()`` its fields, ``str()`` a sentence.
    """

    code: str = "refused"

    def data(self) -> dict[str, Any]:
        """Return the fields that explain the refusal, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "code"}

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = Exception.__hash__

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self.data().items())
        return f"{type(self).__name__}({fields})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (type(self), vars(self).copy())


def _restored(kind: type[Refusal], fields: dict[str, Any]) -> Refusal:
    refusal = kind.__new__(kind)
    vars(refusal).update(fields)
    return refusal


class InvalidPosting(Refusal):
    """A field of a posting is wrong: ``field`` names it, ``problem`` says what and what to do."""

    code = "invalid_posting"

    def __init__(self, field: str, problem: str) -> None:
        self.field = field
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.field} {self.problem}"


class InsufficientCredits(Refusal):
    """The owner has less available than the posting requires."""

    code = "insufficient_credits"

    def __init__(self, owner_id: str, *, asset: str, available: int, required: int) -> None:
        self.owner_id = owner_id
        self.asset = asset
        self.available = available
        self.required = required

    def __str__(self) -> str:
        return (
            f"{self.owner_id} has {self.available} {self.asset} available, {self.required} required"
        )


class NonceReused(Refusal):
    """The nonce has been used by this application and owner for another body.

    ``field`` is the first field that differs, ``recorded`` and ``given`` its two values.
    """

    def __init__(self, owner_id: str, nonce: str, *, field: str, recorded: Any, given: Any) -> None:
        self.owner_id = owner_id
        self.nonce = nonce
        self.field = field
        self.recorded = recorded
        self.given = given

    @property
    def code(self) -> str:  # type: ignore[override]  # one name per field, so not a constant
        """The name of the refusal, which says what differs."""
        # Of a field within a part, "parts[1].amount", its own name: there are few, and no brackets.
        return f"nonce_reused_with_different_{self.field.rpartition('.')[2]}"

    def __str__(self) -> str:
        return (
            f"nonce {self.nonce!r} was already used for {self.owner_id} "
            f"with {self.field} {self.recorded!r}, not {self.given!r}"
        )


class AlreadyClaimed(Refusal):
    """The operation is allowed once per period, and the owner has had it in this one.

    ``period`` is ``"ever"``, or the last UTC day of the period.
    """

    code = "already_claimed"

    def __init__(self, owner_id: str, *, operation: str, period: str) -> None:
        self.owner_id = owner_id
        self.operation = operation
        self.period = period

    def __str__(self) -> str:
        if self.period == "ever":
            return f"{self.owner_id} has already had {self.operation} and is allowed once ever"
        return f"{self.owner_id} has already had {self.operation} until {self.period} ends (UTC)"


class BudgetSpent(Refusal):
    """An operation's budget is spent: ``left`` of ``budget`` remains, ``required`` is more.

    ``period`` is ``"ever"`` or the UTC day that the budget is for.
    """

    code = "budget_spent"

    def __init__(
        self, operation: str, *, period: str, budget: int, left: int, required: int
    ) -> None:
        self.operation = operation
        self.period = period
        self.budget = budget
        self.left = left
        self.required = required

    def __str__(self) -> str:
        whose = "in all" if self.period == "ever" else f"for {self.period} (UTC)"
        return (
            f"{self.operation} may give {self.budget} {whose}; "
            f"{self.left} are left, {self.required} required"
        )


class BalanceOutOfRange(Refusal):
    """The balance would leave the range of a signed 64-bit integer."""

    code = "balance_out_of_range"

    def __init__(self, owner_id: str, *, asset: str, posted: int, amount: int) -> None:
        self.owner_id = owner_id
        self.asset = asset
        self.posted = posted
        self.amount = amount

    def __str__(self) -> str:
        return (
            f"{self.owner_id} has {self.posted} {self.asset}; "
            f"adding {self.amount} leaves the range of a 64-bit integer"
        )


class HoldNotFound(Refusal):
    """The application has no such hold."""

    code = "hold_not_found"

    def __init__(self, hold_id: int) -> None:
        self.hold_id = hold_id

    def __str__(self) -> str:
        return f"there is no hold {self.hold_id} of this application"


class HoldExpired(Refusal):
    """The hold's time is over; what it reserved is available again."""

    code = "hold_expired"

    def __init__(self, hold_id: int, *, expires_on: datetime) -> None:
        self.hold_id = hold_id
        self.expires_on = expires_on

    def __str__(self) -> str:
        return f"hold {self.hold_id} expired on {self.expires_on}"


class HoldClosed(Refusal):
    """The hold has ended; ``state`` says how: captured or released."""

    code = "hold_closed"

    def __init__(self, hold_id: int, *, state: str) -> None:
        self.hold_id = hold_id
        self.state = state

    def __str__(self) -> str:
        return f"hold {self.hold_id} is {self.state} already"


class HoldExceeded(Refusal):
    """A capture requires more than the hold has left."""

    code = "hold_exceeded"

    def __init__(self, hold_id: int, *, remaining: int, required: int) -> None:
        self.hold_id = hold_id
        self.remaining = remaining
        self.required = required

    def __str__(self) -> str:
        return f"hold {self.hold_id} has {self.remaining} left, {self.required} required"


class EntryNotFound(Refusal):
    """The application has no such entry."""

    code = "entry_not_found"

    def __init__(self, entry_id: int) -> None:
        self.entry_id = entry_id

    def __str__(self) -> str:
        return f"there is no entry {self.entry_id} of this application"


class NotReversible(Refusal):
    """The entry is of a kind that cannot be reversed; ``reason`` says why."""

    code = "not_reversible"

    def __init__(self, entry_id: int, *, reason: str) -> None:
        self.entry_id = entry_id
        self.reason = reason

    def __str__(self) -> str:
        return f"entry {self.entry_id} cannot be reversed: {self.reason}"


class ReversalExceedsEntry(Refusal):
    """A reversal requires more than is left of the entry: the rest was reversed, or has expired."""

    code = "reversal_exceeds_entry"

    def __init__(self, entry_id: int, *, left: int, required: int) -> None:
        self.entry_id = entry_id
        self.left = left
        self.required = required

    def __str__(self) -> str:
        if self.left == 0:
            return f"nothing is left of entry {self.entry_id} to reverse"
        return f"{self.left} are left of entry {self.entry_id} to reverse, {self.required} required"


class BatchRefused(Refusal):
    """Another posting of an atomic batch was refused: the one at ``position``, with ``reason``."""

    code = "batch_refused"

    def __init__(self, *, position: int, reason: str) -> None:
        self.position = position
        self.reason = reason

    def __str__(self) -> str:
        return f"nothing of the batch was posted: number {self.position} was refused, {self.reason}"


class AccountBusy(Refusal):
    """Another transaction keeps an account locked that the posting needs; try again later."""

    code = "account_busy"

    def __init__(self, owner_id: str) -> None:
        self.owner_id = owner_id

    def __str__(self) -> str:
        return f"an account that a posting to {self.owner_id} needs is locked; try again later"


class RejectedByDatabase(Refusal):
    """The database refused what the rules had allowed; ``reason`` is its own message."""

    code = "rejected_by_database"

    def __init__(self, owner_id: str, nonce: str, *, reason: str) -> None:
        self.owner_id = owner_id
        self.nonce = nonce
        self.reason = reason

    def __str__(self) -> str:
        return f"the database refused nonce {self.nonce!r} of {self.owner_id}: {self.reason}"
