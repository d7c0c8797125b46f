"""What is answered: bodies of JSON, read as the nouns of the book.

Of a hold the service does not tell ``grants`` and ``closed_by``: they stay empty.
"""

from __future__ import annotations

import msgspec

from shared_ledger.book import (
    Balance,
    Entry,
    Grant,
    Held,
    Hold,
    Outcome,
    Page,
    Posted,
    Quote,
    Statement,
)
from shared_ledger.client.problems import refusal_of


class _Said(msgspec.Struct):
    """What stands beside the fields of an entry or a hold; of a problem, its type."""

    replayed: bool = False
    type: str | None = None


class _Together(msgspec.Struct):
    entries: list[Entry]
    replayed: bool


class _Results(msgspec.Struct):
    results: list[msgspec.Raw]


class _Grants(msgspec.Struct):
    grants: list[Grant]


class _Holds(msgspec.Struct):
    holds: list[Hold]


balance = msgspec.json.Decoder(Balance).decode
page = msgspec.json.Decoder(Page).decode
quote = msgspec.json.Decoder(Quote).decode
statement = msgspec.json.Decoder(Statement).decode
hold = msgspec.json.Decoder(Hold).decode

_entry = msgspec.json.Decoder(Entry).decode
_said = msgspec.json.Decoder(_Said).decode
_together = msgspec.json.Decoder(_Together).decode
_results = msgspec.json.Decoder(_Results).decode
_grants = msgspec.json.Decoder(_Grants).decode
_holds = msgspec.json.Decoder(_Holds).decode


def posted(body: bytes | msgspec.Raw) -> Posted:
    """Read one entry."""
    return Posted(_entry(body), _said(body).replayed)


def posted_together(body: bytes) -> Posted:
    """Read entries that happened together."""
    answer = _together(body)
    if not answer.entries:
        raise msgspec.ValidationError("an answer without an entry")
    return Posted(answer.entries[0], answer.replayed, tuple(answer.entries[1:]))


def held(body: bytes) -> Held:
    """Read a hold that was placed or released."""
    return Held(hold(body), _said(body).replayed)


def results(body: bytes) -> list[Outcome]:
    """Read the results of a batch: what was refused is a value."""
    return [
        posted(raw) if _said(raw).type is None else refusal_of(raw)
        for raw in _results(body).results
    ]


def grants(body: bytes) -> list[Grant]:
    """Read grants."""
    return _grants(body).grants


def holds(body: bytes) -> list[Hold]:
    """Read holds."""
    return _holds(body).holds
