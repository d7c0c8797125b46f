"""What OpenAPI says of the ledger's routes beside their docstrings."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec

from shared_ledger.access.keys import ApiKey
from shared_ledger.book import Balance, Entry, Grant, Hold, Page, Quote, Statement
from shared_ledger.operations import INT64_MAX
from shared_ledger.queries import MAX_PAGE
from shared_ledger.service.answers import JSON, SHOWN
from shared_ledger.service.auth import BEARER
from shared_ledger.service.bodies import BODIES, MAX_BATCH
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
from shared_ledger.service.problems import KEY_HEADER, PROBLEM_JSON

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
_PROBLEM = {"content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}}}

_READ_PROBLEMS = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.NOT_FOUND,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.SERVICE_UNAVAILABLE,
)
_POST_PROBLEMS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.PAYMENT_REQUIRED,
    HTTPStatus.CONFLICT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    *_READ_PROBLEMS,
)


def reference(schema: str) -> Docs:
    """Refer to a schema."""
    return {"$ref": f"#/components/schemas/{schema}"}


def answered(description: str, schema: str, example: Docs) -> Docs:
    """Describe a good answer."""
    content = {"schema": reference(schema), "example": example}
    return {"description": description, "content": {JSON: content}}


def problems(*statuses: HTTPStatus) -> Docs:
    """Describe what may go wrong."""
    return {str(int(status)): {"description": status.phrase, **_PROBLEM} for status in statuses}


def written(schema: str, what: str, example: Docs) -> Docs:
    """Describe the answers to what is written once."""
    return {
        "201": answered(f"{what}, written now", schema, example),
        "200": answered(f"{what}, written before", schema, example | _REPLAYED),
    }


APPLICATION_PROBLEMS: dict[int | str, Docs] = {
    int(status): problem for status, problem in problems(*_POST_PROBLEMS).items()
}
"""What may go wrong on any route of an application."""


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


_TEXT: Docs = {"type": "string", "minLength": 1, "maxLength": 255}
_TIME: Docs = {"type": "string", "format": "date-time"}
_ID: Docs = {"type": "integer", "minimum": 1, "maximum": INT64_MAX}
_OWNER = in_path("owner_id", _TEXT, "user1")
_HOLD_ID = in_path("hold_id", _ID, HELD["id"])
_ENTRY_ID = in_path("entry_id", _ID, ENTRY["id"])
_ASSET = _in_query("asset", "Of what.", _TEXT | {"default": "credits"}, "credits")
_AT = _in_query("at", "As of when (RFC 3339, with a time zone).", _TIME, EARLIER)


def _reading(
    description: str, schema: str, example: Docs, *parameters: Docs, more: Docs | None = None
) -> Docs:
    return {
        "security": CREDENTIALS,
        "parameters": list(parameters),
        "responses": {
            "200": answered(description, schema, example),
            **problems(*_READ_PROBLEMS),
            **(more or {}),
        },
    }


def _posting(
    body: str, example: Docs, answers: Docs, *parameters: Docs, more: Docs | None = None
) -> Docs:
    content = {"schema": reference(body), "example": example}
    return {
        "security": CREDENTIALS,
        "parameters": list(parameters),
        "requestBody": {"required": True, "content": {JSON: content}},
        "responses": {**answers, **problems(*_POST_PROBLEMS), **(more or {})},
    }


_NOT_FOUND = problems(HTTPStatus.NOT_FOUND)

ENTRY_WRITTEN: dict[int | str, Docs] = {
    int(status): answer for status, answer in written("PostedEntry", "The entry", ENTRY).items()
}
"""The answers of an application's route that posts one entry."""

