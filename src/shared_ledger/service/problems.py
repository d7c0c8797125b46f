"""Errors as RFC 9457 problem details: ``application/problem+json``."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from shared_ledger.access.refusals import (
    AccessRefusal,
    CredentialsRefused,
    KeyBudgetSpent,
    KeyNotFound,
    NotAllowed,
    OwnerNotFound,
    TooManyAttempts,
    TooManyRequests,
    UsernameTaken,
)
from shared_ledger.errors import (
    AccountBusy,
    AlreadyClaimed,
    BudgetSpent,
    EntryNotFound,
    HoldClosed,
    HoldExceeded,
    HoldExpired,
    HoldNotFound,
    InsufficientCredits,
    LedgerClosed,
    LedgerError,
    LedgerOverloaded,
    LedgerUnavailable,
    NonceReused,
    NotReversible,
    Refusal,
    ReversalExceedsEntry,
)
from shared_ledger.service.asked import asked_now
from shared_ledger.service.methods import allowed

PROBLEM_JSON = "application/problem+json"
RETRY_AFTER_S = 1
MAX_FIELD = 60
KEY_HEADER = "x-token"
CHALLENGE = f'Bearer realm="shared-ledger", ApiKey realm="{KEY_HEADER}"'
"""What an answer 401 asks for (RFC 9110, 11.6.1): a user's token, or the key of a service."""

_STATUS: tuple[tuple[type[LedgerError], HTTPStatus], ...] = (
    (InsufficientCredits, HTTPStatus.PAYMENT_REQUIRED),
    (NonceReused, HTTPStatus.CONFLICT),
    (AlreadyClaimed, HTTPStatus.CONFLICT),
    (BudgetSpent, HTTPStatus.CONFLICT),
    (HoldNotFound, HTTPStatus.NOT_FOUND),
    (HoldExpired, HTTPStatus.CONFLICT),
    (HoldClosed, HTTPStatus.CONFLICT),
    (HoldExceeded, HTTPStatus.CONFLICT),
    (EntryNotFound, HTTPStatus.NOT_FOUND),
    (NotReversible, HTTPStatus.CONFLICT),
    (ReversalExceedsEntry, HTTPStatus.CONFLICT),
    (NotAllowed, HTTPStatus.FORBIDDEN),
    (KeyBudgetSpent, HTTPStatus.FORBIDDEN),
    (OwnerNotFound, HTTPStatus.NOT_FOUND),
    (UsernameTaken, HTTPStatus.CONFLICT),
    (KeyNotFound, HTTPStatus.NOT_FOUND),
    (CredentialsRefused, HTTPStatus.UNAUTHORIZED),
    (TooManyAttempts, HTTPStatus.TOO_MANY_REQUESTS),
    (TooManyRequests, HTTPStatus.TOO_MANY_REQUESTS),
    (AccountBusy, HTTPStatus.SERVICE_UNAVAILABLE),
    (Refusal, HTTPStatus.UNPROCESSABLE_ENTITY),
    (LedgerOverloaded, HTTPStatus.SERVICE_UNAVAILABLE),
    (LedgerUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (LedgerClosed, HTTPStatus.SERVICE_UNAVAILABLE),
)

# Python's own name of it changed, and codes are for programs.
_CODES = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "content_too_large"}


class ServiceRefusal(LedgerError):
    """What an application refuses for a reason of its own; nothing was written.

    A subclass sets ``status`` and ``code``, its stable name for programs; its attributes are the
    problem's fields, and ``str()`` a sentence.
    """

    status = HTTPStatus.CONFLICT
    code = "refused"


class NotJson(HTTPException):
    """The body is not JSON."""

    code = "not_json"

    def __init__(self, detail: str) -> None:
        super().__init__(HTTPStatus.BAD_REQUEST, detail)


def problem(
    status: HTTPStatus,
    code: str,
    detail: str,
    *,
    headers: dict[str, str] | None = None,
    **data: Any,
) -> Response:
    """Answer with a problem; ``data`` are its own fields, for programs."""
    return _response(_members(status, code, detail, **data), headers)


