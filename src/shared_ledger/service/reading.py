"""The routes that show an owner's history, grants, holds and statements."""

from __future__ import annotations

import asyncio
import re

from fastapi import APIRouter, Request
from starlette.responses import Response

from shared_ledger.book import Statement
from shared_ledger.errors import InvalidPosting
from shared_ledger.operations import CREDITS
from shared_ledger.service import documentation as docs
from shared_ledger.service.answers import Json, answer, encode, ledger_of, shown, with_fields
from shared_ledger.service.authorisation import permitted
from shared_ledger.service.direct import DirectRoute
from shared_ledger.service.parameters import moment, number, query, required
from shared_ledger.statements import statement_csv

router = APIRouter(route_class=DirectRoute, tags=["ledger"])

PAGE = 50
CSV = "text/csv; charset=utf-8; header=present"

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_NAME_LENGTH = 64


async def balance_as_asked(request: Request) -> Response:
    """Show what an owner has of an asset, or had at a time, as the query string says."""
    given = query(request, "at", "asset")
    at = moment("at", given["at"]) if "at" in given else None
    asset = given.get("asset", CREDITS)
    owner_id = request.path_params["owner_id"]
    balance = await ledger_of(request).abalance(owner_id, asset=asset, at=at)
    if at is None:
        return answer(balance)
    return Json(with_fields(balance, b'"at":' + encode(at)))


async def get_entries(request: Request) -> Response:
    """Show a page of an owner's entries of all applications, newest first.

    `cursor` fetches the next page; it is null in the last one. With `at` only what had taken effect
    by then is shown.
    """
    await permitted(request)
    given = query(request, "limit", "cursor", "at", "asset")
    page = await ledger_of(request).ahistory(
        request.path_params["owner_id"],
        asset=given.get("asset", CREDITS),
        limit=number("limit", given["limit"]) if "limit" in given else PAGE,
        cursor=number("cursor", given["cursor"]) if "cursor" in given else None,
        at=moment("at", given["at"]) if "at" in given else None,
    )
    return answer(page)


async def get_grants(request: Request) -> Response:
    """Show an owner's credits that expire, at most 1,000, in the order they are spent."""
    await permitted(request)
    asset = query(request, "asset").get("asset", CREDITS)
    grants = await ledger_of(request).agrants(request.path_params["owner_id"], asset=asset)
    return answer({"grants": grants})


async def get_holds(request: Request) -> Response:
    """Show an owner's open holds of all applications, at most 1,000, the soonest expiry first."""
    await permitted(request)
    asset = query(request, "asset").get("asset", CREDITS)
    holds = await ledger_of(request).aholds(request.path_params["owner_id"], asset=asset)
    return answer({"holds": [shown(hold) for hold in holds]})


async def get_statement(request: Request) -> Response:
    """Show an owner's entries from a time up to but not at another, and their sums.

    `format=csv` gives a file for spreadsheets, in which the opening and the closing balance are
    rows of their own.
    """
    await permitted(request)
    given = query(request, "from", "to", "format", "asset")
    start = moment("from", required(given, "from"))
    end = moment("to", required(given, "to"))
    form = given.get("format", "json")
    if form not in ("json", "csv"):
        raise InvalidPosting("format", "is json or csv")
    statement = await ledger_of(request).astatement(
        request.path_params["owner_id"], start, end, asset=given.get("asset", CREDITS)
    )
    if form == "json":
        return answer(statement)
    # In a thread: a long one would keep others waiting.
    text = await asyncio.to_thread("".join, statement_csv(statement))
    disposition = {"content-disposition": f'attachment; filename="{_file_name(statement)}"'}
    return Response(text, 200, disposition, CSV)


def _file_name(statement: Statement) -> str:
    """Name the file: ASCII letters, digits and dashes, whatever the owner's id is."""
    owner = _UNSAFE.sub("_", statement.owner_id)[:_NAME_LENGTH]
    return f"statement-{owner}-{statement.start:%Y-%m-%d}-{statement.end:%Y-%m-%d}.csv"


router.add_api_route(
    "/ledger/{owner_id}/entries",
    get_entries,
    methods=["GET"],
    summary="Show an owner's history",
    operation_id="get_entries",
    response_class=Response,
    openapi_extra=docs.ENTRIES,
)
router.add_api_route(
    "/ledger/{owner_id}/grants",
    get_grants,
    methods=["GET"],
    summary="Show an owner's credits that expire",
    operation_id="get_grants",
    response_class=Response,
    openapi_extra=docs.GRANTS,
)
router.add_api_route(
    "/ledger/{owner_id}/holds",
    get_holds,
    methods=["GET"],
    summary="Show an owner's open holds",
    operation_id="get_holds",
    response_class=Response,
    openapi_extra=docs.HOLDS,
)
router.add_api_route(
    "/ledger/{owner_id}/statement",
    get_statement,
    methods=["GET"],
    summary="Show an owner's statement",
    operation_id="get_statement",
    response_class=Response,
    openapi_extra=docs.STATEMENT,
)
