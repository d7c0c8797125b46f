"""What an application serves: the ledger's routes for its operations, and routes of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from sqlalchemy.ext.asyncio import AsyncConnection

from shared_ledger.ledger import Ledger
from shared_ledger.messages import MessageTables
from shared_ledger.operations import Application
from shared_ledger.service.authorisation import RightsTable
from shared_ledger.service.figures import Figure
from shared_ledger.settings import Settings

PREFIX = "/api/v1/"
"""Where an application is served beside others, before its name."""
MAX_APPLICATION_BODY_BYTES = 1024 * 1024
"""The longest body of a route of an application's own."""


@dataclass(frozen=True, slots=True)
class Serving:
    """What a service's own lifespan is given: its ledger, which is open, and the settings.

    ``leaving`` tells whether the process has been told to end: an answer that would go on for ever
    ends then.
    """

    ledger: Ledger[Any]
    settings: Settings
    leaving: Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Service:
    """One application as it is served, alone at the root or beside others.

    Attributes
    ----------
    routers
        Its own routes, beside those of the ledger, of users and of keys that every service has.
        Only plain ones: no router within a router, no WebSocket and no mounted application. What a
        query string holds beside the parameters of a route's function is refused.
    rights
        Who may call each of its own routes, by method and path; a route without a row here ends
        the start.
    tags
        What its groups of routes are, for the documentation.
    contexts
        Its parts that can run in processes of their own; which run in this one is a setting,
        ``shared_ledger_contexts``.
    lifespan
        What runs beside its routes while it is served, and what its routes are given of that, as
        ``request.app.state.own``.
    registered
        Called with that, and a username, when a user has registered there. Users register
        elsewhere, too, and a process may end before it is called: it is for what is better done
        at once.
    message_tables
        The outboxes and inboxes of its contexts, for metrics and for ``shared-ledger messages``.
    projections
        By a context's name, as in its tables: what makes its projections anew from the messages it
        has had, in the caller's transaction, and returns of how many; for ``shared-ledger messages
        rebuild``.
    figures
        What else of its own metrics show.
    migrations
        The folder of its Alembic environment, if it has tables of its own. They live in the book's
        schema, beside the book's.
    """

    application: Application[Any]
    title: str
    description: str
    routers: Sequence[APIRouter] = ()
    rights: RightsTable = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    contexts: Sequence[str] = ()
    lifespan: Callable[[Serving], AbstractAsyncContextManager[Any]] | None = None
    registered: Callable[[Any, str], Awaitable[None]] | None = None
    message_tables: Sequence[MessageTables] = ()
    projections: Mapping[str, Callable[[AsyncConnection], Awaitable[int]]] = field(
        default_factory=dict
    )
    figures: Sequence[Figure] = ()
    migrations: Path | None = None

    @property
    def path(self) -> str:
        """Where it is served beside others."""
        return PREFIX + self.application.name


def plain(application: Application[Any]) -> Service:
    """Return the service of an application that has no routes of its own."""
    return Service(
        application=application,
        title="Shared Ledger",
        description=DESCRIPTION.strip(),
    )


DESCRIPTION = """
One credits ledger for all of a team's applications: typed operations, posted exactly once, never
overspent. A service sends its key in the header `x-token`; a user registers, logs in, and sends the
token as `Authorization: Bearer …`.
"""
