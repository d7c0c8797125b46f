"""What is sent: each request of the library as one call of the service.

The service checks what is asked. Here is checked only what could not be sent as it is meant.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import msgspec

from shared_ledger.book import (
    Balance,
    CaptureHold,
    Grant,
    Group,
    Hold,
    Page,
    Part,
    PlaceHold,
    Posting,
    Quote,
    ReleaseHold,
    Reversal,
    Statement,
    Transfer,
)
from shared_ledger.client import answers
from shared_ledger.errors import InvalidPosting, Refusal
from shared_ledger.operations import INT64_MAX, Application

AnswerT = TypeVar("AnswerT")

CONTENT = {"content-type": "application/json"}

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Call(Generic[AnswerT]):
    """One call of the service; it may be made again, since what it posts has a nonce.

    Attributes
    ----------
    read
        Makes the result of the answer's body.
    on_refusal
        Makes the result of a refusal and of the position in the batch that it is for.
    of_group
        Whether a refusal says ``entries`` where the library says ``parts``.
    """

    method: Literal["GET", "POST"]
    path: str
    read: Callable[[bytes], AnswerT]
    body: bytes | None = None
    parameters: Mapping[str, str] = field(default_factory=dict)
    on_refusal: Callable[[Refusal, int], AnswerT] | None = None
    of_group: bool = False


def new_nonce() -> str:
    """Return a nonce that nobody has used: a random UUID.

    Keep it with what it is for: only the same nonce makes it safe to post the same again.
    """
    return str(uuid.uuid4())


def post_call(application: Application[Any], request: object) -> Call[Any]:
    """Return the call that posts a request.

    Raises
    ------
    InvalidPosting
        If a field of it cannot be sent.
    """
    match request:
        case Posting():
            fields = posting_fields(application, request)
            call: Call[Any] = Call("POST", "/ledger", answers.posted, encoded(fields))
        case Group():
            fields = {"nonce": request.nonce, "entries": _parts(application, request)}
            path = "/ledger/groups"
            call = Call("POST", path, answers.posted_together, encoded(fields), of_group=True)
        case Transfer():
            fields = {name: getattr(request, name) for name in request.__struct_fields__}
            body = encoded(fields | {"metadata": _metadata(request.metadata)})
            call = Call("POST", "/ledger/transfers", answers.posted_together, body)
        case PlaceHold():
            body = encoded(_hold_fields(application, request))
            call = Call("POST", "/ledger/holds", answers.held, body)
        case CaptureHold():
            path = f"/ledger/holds/{_id('hold_id', request.hold_id)}/capture"
            fields = {"nonce": request.nonce, "amount": request.amount, "final": request.final}
            body = encoded(fields | {"metadata": _metadata(request.metadata)})
            call = Call("POST", path, answers.posted, body)
        case ReleaseHold():
            path = f"/ledger/holds/{_id('hold_id', request.hold_id)}/release"
            call = Call("POST", path, answers.held, encoded({"nonce": request.nonce}))
        case Reversal():
            if request.operation is not None:
                raise InvalidPosting("operation", "of a reversal cannot be sent: leave it out")
            path = f"/ledger/entries/{_id('entry_id', request.entry_id)}/reverse"
            fields = {
                "nonce": request.nonce,
                "amount": request.amount,
                "allow_debt": request.allow_debt,
                "metadata": _metadata(request.metadata),
            }
            call = Call("POST", path, answers.posted_together, encoded(fields))
        case _:
            kind = type(request).__name__
            raise InvalidPosting("request", f"is a posting or another request, not {kind}")
    return call


def quote_call(application: Application[Any], posting: Posting[Any]) -> Call[Quote]:
    """Return the call that tells what a posting would do; raises as ``post_call``."""
    if not isinstance(posting, Posting):
        kind = type(posting).__name__
        raise InvalidPosting("request", f"is a posting, not {kind}: others cannot be quoted here")
    body = encoded(posting_fields(application, posting))
    return Call("POST", "/ledger/quote", answers.quote, body)


def balance_call(owner_id: str, asset: str, at: datetime | None) -> Call[Balance]:
    """Return the call that shows what an owner has."""
    return Call("GET", _owner(owner_id), answers.balance, parameters=_parameters(asset, at=at))


def history_call(
    owner_id: str, asset: str, limit: int, cursor: int | None, at: datetime | None
) -> Call[Page]:
    """Return the call that shows a page of an owner's entries."""
    parameters = _parameters(asset, limit=limit, cursor=cursor, at=at)
    return Call("GET", _owner(owner_id, "entries"), answers.page, parameters=parameters)


def hold_call(hold_id: int) -> Call[Hold]:
    """Return the call that shows a hold."""
    return Call("GET", f"/ledger/holds/{_id('hold_id', hold_id)}", answers.hold)


def holds_call(owner_id: str, asset: str) -> Call[list[Hold]]:
    """Return the call that shows an owner's open holds."""
    path = _owner(owner_id, "holds")
    return Call("GET", path, answers.holds, parameters=_parameters(asset))


