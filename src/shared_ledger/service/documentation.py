"""What OpenAPI says of the ledger's routes beside their docstrings."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from shared_ledger.queries import MAX_PAGE
from shared_ledger.service import schemas
from shared_ledger.service.answers import JSON
from shared_ledger.service.auth import BEARER
from shared_ledger.service.components import reference
from shared_ledger.service.examples import (
    BALANCE_NOW,
    BATCH_BODY,
    CAPTURE_BODY,
    CAPTURED,
    EARLIER,
    ENTRY,
    GRANT,
    GROUP_BODY,
    GROUPED,
    HELD,
    LINE,
    PLACE_BODY,
    POST_BODY,
    QUOTE_BODY,
    QUOTED,
    RELEASE_BODY,
    RELEASED,
    REVERSE_BODY,
    REVERSED,
    SHORT,
    STATEMENT_CSV,
    STATEMENT_NOW,
    TRANSFER_BODY,
    TRANSFERRED,
)
from shared_ledger.service.fields import Written
from shared_ledger.service.problems import KEY_HEADER

Docs = dict[str, Any]

CREDENTIALS: list[dict[str, list[str]]] = [{KEY_HEADER: []}, {BEARER: []}]
"""Either of them: the key of a service, or the token of a user."""

SECURITY_SCHEMES: Docs = {
    KEY_HEADER: {
        "type": "apiKey",
        "in": "header",
        "name": KEY_HEADER,
        "description": "The key of a service.",
    },
    BEARER: {
        "type": "oauth2",
        "description": "The token of a user; in Swagger's form leave the client's fields empty.",
        "flows": {"password": {"tokenUrl": "auth/token", "scopes": {}}},
    },
}

_REPLAYED = {"replayed": True}

_READ_PROBLEMS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_POST_PROBLEMS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.PAYMENT_REQUIRED,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    *_READ_PROBLEMS,
)


def answered(description: str, schema: str, example: Docs, links: Docs | None = None) -> Docs:
    """Describe a good answer, and what can be done with it."""
    content = {"schema": reference(schema), "example": example}
    described = {"description": description, "content": {JSON: content}}
    return described if links is None else described | {"links": links}


def link(operation: str, **parameters: str) -> Docs:
    """Say by which operation an answer can be used; ``parameters`` are fields of its body."""
    expressions = {name: f"$response.body#/{field}" for name, field in parameters.items()}
    return {operation: {"operationId": operation, "parameters": expressions}}


def problems(*statuses: HTTPStatus) -> Docs:
    """Say what may go wrong; what each is, is described once for all routes."""
    return {str(int(status)): {"description": status.phrase} for status in statuses}


def written(schema: str, what: str, example: Docs, links: Docs | None = None) -> Docs:
    """Describe the answers to what is written once."""
    return {
        "201": answered(f"{what}, written now", schema, example, links),
        "200": answered(f"{what}, written before", schema, example | _REPLAYED, links),
    }


def written_once(model: type[Written]) -> dict[int | str, Docs]:
    """Describe the answers of an application's route that writes something once."""
    return {
        int(HTTPStatus.CREATED): {"description": "Written now"},
        int(HTTPStatus.OK): {"description": "Written before: the same again", "model": model},
    }


READ_PROBLEMS: dict[int | str, Docs] = dict(problems(*_READ_PROBLEMS).items())
"""What may go wrong on any route of an application."""

POST_PROBLEMS: dict[int | str, Docs] = dict(problems(*_POST_PROBLEMS).items())
"""What may go wrong on a route of an application that writes."""


def in_path(name: str, schema: Docs, example: object) -> Docs:
    """Describe a parameter in the path."""
    return {"name": name, "in": "path", "required": True, "schema": schema, "example": example}


def _in_query(
    name: str, description: str, schema: Docs, example: object, *, required: bool = False
) -> Docs:
    return {
        "name": name,
        "in": "query",
        "required": required,
        "description": description,
        "schema": schema,
        "example": example,
    }


_OWNER = in_path("owner_id", schemas.OWNER_ID, "user1")
_HOLD_ID = in_path("hold_id", schemas.ID, HELD["id"])
_ENTRY_ID = in_path("entry_id", schemas.ID, ENTRY["id"])
_ASSET = _in_query("asset", "Of what.", schemas.ASSET | {"default": "credits"}, "credits")
_AT = _in_query("at", "As of when (RFC 3339, with a time zone).", schemas.TIME, EARLIER)


def _reading(description: str, schema: str, example: Docs, *parameters: Docs) -> Docs:
    return {
        "parameters": list(parameters),
        "responses": {
            "200": answered(description, schema, example),
            **problems(*_READ_PROBLEMS),
        },
    }


def _posting(body: str, example: Docs, answers: Docs, *parameters: Docs) -> Docs:
    content = {"schema": reference(body), "example": example}
    return {
        "parameters": list(parameters),
        "requestBody": {"required": True, "content": {JSON: content}},
        "responses": {**answers, **problems(*_POST_PROBLEMS)},
    }


