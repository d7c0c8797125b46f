"""The schemas of bodies and answers that the description of the routes refers to, by name."""

from __future__ import annotations

import inspect
from typing import Any

import msgspec

from shared_ledger.access.keys import ApiKey
from shared_ledger.book import Balance, Entry, Grant, Hold, Page, Quote, Statement
from shared_ledger.operations import Application
from shared_ledger.service import schemas
from shared_ledger.service.answers import SHOWN
from shared_ledger.service.bodies import BODIES, MAX_BATCH
from shared_ledger.service.schemas import Schema

_ATTRIBUTES = "\nAttributes\n----------\n"
_TIMES = frozenset({"from", "to", "at", "previous_until"})
_IDS = frozenset({"id", "group_id", "reverses", "cursor"})
_YES: Schema = {"type": "boolean"}
_REPLAYED: Schema = {
    "replayed": _YES | {"description": "Whether the same had been written before."}
}


def reference(schema: str) -> Schema:
    """Refer to a schema."""
    return {"$ref": f"#/components/schemas/{schema}"}


def schemas_of(application: Application[Any]) -> dict[str, Schema]:
    """Return the schemas of the routes that every application has, for this one's operations."""
    kinds = (Entry, Balance, Grant, Hold, Page, Quote, Statement, ApiKey)
    _, bodies = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
    _, answers = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    for schema in (*bodies.values(), *answers.values()):
        _describe(schema)
    for schema in answers.values():
        _refine(schema)
    _name_operations(bodies, application)
    batch = bodies["BatchBody"]["properties"]["entries"]
    batch.update(items=reference("PostBody"), maxItems=MAX_BATCH)
    return {
        **bodies,
        **answers,
        **_derived(answers),
        **_of_access(answers["ApiKey"]),
        "Ready": _READY,
        "Problem": _PROBLEM,
    }


def _name_operations(bodies: dict[str, Schema], application: Application[Any]) -> None:
    """Say which operations there are: in a client they are an enum."""
    rules = application.rules
    held = [name for name, rule in rules.items() if rule.minimum < 0 and rule.once is None]
    bodies["Operation"] = {"type": "string", "title": "Operation", "enum": list(rules)}
    for body in ("PostBody", "PartBody"):
        bodies[body]["properties"]["operation"] = reference("Operation")
    bodies["HoldBody"]["properties"]["operation"] = schemas.OPERATION | {"enum": held}


def _derived(answers: dict[str, Schema]) -> dict[str, Schema]:
    """Return the answers that are not one noun of the book; mends those that show less of one."""
    hold = answers["Hold"]
    hold["properties"] = {name: hold["properties"][name] for name in SHOWN}
    hold["properties"]["remaining"] = schemas.COUNT
    hold["required"] = [*SHOWN, "remaining"]
    balance = answers["Balance"]["properties"]
    balance["at"] = schemas.TIME
    entry = _with("PostedEntry", answers["Entry"], _REPLAYED)
    return {
        "PostedEntry": entry,
        "BatchEntry": _with(
            "BatchEntry", entry, {"status": {"type": "integer", "enum": [200, 201]}}
        ),
        "PostedEntries": _object("PostedEntries", {"entries": _list("Entry"), **_REPLAYED}),
        "BatchResults": _object("BatchResults", {"results": _list("BatchEntry", "Problem")}),
        "PostedHold": _with("PostedHold", hold, _REPLAYED),
        "BalanceOnly": _object(
            "BalanceOnly", {name: balance[name] for name in ("owner_id", "balance")}
        ),
        "Health": _object("Health", {"status": {"type": "string"}, "version": {"type": "string"}}),
        "Grants": _object("Grants", {"grants": _list("Grant")}),
        "Holds": _object("Holds", {"holds": _list("Hold")}),
    }