def problem_of(error: LedgerError, **data: Any) -> Response:
    """Answer with what the ledger raised or refused, and more ``data``."""
    content = described(error)
    headers = None
    if content["status"] == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"Retry-After": str(RETRY_AFTER_S)}
    elif isinstance(error, TooManyAttempts | TooManyRequests):
        headers = {"Retry-After": str(error.retry_after_s)}
    elif isinstance(error, CredentialsRefused):
        headers = {"WWW-Authenticate": CHALLENGE}
    return _response(content | data, headers)


def unexpected() -> Response:
    """Answer for what nobody foresaw: the log has it under the request's id."""
    asked = asked_now()
    named: dict[str, Any] = {} if asked is None else {"request_id": asked.request_id}
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR,
        "internal_error",
        "The service failed; its log says why.",
        **named,
    )


def described(error: LedgerError) -> dict[str, Any]:
    """Return the problem that the ledger raised or refused, ready for JSON."""
    if isinstance(error, ServiceRefusal):
        return _members(error.status, error.code, str(error), **vars(error))
    status = next(
        (status for kind, status in _STATUS if isinstance(error, kind)),
        HTTPStatus.INTERNAL_SERVER_ERROR,
    )
    if isinstance(error, Refusal | AccessRefusal):
        return _members(status, error.code, str(error), **error.data())
    if isinstance(error, CredentialsRefused):
        return _members(status, "unauthorized", str(error))
    if isinstance(error, TooManyAttempts):
        return _members(status, "too_many_attempts", str(error), retry_after_s=error.retry_after_s)
    # What else goes wrong is the operator's affair: the log has it, the caller need not.
    code = "overloaded" if isinstance(error, LedgerOverloaded) else "unavailable"
    detail = str(error) if isinstance(error, LedgerOverloaded) else (type(error).__doc__ or "")
    return _members(status, code, detail.partition("\n")[0])


def problem_of_http(error: HTTPException) -> Response:
    """Answer with what the framework or a handler raised."""
    status = HTTPStatus(error.status_code)
    headers = dict(error.headers or {})
    code = error.code if isinstance(error, NotJson) else _CODES.get(status, status.name.lower())
    return problem(status, code, str(error.detail), headers=headers)


def _members(status: HTTPStatus, code: str, detail: str, **data: Any) -> dict[str, Any]:
    return {
        "type": f"urn:shared-ledger:problem:{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": int(status),
        "detail": detail,
        **data,
    }


def _response(content: dict[str, Any], headers: dict[str, str] | None) -> Response:
    return Response(msgspec.json.encode(content), content["status"], headers, PROBLEM_JSON)


def install(app: FastAPI) -> None:
    """Make every error of the application a problem."""

    @app.exception_handler(LedgerError)
    async def _ledger(_: Request, error: LedgerError) -> Response:
        return problem_of(error)

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
            methods = ", ".join(allowed(request.app.state.rights, path))
            detail = f"this path takes {methods}"
            error = HTTPException(error.status_code, detail, {"Allow": methods})
        if error.status_code == HTTPStatus.BAD_REQUEST and error.__cause__ is not None:
            # Bytes that are no text, numbers of thousands of digits, lists of lists of lists …
            error = NotJson("the body is not JSON that can be read")
        return problem_of_http(error)

    @app.exception_handler(RequestValidationError)
    async def _validation(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            return problem_of_http(NotJson(f"the body is not JSON: {first['ctx']['error']}"))
        # The first part says where: in the path, the query string or the body.
        # A field that there is not may have any name.
        field = ".".join(str(part)[:MAX_FIELD] for part in first["loc"][1:]) or "body"
        sentence = first["msg"].removeprefix("Value error, ")
        if isinstance(first.get("input"), bytes):
            sentence = "is sent with the content type application/json"
        return problem(
            HTTPStatus.UNPROCESSABLE_ENTITY,
            "invalid_request",
            f"{field}: {sentence[:1].lower()}{sentence[1:]}",
            field=field,
        )

    @app.exception_handler(Exception)
    async def _unexpected(_: Request, __: Exception) -> Response:
        return unexpected()
