"""What a field of a request must be, and how it is compared with what was recorded."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from shared_ledger.errors import InvalidPosting
from shared_ledger.operations import INT64_MAX, INT64_MIN, MAX_LIFETIME, MAX_PRIORITY, Rule

MAX_ID_LENGTH = 255
MAX_METADATA_BYTES = 8 * 1024
MAX_METADATA_DEPTH = 64

# An entry of the ledger itself has its own number, one of a group the group's and its place.
_OWN_NONCE = re.compile(r"@\d+(\.\d+)?")
# jsonb cannot hold a NUL: an odd number of backslashes before u0000 is one.
_NUL_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def check_owner_id(owner_id: str, field: str = "owner_id") -> str:
    """Return the id; raise ``InvalidPosting`` if it cannot be an owner's."""
    if _is_simple(owner_id):
        return owner_id
    owner_id = checked_text(field, owner_id)
    if owner_id[0] == "@":
        raise InvalidPosting(field, "begins with '@', which is kept for system accounts")
    if not owner_id.isascii() and not unicodedata.is_normalized("NFC", owner_id):
        raise InvalidPosting(field, "is not in Unicode's normal form NFC; normalise it first")
    return owner_id


def check_nonce(nonce: str) -> str:
    """Return the nonce; raise ``InvalidPosting`` if it cannot be a caller's."""
    if _is_simple(nonce):
        return nonce
    nonce = checked_text("nonce", nonce)
    if nonce[0] == "@" and _OWN_NONCE.fullmatch(nonce):
        raise InvalidPosting("nonce", "is '@' and a number, which the ledger's own entries have")
    return nonce


def check_id(field: str, number: int) -> int:
    """Return the id of an entry or hold; raise ``InvalidPosting`` if nothing can have it."""
    if type(number) is not int or not 0 < number <= INT64_MAX:
        raise InvalidPosting(field, f"is a positive 64-bit integer, not {_shown(number)}")
    return number


def check_time(field: str, at: datetime) -> datetime:
    """Return a time in UTC; raise ``InvalidPosting`` if it has no time zone."""
    if not isinstance(at, datetime):
        raise InvalidPosting(field, f"is a datetime, not {type(at).__name__}")
    if at.tzinfo is None:
        raise InvalidPosting(field, "has no time zone; say which, UTC for instance")
    try:
        return at.astimezone(UTC)
    except OverflowError:
        raise InvalidPosting(field, "is outside the calendar in UTC") from None


def checked_quantity(amount: object) -> int:
    """Return how much is held, captured, transferred or reversed: a positive number."""
    if type(amount) is not int:
        raise InvalidPosting("amount", f"is a whole number, not {type(amount).__name__}")
    if not 0 < amount <= INT64_MAX:
        raise InvalidPosting("amount", f"is a positive 64-bit integer, not {_shown(amount)}")
    return amount


def checked_lifetime(expires_in: object) -> timedelta:
    """Return how long something lasts."""
    if not isinstance(expires_in, timedelta):
        raise InvalidPosting("expires_in", f"is a timedelta, not {type(expires_in).__name__}")
    if not timedelta() < expires_in <= MAX_LIFETIME:
        raise InvalidPosting(
            "expires_in", f"is more than nothing and at most {MAX_LIFETIME.days} days"
        )
    return expires_in


def checked_priority(priority: object) -> int:
    """Return which expiring credits are spent first."""
    if type(priority) is not int or not 0 <= priority <= MAX_PRIORITY:
        raise InvalidPosting("priority", f"is a whole number from 0 to {MAX_PRIORITY}")
    return priority


def _shown(value: object) -> str:
    """Show a value that may be of any size."""
    text = repr(value) if not isinstance(value, int) or abs(value) <= 10**30 else "a larger one"
    return text[:63]


def check_asset(asset: str) -> str:
    """Return the asset; raise ``InvalidPosting`` if nothing can have this name."""
    return checked_text("asset", asset)


def _is_simple(text: object) -> bool:
    """Tell quickly that there is nothing to look for; what is not simple may be right as well."""
    return (
        type(text) is str
        and text.isascii()
        and text.isprintable()
        and 0 < len(text) <= MAX_ID_LENGTH
        and text[0] not in " @"
        and text[-1] != " "
    )


