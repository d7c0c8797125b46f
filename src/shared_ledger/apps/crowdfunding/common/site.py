"""Where the contexts run: what their routes are given, and who of those who call takes part."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import Depends, Request
from sqlalchemy.ext.asyncio import AsyncEngine

from shared_ledger.apps.crowdfunding.lightning.port import LightningNode
from shared_ledger.service import Call, Rights, ServiceRefusal, called
from shared_ledger.service.authorisation import May
from shared_ledger.service.components import reference
from shared_ledger.service.documentation import Docs
from shared_ledger.service.problems import PROBLEM_JSON, described

PERSON = Rights(user=May.OWN, service=May.NOT, administrator=May.OWN)
"""A user, for what is his own; a service has no account here."""


@dataclass(frozen=True, slots=True)
class Site:
    """The database, with the contexts' tables beside the book, and the Lightning node.

    ``contexts`` are those that run in this process.
    ``take_part`` tells the auth context of a user who calls; ``leaving``, whether the process ends.
    """

    engine: AsyncEngine
    node: LightningNode
    contexts: frozenset[str]
    take_part: Callable[[str], Awaitable[None]]
    leaving: Callable[[], bool]


async def site_of(request: Request) -> Site:
    """Give a route its site; a dependency of FastAPI."""
    site: Site = request.app.state.own
    return site


AtSite = Annotated[Site, Depends(site_of)]


class NotRunHere(ServiceRefusal):
    """Another process runs the context that answers this."""

    status = HTTPStatus.MISDIRECTED_REQUEST
    code = "not_run_here"

    def __init__(self, context: str) -> None:
        self.context = context

    def __str__(self) -> str:
        return f"this process does not run the context {self.context}: ask the one that does"


def run_by(context: str) -> Any:
    """Return the dependency of a context's routes: they answer where the context runs."""

    async def check(site: AtSite) -> None:
        if context not in site.contexts:
            raise NotRunHere(context)

    return Depends(check)


NOT_RUN_HERE: dict[int | str, Docs] = {
    int(NotRunHere.status): {
        "description": "Another process answers this.",
        "content": {
            PROBLEM_JSON: {
                "schema": reference("Problem"),
                "example": described(NotRunHere("bitcoin")),
            }
        },
    }
}
"""What ``run_by`` answers, for the documentation."""


async def participant(call: Annotated[Call[Any], Depends(called)], site: AtSite) -> str:
    """Give a route the account of who calls; he takes part from then on."""
    account_id = call.owner()
    await site.take_part(account_id)
    return account_id


Participant = Annotated[str, Depends(participant)]
