"""What an application serves: the ledger's routes for its operations, and routes of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter

from shared_ledger.operations import Application
from shared_ledger.service.authorisation import RightsTable

PREFIX = "/api/v1/"
"""Where an application is served beside others, before its name."""
MAX_APPLICATION_BODY_BYTES = 1024 * 1024
"""The longest body of a route of an application's own."""


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
