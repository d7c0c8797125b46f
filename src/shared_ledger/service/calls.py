"""What an application's own routes are given: who calls, the ledger, and a transaction.

A route of an application is an ordinary function of FastAPI, not a coroutine::

    ContentCall = Annotated[Call[ContentOperation], Depends(called)]

    @router.post("/content", status_code=201, responses=written_once(Created))
    def create_content(body: NewContent, call: ContentCall) -> Created:
        with call.begin() as connection:
            ...
            call.ledger.post_in(connection, Posting(...))
        return call.written(Created(...))
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Annotated, Any, Generic, TypeVar

import sqlalchemy as sa
import sqlalchemy.exc
from fastapi import Depends, Request, Response
from sqlalchemy.engine import Connection, Engine

from shared_ledger.access.callers import Caller
from shared_ledger.access.refusals import CredentialsRefused, OwnerNotFound
from shared_ledger.book import Posted, Posting
from shared_ledger.connections import make_engine
from shared_ledger.errors import InvalidPosting, LedgerOverloaded, LedgerUnavailable
from shared_ledger.ledger import Ledger
from shared_ledger.operations import OperationT
from shared_ledger.service import budgets
from shared_ledger.service.answers import ledger_of
from shared_ledger.service.auth import gate_of
from shared_ledger.service.authorisation import May, Permit, admitted
from shared_ledger.service.fields import Written

CONNECTIONS = 20
CONNECTION_WAIT_S = 5
LOCK_TIMEOUT_S = 2

WrittenT = TypeVar("WrittenT", bound=Written)


class Call(Generic[OperationT]):
    """A request of somebody whom the table of rights lets in."""

    def __init__(self, request: Request, response: Response, permit: Permit | None) -> None:
        self._response = response
        self._permit = permit
        self._gate = gate_of(request)
        self._engine: Engine = request.app.state.engine
        self.ledger: Ledger[OperationT] = ledger_of(request)

    @property
    def caller(self) -> Caller:
        """Who calls.

        Raises
        ------
        CredentialsRefused
            If the table says that this route asks nobody.
        """
        if self._permit is None:
            raise CredentialsRefused("no credentials", given=False)
        return self._permit.caller

    @property
    def is_service(self) -> bool:
        """Whether a service calls, which acts for anybody."""
        return self.caller.kind == "service"

    def owner(self, named: str | None = None) -> str:
        """Return whose account it is about: a user's own; a service says whose.

        Raises
        ------
        OwnerNotFound
            If a user names another.
        InvalidPosting
            If a service names nobody.
        """
        if not self.is_service:
            if named not in (None, self.caller.name):
                raise OwnerNotFound(named or "")
            return self.caller.name
        if named is None:
            raise InvalidPosting("owner_id", "is required: a service says whose account it is")
        return named

    def sees_all(self) -> bool:
        """Whether the caller may see what is another's."""
        return self._permit is not None and self._permit.may in (May.ALL, May.SCOPE)

    async def post(self, posting: Posting[OperationT]) -> Posted:
        """Post an entry that needs no transaction of the application's own.

        Raises
        ------
        KeyBudgetSpent
            If that is more than the service's key may give today.
        Refusal, LedgerOverloaded, LedgerUnavailable
            As ``Ledger.post``.
        """
        return await budgets.post(self.ledger, self._gate, self.caller, posting)

    def written(self, answer: WrittenT) -> WrittenT:
        """Answer with the route's own status, 201, or with 200 if it had been written before."""
        if answer.replayed:
            self._response.status_code = HTTPStatus.OK
        return answer

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """Begin a transaction on the book's database; it commits when the block ends.

        Tables without a schema of their own are found beside the book's. Entries are posted in it
        by ``ledger.post_in``, so that they commit with the application's rows.

        Raises
        ------
        LedgerUnavailable
            If the database cannot be reached, or another transaction keeps a row for too long:
            asking again with the same nonce is safe.
        LedgerOverloaded
            If no connection becomes free: nothing was done.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(_LOCK_TIMEOUT)
                yield connection
        except sqlalchemy.exc.TimeoutError:
            raise LedgerOverloaded("too many requests are under way; try again later") from None
        except (sqlalchemy.exc.OperationalError, sqlalchemy.exc.InterfaceError) as error:
            reason = " ".join(str(error.orig).split())
            raise LedgerUnavailable(f"the database did not carry it out: {reason}") from error


_LOCK_TIMEOUT = sa.text(f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'")


def application_engine(url: str, schema: str) -> Engine:
    """Make the engine of applications' own tables, which are beside the book's."""
    engine = make_engine(url, pool_size=CONNECTIONS, wait_s=CONNECTION_WAIT_S)
    return engine.execution_options(schema_translate_map={None: schema})


async def called(
    request: Request, response: Response, permit: Annotated[Permit | None, Depends(admitted)]
) -> Call[Any]:
    """Give a route its call; a dependency of FastAPI."""
    return Call(request, response, permit)
