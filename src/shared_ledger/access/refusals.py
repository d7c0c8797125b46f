"""What is refused to a caller, beside what the ledger refuses.

::

    LedgerError
    ├── CredentialsRefused       nobody knows who calls; the reason is for the log
    ├── TooManyAttempts          too many wrong passwords, or too much at once; later again
    └── AccessRefusal            as a Refusal of the ledger: a name, fields and a sentence
        ├── NotAllowed           this caller may not do that
        ├── KeyBudgetSpent       what a key may give in a day is spent
        ├── TooManyRequests      this caller asked a route too often; later again
        ├── OwnerNotFound        there is no such owner, as far as this user may know
        ├── UsernameTaken        somebody has the name, or writes it otherwise
        └── KeyNotFound          there is no such key
"""

from __future__ import annotations

from typing import Any

from shared_ledger.errors import LedgerError


class CredentialsRefused(LedgerError):
    """The credentials are missing or wrong.

    ``reason`` is for the log, and names no secret; ``detail`` is what the caller is told.
    """

    def __init__(self, reason: str, *, detail: str = "", given: bool = True) -> None:
        super().__init__(detail or "the credentials are missing or wrong")
        self.reason = reason
        self.given = given


class TooManyAttempts(LedgerError):
    """There were too many attempts; try again later."""

    def __init__(self, retry_after_s: int, message: str | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class AccessRefusal(LedgerError):
    """The caller was told no; nothing was written.

    ``code`` is its stable name for programs, ``data()`` its fields, ``str()`` a sentence.
    """

    code = "access_refused"

    def data(self) -> dict[str, Any]:
        """Return the fields that explain it, ready for JSON."""
        return dict(vars(self))


class NotAllowed(AccessRefusal):
    """The caller may not do this; ``operation`` names it, ``reason`` says why."""

    code = "not_allowed"

    def __init__(self, operation: str, *, reason: str) -> None:
        self.operation = operation
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.operation} is not allowed: {self.reason}"


class KeyBudgetSpent(AccessRefusal):
    """The key's budget of the day is spent: ``left`` remains, ``required`` is more."""

    code = "key_budget_spent"

    def __init__(self, *, day: str, budget: int, left: int, required: int) -> None:
        self.day = day
        self.budget = budget
        self.left = left
        self.required = required

    def __str__(self) -> str:
        return (
            f"this key may give {self.budget} on {self.day} (UTC); "
            f"{self.left} are left, {self.required} required"
        )


class TooManyRequests(AccessRefusal):
    """The caller asked too often: more than ``limit``, such as ``600/minute``."""

    code = "too_many_requests"

    def __init__(self, *, limit: str, retry_after_s: int) -> None:
        self.limit = limit
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"at most {self.limit} of these requests; ask again in {self.retry_after_s} s"


class OwnerNotFound(AccessRefusal):
    """There is no such owner, as far as the caller may know."""

    code = "owner_not_found"

    def __init__(self, owner_id: str) -> None:
        self.owner_id = owner_id

    def __str__(self) -> str:
        return "there is no such owner"


class UsernameTaken(AccessRefusal):
    """Somebody has this name already; capital and small letters are the same."""

    code = "username_taken"

    def __init__(self, username: str) -> None:
        self.username = username

    def __str__(self) -> str:
        return f"the name {self.username} is taken"


class KeyNotFound(AccessRefusal):
    """There is no such key, or it is revoked."""

    code = "key_not_found"

    def __init__(self, key_id: str) -> None:
        self.key_id = key_id

    def __str__(self) -> str:
        return f"there is no key {self.key_id} that is not revoked"