HEALTH: Docs = {
    "responses": {"200": answered("It is", "Health", {"status": "ok", "version": "1.2.0"})}
}
METRICS: Docs = {
    "responses": {
        "200": {
            "description": "The metrics",
            "content": {
                "text/plain": {
                    "schema": {"type": "string"},
                    "example": "# TYPE shared_ledger_queue_depth gauge\n"
                    "shared_ledger_queue_depth 0.0\n",
                }
            },
        }
    }
}
READY: Docs = {
    "responses": {
        "200": answered(
            "It can",
            "Ready",
            {
                "status": "ready",
                "database": "ok",
                "migrations": {"book": "0003", "content": "0001"},
                "cache": "ok",
            },
        ),
        **problems(HTTPStatus.SERVICE_UNAVAILABLE),
    }
}

ENTRY_WRITTEN: dict[int | str, Docs] = {
    int(status): answer for status, answer in written("PostedEntry", "The entry", ENTRY).items()
}
"""The answers of an application's route that posts one entry."""

_OF_ENTRY = link("reverse_entry", entry_id="id") | link("get_ledger", owner_id="owner_id")
_OF_HOLD = (
    link("get_hold", hold_id="id")
    | link("capture_hold", hold_id="id")
    | link("release_hold", hold_id="id")
)

POST = _posting("PostBody", POST_BODY, written("PostedEntry", "The entry", ENTRY, _OF_ENTRY))
BATCH = _posting(
    "BatchBody",
    BATCH_BODY,
    {
        "200": answered(
            "A result for each, in order",
            "BatchResults",
            {"results": [ENTRY | {"status": 201}, SHORT]},
        )
    },
)
GROUP = _posting("GroupBody", GROUP_BODY, written("PostedEntries", "The entries", GROUPED))
TRANSFER = _posting(
    "TransferBody",
    TRANSFER_BODY,
    written(
        "PostedEntries",
        "The source's entry and the destination's",
        TRANSFERRED,
        link("reverse_entry", entry_id="entries/0/id"),
    ),
)
REVERSE = _posting(
    "ReverseBody",
    REVERSE_BODY,
    written("PostedEntries", "The entry that takes it back; of a transfer both", REVERSED),
    _ENTRY_ID,
)
QUOTE = _posting("PostBody", QUOTE_BODY, {"200": answered("What it would do", "Quote", QUOTED)})
PLACE = _posting("HoldBody", PLACE_BODY, written("PostedHold", "The hold", HELD, _OF_HOLD))
CAPTURE = _posting(
    "CaptureBody",
    CAPTURE_BODY,
    written("PostedEntry", "The entry", CAPTURED, link("get_hold", hold_id="hold_id")),
    _HOLD_ID,
)
RELEASE = _posting(
    "ReleaseBody",
    RELEASE_BODY,
    written("PostedHold", "The hold", RELEASED, link("get_hold", hold_id="id")),
    _HOLD_ID,
)
_SHOWN_HOLD = {name: value for name, value in HELD.items() if name != "replayed"}
HOLD = _reading("The hold", "Hold", _SHOWN_HOLD, _HOLD_ID)
LEDGER = _reading("What the owner has", "Balance", BALANCE_NOW, _OWNER, _AT, _ASSET)
BALANCE = _reading("The balance", "BalanceOnly", {"owner_id": "user1", "balance": 3}, _OWNER)
ENTRIES = _reading(
    "A page of entries",
    "Page",
    {"entries": [LINE], "cursor": LINE["id"]},
    _OWNER,
    _in_query(
        "limit",
        "How many at most.",
        schemas.ID | {"maximum": MAX_PAGE, "default": 50},
        50,
    ),
    _in_query("cursor", "The one that the page before gave.", schemas.ID, 1_000),
    _AT,
    _ASSET,
)
GRANTS = _reading("The credits that expire", "Grants", {"grants": [GRANT]}, _OWNER, _ASSET)
HOLDS = _reading("The open holds", "Holds", {"holds": [_SHOWN_HOLD]}, _OWNER, _ASSET)
STATEMENT = _reading(
    "The statement",
    "Statement",
    STATEMENT_NOW,
    _OWNER,
    _in_query(
        "from", "Where it begins (RFC 3339).", schemas.TIME, STATEMENT_NOW["from"], required=True
    ),
    _in_query("to", "Where it ends, exclusive.", schemas.TIME, STATEMENT_NOW["to"], required=True),
    _in_query(
        "format",
        "How it is written.",
        {"type": "string", "enum": ["json", "csv"], "default": "json"},
        "json",
    ),
    _ASSET,
)
STATEMENT["responses"]["200"]["content"]["text/csv"] = {
    "schema": {"type": "string"},
    "example": STATEMENT_CSV,
}
