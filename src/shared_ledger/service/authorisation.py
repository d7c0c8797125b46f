"""Who may do what: one table of all routes, and what follows for what a request asks.

A user sees and moves what is his own. In production he may post only what its rule lets users post
(``posted_by``), so that he cannot give credits to anybody. A service does what its key is for. An
administrator sees everything, and moves what is his own. What is another's is not there: 404.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, NamedTuple

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Route

from shared_ledger.access.callers import Caller
from shared_ledger.access.refusals import NotAllowed, OwnerNotFound
from shared_ledger.book import Group, Part, PlaceHold, Posting
from shared_ledger.errors import (
    ConfigurationError,
    EntryNotFound,
    HoldNotFound,
    InvalidPosting,
)
from shared_ledger.operations import REVERSAL, TRANSFER
from shared_ledger.service.answers import ledger_of
from shared_ledger.service.auth import caller_of, gate_of
from shared_ledger.service.rates import rates_of


class May(Enum):
    """How far a right goes."""

    ALL = "anything"
    SCOPE = "what the key is for"
    OWN = "what is his own"
    NOT = "nothing"


class Rights(NamedTuple):
    """What each kind of caller may do on a route.

    ``operations`` are what the route posts by itself: a key must be for all of them.
    """

    user: May
    service: May
    administrator: May
    operations: tuple[str, ...] = ()

    def posting(self, *operations: str) -> Rights:
        """Return the same rights on a route that posts these operations."""
        return self._replace(operations=operations)


OPEN = None
"""Without credentials."""

KNOWN = Rights(user=May.ALL, service=May.ALL, administrator=May.ALL)
"""Whoever has credentials, for whatever application."""
EVERYBODY = Rights(user=May.ALL, service=May.ALL, administrator=May.ALL)
"""Any user, and keys of this application: unlike ``KNOWN``, no key of another."""
READ = Rights(user=May.OWN, service=May.ALL, administrator=May.ALL)
QUOTE = Rights(user=May.OWN, service=May.SCOPE, administrator=May.ALL)
POST = Rights(user=May.OWN, service=May.SCOPE, administrator=May.OWN)
SERVICE = Rights(user=May.NOT, service=May.SCOPE, administrator=May.NOT)
"""Undoing what a service relies on: its entries, and the holds that it may have placed."""
ADMIN = Rights(user=May.NOT, service=May.NOT, administrator=May.ALL)

RIGHTS: RightsTable = {
    ("GET", "/health"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/docs/oauth2-redirect"): OPEN,
    ("GET", "/redoc"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("POST", "/auth/register"): OPEN,
    ("POST", "/auth/token"): OPEN,
    ("GET", "/auth/me"): KNOWN,
    ("POST", "/ledger"): POST,
    ("POST", "/ledger/"): POST,
    ("POST", "/ledger/batch"): POST,
    ("POST", "/ledger/groups"): POST,
    ("POST", "/ledger/transfers"): POST,
    ("POST", "/ledger/entries/{entry_id}/reverse"): SERVICE,
    ("POST", "/ledger/quote"): QUOTE,
    ("POST", "/ledger/holds"): POST,
    ("POST", "/ledger/holds/{hold_id}/capture"): SERVICE,
    ("POST", "/ledger/holds/{hold_id}/release"): SERVICE,
    ("GET", "/ledger/holds/{hold_id}"): READ,
    ("GET", "/ledger/{owner_id}"): READ,
    ("GET", "/balance/{owner_id}"): READ,
    ("GET", "/ledger/{owner_id}/entries"): READ,
    ("GET", "/ledger/{owner_id}/grants"): READ,
    ("GET", "/ledger/{owner_id}/holds"): READ,
    ("GET", "/ledger/{owner_id}/statement"): READ,
    ("GET", "/admin/keys"): ADMIN,
    ("POST", "/admin/keys"): ADMIN,
    ("POST", "/admin/keys/{key_id}/rotate"): ADMIN,
    ("DELETE", "/admin/keys/{key_id}"): ADMIN,
}
"""The authorisation matrix of the routes that every application has, by method and path."""

RightsTable = Mapping[tuple[str, str], Rights | None]


def with_own(rights: RightsTable) -> RightsTable:
    """Return the table with the rows of an application's own routes.

    Raises
    ------
    ConfigurationError
        If one of them is a route that every application has: nobody would ever reach it.
    """
    if taken := rights.keys() & RIGHTS.keys():
        routes = ", ".join(f"{method} {path}" for method, path in sorted(taken))
        raise ConfigurationError(f"{routes} is a route of the ledger: give it another path")
    return {**rights, **RIGHTS}


class Permit(NamedTuple):
    """A caller whom a route lets in, and how far."""

    caller: Caller
    may: May


def check_complete(routes: Iterable[BaseRoute], rights: RightsTable) -> None:
    """Raise ``ConfigurationError`` if the table lacks a route: nobody decided who may call it."""
    missing = [
        f"{method} {route.path}"
        for route in routes
        if isinstance(route, Route)
        for method in sorted(route.methods or ())
        # What answers GET answers HEAD, with the same rights.
        if (method.replace("HEAD", "GET"), route.path) not in rights
    ]
    if missing:
        raise ConfigurationError(f"nobody decided who may call {', '.join(missing)}")


def check_plain(routes: Iterable[BaseRoute]) -> None:
    """Raise ``ConfigurationError`` if of a route the table could not be asked, or its path told."""
    others = [type(route).__name__ for route in routes if not isinstance(route, APIRoute)]
    if others:
        raise ConfigurationError(
            f"an application's router has routes of FastAPI only, and no {', '.join(others)}"
        )


def rights_of(request: Request) -> Rights | None:
    """Return what the table says of the route that serves a request."""
    table: RightsTable = request.scope["app"].state.rights
    return table[request.scope["method"], request.scope["route"].path]


async def admitted(request: Request) -> Permit | None:
    """Return who calls, as ``permitted`` does; nobody is asked where the table says so.

    There it only counts how often a network asks.
    """
    if rights_of(request) is not None:
        return await permitted(request)
    await rates_of(request).count_network(request)
    return None


async def permitted(request: Request) -> Permit:
    """Return who calls, if the route lets him in; what the body asks is looked at after that.

    Raises
    ------
    CredentialsRefused
        If nobody knows who calls.
    TooManyRequests
        If he asked this route too often.
    NotAllowed
        If he may not use this route.
    OwnerNotFound
        If the route shows another's account.
    """
    caller = await caller_of(request)
    # Most are counted here, and nothing is to be awaited.
    if counted := rates_of(request).count(request, caller.kind, caller.name):
        await counted
    route = request.scope["route"]
    rights = rights_of(request)
    if rights is None:
        return Permit(caller, May.ALL)
    may: May = getattr(rights, caller.kind)
    if may is May.NOT:
        raise NotAllowed(route.operation_id, reason=f"not to a {caller.kind}")
    if caller.application is not None and rights is not KNOWN:
        served = ledger_of(request).application.name
        if caller.application != served:
            raise NotAllowed(
                route.operation_id,
                reason=f"the key is for {caller.application}, and this is {served}",
            )
    if may is May.OWN:
        owner_id = request.path_params.get("owner_id")
        if owner_id is not None and owner_id != caller.name:
            raise OwnerNotFound(owner_id)
    elif may is May.SCOPE:
        for operation in rights.operations:
            _check_scope(caller, operation)
    return Permit(caller, may)


def check_posting(
    request: Request, permit: Permit, posting: Posting[Any] | PlaceHold[Any] | Part[Any]
) -> None:
    """Raise ``NotAllowed`` or ``OwnerNotFound`` if the caller may not post this."""
    caller, may = permit
    if may is May.ALL:
        return
    operation = str(posting.operation)
    if may is May.SCOPE:
        _check_scope(caller, operation)
        return
    if posting.owner_id != caller.name:
        raise OwnerNotFound(posting.owner_id)
    if not isinstance(posting, Part):
        check_nonce(permit, posting.nonce)
    _check_users(request, operation)
    if (
        not isinstance(posting, PlaceHold)
        and not (posting.expires_in is None and posting.priority is None)
        and not _development(request)
    ):
        raise NotAllowed(operation, reason="a user does not say when credits expire")


def check_nonce(permit: Permit, nonce: str) -> None:
    """Raise ``InvalidPosting`` if a user uses up a nonce that a service means to use for him."""
    if permit.may is May.OWN and nonce.startswith("@"):
        raise InvalidPosting("nonce", "begins with '@', which is kept for services")


def check_group(request: Request, permit: Permit, group: Group[Any]) -> None:
    """Raise as ``check_posting`` if the caller may not post all of a group."""
    check_nonce(permit, group.nonce)
    for part in group.parts:
        check_posting(request, permit, part)


def check_transfer(permit: Permit, source: str, nonce: str) -> None:
    """Raise as ``check_posting`` if the caller may not transfer from this owner."""
    if permit.may is May.SCOPE:
        _check_scope(permit.caller, TRANSFER)
    elif permit.may is May.OWN and source != permit.caller.name:
        raise OwnerNotFound(source)
    check_nonce(permit, nonce)


async def check_hold(request: Request, permit: Permit, hold_id: int, *, read: bool = False) -> None:
    """Raise ``NotAllowed`` or ``HoldNotFound`` if the caller may not use, or see, a hold."""
    caller, may = permit
    if may is May.ALL or (may is May.SCOPE and caller.operations is None):
        return
    hold = await ledger_of(request).ahold(hold_id)
    if may is May.SCOPE:
        _check_scope(caller, hold.operation)
        return
    if hold.owner_id != caller.name:
        raise HoldNotFound(hold_id)
    if not read:
        _check_users(request, hold.operation)


async def check_reversal(request: Request, permit: Permit, entry_id: int) -> None:
    """Raise ``NotAllowed`` or ``EntryNotFound`` if the caller may not take an entry back."""
    caller = permit.caller
    if caller.operations is None:
        return
    gate = gate_of(request)
    app = ledger_of(request).application.name
    operation = await gate.run(gate.store.operation_of_entry, entry_id, app)
    if operation is None:
        raise EntryNotFound(entry_id)
    if operation not in caller.operations:
        raise NotAllowed(REVERSAL, reason=f"the key is not for {operation}")


def _check_scope(caller: Caller, operation: str) -> None:
    if caller.operations is not None and operation not in caller.operations:
        raise NotAllowed(operation, reason="the key is not for this operation")


def _check_users(request: Request, operation: str) -> None:
    if _development(request):
        return
    rule = ledger_of(request).application.rules.get(operation)
    if rule is None or "user" not in rule.posted_by:
        raise NotAllowed(operation, reason="only a service posts it")


def _development(request: Request) -> bool:
    development: bool = request.app.state.development
    return development
