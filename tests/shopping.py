"""A shop over a new book for one test, its sellers and its buyers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import httpx
from sqlalchemy.engine import Engine

from builders import assert_sound, query
from serving import OPERATOR, Served, serving
from shared_ledger import SHARED
from shared_ledger.apps.ecommerce import SERVICE

Headers = dict[str, str]

MONTH = timedelta(days=30)
MUG: dict[str, Any] = {"sku": "mug-blue", "title": "A blue mug", "price": 3, "stock": 10}


class Shop:
    """A shop that is served, as a test meets it: ``alice`` has 20 credits."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.alice = served.user("alice")
        self.bob = served.user("bob")
        self.admin = served.user("root", is_admin=True)
        self.seller = served.key("ecommerce", ("PURCHASE", "REFUND_ITEM"))

    async def get(self, path: str, headers: Headers, **parameters: Any) -> httpx.Response:
        return await self.served.client.get(path, headers=headers, params=parameters or None)

    async def post(
        self, path: str, headers: Headers, body: dict[str, Any] | None = None
    ) -> httpx.Response:
        return await self.served.client.post(path, json=body, headers=headers)

    async def fund(self, owner_id: str = "alice", times: int = 2) -> None:
        """Give an owner 10 credits, so many times."""
        for _ in range(times):
            body = {"operation": "CREDIT_ADD", "owner_id": owner_id, "nonce": self.served.nonce()}
            assert (await self.post("/ledger", OPERATOR, body)).status_code == 201

    async def add(self, **changes: Any) -> int:
        """Add a product, ten mugs of 3 credits if nothing else is said; return its id."""
        answer = await self.post("/products", self.seller, MUG | changes)
        assert answer.status_code == 201, answer.text
        number: int = answer.json()["id"]
        return number

    async def order(self, product_id: int, quantity: int = 1, **changes: Any) -> int:
        """Place an order of alice's; return its id."""
        body = {"product_id": product_id, "quantity": quantity, "nonce": self.served.nonce()}
        answer = await self.post("/orders", self.alice, body | changes)
        assert answer.status_code == 201, answer.text
        number: int = answer.json()["id"]
        return number

    async def shipped(self, quantity: int = 2, **product: Any) -> int:
        """Ship an order of alice's, two mugs if nothing else is said; return its id."""
        order_id = await self.order(await self.add(**product), quantity)
        assert (await self.post(f"/orders/{order_id}/ship", self.seller)).status_code == 201
        return order_id

    async def stock(self, product_id: int = 1) -> int:
        """How many can be ordered, as the shop shows it."""
        stock: int = (await self.get(f"/products/{product_id}", self.bob)).json()["stock"]
        return stock

    async def credits(self, owner_id: str = "alice") -> tuple[int, int]:
        """What an owner has, and what is held of it."""
        shown = (await self.get(f"/ledger/{owner_id}", OPERATOR)).json()
        return shown["balance"], shown["held"]

    def recorded(self, columns: str, table: str = "ecommerce_orders") -> list[tuple[Any, ...]]:
        return query(
            self.served.url, f"select {columns} from {self.served.schema}.{table} order by id"
        )


@asynccontextmanager
async def opened(
    url: str, schema: str, engine: Engine, *, mounted: bool = False
) -> AsyncIterator[Shop]:
    """Open a shop, and prove its book when it closes."""
    application: Any = SHARED if mounted else SERVICE
    beside = [SERVICE] if mounted else []
    async with serving(url, schema, engine, application=application, beside=beside) as served:
        shop = Shop(served.at(SERVICE.path) if mounted else served)
        await shop.fund()
        yield shop
    assert_sound(url, schema)
