"""The description of a service (OpenAPI 3.1): what FastAPI generates, and what it cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.routing import BaseRoute

from shared_ledger.access.refusals import CredentialsRefused, NotAllowed, TooManyRequests
from shared_ledger.errors import (
    ConfigurationError,
    HoldNotFound,
    InsufficientCredits,
    InvalidPosting,
    LedgerOverloaded,
    NonceReused,
)
from shared_ledger.operations import INT64_MAX
from shared_ledger.service import documentation
from shared_ledger.service.answers import JSON
from shared_ledger.service.authorisation import RightsTable
from shared_ledger.service.components import reference, schemas_of
from shared_ledger.service.problems import PROBLEM_JSON, NotJson, problem_of, problem_of_http
from shared_ledger.service.schemas import INT64, Schema
from shared_ledger.service.service import Service

TAGS = {
    "ledger": "Postings of this application, and what owners have of all of them.",
    "holds": "Credits that are reserved until they are captured or released.",
    "users": "Registering, logging in, and who one is.",
    "administration": "The keys of services.",
    "operation": "For those who run the service.",
}


def describe(
    app: FastAPI, service: Service, rights: RightsTable, routes: Sequence[BaseRoute]
) -> None:
    """Make an application describe itself wholly; ``routes`` are the ledger's and its own.

    Raises
    ------
    ConfigurationError
        If a model of its own is named as one of the ledger's; when it is first asked for.
    """
    generate = app.openapi

    def complete() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _completed(generate(), service, rights, routes)
        return app.openapi_schema

    app.openapi = complete  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def _completed(
    document: dict[str, Any], service: Service, rights: RightsTable, routes: Sequence[BaseRoute]
) -> dict[str, Any]:
    tags = TAGS | dict(service.tags)
    document["tags"] = [{"name": name, "description": text} for name, text in tags.items()]
    components = document.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    _add_schemas(schemas, service)
    components["responses"] = _RESPONSES
    components["securitySchemes"] = documentation.SECURITY_SCHEMES
    described = {
        (method, route.path): route
        for route in routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            of = method.upper(), path
            if of in described:
                _restore(operation, described[of])
            if rights[of] is not None:
                operation["security"] = documentation.CREDENTIALS
            if method != "get" and of in service.rights:
                operation["responses"] = documentation.POST_PROBLEMS | operation["responses"]
            operation["responses"] = {
                status: _PROBLEMS.get(status, answer)
                for status, answer in operation["responses"].items()
            }
    finished: dict[str, Any] = _finished(document, schemas)
    for operation in (each for methods in finished["paths"].values() for each in methods.values()):
        _replay(operation["responses"])
    return finished


def _add_schemas(schemas: dict[str, Schema], service: Service) -> None:
    """Add the ledger's own schemas to those of an application's models."""
    own = schemas_of(service.application)
    if taken := sorted(schemas.keys() & own.keys()):
        raise ConfigurationError(
            f"the models {', '.join(taken)} of {service.application.name} are named as the "
            "ledger's own: rename them"
        )
    schemas.update(own)


def _restore(operation: dict[str, Any], route: APIRoute) -> None:
    """Say of a route what FastAPI changes: it leaves what is null out of examples."""
    operation.update(route.openapi_extra or {})
    if route.summary is None:
        operation["summary"] = operation["summary"].capitalize()


def _finished(node: Any, schemas: dict[str, Schema]) -> Any:
    """Return a copy in which every body has an example, and every number says how large it is."""
    if isinstance(node, list):
        return [_finished(child, schemas) for child in node]
    if not isinstance(node, dict):
        return node
    done = {word: _finished(child, schemas) for word, child in node.items()}
    if done.get("type") == "integer":
        done = INT64 | done
        # FastAPI writes them as fractions, which rounds the largest up.
        done["minimum"] = int(done["minimum"])
        done["maximum"] = min(int(done["maximum"]), INT64_MAX)
    if JSON in done and "example" not in done[JSON]:
        done[JSON]["example"] = _example(done[JSON]["schema"], schemas)
    if done.get("in") in ("path", "query") and done["required"] and "example" not in done:
        done["example"] = _example(done["schema"], schemas)
    return done


def _replay(responses: dict[str, Any]) -> None:
    """Show as the answer to what had been written before that it had been."""
    if {"200", "201"} <= responses.keys():
        content = responses["200"]["content"][JSON]
        content["example"] = content["example"] | {"replayed": True}


def _example(schema: Schema, schemas: dict[str, Schema]) -> Any:
    """Return an example, made of those of the fields."""
    if "$ref" in schema:
        schema = schemas[schema["$ref"].rpartition("/")[2]]
    if "examples" in schema or "enum" in schema:
        return (schema.get("examples") or schema["enum"])[0]
    match schema:
        case {"anyOf": [first, *_]}:
            example: Any = _example(first, schemas)
        case {"type": "object"}:
            fields = schema.get("properties", {})
            example = {name: _example(field, schemas) for name, field in fields.items()}
        case {"type": "array", "items": items}:
            example = [_example(items, schemas)]
        case {"default": default}:
            example = default
        case {"type": "integer"}:
            example = max(1, schema.get("minimum", 1))
        case {"type": "boolean"}:
            example = False
        case _:
            example = "text"
    return example


def _response(description: str, example: Response) -> dict[str, Any]:
    """Describe a problem as it is answered."""
    content = {"schema": reference("Problem"), "example": msgspec.json.decode(example.body)}
    described: dict[str, Any] = {"description": description, "content": {PROBLEM_JSON: content}}
    headers = {
        name: {"description": about, "required": True, "schema": schema}
        for name, about, schema in _HEADERS
        if name in example.headers
    }
    return described | {"headers": headers} if headers else described


_HEADERS = (
    ("WWW-Authenticate", "What credentials are asked for.", {"type": "string"}),
    ("Retry-After", "In how many seconds to try again.", {"type": "integer", "minimum": 0}),
)
_NAMES = {
    "400": "BadRequest",
    "401": "Unauthorized",
    "402": "PaymentRequired",
    "403": "Forbidden",
    "404": "NotFound",
    "409": "Conflict",
    "413": "ContentTooLarge",
    "422": "UnprocessableContent",
    "429": "TooManyRequests",
    "503": "ServiceUnavailable",
}
_PROBLEMS = {status: {"$ref": f"#/components/responses/{name}"} for status, name in _NAMES.items()}
_RESPONSES = {
    _NAMES[str(example.status_code)]: _response(description, example)
    for description, example in (
        ("The body is not JSON.", problem_of_http(NotJson("the body is not JSON: …"))),
        ("The credentials are missing or wrong.", problem_of(CredentialsRefused("wrong"))),
        (
            "There are not enough credits.",
            problem_of(InsufficientCredits("user2", asset="credits", available=0, required=1)),
        ),
        (
            "Whoever calls may not do this.",
            problem_of(NotAllowed("CREDIT_ADD", reason="only a service posts it")),
        ),
        ("It is not there, or another's.", problem_of(HoldNotFound(9))),
        (
            "It contradicts what was written before.",
            problem_of(NonceReused("user1", "order 32", field="amount", recorded=-1, given=-2)),
        ),
        (
            "The body is too long.",
            problem_of_http(
                HTTPException(
                    HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is longer than 65536 bytes"
                )
            ),
        ),
        (
            "A field of the request is wrong.",
            problem_of(InvalidPosting("owner_id", "is empty")),
        ),
        (
            "Too often.",
            problem_of(TooManyRequests(limit="600/minute", retry_after_s=30)),
        ),
        (
            "Not now; nothing was lost. Ask again with the same nonce.",
            problem_of(LedgerOverloaded()),
        ),
    )
}
