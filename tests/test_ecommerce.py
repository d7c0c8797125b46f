"""The shop: its routes over HTTP and the real database, its tables and their migration."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import Engine

from builders import query
from conftest import Clock
from serving import OPERATOR, kind
from shared_ledger import SHARED, Posting
from shared_ledger.apps.ecommerce import ECOMMERCE, SERVICE, EcommerceOperation
from shared_ledger.apps.ecommerce.routes import RIGHTS
from shared_ledger.apps.ecommerce.tables import metadata
from shared_ledger.embedded import Cluster
from shared_ledger.migrations import SCHEMA_ATTRIBUTE, migrate
from shopping import MONTH, MUG, Headers, Shop, opened

DAY = timedelta(days=1)


@pytest.fixture
async def shop(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Shop]:
    async with opened(cluster.url, schema, engine) as shop:
        yield shop


@pytest.fixture
async def lasting(clock: Clock, schema: str, engine: Engine) -> AsyncIterator[Shop]:
    """A shop whose time ``clock`` tells."""
    async with opened(clock.url, schema, engine) as shop:
        yield shop


# --- alone and beside others ---


@pytest.mark.parametrize("mounted", [False, True])
async def test_order_is_placed_shipped_and_refunded(
    cluster: Cluster, schema: str, engine: Engine, *, mounted: bool
) -> None:
    async with opened(cluster.url, schema, engine, mounted=mounted) as shop:
        product_id = await shop.add()
        body = {"product_id": product_id, "quantity": 4, "nonce": "n1"}
        placed = await shop.post("/orders", shop.alice, body)
        assert placed.status_code == 201
        assert await shop.stock() == 6
        assert await shop.credits() == (20, 12)
        order = placed.json()
        assert order | body == order
        assert order["state"] == "open"
        shipped = (await shop.post(f"/orders/{order['id']}/ship", shop.seller)).json()
        assert (shipped["state"], shipped["shipped"], shipped["paid"]) == ("shipped", 4, 12)
        assert await shop.credits() == (8, 0)
        refund = {"amount": 5, "nonce": "r1"}
        refunded = await shop.post(f"/orders/{order['id']}/refund", shop.seller, refund)
        assert refunded.status_code == 201
        assert refunded.json()["amount"] == refunded.json()["order"]["refunded"] == 5
        assert await shop.credits() == (13, 0)
        assert await shop.stock() == 6
    operations = f"select app, operation::text, amount from {schema}.entries where amount <> 0"
    assert query(cluster.url, f"{operations} order by id")[2:] == [
        ("ecommerce", "PURCHASE", -12),
        ("ecommerce", "REFUND_ITEM", 5),
    ]


# --- who may do what ---

BODIES: dict[str, dict[str, Any]] = {
    "/products": MUG | {"sku": "another"},
    "/products/{product_id}/stock": {"change": 1, "nonce": "n"},
    "/orders": {"product_id": 1, "nonce": "n", "owner_id": "alice"},
    "/orders/{order_id}/refund": {"nonce": "n"},
}


async def asked(shop: Shop, method: str, path: str, headers: Headers) -> int:
    """The status of an answer to a good request."""
    place = path.format(product_id=1, order_id=1)
    if method == "GET":
        return (await shop.get(place, headers)).status_code
    return (await shop.post(place, headers, BODIES.get(path))).status_code


async def test_nobody_and_keys_for_something_else_are_refused(shop: Shop) -> None:
    await shop.shipped()
    another, narrow = shop.served.key("content"), shop.served.key("ecommerce", ("CREDIT_ADD",))
    before = shop.served.written()
    for method, path in RIGHTS:
        assert await asked(shop, method, path, {}) == 401, path
        assert await asked(shop, method, path, another) == 403, path
        if method == "POST":
            assert await asked(shop, method, path, narrow) == 403, path
    assert shop.served.written() == before


@pytest.mark.parametrize(
    "path",
    [
        "/products",
        "/products/{product_id}/stock",
        "/orders/{order_id}/ship",
        "/orders/{order_id}/refund",
    ],
)
async def test_only_services_and_administrators_sell(shop: Shop, path: str) -> None:
    if path.endswith("refund"):
        await shop.shipped()
    else:
        await shop.order(await shop.add())
    before = shop.served.written()
    assert await asked(shop, "POST", path, shop.alice) == 403
    assert shop.served.written() == before
    assert await asked(shop, "POST", path, shop.admin) == 201


async def test_key_that_only_sells_gives_no_refund(shop: Shop) -> None:
    order_id = await shop.shipped()
    narrow = shop.served.key("ecommerce", ("PURCHASE",))
    answer = await shop.post(f"/orders/{order_id}/refund", narrow, {"nonce": "r"})
    assert answer.status_code == 403


# --- products ---


async def test_product_is_added_once_for_its_sku(shop: Shop) -> None:
    first = await shop.post("/products", shop.seller, MUG)
    assert first.status_code == 201
    assert first.json() | MUG == first.json()
    assert first.json()["created_on"].endswith("Z")
    await shop.order(first.json()["id"], 4)
    again = await shop.post("/products", shop.seller, MUG)
    assert again.status_code == 200
    # As it is now.
    assert again.json() == first.json() | {"replayed": True, "stock": 6}
    assert len(shop.recorded("id", "ecommerce_products")) == 1


@pytest.mark.parametrize(("field", "given"), [("title", "A red mug"), ("price", 4), ("stock", 9)])
async def test_sku_of_another_product_is_refused(shop: Shop, field: str, given: Any) -> None:
    await shop.add()
    answer = await shop.post("/products", shop.seller, MUG | {field: given})
    assert answer.status_code == 409
    assert kind(answer) == "sku_taken"
    problem = answer.json()
    assert [problem[name] for name in ("sku", "field", "recorded", "given")] == [
        "mug-blue",
        field,
        MUG[field],
        given,
    ]


async def test_products_are_shown_newest_first_in_pages(shop: Shop) -> None:
    for number in range(5):
        await shop.add(sku=f"sku {number}", title=f"Кружка ☕ {number}")
    first = (await shop.get("/products", shop.bob, limit=3)).json()
    assert [product["title"] for product in first["products"]] == [
        "Кружка ☕ 4",
        "Кружка ☕ 3",
        "Кружка ☕ 2",
    ]
    last = (await shop.get("/products", shop.bob, limit=3, cursor=first["cursor"])).json()
    assert [product["sku"] for product in last["products"]] == ["sku 1", "sku 0"]
    assert last["cursor"] is None


async def test_product_is_shown_to_everybody(shop: Shop) -> None:
    product_id = await shop.add()
    for headers in (shop.bob, shop.seller, shop.admin):
        shown = (await shop.get(f"/products/{product_id}", headers)).json()
        assert shown | MUG == shown


async def test_product_that_is_not_there_is_not_found(shop: Shop) -> None:
    change = {"change": 1, "nonce": "n"}
    for answer in (
        await shop.get("/products/7", shop.alice),
        await shop.post("/products/7/stock", shop.seller, change),
        await shop.post("/orders", shop.alice, {"product_id": 7, "nonce": "n"}),
    ):
        assert answer.status_code == 404
        assert kind(answer) == "product_not_found"
        assert answer.json()["product_id"] == 7


async def test_stock_is_changed_once_for_each_nonce(shop: Shop) -> None:
    path = f"/products/{await shop.add()}/stock"
    first = await shop.post(path, shop.seller, {"change": 5, "nonce": "n1"})
    assert (first.status_code, first.json()["stock"]) == (201, 15)
    again = await shop.post(path, shop.seller, {"change": 5, "nonce": "n1"})
    assert again.status_code == 200
    assert again.json() == first.json() | {"replayed": True}
    other = await shop.post(path, shop.seller, {"change": -5, "nonce": "n1"})
    assert other.status_code == 409
    assert kind(other) == "nonce_reused_with_different_change"
    assert (other.json()["recorded"], other.json()["given"]) == (5, -5)
    taken = await shop.post(path, shop.admin, {"change": -15, "nonce": "n2"})
    assert (taken.status_code, taken.json()["stock"]) == (201, 0)


async def test_nonces_of_two_products_are_two(shop: Shop) -> None:
    for number in range(2):
        path = f"/products/{await shop.add(sku=str(number))}/stock"
        answer = await shop.post(path, shop.seller, {"change": 1 + number, "nonce": "n"})
        assert answer.status_code == 201


async def test_more_than_is_in_stock_is_not_taken_out(shop: Shop) -> None:
    product_id = await shop.add()
    await shop.order(product_id, 4)
    path = f"/products/{product_id}/stock"
    answer = await shop.post(path, shop.seller, {"change": -7, "nonce": "n"})
    assert answer.status_code == 409
    assert kind(answer) == "out_of_stock"
    problem = answer.json()
    assert (problem["product_id"], problem["available"], problem["required"]) == (product_id, 6, 7)
    assert await shop.stock() == 6
    assert (await shop.post(path, shop.seller, {"change": -6, "nonce": "n"})).status_code == 201


# --- orders ---


async def test_order_is_placed_once_for_its_nonce(shop: Shop) -> None:
    product_id = await shop.add()
    body = {"product_id": product_id, "quantity": 3, "nonce": "n1"}
    first = await shop.post("/orders", shop.alice, body)
    again = await shop.post("/orders", shop.alice, body)
    of_service = await shop.post("/orders", shop.seller, body | {"owner_id": "alice"})
    assert (first.status_code, again.status_code, of_service.status_code) == (201, 200, 200)
    assert again.json() == of_service.json() == first.json() | {"replayed": True}
    assert await shop.stock() == 7
    assert await shop.credits() == (20, 9)
    # Another's is another.
    await shop.fund("bob")
    assert (await shop.post("/orders", shop.bob, body)).status_code == 201


async def test_same_order_is_answered_as_it_is_now(shop: Shop) -> None:
    body = {"product_id": await shop.add(stock=1), "nonce": "n1"}
    order_id = (await shop.post("/orders", shop.alice, body)).json()["id"]
    await shop.post(f"/orders/{order_id}/ship", shop.seller)
    # Though nothing is in stock any more.
    again = await shop.post("/orders", shop.alice, body)
    assert again.status_code == 200
    assert (again.json()["id"], again.json()["state"]) == (order_id, "shipped")


@pytest.mark.parametrize(("field", "given"), [("product_id", 2), ("quantity", 2)])
async def test_nonce_of_another_order_is_refused(shop: Shop, field: str, given: int) -> None:
    body = {"product_id": await shop.add(), "quantity": 1, "nonce": "n1"}
    await shop.add(sku="another mug")
    await shop.post("/orders", shop.alice, body)
    before = shop.served.written()
    answer = await shop.post("/orders", shop.alice, body | {field: given})
    assert answer.status_code == 409
    assert kind(answer) == f"nonce_reused_with_different_{field}"
    problem = answer.json()
    assert (problem["nonce"], problem["recorded"], problem["given"]) == ("n1", 1, given)
    assert shop.served.written() == before


async def test_nonce_that_a_service_used_for_an_entry_orders_nothing(shop: Shop) -> None:
    body = {"product_id": await shop.add(), "nonce": "n1"}
    entry = {"operation": "PURCHASE", "owner_id": "alice", "nonce": "@order:n1", "amount": -3}
    assert (await shop.post("/ledger", shop.seller, entry)).status_code == 201
    answer = await shop.post("/orders", shop.alice, body)
    assert answer.status_code == 409
    assert answer.json()["nonce"] == "n1"
    assert await shop.stock() == 10


async def test_order_that_cannot_be_paid_takes_no_stock(shop: Shop) -> None:
    product_id = await shop.add()
    before = shop.served.written()
    body = {"product_id": product_id, "quantity": 7, "nonce": "n1"}
    answer = await shop.post("/orders", shop.alice, body)
    assert answer.status_code == 402
    assert kind(answer) == "insufficient_credits"
    assert (answer.json()["available"], answer.json()["required"]) == (20, 21)
    assert await shop.stock() == 10
    assert shop.served.written() == before
    # Nor does it burn its nonce.
    await shop.fund()
    assert (await shop.post("/orders", shop.alice, body)).status_code == 201


async def test_order_of_more_than_is_in_stock_is_refused(shop: Shop) -> None:
    product_id = await shop.add(stock=2)
    before = shop.served.written()
    body = {"product_id": product_id, "quantity": 3, "nonce": "n1"}
    answer = await shop.post("/orders", shop.alice, body)
    assert answer.status_code == 409
    assert kind(answer) == "out_of_stock"
    problem = answer.json()
    assert (problem["product_id"], problem["available"], problem["required"]) == (product_id, 2, 3)
    assert shop.served.written() == before
    assert (await shop.post("/orders", shop.alice, body | {"quantity": 2})).status_code == 201


async def test_most_expensive_order_is_asked_for_exactly(shop: Shop) -> None:
    most = 1_000_000_000
    product_id = await shop.add(price=most, stock=most)
    body = {"product_id": product_id, "quantity": most, "nonce": "n1"}
    answer = await shop.post("/orders", shop.alice, body)
    assert answer.status_code == 402
    assert answer.json()["required"] == most * most


async def test_service_says_who_orders_and_a_user_only_himself(shop: Shop) -> None:
    body = {"product_id": await shop.add(), "nonce": "n1"}
    nameless = await shop.post("/orders", shop.seller, body)
    assert (nameless.status_code, nameless.json()["field"]) == (422, "owner_id")
    foreign = await shop.post("/orders", shop.bob, body | {"owner_id": "alice"})
    assert (foreign.status_code, kind(foreign)) == (404, "owner_not_found")
    for_alice = await shop.post("/orders", shop.seller, body | {"owner_id": "alice"})
    assert (for_alice.status_code, for_alice.json()["owner_id"]) == (201, "alice")


async def test_order_is_shown_to_its_owner_and_to_who_sees_all(shop: Shop) -> None:
    path = f"/orders/{await shop.order(await shop.add(), 2)}"
    shown = (await shop.get(path, shop.alice)).json()
    assert (shown["quantity"], shown["price"], shown["paid"]) == (2, 3, 0)
    for headers in (shop.seller, shop.admin):
        assert (await shop.get(path, headers)).json() == shown


@pytest.mark.parametrize("path", ["/orders/{}", "/orders/{}/cancel"])
async def test_foreign_order_is_not_there(shop: Shop, path: str) -> None:
    order_id = await shop.order(await shop.add())
    call = shop.post if path.endswith("cancel") else shop.get
    for headers, number in ((shop.bob, order_id), (shop.alice, 77), (shop.seller, 77)):
        answer = await call(path.format(number), headers)
        assert answer.status_code == 404
        assert kind(answer) == "order_not_found"
        assert answer.json()["order_id"] == number
    assert (await shop.get(f"/orders/{order_id}", shop.alice)).json()["state"] == "open"


@pytest.mark.parametrize("path", ["/orders/7/ship", "/orders/7/refund"])
async def test_order_that_is_not_there_is_not_found(shop: Shop, path: str) -> None:
    answer = await shop.post(path, shop.seller, {"nonce": "n"} if "refund" in path else None)
    assert answer.status_code == 404
    assert kind(answer) == "order_not_found"


async def test_orders_are_listed_newest_first_in_pages(shop: Shop) -> None:
    product_id = await shop.add(price=1)
    placed = [await shop.order(product_id) for _ in range(5)]
    await shop.fund("bob")
    await shop.post("/orders", shop.bob, {"product_id": product_id, "nonce": "n"})
    first = (await shop.get("/orders", shop.alice, limit=3)).json()
    assert [order["id"] for order in first["orders"]] == placed[:1:-1]
    last = await shop.get("/orders", shop.alice, limit=3, cursor=first["cursor"])
    assert [order["id"] for order in last.json()["orders"]] == placed[1::-1]
    assert last.json()["cursor"] is None
    assert (await shop.get("/orders", shop.alice, limit=5)).json()["cursor"] is None


async def test_service_and_administrator_say_whose_orders_they_list(shop: Shop) -> None:
    order_id = await shop.order(await shop.add())
    for headers in (shop.seller, shop.admin, shop.alice):
        listed = (await shop.get("/orders", headers, owner_id="alice")).json()
        assert [order["id"] for order in listed["orders"]] == [order_id]
    assert (await shop.get("/orders", shop.admin)).json()["orders"] == []
    nameless = await shop.get("/orders", shop.seller)
    assert (nameless.status_code, nameless.json()["field"]) == (422, "owner_id")
    foreign = await shop.get("/orders", shop.bob, owner_id="alice")
    assert (foreign.status_code, kind(foreign)) == (404, "owner_not_found")


# --- shipping ---


async def test_shipment_is_paid_once(shop: Shop) -> None:
    order_id = await shop.order(await shop.add(), 2)
    first = await shop.post(f"/orders/{order_id}/ship", shop.seller)
    again = await shop.post(f"/orders/{order_id}/ship", shop.seller, {"quantity": 2})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"replayed": True}
    assert await shop.credits() == (14, 0)
    assert shop.recorded("entry_id") == [(first.json()["entry_id"],)]


async def test_order_shipped_in_part_gives_the_rest_back(shop: Shop) -> None:
    product_id = await shop.add()
    order_id = await shop.order(product_id, 5)
    path = f"/orders/{order_id}/ship"
    first = await shop.post(path, shop.seller, {"quantity": 2})
    assert first.status_code == 201
    order = first.json()
    assert (order["quantity"], order["shipped"], order["paid"]) == (5, 2, 6)
    assert await shop.stock(product_id) == 8
    assert await shop.credits() == (14, 0)
    again = await shop.post(path, shop.seller, {"quantity": 2})
    assert again.status_code == 200
    # All of it is another shipment, which cannot be any more.
    other = await shop.post(path, shop.seller)
    assert other.status_code == 409
    assert kind(other) == "order_already_shipped"
    assert (other.json()["state"], other.json()["shipped"]) == ("shipped", 2)


async def test_more_than_was_ordered_is_not_shipped(shop: Shop) -> None:
    order_id = await shop.order(await shop.add(), 2)
    answer = await shop.post(f"/orders/{order_id}/ship", shop.seller, {"quantity": 3})
    assert (answer.status_code, answer.json()["field"]) == (422, "quantity")
    assert await shop.credits() == (20, 6)


async def test_cancelled_order_is_not_shipped(shop: Shop) -> None:
    order_id = await shop.order(await shop.add(), 2)
    await shop.post(f"/orders/{order_id}/cancel", shop.alice)
    answer = await shop.post(f"/orders/{order_id}/ship", shop.seller)
    assert answer.status_code == 409
    assert kind(answer) == "order_already_cancelled"
    assert answer.json()["state"] == "cancelled"
    assert await shop.credits() == (20, 0)


async def test_order_keeps_its_price(shop: Shop) -> None:
    order_id = await shop.order(await shop.add(), 2)
    query(shop.served.url, f"update {shop.served.schema}.ecommerce_products set price = 9")
    shipped = (await shop.post(f"/orders/{order_id}/ship", shop.seller)).json()
    assert (shipped["price"], shipped["paid"]) == (3, 6)


# --- cancelling ---


@pytest.mark.parametrize("who", ["alice", "seller", "admin"])
async def test_cancelled_order_gives_everything_back_once(shop: Shop, who: str) -> None:
    product_id = await shop.add()
    path = f"/orders/{await shop.order(product_id, 4)}/cancel"
    first = await shop.post(path, getattr(shop, who))
    again = await shop.post(path, getattr(shop, who))
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"replayed": True}
    assert first.json()["state"] == "cancelled"
    assert first.json()["closed_on"] is not None
    assert await shop.stock(product_id) == 10
    assert await shop.credits() == (20, 0)


async def test_shipped_order_is_not_cancelled(shop: Shop) -> None:
    order_id = await shop.shipped()
    answer = await shop.post(f"/orders/{order_id}/cancel", shop.alice)
    assert answer.status_code == 409
    assert kind(answer) == "order_already_shipped"
    assert answer.json()["state"] == "shipped"
    assert await shop.stock() == 8
    assert await shop.credits() == (14, 0)


# --- refunds ---


async def test_refund_in_parts_is_never_more_than_was_paid(shop: Shop) -> None:
    path = f"/orders/{await shop.shipped(3)}/refund"
    first = await shop.post(path, shop.seller, {"amount": 4, "nonce": "r1"})
    assert first.status_code == 201
    assert (first.json()["amount"], first.json()["order"]["refunded"]) == (4, 4)
    before = shop.served.written()
    more = await shop.post(path, shop.seller, {"amount": 6, "nonce": "r2"})
    assert more.status_code == 409
    assert kind(more) == "refund_exceeds_payment"
    assert [more.json()[name] for name in ("paid", "refunded", "required")] == [9, 4, 6]
    assert shop.served.written() == before
    rest = await shop.post(path, shop.admin, {"nonce": "r2"})
    assert (rest.status_code, rest.json()["amount"]) == (201, 5)
    assert rest.json()["order"]["refunded"] == 9
    assert await shop.credits() == (20, 0)
    nothing = await shop.post(path, shop.seller, {"nonce": "r3"})
    assert (nothing.status_code, kind(nothing)) == (409, "refund_exceeds_payment")


async def test_refund_is_given_once_for_its_nonce(shop: Shop) -> None:
    path = f"/orders/{await shop.shipped(3)}/refund"
    first = await shop.post(path, shop.seller, {"amount": 4, "nonce": "r1"})
    again = await shop.post(path, shop.seller, {"amount": 4, "nonce": "r1"})
    assert again.status_code == 200
    assert again.json() == first.json() | {"replayed": True}
    other = await shop.post(path, shop.seller, {"amount": 5, "nonce": "r1"})
    assert other.status_code == 409
    assert kind(other) == "nonce_reused_with_different_amount"
    problem = other.json()
    assert (problem["nonce"], problem["recorded"], problem["given"]) == ("r1", 4, 5)
    rest = await shop.post(path, shop.seller, {"nonce": "r2"})
    assert (await shop.post(path, shop.seller, {"nonce": "r2"})).status_code == 200
    assert rest.json()["order"]["refunded"] == 9
    assert await shop.credits() == (20, 0)


async def test_nonces_of_refunds_of_two_orders_are_two(shop: Shop) -> None:
    for number in range(2):
        path = f"/orders/{await shop.shipped(1, sku=str(number))}/refund"
        assert (await shop.post(path, shop.seller, {"nonce": "r"})).status_code == 201
    assert await shop.credits() == (20, 0)


async def test_what_was_not_paid_is_not_refunded(shop: Shop) -> None:
    order_id = await shop.order(await shop.add(), 2)
    for state in ("open", "cancelled"):
        answer = await shop.post(f"/orders/{order_id}/refund", shop.seller, {"nonce": "r"})
        assert answer.status_code == 409
        assert kind(answer) == "order_not_shipped"
        assert answer.json()["state"] == state
        await shop.post(f"/orders/{order_id}/cancel", shop.seller)
    assert await shop.credits() == (20, 0)


async def test_refund_goes_back_to_the_credits_that_paid(shop: Shop) -> None:
    ledger = shop.served.ledger
    ledger.post(Posting(EcommerceOperation.CREDIT_ADD, "alice", "voucher", expires_in=DAY))
    order_id = await shop.shipped(4)
    assert ledger.balance("alice").expiring == 0
    await shop.post(f"/orders/{order_id}/refund", shop.seller, {"amount": 7, "nonce": "r"})
    assert ledger.balance("alice").expiring == 5


async def test_what_the_ledger_has_taken_back_is_not_refunded_again(shop: Shop) -> None:
    order_id = await shop.shipped(3)
    entry_id = (await shop.get(f"/orders/{order_id}", shop.seller)).json()["entry_id"]
    reversal = {"nonce": "by hand", "amount": 7}
    assert (await shop.post(f"/ledger/entries/{entry_id}/reverse", OPERATOR, reversal)).is_success
    answer = await shop.post(f"/orders/{order_id}/refund", shop.seller, {"amount": 3, "nonce": "r"})
    assert (answer.status_code, kind(answer)) == (409, "refund_exceeds_payment")
    assert [answer.json()[name] for name in ("paid", "refunded", "required")] == [9, 7, 3]


# --- orders whose time is over ---


async def test_order_that_is_not_shipped_in_time_expires(lasting: Shop, clock: Clock) -> None:
    product_id = await lasting.add()
    order_id = await lasting.order(product_id, 4)
    clock.move(MONTH)
    answer = await lasting.post(f"/orders/{order_id}/ship", lasting.seller)
    assert answer.status_code == 409
    assert kind(answer) == "hold_expired"
    # The refusal has not undone that.
    assert lasting.recorded("state") == [("expired",)]
    assert lasting.recorded("stock", "ecommerce_products") == [(10,)]
    assert (await lasting.post(f"/orders/{order_id}/ship", lasting.seller)).status_code == 409
    cancelled = await lasting.post(f"/orders/{order_id}/cancel", lasting.alice)
    assert (cancelled.status_code, kind(cancelled)) == (409, "hold_expired")
    refunded = await lasting.post(f"/orders/{order_id}/refund", lasting.seller, {"nonce": "r"})
    assert (refunded.status_code, refunded.json()["state"]) == (409, "expired")
    assert lasting.recorded("stock", "ecommerce_products") == [(10,)]
    assert await lasting.credits() == (20, 0)


async def test_order_whose_hold_was_ended_by_hand_waits_for_its_end(
    lasting: Shop, clock: Clock
) -> None:
    order_id = await lasting.order(await lasting.add(), 4)
    hold_id = (await lasting.get(f"/orders/{order_id}", lasting.alice)).json()["hold_id"]
    release = {"nonce": "by hand"}
    by_hand = await lasting.post(f"/ledger/holds/{hold_id}/release", lasting.seller, release)
    assert by_hand.status_code == 201
    for end in ("ship", "cancel"):
        answer = await lasting.post(f"/orders/{order_id}/{end}", lasting.seller)
        assert (answer.status_code, kind(answer)) == (409, "hold_closed")
    assert lasting.recorded("stock", "ecommerce_products") == [(6,)]
    clock.move(MONTH)
    shown = (await lasting.get(f"/orders/{order_id}", lasting.alice)).json()
    assert shown["state"] == "expired"
    assert lasting.recorded("stock", "ecommerce_products") == [(10,)]


async def test_order_is_shipped_until_the_last_moment(lasting: Shop, clock: Clock) -> None:
    order_id = await lasting.order(await lasting.add(), 4)
    clock.move(MONTH - timedelta(microseconds=1))
    assert (await lasting.post(f"/orders/{order_id}/ship", lasting.seller)).status_code == 201


@pytest.mark.parametrize("touch", ["show", "list", "cancel", "refund", "order"])
async def test_expired_order_gives_its_stock_back_when_it_is_touched(
    lasting: Shop, clock: Clock, touch: str
) -> None:
    product_id = await lasting.add()
    order_id = await lasting.order(product_id, 4, nonce="n1")
    clock.move(MONTH)
    for _ in range(2):
        if touch == "show":
            shown = (await lasting.get(f"/orders/{order_id}", lasting.alice)).json()
            assert (shown["state"], shown["closed_on"]) == ("expired", shown["expires_on"])
        elif touch == "list":
            (shown,) = (await lasting.get("/orders", lasting.alice)).json()["orders"]
            assert shown["state"] == "expired"
        elif touch == "order":
            body = {"product_id": product_id, "quantity": 4, "nonce": "n1"}
            again = await lasting.post("/orders", lasting.alice, body)
            assert (again.status_code, again.json()["state"]) == (200, "expired")
        else:
            answer = await lasting.post(f"/orders/{order_id}/{touch}", OPERATOR, {"nonce": "r"})
            assert answer.status_code == 409
        assert lasting.recorded("state") == [("expired",)]
        assert lasting.recorded("stock", "ecommerce_products") == [(10,)]


async def test_list_expires_orders_of_several_products(lasting: Shop, clock: Clock) -> None:
    mug, pot = await lasting.add(price=1), await lasting.add(sku="pot", price=1)
    for product_id, quantity in ((pot, 1), (mug, 2), (pot, 3)):
        await lasting.order(product_id, quantity)
    clock.move(DAY)
    await lasting.order(mug, 4)
    clock.move(MONTH - DAY)
    listed = (await lasting.get("/orders", lasting.alice)).json()["orders"]
    assert [order["state"] for order in listed] == ["open", "expired", "expired", "expired"]
    assert lasting.recorded("stock", "ecommerce_products") == [(6,), (10,)]


async def test_product_shows_what_expired_orders_keep_as_in_stock(
    lasting: Shop, clock: Clock
) -> None:
    product_id = await lasting.add()
    await lasting.order(product_id, 4)
    assert await lasting.stock() == 6
    clock.move(MONTH)
    assert await lasting.stock() == 10
    listed = (await lasting.get("/products", lasting.bob)).json()["products"]
    assert [product["stock"] for product in listed] == [10]
    # Looking has written nothing.
    assert lasting.recorded("state") == [("open",)]


async def test_stock_that_expired_orders_keep_is_ordered(lasting: Shop, clock: Clock) -> None:
    product_id = await lasting.add(price=1)
    for quantity in (3, 3, 4):
        await lasting.order(product_id, quantity)
    clock.move(MONTH)
    new = await lasting.order(product_id, 8)
    states = [("expired",)] * 3 + [("open",)]
    assert lasting.recorded("state") == states
    assert lasting.recorded("stock", "ecommerce_products") == [(2,)]
    answer = await lasting.post(
        "/orders", lasting.alice, {"product_id": product_id, "quantity": 3, "nonce": "n"}
    )
    assert (answer.status_code, answer.json()["available"]) == (409, 2)
    assert (await lasting.get(f"/orders/{new}", lasting.alice)).json()["state"] == "open"


async def test_stock_that_expired_orders_keep_is_taken_out(lasting: Shop, clock: Clock) -> None:
    product_id = await lasting.add()
    await lasting.order(product_id, 5)
    clock.move(MONTH)
    change = {"change": -11, "nonce": "n"}
    refused = await lasting.post(f"/products/{product_id}/stock", lasting.seller, change)
    assert (refused.status_code, refused.json()["available"]) == (409, 10)
    change = {"change": -10, "nonce": "n"}
    taken = await lasting.post(f"/products/{product_id}/stock", lasting.seller, change)
    assert (taken.status_code, taken.json()["stock"]) == (201, 0)


# --- what cannot be ---

HUGE = 10**30

BAD: list[tuple[str, dict[str, Any]]] = [
    *(
        ("/products", MUG | changes)
        for changes in (
            {"sku": ""},
            {"sku": "a\x00b"},
            {"sku": " a"},
            {"sku": "x" * 256},
            {"sku": "\ud800"},
            {"sku": 7},
            {"title": "two\nlines"},
            {"title": "\u202egum"},
            {"title": None},
            {"price": 0},
            {"price": -1},
            {"price": 1.5},
            {"price": "3"},
            {"price": True},
            {"price": HUGE},
            {"stock": -1},
            {"stock": HUGE},
            {"colour": "blue"},
        )
    ),
    *(
        ("/products/1/stock", {"change": 1, "nonce": "n"} | changes)
        for changes in ({"change": 0}, {"change": HUGE}, {"change": 1.0}, {"nonce": "a\x00b"})
    ),
    *(
        ("/orders", {"product_id": 1, "nonce": "n", "owner_id": "alice"} | changes)
        for changes in (
            {"product_id": 0},
            {"product_id": HUGE},
            {"product_id": "1"},
            {"quantity": 0},
            {"quantity": HUGE},
            {"quantity": None},
            {"nonce": ""},
            {"nonce": "a\x00b"},
            {"nonce": "@order:1"},
            {"nonce": "x" * 201},
            {"nonce": "\ufffd"},
            {"owner_id": "@shop"},
            {"owner_id": "a\x00b"},
            {"owner_id": "e\u0301"},
            {"price": 1},
        )
    ),
    *(("/orders/1/ship", changes) for changes in ({"quantity": 0}, {"quantity": HUGE}, {"n": 1})),
    *(
        ("/orders/1/refund", {"nonce": "n"} | changes)
        for changes in (
            {"amount": 0},
            {"amount": -1},
            {"amount": HUGE},
            {"amount": 1.5},
            {"nonce": "a\x00b"},
            {"nonce": None},
        )
    ),
]


async def test_bad_bodies_are_refused_and_write_nothing(shop: Shop) -> None:
    await shop.shipped()
    before = shop.served.written()
    answers = {}
    for path, body in BAD:
        # With escapes, because half of a pair of surrogates is nothing that can be encoded.
        content = json.dumps(body)
        answer = await shop.served.client.post(path, content=content, headers=OPERATOR)
        answers[path, str(body)] = answer.status_code, answer.headers["content-type"]
    good = (422, "application/problem+json")
    assert {asked: answer for asked, answer in answers.items() if answer != good} == {}
    assert shop.served.written() == before


async def test_ids_that_nothing_can_have_are_refused(shop: Shop) -> None:
    for number in ("0", "-1", "x", "1.0", "1_0", str(2**63), "%00", "9" * 5_000):
        for answer in (
            await shop.get(f"/products/{number}", shop.alice),
            await shop.get(f"/orders/{number}", shop.alice),
            await shop.post(f"/orders/{number}/ship", shop.seller),
            await shop.post(f"/orders/{number}/cancel", shop.alice),
        ):
            assert (answer.status_code, kind(answer)) == (422, "invalid_request"), number


async def test_pages_that_cannot_be_are_refused(shop: Shop) -> None:
    for path in ("/products", "/orders"):
        for field, value in (("limit", 0), ("limit", 101), ("limit", "x"), ("cursor", 0)):
            answer = await shop.get(path, shop.alice, **{field: value})
            assert (answer.status_code, answer.json()["field"]) == (422, field), value


async def test_database_itself_refuses_what_cannot_be(shop: Shop) -> None:
    await shop.shipped(2)
    for change in (
        "products set stock = -1",
        "products set price = 0",
        "orders set state = 'lost'",
        "orders set state = 'open'",
        "orders set state = 'cancelled'",
        "orders set shipped = 3",
        "orders set refunded = 7",
        "orders set refunded = -1",
        "orders set quantity = 0",
        "orders set closed_on = null",
        "orders set entry_id = null",
    ):
        with pytest.raises(psycopg.errors.CheckViolation):
            query(shop.served.url, f"update {shop.served.schema}.ecommerce_{change}")


# --- the tables ---


def config(url: str, schema: str) -> Config:
    config = Config()
    config.set_main_option("script_location", str(SERVICE.migrations))
    config.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    config.attributes[SCHEMA_ATTRIBUTE] = schema
    return config


def described(url: str, schema: str) -> dict[str, list[tuple[Any, ...]]]:
    """The columns, constraints and indexes of the shop's tables, without the schema's name."""
    questions = {
        "columns": """
            select table_name, column_name, data_type, is_nullable, identity_generation
            from information_schema.columns
            where table_schema = %s and table_name like 'ecommerce%%'
        """,
        "constraints": """
            select conname, pg_get_constraintdef(c.oid) from pg_constraint as c
            join pg_class as t on t.oid = conrelid
            where t.relnamespace = %s::regnamespace and t.relname like 'ecommerce%%'
        """,
        "indexes": """
            select indexname, indexdef from pg_indexes
            where schemaname = %s and tablename like 'ecommerce%%'
        """,
    }
    found = {}
    for name, question in questions.items():
        rows = query(url, question, schema)
        found[name] = sorted(
            tuple(str(value).replace(f"{schema}.", "") for value in row) for row in rows
        )
    return found


def test_migration_makes_the_tables_of_the_metadata(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    migrate(engine, schema, [SHARED])
    command.upgrade(config(cluster.url, schema), "head")
    command.check(config(cluster.url, schema))
    migrated = described(cluster.url, schema)
    migrated = {
        kind: [row for row in rows if "ecommerce_version" not in str(row)]
        for kind, rows in migrated.items()
    }
    apart = f"{schema}_apart"
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(apart))
        metadata.create_all(connection.execution_options(schema_translate_map={None: apart}))
    made = described(cluster.url, apart)
    assert len(made["constraints"]) > 15
    assert migrated == made


def test_migration_is_undone_and_done_again(cluster: Cluster, schema: str, engine: Engine) -> None:
    migrate(engine, schema, [SHARED])
    before = described(cluster.url, schema)
    command.upgrade(config(cluster.url, schema), "head")
    known = f"select operation from {schema}.operations where app = 'ecommerce'"
    assert {name for (name,) in query(cluster.url, known)} == set(ECOMMERCE.rules)
    command.downgrade(config(cluster.url, schema), "base")
    assert query(cluster.url, known) == []
    left = described(cluster.url, schema)
    assert [name for name, *_ in left["columns"] if name != "ecommerce_version"] == []
    assert before["columns"] == []
    command.upgrade(config(cluster.url, schema), "head")
    command.check(config(cluster.url, schema))


def test_package_has_its_migrations() -> None:
    folder = SERVICE.migrations
    assert isinstance(folder, Path)
    assert {"env.py", "script.py.mako", "versions"} <= {path.name for path in folder.iterdir()}
