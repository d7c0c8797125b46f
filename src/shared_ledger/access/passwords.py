"""Passwords, hashed with Argon2id. Each call takes tens of milliseconds: not for an event loop."""

from __future__ import annotations

from functools import cache

from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from shared_ledger.access.users import MAX_PASSWORD, normalised

# OWASP's Password Storage Cheat Sheet: 19 MiB, two passes, one lane. The service's other work goes
# on beside it on the same processors.
_hasher = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19_456, parallelism=1),))


def hash_password(password: str) -> str:
    """Return what is stored of a password."""
    return _hasher.hash(normalised(password))


def is_password(password: str, stored: str | None) -> bool:
    """Tell whether this is the password; with nothing stored it takes as long, and is not."""
    if len(password) > MAX_PASSWORD:
        # Nobody has it; and what is hashed has a limit.
        password = password[:MAX_PASSWORD]
        stored = None
    try:
        right = _hasher.verify(normalised(password), stored or _nobodys())
    except UnicodeEncodeError:
        right = _hasher.verify("", stored or _nobodys())
    return right and stored is not None


@cache
def _nobodys() -> str:
    """Return the hash that is compared where there is no user: the same work as for one."""
    return _hasher.hash("nobody has this password")
