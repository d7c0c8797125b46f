"""Errors as RFC 9457 problem details: ``application/problem+json``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared_ledger.errors import (
    AccountBusy,
    AlreadyClaimed,
    InsufficientCredits,
    LedgerClosed,
    LedgerError,
    LedgerOverloaded,
    LedgerUnavailable,
    NonceReused,
    Refusal,
)

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 1

_STATUS: tuple[tuple[type[LedgerError], HTTPStatus], ...] = (
    (InsufficientCredits, HTTPStatus.PAYMENT_REQUIRED),
    (NonceReused, HTTPStatus.CONFLICT),
    (AlreadyClaimed, HTTPStatus.CONFLICT),
    (AccountBusy, HTTPStatus.SERVICE_UNAVAILABLE),
    (Refusal, HTTPStatus.UNPROCESSABLE_ENTITY),
    (LedgerOverloaded, HTTPStatus.SERVICE_UNAVAILABLE),
    (LedgerUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (LedgerClosed, HTTPStatus.SERVICE_UNAVAILABLE),
)


def problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **data: Any,
) -> Response:
    """Answer with a problem; ``data`` are its own fields, for programs."""
    body = {
        "type": f"urn:shared-ledger:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": int(status),
        "detail": detail,
        **data,
    }
    return Response(msgspec.json.encode(body), status, headers, PROBLEM_JSON)


def problem_of(error: LedgerError) -> Response:
    """Answer with what the ledger raised or refused."""
    status = next(
        (status for kind, status in _STATUS if isinstance(error, kind)),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    headers = None
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
    if isinstance(error, Refusal):
        return problem(status, error.code, str(error), headers=headers, **error.data())
    # What else goes wrong is the operator's affair: the log has it, the caller need not.
    code = "overloaded" if isinstance(error, LedgerOverloaded) else "unavailable"
    detail = str(error) if isinstance(error, LedgerOverloaded) else (type(error).__doc__ or "")
    return problem(status, code, detail.partition("\n")[0], headers=headers)


def problem_of_http(error: HTTPException) -> Response:
    """Answer with what the framework or a handler raised."""
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    return problem(status, status.name.lower(), str(error.detail), headers=headers)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""

    @app.exception_handler(LedgerError)
    async def _ledger(_: Request, error: LedgerError) -> Response:
        return problem_of(error)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        return problem_of_http(error)

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = str(first["loc"][-1])
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            f"{name}: {first['msg']}",
            field=name,
        )

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, __: Exception) -> Response:
        return problem(
            HTTPStatus.INTERNAL_SERVER_ERROR,
            "internal_error",
            "The service failed; its log says why.",
        )
