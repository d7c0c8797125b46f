"""The shop under many at once: nothing is lost, sold twice, paid twice or refunded twice."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta
from random import Random
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Engine

from builders import query
from conftest import Clock
from shopping import MONTH, Shop, opened

OWNERS = ("alice", "bob", "carol")
ASKERS = 12
STEPS = 720
FUNDS = 60
MAX_TRIES = 20

# In one statement, so at one moment. What is wrong with the stock of a product:
LOST = """
    select id, stock, first_stock, changed, kept from {schema}.ecommerce_products as p
    cross join lateral (
        select coalesce(sum(change), 0) as changed from {schema}.ecommerce_stock_changes
        where product_id = p.id
    ) as changes
    cross join lateral (
        select coalesce(sum(case state when 'open' then quantity else shipped end), 0) as kept
        from {schema}.ecommerce_orders where product_id = p.id
    ) as ordered
    where stock < 0 or stock + kept <> first_stock + changed
"""
# With the credits of an owner, who had some, paid for what was shipped, and was refunded:
UNPAID = """
    select owner_id, posted, spent from {schema}.accounts
    cross join lateral (
        select coalesce(sum(shipped * price - refunded), 0) as spent
        from {schema}.ecommerce_orders as o where o.owner_id = accounts.owner_id
    ) as orders
    where left(owner_id, 1) <> '@' and posted <> %s - spent
"""
# With an order, whose entries must be what it says:
UNTRUE = """
    select o.id, o.state, hold.state, captured, back from {schema}.ecommerce_orders as o
    left join {schema}.holds as hold on hold.id = hold_id
    cross join lateral (
        select coalesce(sum(amount), 0) as back from {schema}.entries
        where reverses = o.entry_id and operation = 'REFUND_ITEM'
    ) as refunds
    where hold.amount <> quantity * price
        or captured <> shipped * price
        or back <> refunded
        or refunded > captured
        or (o.state = 'shipped') <> (hold.state = 'captured')
        or (o.state = 'cancelled') <> (hold.state = 'released')
        -- One that has expired may have been booked in the one place and not yet in the other.
        or (o.state = 'open') and hold.state not in ('open', 'expired')
        or (o.state = 'expired') and hold.state not in ('open', 'expired')
