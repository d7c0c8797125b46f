"""What the routes take: bodies of JSON, and the requests that they become.

A body is decoded by its type, which says what is wrong and where. Whether its values make sense is
checked where every caller's are: in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar

import msgspec
from fastapi import Request

from shared_ledger.book import Group, Part, PlaceHold, Posting
from shared_ledger.errors import InvalidPosting
from shared_ledger.operations import CREDITS, Application
from shared_ledger.requests import MAX_GROUP
from shared_ledger.service import schemas
from shared_ledger.service.direct import MAX_BODY_BYTES, read_body
from shared_ledger.service.problems import NotJson
from shared_ledger.service.schemas import says

MAX_BATCH = 1_000
MAX_BATCH_BYTES = 1024 * 1024

_BodyT = TypeVar("_BodyT")

# Described, and checked where every caller's are.
OwnerId = Annotated[str, says(schemas.OWNER_ID)]
Nonce = Annotated[str, says(schemas.NONCE)]
Amount = Annotated[int, says(schemas.AMOUNT)]
Quantity = Annotated[int, says(schemas.QUANTITY)]
Metadata = Annotated[dict[str, Any], says(schemas.METADATA)]
Lifetime = Annotated[int, says(schemas.LIFETIME)]
Priority = Annotated[int, says(schemas.PRIORITY)]
Operation = Annotated[str, says(schemas.OPERATION)]
Operations = Annotated[list[Operation], says(schemas.OPERATIONS)]


class PostBody(msgspec.Struct, forbid_unknown_fields=True):
    """One operation to post; `expires_in` is in whole seconds."""

    operation: Operation
    owner_id: OwnerId
    nonce: Nonce
    amount: Amount | None = None
    metadata: Metadata | None = None
    expires_in: Lifetime | None = None
    priority: Priority | None = None


class BatchBody(msgspec.Struct, forbid_unknown_fields=True):
    """Up to 1,000 operations to post."""

    # Each is decoded on its own: what is wrong in one must not hurt the others.
    entries: list[msgspec.Raw]
    atomic: bool = False


class PartBody(msgspec.Struct, forbid_unknown_fields=True):
    """One entry of a group; `expires_in` is in whole seconds."""

    operation: Operation
    owner_id: OwnerId
    amount: Amount | None = None
    metadata: Metadata | None = None
    expires_in: Lifetime | None = None
    priority: Priority | None = None


class GroupBody(msgspec.Struct, forbid_unknown_fields=True):
    """Up to 100 entries that happen together or not at all; the nonce is the first owner's."""

    nonce: Nonce
    entries: Annotated[list[PartBody], says({"minItems": 1, "maxItems": MAX_GROUP})]


class TransferBody(msgspec.Struct, forbid_unknown_fields=True):
    """What moves from one owner to another; the nonce is the source's."""

    source: OwnerId
    destination: OwnerId
    amount: Quantity
    nonce: Nonce
    asset: Annotated[str, says(schemas.ASSET)] = CREDITS
    metadata: Metadata | None = None


class ReverseBody(msgspec.Struct, forbid_unknown_fields=True):
    """How much of an entry is taken back: all that is left of it, or `amount` (positive)."""

    nonce: Nonce
    amount: Quantity | None = None
    allow_debt: bool = False
    metadata: Metadata | None = None


class HoldBody(msgspec.Struct, forbid_unknown_fields=True):
    """What to reserve, `amount` (positive), and until when: 7 days if neither is said."""

    owner_id: OwnerId
    operation: Operation
    nonce: Nonce
    amount: Quantity | None = None
    expires_in: Lifetime | None = None
    expires_at: Annotated[datetime, says(schemas.TIME)] | None = None
    metadata: Metadata | None = None


class CaptureBody(msgspec.Struct, forbid_unknown_fields=True):
    """How much of a hold is taken, all that is left or `amount`; `final` releases the rest."""

    nonce: Nonce
    amount: Quantity | None = None
    final: bool = True
    metadata: Metadata | None = None


class ReleaseBody(msgspec.Struct, forbid_unknown_fields=True):
    """The caller's name for this release."""

    nonce: Nonce


class RegisterBody(msgspec.Struct, forbid_unknown_fields=True):
    """The name and the password of a new user."""

    username: Annotated[str, says(schemas.USERNAME)]
    password: Annotated[str, says(schemas.PASSWORD)]

    def __repr__(self) -> str:
        return f"RegisterBody({self.username!r})"


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """What a key is for: without `application` the one that is served here, null is every one.

    Without `operations` it is for all of them; `TRANSFER` is one, too.
    """

    name: Annotated[str, says(schemas.KEY_NAME)]
    application: Annotated[str, says(schemas.APPLICATION)] | msgspec.UnsetType | None = (
        msgspec.UNSET
    )
    operations: Operations | None = None
    daily_budget: Annotated[int, says(schemas.COUNT)] | None = None


