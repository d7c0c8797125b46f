"""What OpenAPI says of the routes of users and of the keys of services."""

from __future__ import annotations

from http import HTTPStatus

from shared_ledger.service.documentation import (
    CREDENTIALS,
    Docs,
    answered,
    in_path,
    problems,
    reference,
)

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
_SECRET: Docs = {"key": "slk_0f3c5a7e9b1d_…"}
_KEY_ID = in_path("key_id", {"type": "string", "pattern": "^[0-9a-f]{12}$"}, _KEY["id"])

_BAD_BODY = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)
_ADMIN = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE)


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
    "security": CREDENTIALS,
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
        **problems(HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.SERVICE_UNAVAILABLE),
    },
}
LIST_KEYS: Docs = {
    "security": CREDENTIALS,
    "responses": {"200": answered("All keys", "ApiKeys", {"keys": [_KEY]}), **problems(*_ADMIN)},
}
CREATE_KEY: Docs = {
    "security": CREDENTIALS,
    "requestBody": _body(
        "KeyBody",
        {name: _KEY[name] for name in ("name", "application", "operations", "daily_budget")},
    ),
    "responses": {
        "201": answered("The key, and what its service sends", "KeyWithSecret", _KEY | _SECRET),
        **problems(*_BAD_BODY, *_ADMIN),
    },
}
ROTATE_KEY: Docs = {
    "security": CREDENTIALS,
    "parameters": [_KEY_ID],
    "requestBody": _body("RotateBody", {"grace_s": 3_600}, required=False),
    "responses": {
        "200": answered(
            "The key, and what its service sends from now on", "KeyWithSecret", _KEY | _SECRET
        ),
        **problems(*_BAD_BODY, *_ADMIN, HTTPStatus.NOT_FOUND),
    },
}
REVOKE_KEY: Docs = {
    "security": CREDENTIALS,
    "parameters": [_KEY_ID],
    "responses": {
        "200": answered("The key, revoked", "ApiKey", _KEY),
        **problems(*_ADMIN, HTTPStatus.NOT_FOUND),
    },
}
