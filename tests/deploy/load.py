"""Clients that ask again as soon as they are answered, while something is done to the service."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import httpx

PAUSE_S = 0.01
MAX_REQUESTS = 20_000
# An answer that comes late is seen as such, and is no failure.
TIMEOUT_S = 30

Work = Callable[[], Awaitable[None]]


@dataclass
class Seen:
    """What the clients were answered: how often what, and the nonces that were acknowledged."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    nonces: list[tuple[str, str]] = field(default_factory=list)
    """Of each posting, its owner and its nonce."""
    unexpected: list[str] = field(default_factory=list)
    """All answers but 200 and 201."""

    @property
    def requests(self) -> int:
        """How many were answered."""
        return self.statuses.total()


class Clients:
    """Clients of one service, none of which tries anything again."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.url = url
        self.headers = headers
        self.seen = Seen()
        self._numbers = count(1)
        self._answered = asyncio.Condition()
        self._kinds: list[tuple[str, Callable[[httpx.AsyncClient, int], Awaitable[None]]]] = []

    def post_credits(self, path: str = "/ledger") -> None:
        """Let some of them post."""

        async def post(client: httpx.AsyncClient, number: int) -> None:
            owner_id, nonce = f"owner {number % 20}", f"load {number}"
            body = {"operation": "CREDIT_ADD", "owner_id": owner_id, "nonce": nonce}
            if await self._ask(client, "POST", path, body):
                self.seen.nonces.append((owner_id, nonce))

        self._kinds.append((path, post))

    def get(self, path: str) -> None:
        """Let some of them read what is at a path."""

        async def get(client: httpx.AsyncClient, _: int) -> None:
            await self._ask(client, "GET", path, None)

        self._kinds.append((path, get))

    def place_orders(self, path: str, product_id: int, owner_id: str) -> None:
        """Let some of them order one piece of a product, again and again."""

        async def order(client: httpx.AsyncClient, number: int) -> None:
            body = {
                "product_id": product_id,
                "quantity": 1,
                "owner_id": owner_id,
                "nonce": f"order {number}",
            }
            await self._ask(client, "POST", path, body)

        self._kinds.append((path, order))

    async def ask_while(self, work: Work, *, each: int = 4) -> Seen:
        """Ask, so many clients of each kind, before, during and after some work."""
        done = asyncio.Event()
        async with (
            httpx.AsyncClient(base_url=self.url, headers=self.headers, timeout=TIMEOUT_S) as client,
            asyncio.TaskGroup() as clients,
        ):
            for _, ask in self._kinds * each:
                clients.create_task(self._repeat(ask, client, done))
            try:
                await self.answered(50)
                await work()
                await self.answered(50)
            finally:
                done.set()
        return self.seen

    async def answered(self, more: int) -> None:
        """Wait until so many more requests were answered."""
        until = self.seen.requests + more
        async with asyncio.timeout(TIMEOUT_S), self._answered:
            await self._answered.wait_for(lambda: self.seen.requests >= until)

    async def _repeat(
        self,
        ask: Callable[[httpx.AsyncClient, int], Awaitable[None]],
        client: httpx.AsyncClient,
        done: asyncio.Event,
    ) -> None:
        while not done.is_set():
            number = next(self._numbers)
            assert number < MAX_REQUESTS, "the work takes too long"
            await ask(client, number)
            await asyncio.sleep(PAUSE_S)

    async def _ask(
        self, client: httpx.AsyncClient, method: str, path: str, body: dict[str, Any] | None
    ) -> bool:
        """Ask once; whether it was answered as it should be."""
        try:
            answer = await client.request(method, path, json=body)
            status, said = answer.status_code, answer.text
        except httpx.TransportError as error:
            status, said = 0, repr(error)
        self.seen.statuses[path, status] += 1
        if status not in (200, 201):
            self.seen.unexpected.append(f"{method} {path}: {status} {said}")
        async with self._answered:
            self._answered.notify_all()
        return status in (200, 201)