def checked_text(name: str, text: object) -> str:
    """Return what names something: 1 to 255 printable characters."""
    if not isinstance(text, str):
        raise InvalidPosting(name, f"is a string, not {type(text).__name__}")
    if not text:
        raise InvalidPosting(name, "is empty")
    if len(text) > MAX_ID_LENGTH:
        raise InvalidPosting(name, f"is longer than {MAX_ID_LENGTH} characters")
    if not text.isprintable():
        raise InvalidPosting(name, "holds a control character or another that cannot be printed")
    if not text.isascii() and "\ufffd" in text:
        raise InvalidPosting(name, "holds U+FFFD: it was not valid UTF-8 on its way here")
    if text[0] == " " or text[-1] == " ":
        raise InvalidPosting(name, "begins or ends with a space")
    # Plain, since a member of another enum of strings is written as its name by some and as its
    # value by others.
    return str.__str__(text)


def checked_amount(rule: Rule, amount: object) -> int:
    """Return the signed amount of a posting, which its rule allows."""
    if amount is None:
        raise InvalidPosting("amount", "is required: this operation has no default amount")
    if type(amount) is not int:
        raise InvalidPosting("amount", f"is a whole number, not {type(amount).__name__}")
    if rule.minimum <= amount <= rule.maximum:
        return amount
    if rule.minimum == rule.maximum:
        raise InvalidPosting("amount", f"is fixed at {rule.minimum} for this operation")
    if not INT64_MIN <= amount <= INT64_MAX:
        raise InvalidPosting("amount", "is outside the range of a 64-bit integer")
    if rule.maximum <= 0 < amount:
        raise InvalidPosting("amount", f"{amount} has the wrong sign: this operation takes credits")
    if rule.minimum >= 0 > amount:
        raise InvalidPosting("amount", f"{amount} has the wrong sign: this operation gives credits")
    raise InvalidPosting("amount", f"{amount} is not within {rule.minimum} to {rule.maximum}")


def checked_metadata(metadata: object) -> str:
    """Return a JSON object as text."""
    if not isinstance(metadata, Mapping):
        raise InvalidPosting("metadata", f"is a JSON object, not {type(metadata).__name__}")
    try:
        text = json_text(metadata)
        value = json.loads(text)
        faithful = value == metadata
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPosting("metadata", f"is not JSON: {error}") from None
    if not faithful:
        raise InvalidPosting("metadata", "is not JSON: keys are strings, sequences are lists")
    if size > MAX_METADATA_BYTES:
        raise InvalidPosting("metadata", f"is {size} bytes of JSON, over {MAX_METADATA_BYTES}")
    if _NUL_IN_JSON.search(text):
        raise InvalidPosting("metadata", "holds a NUL character")
    # What the caller's stack could hold might be too deep for that of whoever reads it.
    if text.count("[") + text.count("{") > MAX_METADATA_DEPTH < _depth(value):
        raise InvalidPosting("metadata", f"is nested deeper than {MAX_METADATA_DEPTH} levels")
    return text


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level := [node for node in level if isinstance(node, dict | list)]:
        depth += 1
        level = [
            child for node in level for child in (node.values() if isinstance(node, dict) else node)
        ]
    return depth


def json_text(value: Mapping[str, Any]) -> str:
    """Write a JSON object on one line."""
    return json.dumps(dict(value), allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def as_stored(text: str) -> Any:
    """Read JSON as the database gives it back: 1e+23 comes as a whole number of 24 digits."""
    return json.loads(
        text, parse_float=lambda digits: int(Decimal(digits)) if "e+" in digits else float(digits)
    )


def comparable(value: object) -> object:
    """Return what is equal for an equal field: in metadata 1 is 1.0, and is not true."""
    if not isinstance(value, Mapping):
        return value
    return json.loads(json_text(value), parse_int=_number, parse_float=_number)


def _number(digits: str) -> tuple[Decimal]:
    # In a tuple, which JSON has not, because Python takes true for 1.
    return (Decimal(digits),)
