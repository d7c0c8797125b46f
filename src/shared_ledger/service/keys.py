"""The routes where an administrator makes, lists, rotates and revokes the keys of services."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import APIRouter, Request
from starlette.responses import Response

from shared_ledger.access.keys import ApiKey, NewKey, check_grace, check_new
from shared_ledger.service import access_documentation as docs
from shared_ledger.service.answers import Json, encode, ledger_of, with_fields
from shared_ledger.service.auth import gate_of
from shared_ledger.service.authorisation import permitted
from shared_ledger.service.bodies import RotateBody, decode_key, decode_rotate, decoded, read_json
from shared_ledger.service.direct import DirectRoute, read_body

router = APIRouter(route_class=DirectRoute, tags=["administration"])


async def list_keys(request: Request) -> Response:
    """List all keys, the revoked ones too; their secrets are stored nowhere."""
    await permitted(request)
    gate = gate_of(request)
    keys = await gate.run(gate.store.keys)
    return Json(encode({"keys": keys}))


async def create_key(request: Request) -> Response:
    """Make a key. What its service sends as `x-token` is in `key`, now and never again."""
    caller, _ = await permitted(request)
    body = await read_json(request, decode_key)
    application = ledger_of(request).application
    asked = NewKey(
        name=body.name,
        application=application.name
        if isinstance(body.application, msgspec.UnsetType)
        else body.application,
        operations=None if body.operations is None else tuple(body.operations),
        daily_budget=body.daily_budget,
    )
    gate = gate_of(request)
    made, key = await gate.run(gate.store.add_key, check_new(asked, application), caller.name)
    return _with_secret(made, key, HTTPStatus.CREATED)


async def rotate_key(request: Request) -> Response:
    """Give a key a new secret, in `key`, now and never again.

    The old one is refused within 5 seconds, or opens for `grace_s` seconds more.
    """
    await permitted(request)
    key_id = request.path_params["key_id"]
    raw = await read_body(request)
    body = decoded(decode_rotate, raw) if raw else RotateBody()
    gate = gate_of(request)
    rotated, key = await gate.run(gate.store.rotate_key, key_id, check_grace(body.grace_s))
    gate.forget(key_id)
    return _with_secret(rotated, key, HTTPStatus.OK)


async def revoke_key(request: Request) -> Response:
    """End a key for good. It is refused within 5 seconds."""
    await permitted(request)
    key_id = request.path_params["key_id"]
    gate = gate_of(request)
    revoked = await gate.run(gate.store.revoke_key, key_id)
    gate.forget(key_id)
    return Json(encode(revoked))


def _with_secret(record: ApiKey, key: str, status: HTTPStatus) -> Response:
    fields: Any = with_fields(record, b'"key":' + encode(key))
    return Json(fields, status)


router.add_api_route(
    "/admin/keys",
    list_keys,
    methods=["GET"],
    summary="List the keys of services",
    operation_id="list_keys",
    response_class=Response,
    openapi_extra=docs.LIST_KEYS,
)
router.add_api_route(
    "/admin/keys",
    create_key,
    methods=["POST"],
    summary="Make a key for a service",
    operation_id="create_key",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.CREATE_KEY,
)
router.add_api_route(
    "/admin/keys/{key_id}/rotate",
    rotate_key,
    methods=["POST"],
    summary="Give a key a new secret",
    operation_id="rotate_key",
    response_class=Response,
    openapi_extra=docs.ROTATE_KEY,
)
router.add_api_route(
    "/admin/keys/{key_id}",
    revoke_key,
    methods=["DELETE"],
    summary="Revoke a key",
    operation_id="revoke_key",
    response_class=Response,
    openapi_extra=docs.REVOKE_KEY,
)
