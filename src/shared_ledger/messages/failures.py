"""What is written down of a failure: enough to find it, and no secret."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from uuid import UUID

from sqlalchemy.exc import DBAPIError

MAX_LENGTH = 500

_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]*:)[^\s@]*@")
_TOKEN = re.compile(r"[A-Za-z0-9_+=-]{32,}")


def described(error: BaseException) -> str:
    """Return a line that says what went wrong and where; without what looks like a secret.

    Of what the database raises it is the database's own words, but not the statement, its
    parameters, or the values that a constraint shows.
    """
    text = str(error.orig) if isinstance(error, DBAPIError) else str(error)
    line = text.strip().partition("\n")[0]
    line = _PASSWORD_IN_URL.sub(r"\1…@", line)
    line = _TOKEN.sub(lambda found: found[0] if _is_plain(found[0]) else "…", line)
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {line[:MAX_LENGTH]}{where}" if line else type(error).__name__


def _is_plain(word: str) -> bool:
    """Tell a long name, or the id of a message, from a key, token or preimage."""
    if not any(character.isdigit() for character in word):
        return True
    try:
        UUID(word)
    except ValueError:
        return False
    return "-" in word
