"""The ledger's routes. The handlers of the hot ones read and write JSON themselves."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from shared_ledger.book import Balance, Entry, Posting
from shared_ledger.errors import InvalidPosting
from shared_ledger.ledger import Ledger
from shared_ledger.operations import CREDITS
from shared_ledger.service.auth import HEADER, require_service
from shared_ledger.service.direct import DirectRoute, read_body
from shared_ledger.service.problems import PROBLEM_JSON, problem

JSON = "application/json"


class PostBody(msgspec.Struct, forbid_unknown_fields=True):
    """What `POST /ledger` takes."""

    operation: str
    owner_id: str
    nonce: str
    amount: int | None = None
    metadata: dict[str, Any] | None = None


decode_body = msgspec.json.Decoder(PostBody).decode
encode = msgspec.json.Encoder().encode


router = APIRouter(route_class=DirectRoute, tags=["ledger"])


def ledger_of(request: Request) -> Ledger[Any]:
    """Return the ledger that this application serves."""
    ledger: Ledger[Any] = request.app.state.ledger
    return ledger


async def post_entry(request: Request) -> Response:
    """Post one operation. The same nonce and body again answer 200 with the first entry."""
    require_service(request)
    try:
        body = decode_body(await read_body(request))
    except msgspec.ValidationError as error:
        return _invalid_body(error)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return problem(HTTPStatus.BAD_REQUEST, "not_json", f"the body is not JSON: {error}")
    ledger = ledger_of(request)
    operation = ledger.application.operation(body.operation)
    posting = Posting(operation, body.owner_id, body.nonce, body.amount, body.metadata)
    posted = await ledger.apost(posting)
    content = encode(posted.entry)[:-1]
    if posted.replayed:
        return Response(content + b',"replayed":true}', 200, None, JSON)
    return Response(content + b',"replayed":false}', 201, None, JSON)


async def get_ledger(request: Request) -> Response:
    """Show what an owner has: balance, held and available."""
    require_service(request)
    balance = await ledger_of(request).abalance(request.path_params["owner_id"], asset=CREDITS)
    return Response(encode(balance), 200, None, JSON)


async def get_balance(request: Request) -> Response:
    """Show an owner's balance, and nothing else."""
    require_service(request)
    owner_id = request.path_params["owner_id"]
    balance = await ledger_of(request).abalance(owner_id, asset=CREDITS)
    return Response(encode({"owner_id": owner_id, "balance": balance.balance}), 200, None, JSON)


def _invalid_body(error: msgspec.ValidationError) -> Response:
    """Say which field is wrong: msgspec ends its sentence with `at `$.field``."""
    sentence, _, place = str(error).partition(" - at `$.")
    field = place.rstrip("`")
    if not field and "`" in sentence:
        field = sentence.split("`")[-2]  # "Object missing required field `nonce`"
    refusal = InvalidPosting(field or "body", sentence[:1].lower() + sentence[1:])
    return problem(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        refusal.code,
        f"{refusal.field}: {refusal.problem}",
        field=refusal.field,
        problem=refusal.problem,
    )


_PROBLEM = {"content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_TOKEN: list[dict[str, list[str]]] = [{HEADER: []}]
_OWNER = {
    "name": "owner_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "example": "user1",
}
_ENTRY = {
    "id": 1,
    "app": "shared",
    "operation": "SIGNUP_CREDIT",
    "owner_id": "user1",
    "counterparty": "@issued",
    "asset": "credits",
    "amount": 3,
    "balance_after": 3,
    "nonce": "2025-02-13T21:07:11.064Z",
    "created_on": "2025-02-13T21:07:11.070112Z",
    "period": "ever",
    "replayed": False,
}


def _answers(description: str, schema: str, example: dict[str, Any]) -> dict[str, Any]:
    content = {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}
    return {"description": description, "content": {JSON: content}}


def _problems(*statuses: HTTPStatus) -> dict[str, Any]:
    return {str(int(status)): {"description": status.phrase, **_PROBLEM} for status in statuses}


_READ_PROBLEMS = _problems(
    HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.SERVICE_UNAVAILABLE
)
_POST_DOCS: dict[str, Any] = {
    "security": _TOKEN,
    "requestBody": {
        "required": True,
        "content": {
            JSON: {
                "schema": {"$ref": "#/components/schemas/PostBody"},
                "example": {
                    "operation": "SIGNUP_CREDIT",
                    "owner_id": "user1",
                    "nonce": "2025-02-13T21:07:11.064Z",
                },
            }
        },
    },
    "responses": {
        "201": _answers("The entry, written now", "Entry", _ENTRY),
        "200": _answers("The entry, written before", "Entry", _ENTRY | {"replayed": True}),
        **_problems(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.PAYMENT_REQUIRED,
            HTTPStatus.CONFLICT,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
}
_LEDGER = {"owner_id": "user1", "balance": 3, "available": 3, "held": 0, "asset": "credits"}


def _read_docs(description: str, schema: str, example: dict[str, Any]) -> dict[str, Any]:
    return {
        "security": _TOKEN,
        "parameters": [_OWNER],
        "responses": {"200": _answers(description, schema, example), **_READ_PROBLEMS},
    }


router.add_api_route(
    "/ledger",
    post_entry,
    methods=["POST"],
    summary="Post one operation",
    operation_id="post_entry",
    status_code=201,
    response_class=Response,
    openapi_extra=_POST_DOCS,
)
router.add_api_route("/ledger/", post_entry, methods=["POST"], include_in_schema=False)
router.add_api_route(
    "/ledger/{owner_id}",
    get_ledger,
    methods=["GET"],
    summary="Show what an owner has",
    operation_id="get_ledger",
    response_class=Response,
    openapi_extra=_read_docs("What the owner has", "Balance", _LEDGER),
)
router.add_api_route(
    "/balance/{owner_id}",
    get_balance,
    methods=["GET"],
    summary="Show an owner's balance",
    operation_id="get_balance",
    response_class=Response,
    openapi_extra=_read_docs("The balance", "BalanceOnly", {"owner_id": "user1", "balance": 3}),
)


def schemas() -> dict[str, Any]:
    """Return the JSON schemas that the routes' documentation refers to."""
    _, components = msgspec.json.schema_components(
        (PostBody, Entry, Balance), ref_template="#/components/schemas/{name}"
    )
    entry = components["Entry"]
    entry["properties"]["replayed"] = {"type": "boolean"}
    entry["required"].append("replayed")
    balance = components["Balance"]["properties"]
    components["BalanceOnly"] = {
        "type": "object",
        "title": "BalanceOnly",
        "properties": {name: balance[name] for name in ("owner_id", "balance")},
        "required": ["owner_id", "balance"],
    }
    components["Problem"] = {
        "type": "object",
        "title": "Problem",
        "description": "RFC 9457 problem details; further fields are data of the problem.",
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
        },
        "required": ["type", "title", "status", "detail"],
        "additionalProperties": True,
    }
    return components
