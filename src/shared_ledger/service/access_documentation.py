"""What OpenAPI says of the routes of users and of the keys of services."""

from __future__ import annotations

from http import HTTPStatus

from shared_ledger.service import schemas
from shared_ledger.service.components import reference
from shared_ledger.service.documentation import Docs, answered, in_path, link, problems

_USER: Docs = {
    "username": "testuser",
    "owner_id": "testuser",
    "is_admin": False,
    "created_on": "2025-02-13T21:07:11.070112Z",
}
_KEY: Docs = {
    "id": "0f3c5a7e9b1d",
    "name": "the web shop",
    "application": "shared",
    "operations": ["CREDIT_ADD", "CREDIT_SPEND"],
    "daily_budget": 10_000,
    "issued_today": 0,
    "created_on": "2025-02-13T21:07:11.070112Z",
    "created_by": "ada",
    "rotated_on": None,
    "previous_until": None,
    "revoked_on": None,
}
_OF_KEY = link("rotate_key", key_id="id") | link("revoke_key", key_id="id")
_SECRET: Docs = {"key": "slk_0f3c5a7e9b1d_…"}
_KEY_ID = in_path("key_id", schemas.KEY_ID, _KEY["id"])

_BAD_BODY = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
_KNOWN = (
    HTTPStatus.UNAUTHORIZED,
    HTTPStatus.FORBIDDEN,
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.SERVICE_UNAVAILABLE,
)


def _body(schema: str, example: Docs, *, required: bool = True) -> Docs:
    content = {"schema": reference(schema), "example": example}
    return {"required": required, "content": {"application/json": content}}


REGISTER: Docs = {
    "requestBody": _body("RegisterBody", {"username": "testuser", "password": "Test@1234"}),
    "responses": {
        "201": answered("The user", "User", _USER),
        **problems(
            *_BAD_BODY,
            HTTPStatus.CONFLICT,
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
}
LOG_IN: Docs = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": reference("LogIn"),
                "example": {"username": "testuser", "password": "Test@1234"},
            }
        },
    },
    "responses": {
        "200": answered(
            "A token for `Authorization: Bearer …`",
            "Token",
            {"access_token": "eyJ…", "token_type": "bearer", "expires_in": 1_800},
        ),
        **problems(
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    },
}
ME: Docs = {
    "responses": {
        "200": answered(
            "Who calls",
            "Me",
            {
                "kind": "user",
                "name": "testuser",
                "username": "testuser",
                "owner_id": "testuser",
                "is_admin": False,
            },
        ),
        **problems(*_KNOWN),
    },
}
LIST_KEYS: Docs = {
    "responses": {"200": answered("All keys", "ApiKeys", {"keys": [_KEY]}), **problems(*_KNOWN)},
}
CREATE_KEY: Docs = {
    "requestBody": _body(
        "KeyBody",
        {name: _KEY[name] for name in ("name", "application", "operations", "daily_budget")},
    ),
    "responses": {
        "201": answered(
            "The key, and what its service sends", "KeyWithSecret", _KEY | _SECRET, _OF_KEY
        ),
        **problems(*_BAD_BODY, *_KNOWN),
    },
}
ROTATE_KEY: Docs = {
    "parameters": [_KEY_ID],
    "requestBody": _body("RotateBody", {"grace_s": 3_600}, required=False),
    "responses": {
        "200": answered(
            "The key, and what its service sends from now on", "KeyWithSecret", _KEY | _SECRET
        ),
        **problems(*_BAD_BODY, *_KNOWN, HTTPStatus.NOT_FOUND),
    },
}
REVOKE_KEY: Docs = {
    "parameters": [_KEY_ID],
    "responses": {
        "200": answered("The key, revoked", "ApiKey", _KEY),
        **problems(*_KNOWN, HTTPStatus.NOT_FOUND),
    },
}