"""


@pytest.fixture
async def shop(clock: Clock, schema: str, engine: Engine) -> AsyncIterator[Shop]:
    """A shop whose time ``clock`` tells, and where everybody has 60 credits."""
    async with opened(clock.url, schema, engine) as shop:
        shop.served.user("carol")
        await shop.fund(times=4)
        await shop.fund("bob", 6)
        await shop.fund("carol", 6)
        yield shop


async def at_once(*asked: Awaitable[httpx.Response]) -> Counter[int]:
    """How often each status was answered."""
    return Counter(answer.status_code for answer in await asyncio.gather(*asked))


def wrong(shop: Shop) -> dict[str, list[tuple[Any, ...]]]:
    """What is wrong now; nothing at any moment."""
    url, schema = shop.served.url, shop.served.schema
    return {
        "lost": query(url, LOST.format(schema=schema)),
        "unpaid": query(url, UNPAID.format(schema=schema), FUNDS),
        "untrue": query(url, UNTRUE.format(schema=schema)),
    }


def deadlocks(url: str) -> int:
    # What a connection has done is counted when it ends, at the latest.
    count: int = query(url, "select sum(deadlocks)::int from pg_stat_database")[0][0]
    return count


NOTHING: dict[str, list[tuple[Any, ...]]] = {"lost": [], "unpaid": [], "untrue": []}


async def test_last_pieces_are_sold_once(shop: Shop) -> None:
    product_id = await shop.add(stock=5, price=1)
    answers = await at_once(
        *(
            shop.post("/orders", shop.alice, {"product_id": product_id, "nonce": f"n{number}"})
            for number in range(20)
        )
    )
    assert answers == {201: 5, 409: 15}
    assert await shop.stock() == 0


async def test_last_credits_are_reserved_once(shop: Shop) -> None:
    products = [await shop.add(sku=str(number), price=20, stock=100) for number in range(2)]
    answers = await at_once(
        *(
            shop.post("/orders", shop.alice, {"product_id": products[n % 2], "nonce": f"n{n}"})
            for n in range(20)
        )
    )
    assert answers == {201: 3, 402: 17}
    assert sum([await shop.stock(product_id) for product_id in products]) == 197


async def test_same_order_at_once_is_placed_once(shop: Shop) -> None:
    body = {"product_id": await shop.add(stock=1), "nonce": "n1"}
    asked = [shop.post("/orders", shop.alice, body) for _ in range(20)]
    assert await at_once(*asked) == {201: 1, 200: 19}
    assert await shop.credits() == (60, 3)


@pytest.mark.parametrize("price", [3, 4])
async def test_two_products_under_one_nonce_at_once_are_one_order(shop: Shop, price: int) -> None:
    products = [await shop.add(), await shop.add(sku="pot", price=price)]
    for number in range(10):
        bodies = [{"product_id": product_id, "nonce": f"n{number}"} for product_id in products]
        answers = await at_once(*(shop.post("/orders", shop.alice, body) for body in bodies))
        assert answers == {201: 1, 409: 1}
    assert sum([await shop.stock(product_id) for product_id in products]) == 10
    assert wrong(shop) == NOTHING


async def test_order_ends_once(shop: Shop) -> None:
    product_id = await shop.add(price=1)
    for _ in range(10):
        path = f"/orders/{await shop.order(product_id, 3)}"
        asked = [
            shop.post(f"{path}/ship", shop.seller),
            shop.post(f"{path}/ship", shop.seller, {"quantity": 2}),
            shop.post(f"{path}/cancel", shop.alice),
        ]
        assert await at_once(*asked) == {201: 1, 409: 2}
        await shop.post(
            f"/products/{product_id}/stock",
            shop.seller,
            {"change": 3, "nonce": shop.served.nonce()},
        )
    assert wrong(shop) == NOTHING


async def test_refunds_at_once_are_never_more_than_was_paid(shop: Shop) -> None:
    path = f"/orders/{await shop.shipped(10)}/refund"
    # 30 credits were paid; each nonce is asked for twice.
    asked = [
        shop.post(path, shop.seller, {"amount": 4, "nonce": f"r{number % 10}"})
        for number in range(20)
    ]
    assert (await at_once(*asked))[201] == 7
    assert await shop.credits() == (58, 0)
    assert wrong(shop) == NOTHING


async def test_same_product_at_once_is_added_once(shop: Shop) -> None:
    body = {"sku": "pot", "title": "A pot", "price": 4, "stock": 1}
    others = [body | {"stock": 2}] * 5
    asked = [shop.post("/products", shop.seller, each) for each in [body, *others, body]]
    answers = await at_once(*asked)
    assert answers[201] == 1
    assert answers[200] + answers[409] == 6
    assert len(shop.recorded("id", "ecommerce_products")) == 1


async def test_same_change_of_stock_at_once_happens_once(shop: Shop) -> None:
    path = f"/products/{await shop.add()}/stock"
    asked = [shop.post(path, shop.seller, {"change": 3, "nonce": "n"}) for _ in range(10)]
    assert await at_once(*asked) == {201: 1, 200: 9}
    assert await shop.stock() == 13


async def test_expired_orders_that_all_touch_at_once_go_back_once(shop: Shop, clock: Clock) -> None:
    products = [await shop.add(sku=str(number), price=1, stock=6) for number in range(2)]
    orders = [await shop.order(products[number % 2], 2) for number in range(6)]
    clock.move(MONTH)
    touches: list[Awaitable[httpx.Response]] = []
    for number, order_id in enumerate(orders):
        body = {"product_id": products[number % 2], "quantity": 1, "nonce": f"again {number}"}
        touches += [
            shop.get(f"/orders/{order_id}", shop.alice),
            shop.get("/orders", shop.alice),
            shop.post(f"/orders/{order_id}/ship", shop.seller),
            shop.post(f"/orders/{order_id}/cancel", shop.alice),
            patient_order(shop, body),
        ]
    await asyncio.gather(*touches)
    await shop.get("/orders", shop.alice)
    assert wrong(shop) == NOTHING
    assert sum([await shop.stock(product_id) for product_id in products]) == 6


async def patient_order(shop: Shop, body: dict[str, Any]) -> httpx.Response:
    """Order what others may still be about to put back into stock."""
    while True:
        answer = await shop.post("/orders", shop.alice, body)
        if answer.status_code == 201:
            return answer


# --- everything at once ---

Asked = tuple[str, str, dict[str, Any] | None]
Answered = tuple[str, httpx.Response]


class Asker:
    """Asks for anything, from a small world, so that everything is asked for again and again."""

    def __init__(self, shop: Shop, clock: Clock, seed: int, placed: list[int]) -> None:
        self._shop = shop
        self._clock = clock
        self._chance = Random(seed)
        self._placed = placed
        self.answers: list[Answered] = []

    def step(self) -> Asked:
        """What is asked next: its method, path and body."""
        chance = self._chance
        # One nonce has one body, but for a few mistakes.
        number = chance.randint(1, 40)
        mistake = chance.random() < 0.1
        owner_id = chance.choice(OWNERS)
        order = {
            "product_id": number % 2 + 1,
            "quantity": number % 3 + 1 + mistake,
            "nonce": f"n{number}",
            "owner_id": owner_id,
        }
        part = {"quantity": 1} if number < 9 else None
        refund = {"nonce": f"r{number % 4}", "amount": number % 4 + 1 + mistake}
        change = {"nonce": f"s{number % 8}", "change": (-1, 2)[number % 2] + mistake * 3}
        of_order = f"/orders/{chance.choice(self._placed[-12:] or [1])}"
        asked: list[tuple[int, Asked]] = [
            (10, ("POST", "/orders", order)),
            (3, ("POST", f"{of_order}/ship", part)),
            (2, ("POST", f"{of_order}/cancel", None)),
            (6, ("POST", f"{of_order}/refund", refund)),
            (1, ("POST", f"/products/{number % 2 + 1}/stock", change)),
            (1, ("GET", of_order, None)),
            (1, ("GET", f"/orders?owner_id={owner_id}", None)),
            (1, ("GET", "/products", None)),
        ]
        weights = [weight for weight, _ in asked]
        return chance.choices(asked, weights)[0][1]

    async def ask(self, steps: int) -> None:
        """Ask so many times; now and then some days pass."""
        for _ in range(steps):
            if self._chance.random() < 0.02:
                days = timedelta(days=self._chance.randint(10, 31))
                await asyncio.to_thread(self._clock.move, days)
            method, path, body = self.step()
            answer = await self._patient(method, path, body)
            self.answers.append((path, answer))
            if path == "/orders" and answer.status_code == 201:
                self._placed.append(answer.json()["id"])

    async def _patient(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        """Ask until it is answered: to ask again is safe when the answer is 503."""
        client, seller = self._shop.served.client, self._shop.seller
        for _ in range(MAX_TRIES):
            answer = await client.request(method, path, json=body, headers=seller)
            if answer.status_code != 503:
                return answer
        raise AssertionError(answer.text)


async def watch(shop: Shop, over: asyncio.Event) -> int:
    """Look again and again whether anything is wrong; return how often."""
    looks = 0
    while not over.is_set():
        assert await asyncio.to_thread(wrong, shop) == NOTHING
        looks += 1
    return looks


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_everything_at_once_loses_nothing(
    clock: Clock, schema: str, engine: Engine, seed: int
) -> None:
    before = deadlocks(clock.url)
    async with opened(clock.url, schema, engine) as shop:
        await shop.fund(times=4)
        await shop.fund("bob", 6)
        await shop.fund("carol", 6)
        await shop.add(stock=20)
        await shop.add(sku="pot", stock=20, price=5)
        placed: list[int] = []
        askers = [Asker(shop, clock, seed * 1_000 + n, placed) for n in range(ASKERS)]
        over = asyncio.Event()
        watching = asyncio.create_task(watch(shop, over))
        await asyncio.gather(*(asker.ask(STEPS // ASKERS) for asker in askers))
        over.set()
        assert await watching > 0
        answers = [answer for asker in askers for answer in asker.answers]
        check_answers(answers)
        for owner_id in OWNERS:
            await shop.get("/orders", shop.seller, owner_id=owner_id, limit=100)
        shop.served.ledger.sweep()
        assert wrong(shop) == NOTHING
        check_end(shop)
        await everything_again(shop, answers)
    assert deadlocks(clock.url) == before


def check_answers(answers: Sequence[Answered]) -> None:
    """Each thing was answered 201 once at most, and everything that can happen has happened."""
    happened = {(path.rpartition("/")[2], answer.status_code) for path, answer in answers}
    assert {status for _, status in happened} <= {200, 201, 402, 404, 409}
    assert happened >= {
        *(("orders", status) for status in (200, 201, 409)),
        *((end, status) for end in ("ship", "refund", "stock") for status in (200, 201, 409)),
        *(("cancel", status) for status in (201, 409)),
    }
    written = Counter(
        (path, body.get("owner_id"), body.get("nonce"))
        for path, body in (
            (path, json.loads(answer.request.content or "{}"))
            for path, answer in answers
            if answer.status_code == 201
        )
    )
    assert set(written.values()) == {1}


def check_end(shop: Shop) -> None:
    """What is held is what open orders reserve, and nothing else."""
    url, schema = shop.served.url, shop.served.schema
    held = query(
        url,
        f"""
        select owner_id, held, reserved from {schema}.accounts
        cross join lateral (
            select coalesce(sum(quantity * price), 0) as reserved
            from {schema}.ecommerce_orders as o
            where o.owner_id = accounts.owner_id and state = 'open'
        ) as orders
        where left(owner_id, 1) <> '@' and held <> reserved
        """,
    )
    assert held == []
    orders = f"select owner_id, nonce, state from {schema}.ecommerce_orders"
    placed = [(owner_id, nonce) for owner_id, nonce, _ in query(url, orders)]
    assert len(set(placed)) == len(placed)
    # Everything has happened: what never happens proves nothing.
    assert {state for *_, state in query(url, orders)} >= {"shipped", "cancelled", "expired"}


async def everything_again(shop: Shop, answers: Sequence[Answered]) -> None:
    """What was written is answered with 200 if it is asked for again, and nothing changes."""
    before = shop.served.written()
    for path, answer in answers:
        if answer.status_code == 201:
            body = answer.request.content
            again = await shop.served.client.post(
                path, content=body, headers=answer.request.headers
            )
            assert (again.status_code, again.json()["replayed"]) == (200, True), again.text
    assert shop.served.written() == before
