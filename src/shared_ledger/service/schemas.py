"""What values may be, as JSON Schema (2020-12) says it.

This describes; what is checked is the ledger's affair, and each of these says what its check does,
as far as JSON Schema can: that a text is Unicode in its normal form, for instance, it cannot say.
"""

from __future__ import annotations

from typing import Any

from msgspec import Meta

from shared_ledger.access.keys import MAX_GRACE_S, MAX_NAME, MAX_OPERATIONS
from shared_ledger.access.users import MAX_PASSWORD, MAX_USERNAME, MIN_PASSWORD
from shared_ledger.checks import MAX_ID_LENGTH, MAX_METADATA_BYTES, MAX_METADATA_DEPTH
from shared_ledger.operations import INT64_MAX, INT64_MIN, MAX_LIFETIME, MAX_PRIORITY

Schema = dict[str, Any]

# Plain classes of characters, which every language's regular expressions have.
_INSIDE = r"[^\x00-\x1f\x7f-\xa0\xad]"
_END = r"[^\x00-\x20\x7f-\xa0\xad]"
_NO_AT = _END.replace("]", "@]")
_NO_DIGIT = _END.replace("]", "0-9]")


def says(schema: Schema) -> Meta:
    """Return the annotation of a field that is described so, and not checked by its type."""
    return Meta(extra_json_schema=schema)


def _line(first: str) -> str:
    """Return the pattern of a line that begins so and does not end with a space."""
    return f"{first}({_INSIDE}*{_END})?"


def _text(pattern: str, least: int, most: int) -> Schema:
    return {"type": "string", "minLength": least, "maxLength": most, "pattern": f"^{pattern}$"}


def _number(least: int, most: int = INT64_MAX) -> Schema:
    return {"type": "integer", "format": "int64", "minimum": least, "maximum": most}


NAME = _text(_line(_END), 1, MAX_ID_LENGTH)
"""A line that can be read, without a space at its ends."""

# Spaces of all widths, but no other character that cannot be seen.
LINE: Schema = {"pattern": f"^{_END}([^\\x00-\\x1f\\x7f-\\x9f\\xad]*{_END})?$"}
"""The pattern of a line that people read."""

TEXT: Schema = {"pattern": "^[^\\x00]*$"}
"""The pattern of what can be stored."""

ASSET = NAME | {"description": "Of what."}

WORD: Schema = {"pattern": f"^{_line(_NO_AT)}$"}
"""The pattern of what names somebody or something, and is none of the ledger's own names."""

OWNER_ID = _text(_line(_NO_AT), 1, MAX_ID_LENGTH) | {
    "description": "Whose account; what begins with '@' is the ledger's own.",
}

# The ledger's own entries have '@' and a number; '@' and a word is for services.
NONCE = _text(f"({_line(_NO_AT)}|@({_line(_NO_DIGIT)})?)", 1, MAX_ID_LENGTH) | {
    "description": "The caller's name for this request: the same again changes nothing.",
}

INT64 = _number(INT64_MIN)
ID = _number(1)
COUNT = _number(0)
AMOUNT = INT64 | {
    "description": "In whole units, negative for what is taken; an operation may have its own.",
}
QUANTITY = _number(1) | {"description": "In whole units."}
LIFETIME = _number(1, int(MAX_LIFETIME.total_seconds())) | {
    "description": "In how many seconds it expires.",
}
GRACE = _number(0, MAX_GRACE_S) | {
    "description": "For how many seconds the old secret still opens.",
}
PRIORITY = _number(0, MAX_PRIORITY) | {
    "description": "What expires is spent in this order, the lowest first.",
}

TIME: Schema = {"type": "string", "format": "date-time", "maxLength": 64}

METADATA: Schema = {
    "type": "object",
    "description": f"Kept with the entry: at most {MAX_METADATA_BYTES // 1024} KiB of JSON, "
    f"nested at most {MAX_METADATA_DEPTH} levels deep.",
}

USERNAME = _text("[A-Za-z0-9][A-Za-z0-9._@+-]*", 1, MAX_USERNAME)
PASSWORD: Schema = {
    "type": "string",
    "format": "password",
    "minLength": MIN_PASSWORD,
    "maxLength": MAX_PASSWORD,
}

KEY_ID = _text("[0-9a-f]{12}", 12, 12)
KEY_NAME = _text(f"{_INSIDE}*{_END}{_INSIDE}*", 1, MAX_NAME)
APPLICATION = _text("[a-z][a-z0-9_]*", 1, 55)
OPERATION = _text("[A-Za-z][A-Za-z0-9_]*", 1, 63)
OPERATIONS: Schema = {"minItems": 1, "maxItems": MAX_OPERATIONS}