def grants_call(owner_id: str, asset: str) -> Call[list[Grant]]:
    """Return the call that shows an owner's credits that expire."""
    path = _owner(owner_id, "grants")
    return Call("GET", path, answers.grants, parameters=_parameters(asset))


def statement_call(owner_id: str, start: datetime, end: datetime, asset: str) -> Call[Statement]:
    """Return the call that shows an owner's statement."""
    parameters = _parameters(asset, **{"from": start, "to": end})
    return Call("GET", _owner(owner_id, "statement"), answers.statement, parameters=parameters)


def posting_fields(
    application: Application[Any], posting: Posting[Any] | Part[Any]
) -> dict[str, Any]:
    """Return the fields of a posting, or of a part of a group, as they are sent."""
    fields = {name: getattr(posting, name) for name in posting.__struct_fields__}
    fields["operation"] = _operation(application, posting.operation)
    fields["metadata"] = _metadata(posting.metadata)
    fields["expires_in"] = _seconds(posting.expires_in)
    return fields


def encoded(fields: Mapping[str, Any]) -> bytes:
    """Return a body of JSON; raises ``InvalidPosting`` for a field that cannot be JSON."""
    try:
        return msgspec.json.encode(fields)
    except (TypeError, ValueError, OverflowError, RecursionError):
        for name, value in fields.items():
            _encoded_field(name, value)
        raise


def _encoded_field(name: str, value: object) -> None:
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InvalidPosting(name, f"cannot be sent: {error}") from None


def _parts(application: Application[Any], group: Group[Any]) -> list[msgspec.Raw]:
    parts = []
    for number, part in enumerate(group.parts):
        try:
            parts.append(msgspec.Raw(encoded(posting_fields(application, part))))
        except InvalidPosting as refusal:
            raise InvalidPosting(f"parts[{number}].{refusal.field}", refusal.problem) from None
    return parts


def _hold_fields(application: Application[Any], place: PlaceHold[Any]) -> dict[str, Any]:
    fields = {name: getattr(place, name) for name in place.__struct_fields__}
    fields["operation"] = _operation(application, place.operation)
    fields["metadata"] = _metadata(place.metadata)
    fields["expires_in"] = _seconds(place.expires_in)
    if place.expires_at is not None:
        fields["expires_at"] = _moment("expires_at", place.expires_at)
    return fields


def _operation(application: Application[Any], operation: object) -> str:
    if not isinstance(operation, str) or operation not in application.rules:
        raise application.unknown_operation(operation)
    return str.__str__(operation)


def _metadata(metadata: object) -> msgspec.Raw | None:
    """Write metadata as the library does: what JSON cannot hold is refused, not turned to text."""
    if metadata is None:
        return None
    if not isinstance(metadata, Mapping):
        raise InvalidPosting("metadata", f"is a JSON object, not {type(metadata).__name__}")
    try:
        text = json.dumps(
            dict(metadata), allow_nan=False, ensure_ascii=False, separators=(",", ":")
        )
        faithful = json.loads(text) == metadata
        raw = msgspec.Raw(text.encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidPosting("metadata", f"is not JSON: {error}") from None
    if not faithful:
        raise InvalidPosting("metadata", "is not JSON: keys are strings, sequences are lists")
    return raw


def _seconds(lasting: object) -> int | None:
    if lasting is None:
        return None
    if not isinstance(lasting, timedelta):
        raise InvalidPosting("expires_in", f"is a timedelta, not {type(lasting).__name__}")
    if lasting % _SECOND:
        raise InvalidPosting("expires_in", f"is whole seconds to the service, not {lasting}")
    return lasting // _SECOND


def _moment(name: str, at: object) -> str:
    """Write a time as RFC 3339 does, in UTC."""
    if not isinstance(at, datetime):
        raise InvalidPosting(name, f"is a datetime, not {type(at).__name__}")
    if at.tzinfo is None:
        raise InvalidPosting(name, "has no time zone; say which, UTC for instance")
    try:
        return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
    except OverflowError:
        raise InvalidPosting(name, "is outside the calendar in UTC") from None


def _id(name: str, number: object) -> int:
    # It becomes a part of the path, where text could name something else.
    if type(number) is not int or not 0 < number <= INT64_MAX:
        raise InvalidPosting(name, "is a positive 64-bit integer")
    return number


def _owner(owner_id: object, of: str | None = None) -> str:
    """Return the path of what is an owner's."""
    if not isinstance(owner_id, str):
        raise InvalidPosting("owner_id", f"is a string, not {type(owner_id).__name__}")
    if not owner_id:
        raise InvalidPosting("owner_id", "is empty")
    try:
        name = quote(owner_id, safe="")
    except UnicodeEncodeError:
        raise InvalidPosting("owner_id", "is not Unicode: it holds half a character") from None
    if owner_id in (".", ".."):
        # Else these would be steps in the path.
        name = name.replace(".", "%2E")
    return f"/ledger/{name}" if of is None else f"/ledger/{name}/{of}"


def _parameters(asset: str, **more: datetime | int | None) -> dict[str, str]:
    given = {
        name: str(value) if isinstance(value, int) else _moment(name, value)
        for name, value in more.items()
        if value is not None
    }
    return {"asset": asset, **given}
