"""What the servers have in common that speak as real nodes do, with the simulated node behind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar, NamedTuple

import sqlalchemy as sa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from contexts import engine_on
from shared_ledger.apps.crowdfunding.lightning.port import Invoice
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.apps.crowdfunding.lightning.tables import invoices

Answer = Callable[[Request], Awaitable[Response]]


class Numbered(NamedTuple):
    """An invoice, and its place among the settled ones; 0 if it is not one."""

    invoice: Invoice
    settle_index: int


class NodeServer:
    """An application that answers as a node does; ``asked`` is what, each with its parameters.

    An answer in ``instead`` is given once in the place of the right one, by path.
    """

    header: ClassVar[str]
    secret: ClassVar[str]

    def __init__(self, url: str, schema: str) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.instead: dict[str, Response] = {}
        self.node: SimulatedNode
        self._database = (url, schema)
        self.app = Starlette(
            routes=[
                Route(path, self._handler(answer), methods=[method])
                for (method, path), answer in self.routes().items()
            ],
            lifespan=self._open,
        )

    def routes(self) -> Mapping[tuple[str, str], Answer]:
        """Who answers what."""
        raise NotImplementedError

    def forbidden(self) -> Response:
        """What whoever has not the secret is answered."""
        raise NotImplementedError

    async def numbered(self) -> list[Numbered]:
        """All invoices of the node's own, in an order that does not change."""
        chosen = sa.select(invoices.c.payment_hash, invoices.c.settle_index)
        async with self._engine.connect() as connection:
            rows = await connection.execute(
                chosen.where(invoices.c.is_own).order_by(invoices.c.payment_hash)
            )
        found = []
        for payment_hash, index in rows:
            invoice = await self.node.lookup_invoice(payment_hash)
            assert invoice is not None
            found.append(Numbered(invoice, index or 0))
        return found

    async def settled_after(self, index: int) -> list[Numbered]:
        """The settled invoices, in order, after an index."""
        later = [each for each in await self.numbered() if each.settle_index > index]
        return sorted(later, key=lambda each: each.settle_index)

    def _handler(self, answer: Answer) -> Answer:
        async def handle(request: Request) -> Response:
            body = await request.body()
            asked = dict(request.query_params) | (json.loads(body) if body else {})
            self.asked.append((request.url.path, asked))
            if request.headers.get(self.header) != self.secret:
                return self.forbidden()
            if request.url.path in self.instead:
                return self.instead.pop(request.url.path)
            return await answer(request)

        return handle

    @asynccontextmanager
    async def _open(self, _: Starlette) -> AsyncIterator[None]:
        async with engine_on(*self._database) as engine:
            self._engine = engine
            self.node = SimulatedNode(engine, poll_s=0.01)
            yield
