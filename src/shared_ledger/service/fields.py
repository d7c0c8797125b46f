"""What the fields of an application's bodies are: types for its models.

They refuse what the ledger or the database would refuse, by the field's name.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from shared_ledger.checks import check_nonce, check_owner_id
from shared_ledger.errors import InvalidPosting

MAX_TEXT = 20_000
MAX_NONCE = 200
"""Shorter than the ledger's own limit: an application puts a word of its own before it."""


class Body(BaseModel):
    """A body of JSON: what is in no field of it, or of another type, is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Shown(BaseModel):
    """What a route answers with."""

    model_config = ConfigDict(extra="forbid", from_attributes=True)


def _storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("has a NUL character, which cannot be stored")
    return text


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("has characters that cannot be seen, or begins or ends with a space")
    return text


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


Line = Annotated[str, Field(min_length=1, max_length=255), AfterValidator(_printable)]
"""One line that people read: a title, a name."""

Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT), AfterValidator(_storable)]
"""A text of many lines."""

Nonce = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_NONCE,
        description="The caller's name for this request: the same again changes nothing.",
        examples=["2025-02-13T21:07:11.064Z"],
    ),
    AfterValidator(_nonce),
]

OwnerId = Annotated[
    str,
    Field(min_length=1, max_length=255, description="Whose account.", examples=["user1"]),
    AfterValidator(_owner),
]

Quantity = Annotated[int, Field(ge=1, le=1_000_000_000)]
"""How many, or how many credits: more than none."""

Price = Annotated[int, Field(ge=0, le=1_000_000_000)]
"""So many credits, or none."""

Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