class RotateBody(msgspec.Struct, forbid_unknown_fields=True):
    """For how many seconds the old secret still opens: by default it does not."""

    grace_s: Annotated[int, says(schemas.GRACE)] = 0


BODIES = (
    PostBody,
    BatchBody,
    PartBody,
    GroupBody,
    TransferBody,
    ReverseBody,
    HoldBody,
    CaptureBody,
    ReleaseBody,
    RegisterBody,
    KeyBody,
    RotateBody,
)

decode_body = msgspec.json.Decoder(PostBody).decode
decode_batch = msgspec.json.Decoder(BatchBody).decode
decode_group = msgspec.json.Decoder(GroupBody).decode
decode_transfer = msgspec.json.Decoder(TransferBody).decode
decode_reverse = msgspec.json.Decoder(ReverseBody).decode
decode_hold = msgspec.json.Decoder(HoldBody).decode
decode_capture = msgspec.json.Decoder(CaptureBody).decode
decode_release = msgspec.json.Decoder(ReleaseBody).decode
decode_register = msgspec.json.Decoder(RegisterBody).decode
decode_key = msgspec.json.Decoder(KeyBody).decode
decode_rotate = msgspec.json.Decoder(RotateBody).decode


async def read_json(
    request: Request, decode: Callable[[Any], _BodyT], limit: int = MAX_BODY_BYTES
) -> _BodyT:
    """Return the request's body, decoded.

    Raises
    ------
    HTTPException
        413 if it is longer than ``limit``; 400 if it is not JSON (``NotJson``).
    InvalidPosting
        If a field of it is wrong.
    """
    return decoded(decode, await read_body(request, limit))


def decoded(decode: Callable[[Any], _BodyT], raw: bytes | msgspec.Raw) -> _BodyT:
    """Decode JSON; raises ``InvalidPosting`` or ``NotJson``."""
    try:
        return decode(raw)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotJson(f"the body is not JSON: {error}") from None


def invalid(error: msgspec.ValidationError) -> InvalidPosting:
    """Say which field is wrong: msgspec ends its sentence with `at `$.field``."""
    sentence, _, place = str(error).rpartition(" - at `$")
    if not sentence:
        sentence, place = place, ""
    field = place.removeprefix(".").rstrip("`")
    for start, problem in (
        ("Object missing required field `", "is required"),
        ("Object contains unknown field `", "is not a field of this"),
    ):
        if sentence.startswith(start):
            name = sentence.removeprefix(start).removesuffix("`")
            return InvalidPosting(f"{field}.{name}" if field else name, problem)
    return InvalidPosting(field or "body", f"is wrong: {sentence[:1].lower()}{sentence[1:]}")


def lifetime(seconds: int | None) -> timedelta | None:
    """Return how long something lasts."""
    try:
        return None if seconds is None else timedelta(seconds=seconds)
    except OverflowError:
        raise InvalidPosting("expires_in", "is more seconds than anything lasts") from None


def posting_of(application: Application[Any], body: PostBody) -> Posting[Any]:
    """Return what a body asks to post."""
    return Posting(
        application.operation(body.operation),
        body.owner_id,
        body.nonce,
        body.amount,
        body.metadata,
        None if body.expires_in is None else lifetime(body.expires_in),
        body.priority,
    )


def group_of(application: Application[Any], body: GroupBody) -> Group[Any]:
    """Return the group that a body asks to post."""
    parts = []
    for number, part in enumerate(body.entries):
        try:
            parts.append(
                Part(
                    application.operation(part.operation),
                    part.owner_id,
                    part.amount,
                    part.metadata,
                    lifetime(part.expires_in),
                    part.priority,
                )
            )
        except InvalidPosting as refusal:
            raise InvalidPosting(f"entries[{number}].{refusal.field}", refusal.problem) from None
    return Group(body.nonce, parts)


def place_of(application: Application[Any], body: HoldBody) -> PlaceHold[Any]:
    """Return the hold that a body asks to place."""
    return PlaceHold(
        application.operation(body.operation),
        body.owner_id,
        body.nonce,
        body.amount,
        lifetime(body.expires_in),
        body.expires_at,
        body.metadata,
    )
