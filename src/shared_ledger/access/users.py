"""What a user's name and password must be."""

from __future__ import annotations

import re
import unicodedata
from datetime import datetime

import msgspec

from shared_ledger.errors import InvalidPosting

MAX_USERNAME = 64
MIN_PASSWORD = 8
MAX_PASSWORD = 256

# Letters of other scripts look like these ones; a name is somebody's account.
_USERNAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._@+-]{{0,{MAX_USERNAME - 1}}}")


class User(msgspec.Struct, frozen=True):
    """Somebody who logs in; ``username`` is also the ``owner_id`` of his account."""

    username: str
    is_admin: bool
    created_on: datetime


def check_username(username: str) -> str:
    """Return the name; raise ``InvalidPosting`` if it cannot be a user's."""
    if not _USERNAME.fullmatch(username):
        raise InvalidPosting(
            "username",
            f"is 1 to {MAX_USERNAME} of the letters a to z, digits and . _ @ + -, "
            "and begins with a letter or digit",
        )
    return username


def folded(username: str) -> str:
    """Return what is the same for all ways to write a name."""
    return username.lower()


def check_password(password: str) -> str:
    """Return the password; raise ``InvalidPosting`` if it is too short or long.

    Neither is a mix of letters and signs asked for, nor is any refused (NIST SP 800-63B, 3.1.1.2).
    """
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidPosting("password", f"is {MIN_PASSWORD} to {MAX_PASSWORD} characters")
    try:
        password.encode()
    except UnicodeEncodeError:
        raise InvalidPosting("password", "is not Unicode") from None
    return password


def normalised(password: str) -> str:
    """Return a password as it is hashed: the same letters, however a keyboard makes them."""
    return unicodedata.normalize("NFKC", password)
