"""Keys of services: ``slk_<id>_<secret>``, of which only a digest is stored.

The secret is 256 random bits, so a plain SHA-256 of it cannot be searched for: what makes the
hashing of passwords slow would only make every request slow here.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from datetime import datetime
from typing import Any

import msgspec

from shared_ledger.errors import InvalidPosting
from shared_ledger.operations import INT64_MAX, TRANSFER, Application

MAX_NAME = 100
MAX_GRACE_S = 7 * 86_400
MAX_OPERATIONS = 1_000

_KEY = re.compile(r"slk_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_ID = re.compile(r"[0-9a-f]{12}")
_APPLICATION = re.compile(r"[a-z][a-z0-9_]{0,54}")
_OPERATION = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")


class ApiKey(msgspec.Struct, frozen=True):
    """A key of a service, without its secret.

    Attributes
    ----------
    application, operations
        What it is for; ``None`` is every one.
    daily_budget, issued_today
        The most that it may give to owners on one UTC day, and what it gave today so far; without
        a budget that is not counted.
    previous_until
        How long the secret of before its last rotation still opens.
    """

    id: str
    name: str
    application: str | None
    operations: list[str] | None
    daily_budget: int | None
    issued_today: int
    created_on: datetime
    created_by: str
    rotated_on: datetime | None
    previous_until: datetime | None
    revoked_on: datetime | None


class NewKey(msgspec.Struct, frozen=True):
    """What a key is to be for."""

    name: str
    application: str | None
    operations: tuple[str, ...] | None
    daily_budget: int | None


def new_id() -> str:
    """Return the id of a new key."""
    return secrets.token_hex(6)


def new_secret(key_id: str) -> str:
    """Return a whole new key of this id. It is shown once, and stored nowhere."""
    return f"slk_{key_id}_{secrets.token_urlsafe(32)}"


def id_of(key: str) -> str | None:
    """Return the id in a key; ``None`` if it does not look like one."""
    match = _KEY.fullmatch(key)
    return match[1] if match else None


def is_id(text: str) -> bool:
    """Tell whether a key can have this id."""
    return _ID.fullmatch(text) is not None


def digest(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


def check_new(key: NewKey, served: Application[Any] | None) -> NewKey:
    """Return a key that is to be made, with each operation once.

    Raises
    ------
    InvalidPosting
        If a field cannot be used. The operations of the application ``served`` here are known.
    """
    if not (key.name.isprintable() and 0 < len(key.name.strip()) <= len(key.name) <= MAX_NAME):
        raise InvalidPosting("name", f"is 1 to {MAX_NAME} printable characters")
    if key.application is not None and not _APPLICATION.fullmatch(key.application):
        raise InvalidPosting("application", "is not the name of an application")
    if key.daily_budget is not None and not 0 <= key.daily_budget <= INT64_MAX:
        raise InvalidPosting("daily_budget", "is a whole number from 0 up, of 64 bits")
    if key.operations is None:
        return key
    if not 0 < len(key.operations) <= MAX_OPERATIONS:
        raise InvalidPosting("operations", "are at least one; leave them out for all")
    for operation in key.operations:
        if not _OPERATION.fullmatch(operation):
            raise InvalidPosting("operations", "holds what is not the name of an operation")
        if (
            served is not None
            and key.application == served.name
            and operation not in served.rules
            and operation != TRANSFER
        ):
            known = ", ".join((*served.rules, TRANSFER))
            raise InvalidPosting(
                "operations", f"holds {operation}, which is not one of {served.name}'s: {known}"
            )
    operations = tuple(dict.fromkeys(key.operations))
    return NewKey(key.name, key.application, operations, key.daily_budget)


def check_grace(seconds: int) -> int:
    """Return how long a rotated key's secret still opens, in seconds."""
    if not 0 <= seconds <= MAX_GRACE_S:
        raise InvalidPosting("grace_s", f"is 0 to {MAX_GRACE_S} seconds")
    return seconds
