"""How the words of a command line are read: numbers, durations, times, JSON.

Each reader returns the value or raises the usage error that says what is wanted.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import typer

from shared_ledger.operations import INT64_MAX

# Python's own readers take much besides: underscores, spaces, digits of other scripts.
_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,30}")
_POSITIVE = re.compile(r"\+?0*[1-9][0-9]{0,29}")
_DURATION = re.compile(r"([0-9]{1,12})([dhms]?)")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]"
    r"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_UNITS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds", "": "seconds"}


def whole_number(text: str) -> int:
    """Read an amount: digits and a sign."""
    if not _WHOLE_NUMBER.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a whole number such as 5 or -5")
    return int(text)


def positive_number(text: str) -> int:
    """Read how much is held, captured, transferred or reversed."""
    if not _POSITIVE.fullmatch(text):
        raise typer.BadParameter(f"{text!r} is not a positive whole number such as 5")
    return int(text)


def record_id(text: str) -> int:
    """Read the id of an entry or a hold."""
    if not _POSITIVE.fullmatch(text) or int(text) > INT64_MAX:
        raise typer.BadParameter(f"{text!r} is not an id such as 12")
    return int(text)


def duration(text: str) -> timedelta:
    """Read how long something lasts: days, hours, minutes or seconds."""
    match = _DURATION.fullmatch(text)
    if match and int(match[1]) > 0:
        try:
            return timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            raise typer.BadParameter(f"{text!r} is longer than any calendar") from None
    raise typer.BadParameter(
        f"{text!r} is not a duration such as 7d, 12h, 30m, 45s or 45, which is seconds"
    )


def moment(text: str) -> datetime:
    """Read a time of RFC 3339, or a date: its midnight in UTC."""
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        if _RFC_3339.fullmatch(text):
            return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not in the calendar") from None
    raise typer.BadParameter(
        f"{text!r} is neither a date such as 2026-11-30 nor a time such as 2026-11-30T12:00:00Z"
    )


def json_object(text: str) -> dict[str, Any]:
    """Read the metadata of an entry."""
    import msgspec

    try:
        value = msgspec.json.decode(text)
    except (ValueError, RecursionError) as error:
        raise typer.BadParameter(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise typer.BadParameter('is not a JSON object such as {"a": 1}')
    return value


def asset_name(text: str) -> str:
    """Read which asset is meant."""
    if not text or not text.isprintable():
        raise typer.BadParameter("is a name such as credits")
    return text
