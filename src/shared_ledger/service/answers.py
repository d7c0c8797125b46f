"""What the routes answer: JSON, written once and not built twice."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from fastapi import Request
from starlette.responses import Response

from shared_ledger.book import Held, Hold, Posted
from shared_ledger.ledger import Ledger

JSON = "application/json"
SHOWN = tuple(name for name in Hold.__struct_fields__ if name not in {"closed_by", "grants"})
"""What of a hold is everybody's affair."""

_CONTENT_TYPE = (b"content-type", JSON.encode())

encode = msgspec.json.Encoder().encode


class Json(Response):
    """An answer of which the body is JSON already: what there is to say of it is soon said."""

    def init_headers(self, headers: object = None) -> None:  # noqa: ARG002  # it is given none
        """Say how long the body is, and that it is JSON."""
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), _CONTENT_TYPE]


def ledger_of(request: Request) -> Ledger[Any]:
    """Return the ledger that this application serves."""
    ledger: Ledger[Any] = request.scope["app"].state.ledger
    return ledger


def shown(hold: Hold) -> dict[str, Any]:
    """Return what callers see of a hold."""
    return {name: getattr(hold, name) for name in SHOWN} | {"remaining": hold.remaining}


def with_fields(record: Any, fields: bytes) -> bytes:
    """Encode a record, and add fields that are encoded already."""
    return encode(record)[:-1] + b"," + fields + b"}"


def answer(content: Any) -> Response:
    """Answer 200 with what was asked for."""
    return Json(encode(content))


def answer_entry(posted: Posted) -> Response:
    """Answer with an entry: 201 if it was written now."""
    if posted.replayed:
        return Json(with_fields(posted.entry, b'"replayed":true'))
    return Json(with_fields(posted.entry, b'"replayed":false'), 201)


def answer_entries(posted: Posted) -> Response:
    """Answer with all entries that happened together: 201 if they were written now."""
    content = {"entries": (posted.entry, *posted.group), "replayed": posted.replayed}
    return Json(encode(content), 200 if posted.replayed else 201)


def answer_hold(held: Held) -> Response:
    """Answer with a hold: 201 if the request changed it now."""
    content = shown(held.hold) | {"replayed": held.replayed}
    return Json(encode(content), 200 if held.replayed else 201)


def answer_results(results: Sequence[bytes]) -> Response:
    """Answer 200 with results that are encoded already."""
    return Json(b'{"results":[' + b",".join(results) + b"]}")
