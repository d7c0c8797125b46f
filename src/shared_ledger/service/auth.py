"""Who calls: a service by its key in the header ``x-token``, a user by his token.

A user's token comes as RFC 6750 has it: ``Authorization: Bearer …``.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from starlette.requests import Request

from shared_ledger.access.callers import Caller
from shared_ledger.access.gate import Gate
from shared_ledger.access.refusals import CredentialsRefused
from shared_ledger.service.problems import KEY_HEADER
from shared_ledger.service.rates import rates_of

BEARER = "bearer"

_RAW_HEADER = KEY_HEADER.encode()
_RAW_BEARER = b"bearer "

_log = logging.getLogger("shared_ledger.service")


def gate_of(request: Request) -> Gate:
    """Return the gate of the application that serves a request."""
    gate: Gate = request.scope["app"].state.gate
    return gate


async def caller_of(request: Request) -> Caller:
    """Return who calls.

    Raises
    ------
    CredentialsRefused
        Without credentials, with wrong ones, or with more than one.
    TooManyRequests
        If very many wrong ones came from there.
    """
    try:
        found = _caller(request)
        caller = found if isinstance(found, Caller) else await found
    except CredentialsRefused as refused:
        if refused.given:
            # Only wrong ones are counted: who has the right ones may share the address.
            await rates_of(request).count_network(request)
            # One line, and nothing in it that the caller wrote.
            _log.warning(
                "credentials refused: %s (%s %s, from %s)",
                refused.reason,
                request.method,
                request.scope["route"].path,
                request.client.host if request.client else "unknown",
            )
        raise
    # For the line of the request in the log.
    request.scope["caller"] = caller.kind
    return caller


def _caller(request: Request) -> Caller | Awaitable[Caller]:
    key = authorization = None
    for name, value in request.scope["headers"]:
        # Given twice it is neither.
        if name == _RAW_HEADER:
            key = value if key is None else b""
        elif name == b"authorization":
            authorization = value if authorization is None else b""
    if authorization is None:
        if key is None:
            raise CredentialsRefused("no credentials", given=False)
        return gate_of(request).service(key)
    if key is not None:
        raise CredentialsRefused(
            "a key and a token", detail=f"send a bearer token or {KEY_HEADER}, not both"
        )
    if authorization[: len(_RAW_BEARER)].lower() != _RAW_BEARER:
        raise CredentialsRefused("an authorization that is no bearer token")
    return gate_of(request).user(authorization[len(_RAW_BEARER) :].strip())
