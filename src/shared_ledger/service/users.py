"""The routes where users register, log in, and see who they are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Request
from starlette.responses import Response

from shared_ledger.access.attempts import Attempts
from shared_ledger.access.counts import Counts, Limit
from shared_ledger.access.gate import Gate
from shared_ledger.access.passwords import hash_password, is_password
from shared_ledger.access.refusals import CredentialsRefused, TooManyAttempts
from shared_ledger.access.users import User, check_password, check_username, folded
from shared_ledger.errors import InvalidPosting
from shared_ledger.service import access_documentation as docs
from shared_ledger.service.answers import Json, encode
from shared_ledger.service.auth import gate_of
from shared_ledger.service.authorisation import admitted, permitted
from shared_ledger.service.bodies import decode_register, read_json
from shared_ledger.service.direct import DirectRoute, read_body
from shared_ledger.service.rates import network_of_client

USER_ATTEMPTS = Limit("10/5minutes")
CLIENT_ATTEMPTS = Limit("100/5minutes")
HASHING_THREADS = 2
MAX_HASHING = 64

_FORM = "application/x-www-form-urlencoded"
"""What a log-in sends (RFC 6749, 4.3.2)."""

_log = logging.getLogger("shared_ledger.service")

router = APIRouter(route_class=DirectRoute, tags=["users"])


class Doorkeeper:
    """Limits how often passwords are tried, and how many are hashed at once."""

    def __init__(self, counts: Counts) -> None:
        self.of_user = Attempts("log-in as", USER_ATTEMPTS, counts)
        self.of_client = Attempts("log-in from", CLIENT_ATTEMPTS, counts)
        # Few threads, of their own: hashing is made to be slow, and must not slow others down.
        self._threads = ThreadPoolExecutor(HASHING_THREADS, "shared-ledger-passwords")
        self._waiting = 0

    async def hash(self, call: Callable[..., Any], *arguments: str | None) -> Any:
        """Hash or compare a password in a thread.

        Raises
        ------
        TooManyAttempts
            If very many wait for it already.
        """
        if self._waiting >= MAX_HASHING:
            raise TooManyAttempts(1, "too many log in or register at once; try again in a moment")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, call, *arguments)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Wait for what is being hashed."""
        self._threads.shutdown()


async def register(request: Request) -> Response:
    """Register a user, whose name is the id of his account from now on.

    Capital and small letters make no other name. In production a name is refused if the book has
    an account of that id already, which would become the new user's.
    """
    await admitted(request)
    body = await read_json(request, decode_register)
    username = check_username(body.username)
    password = check_password(body.password)
    gate = gate_of(request)
    hashed = await _doorkeeper_of(request).hash(hash_password, password)
    user = await gate.run(
        gate.store.add_user, username, hashed, unclaimed=not request.app.state.development
    )
    if (registered := request.app.state.registered) is not None:
        await registered(request.app.state.own, user.username)
    return Json(encode(_shown(user)), HTTPStatus.CREATED)


async def log_in(request: Request) -> Response:
    """Log in: a form with `username` and `password` is answered with a bearer token.

    The same answer, after the same work, for a wrong password and for a name that nobody has. After
    10 wrong ones in 5 minutes for a name, or 100 from an address, it is 429.
    """
    await admitted(request)
    return await answer_token(request)


async def answer_token(request: Request) -> Response:
    """Answer a log-in that was let in: with a token, or as ``log_in`` says."""
    form = await _form(request)
    username, password = _field(form, "username"), _field(form, "password")
    if form.get("grant_type", "password") != "password":
        raise InvalidPosting("grant_type", "is password")
    doorkeeper = _doorkeeper_of(request)
    gate = gate_of(request)
    who, where = folded(username), network_of_client(request)
    await doorkeeper.of_client.begin(where)
    try:
        await doorkeeper.of_user.begin(who)
    except TooManyAttempts:
        await doorkeeper.of_client.forgive(where)
        raise
    user = await _user_of(doorkeeper, gate, where, username, password)
    await doorkeeper.of_client.forgive(where)
    await doorkeeper.of_user.forgive(who)
    token = {
        "access_token": gate.tokens.issue(user.username),
        "token_type": "bearer",
        "expires_in": gate.tokens.lifetime_s,
    }
    return Json(encode(token))


async def show_me(request: Request) -> Response:
    """Show who calls: a user, or a service and what its key is for."""
    caller, _ = await permitted(request)
    content: dict[str, Any] = {"kind": caller.kind, "name": caller.name}
    if caller.kind == "service":
        operations = None if caller.operations is None else sorted(caller.operations)
        content |= {
            "application": caller.application,
            "operations": operations,
            "daily_budget": caller.daily_budget,
        }
    else:
        content |= {
            "username": caller.name,
            "owner_id": caller.name,
            "is_admin": caller.kind == "administrator",
        }
    return Json(encode(content))


async def _user_of(
    doorkeeper: Doorkeeper, gate: Gate, where: str, username: str, password: str
) -> User:
    try:
        found = await gate.run(gate.store.user, check_username(username))
    except InvalidPosting:
        # Nobody can have this name; that takes as long as the others.
        found = None
    right = await doorkeeper.hash(is_password, password, None if found is None else found[1])
    if found is None or not right:
        # Not the name: people type their password there.
        _log.warning("log-in refused (from %s)", where)
        raise CredentialsRefused("a wrong password", detail="the username or password is wrong")
    return found[0]


async def _form(request: Request) -> dict[str, str]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise InvalidPosting("body", f"is a form: {_FORM}")
    body = await read_body(request)
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise InvalidPosting("body", f"is a form: {_FORM}") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise InvalidPosting("body", "has a field twice")
    return form


def _field(form: dict[str, str], name: str) -> str:
    if not form.get(name):
        raise InvalidPosting(name, "is required")
    return form[name]


def _doorkeeper_of(request: Request) -> Doorkeeper:
    doorkeeper: Doorkeeper = request.app.state.doorkeeper
    return doorkeeper


def _shown(user: User) -> dict[str, Any]:
    return {
        "username": user.username,
        "owner_id": user.username,
        "is_admin": user.is_admin,
        "created_on": user.created_on,
    }


router.add_api_route(
    "/auth/register",
    register,
    methods=["POST"],
    summary="Register a user",
    operation_id="register",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.REGISTER,
)
router.add_api_route(
    "/auth/token",
    log_in,
    methods=["POST"],
    summary="Log in",
    operation_id="log_in",
    response_class=Response,
    openapi_extra=docs.LOG_IN,
)
router.add_api_route(
    "/auth/me",
    show_me,
    methods=["GET"],
    summary="Show who calls",
    operation_id="show_me",
    response_class=Response,
    openapi_extra=docs.ME,
)
