"""Batches of postings, in as many calls as they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from shared_ledger.book import Outcome, Posting
from shared_ledger.client import answers
from shared_ledger.client.calls import Call, encoded, posting_fields
from shared_ledger.errors import BatchRefused, InvalidPosting, Refusal
from shared_ledger.operations import Application

MAX_POSTINGS = 1_000
"""How many postings the service takes at once."""

MAX_BYTES = 1024 * 1024
"""How long a body may be."""

_FRAME = len(b'{"entries":[],"atomic":false}')


class Batch:
    """Postings on their way: ``calls`` are to be made in order, ``outcomes`` puts them together.

    A posting that cannot be sent is refused in its place, as in the library.
    """

    def __init__(
        self, application: Application[Any], postings: Sequence[Posting[Any]], *, atomic: bool
    ) -> None:
        self._asked = [_asked(application, posting) for posting in postings]
        self._atomic = atomic
        self._answered: list[Outcome] = []

    def calls(self) -> Iterator[Call[list[Outcome]]]:
        """Give the calls to make.

        Raises
        ------
        InvalidPosting
            If an atomic batch is too long for one call.
        """
        bodies = [one for one in self._asked if isinstance(one, bytes)]
        if not self._atomic:
            for chunk in _chunks(bodies):
                yield _call(chunk, atomic=False)
        elif bodies and len(bodies) == len(self._asked):
            if len(bodies) > MAX_POSTINGS:
                raise InvalidPosting(
                    "requests", f"of an atomic batch are at most {MAX_POSTINGS}, not {len(bodies)}"
                )
            if _FRAME + sum(len(body) + 1 for body in bodies) > MAX_BYTES:
                raise InvalidPosting(
                    "requests", f"of an atomic batch are at most {MAX_BYTES} bytes of JSON"
                )
            yield _call(bodies, atomic=True)

    def take(self, outcomes: list[Outcome]) -> None:
        """Take the answer of the next call."""
        self._answered.extend(outcomes)

    def outcomes(self) -> list[Outcome]:
        """Return an outcome for each posting."""
        refused = [
            (place, one) for place, one in enumerate(self._asked) if isinstance(one, Refusal)
        ]
        if self._atomic and refused:
            place, first = refused[0]
            others = BatchRefused(position=place, reason=first.code)
            return [one if isinstance(one, Refusal) else others for one in self._asked]
        answered = iter(self._answered)
        return [one if isinstance(one, Refusal) else next(answered) for one in self._asked]


def _asked(application: Application[Any], posting: object) -> bytes | Refusal:
    """Return a posting's body, or why it cannot be sent."""
    if not isinstance(posting, Posting):
        kind = type(posting).__name__
        return InvalidPosting("request", f"is a posting, not {kind}: others go one by one")
    try:
        body = encoded(posting_fields(application, posting))
    except InvalidPosting as refusal:
        return refusal
    if _FRAME + len(body) > MAX_BYTES:
        return InvalidPosting("request", f"is more than {MAX_BYTES} bytes of JSON")
    return body


def _chunks(bodies: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Split a batch into what the service takes at once."""
    chunk: list[bytes] = []
    size = _FRAME
    for body in bodies:
        if len(chunk) == MAX_POSTINGS or (chunk and size + len(body) + 1 > MAX_BYTES):
            yield chunk
            chunk, size = [], _FRAME
        chunk.append(body)
        size += len(body) + 1
    if chunk:
        yield chunk


def _call(bodies: Sequence[bytes], *, atomic: bool) -> Call[list[Outcome]]:
    count = len(bodies)

    def read(body: bytes) -> list[Outcome]:
        outcomes = answers.results(body)
        if len(outcomes) != count:
            raise msgspec.ValidationError(f"{len(outcomes)} results of {count} postings")
        return outcomes

    def all_refused(refusal: Refusal, position: int) -> list[Outcome]:
        others = BatchRefused(position=position, reason=refusal.code)
        return [refusal if place == position else others for place in range(count)]

    body = encoded({"entries": [msgspec.Raw(body) for body in bodies], "atomic": atomic})
    return Call("POST", "/ledger/batch", read, body, on_refusal=all_refused if atomic else None)