def _of_access(api_key: Schema) -> dict[str, Schema]:
    """Return the answers of the routes of users and keys, and the form that logs in."""
    user: Schema = {
        "username": schemas.USERNAME,
        "owner_id": schemas.USERNAME,
        "is_admin": _YES,
    }
    return {
        "User": _object("User", user | {"created_on": schemas.TIME}),
        "LogIn": _object(
            "LogIn",
            # Whoever cannot be a user is answered as one who gave a wrong password.
            {
                name: {"type": "string", "minLength": 1, "maxLength": 1_000}
                for name in ("username", "password")
            },
        ),
        "Token": _object(
            "Token",
            {
                "access_token": {"type": "string"},
                "token_type": {"type": "string", "const": "bearer"},
                "expires_in": schemas.COUNT | {"description": "In seconds."},
            },
        ),
        # The other fields say what a user is, or what a key is for.
        "Me": _object(
            "Me",
            {
                "kind": {"type": "string", "enum": ["user", "service", "administrator"]},
                "name": {"type": "string"},
            },
        )
        | {"additionalProperties": True},
        "ApiKeys": _object("ApiKeys", {"keys": _list("ApiKey")}),
        "KeyWithSecret": _with(
            "KeyWithSecret",
            api_key,
            {"key": {"type": "string", "description": "What its service sends as `x-token`."}},
        )
        | {"description": "A key of a service, and its secret, which is shown this once."},
    }


_READY: Schema = {
    "title": "Ready",
    "type": "object",
    "properties": {
        "status": {"type": "string", "const": "ready"},
        "database": {"type": "string", "const": "ok"},
        "migrations": {
            "type": "object",
            "description": "The revision of the book's tables, and of those of applications.",
            "additionalProperties": {"type": "string"},
        },
        "cache": {
            "type": "string",
            "enum": ["ok", "down"],
            "description": "Whether Redis answers, if there is one.",
        },
    },
    "required": ["status", "database", "migrations"],
}

_PROBLEM: Schema = {
    "title": "Problem",
    "type": "object",
    "description": "RFC 9457 problem details; further fields are data of the problem.",
    "properties": {
        "type": {
            "type": "string",
            "pattern": "^urn:shared-ledger:problem:[a-z_]+$",
            "description": "Its stable name, for programs.",
        },
        "title": {"type": "string"},
        "status": {"type": "integer", "format": "int32", "minimum": 400, "maximum": 599},
        "detail": {"type": "string", "description": "A sentence, for people."},
    },
    "required": ["type", "title", "status", "detail"],
    "additionalProperties": True,
}


def _describe(schema: Schema) -> None:
    """Say of a class and its fields what the docstring says, in Markdown."""
    text, _, attributes = inspect.cleandoc(schema["description"]).partition(_ATTRIBUTES)
    schema["description"] = _markdown(text)
    properties = schema.get("properties", {})
    names: list[str] = []
    for line in attributes.splitlines():
        if not line.startswith(" "):
            names = line.split(", ")
            continue
        for name in names:
            if name in properties:
                said = properties[name].get("description", "")
                properties[name]["description"] = f"{said} {_markdown(line)}".strip()
    for field in properties.values():
        # What a field is is said of the field, not of one of the types that it may have.
        for kind in field.get("anyOf", ()):
            if "description" in kind:
                field.setdefault("description", kind.pop("description"))


def _markdown(text: str) -> str:
    return text.replace("``", "`").replace("`None`", "null").strip()


def _refine(schema: Schema) -> None:
    """Say of the fields of an answer what their names mean: what they hold was checked."""
    for name, field in schema.get("properties", {}).items():
        for kind in (field, *field.get("anyOf", ())):
            if kind.get("type") == "integer":
                kind.update(schemas.ID if name in _IDS or name.endswith("_id") else schemas.INT64)
            elif kind.get("type") == "string" and (name in _TIMES or name.endswith("_on")):
                kind.update(schemas.TIME)
            elif "enum" in kind:
                kind["type"] = "string"


def _object(title: str, properties: Schema) -> Schema:
    return {
        "type": "object",
        "title": title,
        "properties": properties,
        "required": list(properties),
    }


def _list(*of: str) -> Schema:
    kinds = [reference(schema) for schema in of]
    return {"type": "array", "items": kinds[0] if len(kinds) == 1 else {"anyOf": kinds}}


def _with(title: str, schema: Schema, properties: Schema) -> Schema:
    """Return a schema with more properties, all required."""
    return schema | {
        "title": title,
        "properties": schema["properties"] | properties,
        "required": [*schema["required"], *properties],
    }