POST = _posting("PostBody", POST_BODY, written("PostedEntry", "The entry", ENTRY))
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
    written("PostedEntries", "The source's entry and the destination's", TRANSFERRED),
)
REVERSE = _posting(
    "ReverseBody",
    REVERSE_BODY,
    written("PostedEntries", "The entry that takes it back; of a transfer both", REVERSED),
    _ENTRY_ID,
    more=_NOT_FOUND,
)
QUOTE = _posting("PostBody", QUOTE_BODY, {"200": answered("What it would do", "Quote", QUOTED)})
PLACE = _posting("HoldBody", PLACE_BODY, written("PostedHold", "The hold", HELD))
CAPTURE = _posting(
    "CaptureBody",
    CAPTURE_BODY,
    written("PostedEntry", "The entry", CAPTURED),
    _HOLD_ID,
    more=_NOT_FOUND,
)
RELEASE = _posting(
    "ReleaseBody",
    RELEASE_BODY,
    written("PostedHold", "The hold", RELEASED),
    _HOLD_ID,
    more=_NOT_FOUND,
)
_SHOWN_HOLD = {name: value for name, value in HELD.items() if name != "replayed"}
HOLD = _reading("The hold", "Hold", _SHOWN_HOLD, _HOLD_ID, more=_NOT_FOUND)
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
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": 50},
        50,
    ),
    _in_query("cursor", "The one that the page before gave.", _ID, 1_000),
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
    _in_query("from", "Where it begins (RFC 3339).", _TIME, STATEMENT_NOW["from"], required=True),
    _in_query("to", "Where it ends, exclusive.", _TIME, STATEMENT_NOW["to"], required=True),
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


def schemas() -> Docs:
    """Return the JSON schemas that the routes' documentation refers to."""
    _, components = msgspec.json.schema_components(
        (*BODIES, Entry, Balance, Grant, Hold, Page, Quote, Statement, ApiKey),
        ref_template="#/components/schemas/{name}",
    )
    hold = components["Hold"]
    hold["properties"] = {name: hold["properties"][name] for name in SHOWN}
    hold["properties"]["remaining"] = {"type": "integer"}
    hold["required"] = [*SHOWN, "remaining"]
    balance = components["Balance"]["properties"]
    balance["at"] = _TIME
    entries = components["BatchBody"]["properties"]["entries"]
    entries.update(items=reference("PostBody"), maxItems=MAX_BATCH)
    components["BalanceOnly"] = _object(
        "BalanceOnly", {name: balance[name] for name in ("owner_id", "balance")}
    )
    replayed: Docs = {"replayed": {"type": "boolean"}}
    components["PostedEntry"] = _with("PostedEntry", components["Entry"], replayed)
    components["PostedHold"] = _with("PostedHold", hold, replayed)
    status: Docs = {"status": {"type": "integer"}}
    components["BatchEntry"] = _with("BatchEntry", components["PostedEntry"], status)
    components["PostedEntries"] = _object("PostedEntries", {"entries": _list("Entry"), **replayed})
    components["BatchResults"] = _object(
        "BatchResults", {"results": _list("BatchEntry", "Problem")}
    )
    components["Grants"] = _object("Grants", {"grants": _list("Grant")})
    components["Holds"] = _object("Holds", {"holds": _list("Hold")})
    components.update(_access_schemas(components["ApiKey"]))
    components["Problem"] = {
        **_object(
            "Problem",
            {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
            },
        ),
        "description": "RFC 9457 problem details; further fields are data of the problem.",
        "additionalProperties": True,
    }
    return components


def _access_schemas(api_key: Docs) -> Docs:
    """Return the schemas of users and keys."""
    yes: Docs = {"type": "boolean"}
    user: Docs = {"username": _TEXT, "owner_id": _TEXT, "is_admin": yes}
    password: Docs = {"type": "string", "format": "password"}
    return {
        "User": _object("User", user | {"created_on": _TIME}),
        "LogIn": _object("LogIn", {"username": _TEXT, "password": password}),
        "Token": _object(
            "Token",
            {
                "access_token": {"type": "string"},
                "token_type": {"const": "bearer"},
                "expires_in": {"type": "integer", "description": "In seconds."},
            },
        ),
        # The other fields say what a user is, or what a key is for.
        "Me": _object(
            "Me",
            {"kind": {"enum": ["user", "service", "administrator"]}, "name": _TEXT},
        )
        | {"additionalProperties": True},
        "ApiKeys": _object("ApiKeys", {"keys": _list("ApiKey")}),
        "KeyWithSecret": _with("KeyWithSecret", api_key, {"key": {"type": "string"}}),
    }


def _object(title: str, properties: Docs) -> Docs:
    return {
        "type": "object",
        "title": title,
        "properties": properties,
        "required": list(properties),
    }


def _list(*of: str) -> Docs:
    kinds = [reference(schema) for schema in of]
    return {"type": "array", "items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}


def _with(title: str, schema: Docs, properties: Docs) -> Docs:
    """Return a schema with more properties, all required."""
    return schema | {
        "title": title,
        "properties": schema["properties"] | properties,
        "required": [*schema["required"], *properties],
    }
