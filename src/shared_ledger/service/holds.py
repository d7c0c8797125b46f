"""The routes that place, capture and release holds."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from shared_ledger.book import CaptureHold, ReleaseHold
from shared_ledger.service import documentation as docs
from shared_ledger.service.answers import answer, answer_entry, answer_hold, ledger_of, shown
from shared_ledger.service.authorisation import check_hold, check_posting, permitted
from shared_ledger.service.bodies import (
    decode_capture,
    decode_hold,
    decode_release,
    place_of,
    read_json,
)
from shared_ledger.service.direct import DirectRoute
from shared_ledger.service.parameters import number, query

router = APIRouter(route_class=DirectRoute, tags=["holds"])

# Not found by the direct way, which would take it for the history of an owner called "holds".
one_hold = APIRouter(tags=["holds"])


async def place_hold(request: Request) -> Response:
    """Reserve credits for an operation that takes some, until they are captured or released."""
    permit = await permitted(request)
    body = await read_json(request, decode_hold)
    ledger = ledger_of(request)
    place = place_of(ledger.application, body)
    check_posting(request, permit, place)
    return answer_hold(await ledger.apost(place))


async def get_hold(request: Request) -> Response:
    """Show a hold of this application, as it is now."""
    permit = await permitted(request)
    query(request)
    hold_id = number("hold_id", request.path_params["hold_id"])
    await check_hold(request, permit, hold_id, read=True)
    return answer(shown(await ledger_of(request).ahold(hold_id)))


async def capture_hold(request: Request) -> Response:
    """Take what a hold reserves, all that is left of it or `amount`.

    This ends the hold and releases the rest, unless `final` is false.
    """
    permit = await permitted(request)
    hold_id = number("hold_id", request.path_params["hold_id"])
    body = await read_json(request, decode_capture)
    await check_hold(request, permit, hold_id)
    capture = CaptureHold(hold_id, body.nonce, body.amount, body.final, body.metadata)
    return answer_entry(await ledger_of(request).apost(capture))


async def release_hold(request: Request) -> Response:
    """End a hold: what is left of it becomes available again."""
    permit = await permitted(request)
    hold_id = number("hold_id", request.path_params["hold_id"])
    body = await read_json(request, decode_release)
    await check_hold(request, permit, hold_id)
    return answer_hold(await ledger_of(request).apost(ReleaseHold(hold_id, body.nonce)))


router.add_api_route(
    "/ledger/holds",
    place_hold,
    methods=["POST"],
    summary="Place a hold",
    operation_id="place_hold",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.PLACE,
)
router.add_api_route(
    "/ledger/holds/{hold_id}/capture",
    capture_hold,
    methods=["POST"],
    summary="Capture a hold",
    operation_id="capture_hold",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.CAPTURE,
)
router.add_api_route(
    "/ledger/holds/{hold_id}/release",
    release_hold,
    methods=["POST"],
    summary="Release a hold",
    operation_id="release_hold",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.RELEASE,
)
one_hold.add_api_route(
    "/ledger/holds/{hold_id}",
    get_hold,
    methods=["GET"],
    summary="Show a hold",
    operation_id="get_hold",
    response_class=Response,
    openapi_extra=docs.HOLD,
)
