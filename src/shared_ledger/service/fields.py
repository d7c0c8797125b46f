"""What the fields of an application's bodies are: types for its models.

They refuse what the ledger or the database would refuse, by the field's name.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from shared_ledger.checks import check_nonce, check_owner_id
from shared_ledger.errors import InvalidPosting, NonceReused
from shared_ledger.operations import INT64_MAX
from shared_ledger.service import schemas

MAX_TEXT = 20_000
MAX_NONCE = 200
"""Shorter than the ledger's own limit: an application puts a word of its own before it."""
MAX_SHOWN = 60

# They join letters and emoji, which is to be seen.
_JOINERS = "\u200c\u200d"


class Body(BaseModel):
    """A body of JSON: what is in no field of it, or of another type, is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Shown(BaseModel):
    """What a route answers with."""

    model_config = ConfigDict(extra="forbid")

    @classmethod
    def of(cls, record: object, **more: object) -> Self:
        """Show a record's attributes; ``more`` are fields that it has not, or shows otherwise."""
        found = {name: getattr(record, name) for name in cls.model_fields if name not in more}
        return cls.model_validate(found | more)


class Written(Shown):
    """What a route answers with that writes something once for each nonce."""

    replayed: Annotated[bool, Field(description="Whether it had been written before.")]


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("has a NUL character, which cannot be stored")
    return text


def _readable(text: str) -> str:
    if text != text.strip() or text[0] in _JOINERS or not all(map(_is_visible, text)):
        raise ValueError("has characters that cannot be seen, or begins or ends with a space")
    return text


def _is_visible(character: str) -> bool:
    # Spaces of other widths are no others than the one of the keyboard.
    return (
        character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs"
    )


def _digits(given: object) -> object:
    # Python's own readers take much besides: underscores, spaces, digits of other scripts.
    if isinstance(given, str) and not (given.isascii() and given.isdigit()):
        raise ValueError("is a whole number")
    return given


def _in_utc(at: datetime) -> datetime:
    return at.astimezone(UTC)


def _nonce(text: str) -> str:
    try:
        check_nonce(text)
    except InvalidPosting as refusal:
        raise ValueError(refusal.problem) from None
    if text.startswith("@"):
        raise ValueError("begins with '@', which is kept for services")
    return text


def _owner(text: str) -> str:
    try:
        return check_owner_id(text)
    except InvalidPosting as refusal:
        raise ValueError(refusal.problem) from None


def own_nonce(purpose: str, nonce: object) -> str:
    """Return the nonce of an entry that an application posts for somebody.

    Only services can use one that begins with '@', so no user can use it up, and the same name for
    two purposes is two nonces.
    """
    return f"@{purpose}:{nonce}"


def check_same(
    owner_id: str, nonce: str, *, recorded: Mapping[str, object], given: Mapping[str, object]
) -> None:
    """Compare what is asked now with what a nonce recorded; a long text is shown in part.

    Raises
    ------
    NonceReused
        Naming the first field that differs.
    """
    for field, value in given.items():
        if recorded[field] != value:
            before, now = _brief(recorded[field]), _brief(value)
            raise NonceReused(owner_id, nonce, field=field, recorded=before, given=now)


def _brief(value: object) -> object:
    if isinstance(value, str) and len(value) > MAX_SHOWN:
        return f"{value[:MAX_SHOWN]}…"
    return value


Line = Annotated[
    str,
    Field(min_length=1, max_length=255, json_schema_extra=schemas.LINE),
    AfterValidator(_readable),
]
"""One line that people read: a title, a name."""

Text = Annotated[
    str,
    Field(min_length=1, max_length=MAX_TEXT, json_schema_extra=schemas.TEXT),
    AfterValidator(_storable),
]
"""A text of many lines."""

Nonce = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_NONCE,
        description="The caller's name for this request: the same again changes nothing.",
        examples=["2025-02-13T21:07:11.064Z"],
        json_schema_extra=schemas.WORD,
    ),
    AfterValidator(_nonce),
]

OwnerId = Annotated[
    str,
    Field(
        min_length=1,
        max_length=255,
        description="Whose account.",
        examples=["user1"],
        json_schema_extra=schemas.WORD,
    ),
    AfterValidator(_owner),
]

Quantity = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""How many, or how many credits: more than none."""

Price = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""So many credits, or none."""

Id = Annotated[int, Field(ge=1, le=INT64_MAX), BeforeValidator(_digits)]
"""The number of a row, in a body as in a path."""

Time = Annotated[datetime, AfterValidator(_in_utc), Field(examples=["2026-01-02T03:04:05.678901Z"])]
"""When something happened, shown in UTC whatever the database's time zone is."""
