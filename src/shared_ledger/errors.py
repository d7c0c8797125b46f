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
        ├── BalanceOutOfRange        the balance would leave the range of int64
        ├── AccountBusy              another transaction keeps the account locked
        └── RejectedByDatabase       the database's own last line refused it

A ``Refusal`` is a value in the answer of a batch and is raised by the call that posts one entry.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "AccountBusy",
    "AlreadyClaimed",
    "BalanceOutOfRange",
    "ConfigurationError",
    "EmbeddedUnavailable",
    "InsufficientCredits",
    "InvalidPosting",
    "LedgerClosed",
    "LedgerError",
    "LedgerOverloaded",
    "LedgerUnavailable",
    "MigrationRefused",
    "NonceReused",
    "Refusal",
    "RejectedByDatabase",
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
        return f"nonce_reused_with_different_{self.field}"

    def __str__(self) -> str:
        return (
            f"nonce {self.nonce!r} was already used for {self.owner_id} "
            f"with {self.field} {self.recorded!r}, not {self.given!r}"
        )


class AlreadyClaimed(Refusal):
    """The operation is allowed once per period, and the owner has had it in this one."""

    code = "already_claimed"

    def __init__(self, owner_id: str, *, operation: str, period: str) -> None:
        self.owner_id = owner_id
        self.operation = operation
        self.period = period

    def __str__(self) -> str:
        when = "and is allowed once ever" if self.period == "ever" else f"on {self.period} (UTC)"
        return f"{self.owner_id} has already had {self.operation} {when}"


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
