"""What the routes are told in the path and the query string.

What is wrong is refused by the name of its parameter, and so is a parameter that nobody knows: a
misspelt one would be missed in silence.
"""

from __future__ import annotations

import re
from datetime import datetime
from urllib.parse import parse_qsl

import msgspec
from fastapi import Request

from shared_ledger.checks import check_time
from shared_ledger.errors import InvalidPosting

# In a query string an unquoted plus is a space, and an offset from UTC begins with one.
_LOST_PLUS = re.compile(r" (?=\d\d:\d\d\Z)")
# As many digits as a 64-bit integer has.
_NUMBER = re.compile(r"[0-9]{1,19}")
_SHOWN = 63


def query(request: Request, *known: str) -> dict[str, str]:
    """Return the parameters of the query string.

    Raises
    ------
    InvalidPosting
        If one is not ``known``, or is given twice.
    """
    given: dict[str, str] = {}
    if not request.scope["query_string"]:
        return given
    text = request.scope["query_string"].decode("latin-1")
    for name, value in parse_qsl(text, keep_blank_values=True):
        if name not in known:
            raise InvalidPosting(
                name[:_SHOWN] or "query", f"is not a parameter here: {', '.join(known) or 'none'}"
            )
        if name in given:
            raise InvalidPosting(name, "is given twice")
        given[name] = value
    return given


async def check_query(request: Request) -> None:
    """Raise ``InvalidPosting`` as ``query`` does, on a route of an application's own.

    It knows the parameters of its function; a dependency of FastAPI.
    """
    query(request, *(field.alias for field in request.scope["route"].dependant.query_params))


def number(name: str, text: str) -> int:
    """Return a whole number; raise ``InvalidPosting`` if it is none."""
    if not _NUMBER.fullmatch(text):
        raise InvalidPosting(name, f"is a whole number, not {text[:_SHOWN]!r}")
    return int(text)


def moment(name: str, text: str) -> datetime:
    """Return a time in UTC; raise ``InvalidPosting`` if it is none, or has no time zone."""
    try:
        at = msgspec.convert(_LOST_PLUS.sub("+", text), datetime)
    except msgspec.ValidationError:
        raise InvalidPosting(
            name, "is a time as RFC 3339 writes it, such as 2025-02-13T21:07:11Z"
        ) from None
    return check_time(name, at)


def required(given: dict[str, str], name: str) -> str:
    """Return a parameter; raise ``InvalidPosting`` if it is not there."""
    if name not in given:
        raise InvalidPosting(name, "is required")
    return given[name]
