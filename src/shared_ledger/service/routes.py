"""The ledger's routes: here the hot ones, whose handlers do nothing that is not needed."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import Response

from shared_ledger.operations import CREDITS
from shared_ledger.service import budgets, holds, keys, posting, reading, users
from shared_ledger.service import documentation as docs
from shared_ledger.service.answers import Json, answer_entry, encode, ledger_of
from shared_ledger.service.auth import gate_of
from shared_ledger.service.authorisation import check_posting, permitted
from shared_ledger.service.bodies import decode_body, decoded, posting_of
from shared_ledger.service.direct import DirectRoute, read_body
from shared_ledger.service.parameters import query

__all__ = ["ROUTERS", "decode_body", "encode", "ledger_of", "router"]

router = APIRouter(route_class=DirectRoute, tags=["ledger"])

# What shows an owner's comes before what shows a hold: an owner may be called "holds", but no
# hold's number is a word.
ROUTERS = (
    router,
    posting.router,
    reading.router,
    holds.router,
    holds.one_hold,
    users.router,
    keys.router,
)


async def post_entry(request: Request) -> Response:
    """Post one operation. The same nonce and body again answer 200 with the first entry."""
    permit = await permitted(request)
    body = decoded(decode_body, await read_body(request))
    ledger = ledger_of(request)
    posting = posting_of(ledger.application, body)
    check_posting(request, permit, posting)
    if permit.caller.daily_budget is not None:
        return answer_entry(await budgets.post(ledger, gate_of(request), permit.caller, posting))
    return answer_entry(await ledger.apost(posting))


async def get_ledger(request: Request) -> Response:
    """Show what an owner has: in all, to spend of it, held, expiring, and owed.

    With `at` what the owner had then, or will have then if nothing happens but expiry.
    """
    await permitted(request)
    if request.scope["query_string"]:
        return await reading.balance_as_asked(request)
    balance = await ledger_of(request).abalance(request.path_params["owner_id"], asset=CREDITS)
    return Json(encode(balance))


async def get_balance(request: Request) -> Response:
    """Show an owner's balance, and nothing else."""
    await permitted(request)
    query(request)
    owner_id = request.path_params["owner_id"]
    balance = await ledger_of(request).abalance(owner_id, asset=CREDITS)
    return Json(encode({"owner_id": owner_id, "balance": balance.balance}))


router.add_api_route(
    "/ledger",
    post_entry,
    methods=["POST"],
    summary="Post one operation",
    operation_id="post_entry",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.POST,
)
router.add_api_route("/ledger/", post_entry, methods=["POST"], include_in_schema=False)
router.add_api_route(
    "/ledger/{owner_id}",
    get_ledger,
    methods=["GET"],
    summary="Show what an owner has",
    operation_id="get_ledger",
    response_class=Response,
    openapi_extra=docs.LEDGER,
)
router.add_api_route(
    "/balance/{owner_id}",
    get_balance,
    methods=["GET"],
    summary="Show an owner's balance",
    operation_id="get_balance",
    response_class=Response,
    openapi_extra=docs.BALANCE,
)
