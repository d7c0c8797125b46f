"""The service's routes for batches, groups, holds, transfers, reversals, quotes and reading."""

from __future__ import annotations

import asyncio
import csv
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from urllib.parse import quote

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from builders import SHOP, ShopOperation, assert_sound, query
from shared_ledger import Application, Ledger, LedgerUnavailable, Rule
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster
from shared_ledger.migrations import migrate
from shared_ledger.service import create_app
from shared_ledger.service.bodies import MAX_BATCH, MAX_BATCH_BYTES
from shared_ledger.service.direct import MAX_BODY_BYTES
from shared_ledger.service.sweeper import ACCOUNTS, sweeping
from shared_ledger.settings import Settings
from shared_ledger.statements import STATEMENT_COLUMNS

TOKEN = {"x-token": "secret-token"}
DAY = 86_400

# The shop, but of its points there are two in all.
BUDGETED: Application[ShopOperation] = Application(
    "shop",
    ShopOperation,
    rules={
        ShopOperation(name): Rule.fixed(1, asset="points", budget=2)
        if name == ShopOperation.LOYALTY_POINT
        else rule
        for name, rule in SHOP.rules.items()
    },
)

POSTS = (
    "/ledger",
    "/ledger/batch",
    "/ledger/groups",
    "/ledger/transfers",
    "/ledger/quote",
    "/ledger/entries/1/reverse",
    "/ledger/holds",
    "/ledger/holds/1/capture",
    "/ledger/holds/1/release",
)
GETS = (
    "/ledger/user1",
    "/ledger/user1?at=2025-01-01T00:00:00Z",
    "/balance/user1",
    "/ledger/user1/entries",
    "/ledger/user1/grants",
    "/ledger/user1/holds",
    "/ledger/user1/statement",
    "/ledger/holds/1",
)


@asynccontextmanager
async def service(
    url: str, schema: str, *, sweep_interval_s: float = 0
) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(
        BUDGETED,
        Settings(
            database_url=SecretStr(url),
            shared_ledger_schema=schema,
            environment="development",
            api_token=SecretStr(TOKEN["x-token"]),
            sweep_interval_s=sweep_interval_s,
        ),
    )
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://ledger", headers=TOKEN) as client,
    ):
        yield client


@pytest.fixture
async def client(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    migrate(engine, schema, [BUDGETED])
    async with service(cluster.url, schema) as client:
        yield client


async def send(client: httpx.AsyncClient, path: str, status: int, body: Any) -> Any:
    """Post a body, which must be answered with this status."""
    answer = await client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


async def get(client: httpx.AsyncClient, path: str, status: int = 200) -> Any:
    answer = await client.get(path)
    assert answer.status_code == status, answer.text
    return answer.json()


async def fund(client: httpx.AsyncClient, amount: int = 10, owner_id: str = "user1") -> Any:
    body = {"operation": "ADJUSTMENT", "amount": amount, "owner_id": owner_id, "nonce": "funds"}
    return await send(client, "/ledger", 201, body)


async def grant(client: httpx.AsyncClient, expires_in: int, **more: Any) -> Any:
    body = {"operation": "CREDIT_ADD", "owner_id": "user1", "nonce": f"lasts {expires_in}"}
    return await send(client, "/ledger", 201, body | {"expires_in": expires_in} | more)


async def hold(client: httpx.AsyncClient, amount: int = 4, **more: Any) -> Any:
    body = {"operation": "PURCHASE", "owner_id": "user1", "amount": amount, "nonce": "order"}
    return await send(client, "/ledger/holds", 201, body | more)


def kind(problem: Mapping[str, Any]) -> str:
    return str(problem["type"]).removeprefix("urn:shared-ledger:problem:")


def purchase(nonce: str, amount: Any = -1, owner_id: str = "user1") -> dict[str, Any]:
    return {"operation": "PURCHASE", "owner_id": owner_id, "nonce": nonce, "amount": amount}


async def until(fact: Callable[[], Awaitable[object]]) -> None:
    """Wait until the fact holds."""
    async with asyncio.timeout(30):
        while not await fact():  # noqa: ASYNC110  # what others do tells no event
            await asyncio.sleep(0.01)


# What every route has in common


@pytest.mark.parametrize("headers", [{}, {"x-token": "wrong"}])
async def test_no_route_answers_without_the_key(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    client.headers.pop("x-token")
    for method, path in [*(("POST", p) for p in POSTS), *(("GET", p) for p in GETS)]:
        answer = await client.request(method, path, headers=headers, content=b"{")
        assert answer.status_code == 401, path
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", POSTS)
async def test_every_body_must_be_json_of_the_right_size_and_kind(
    client: httpx.AsyncClient, path: str
) -> None:
    limit = MAX_BATCH_BYTES if path.endswith(("batch", "groups")) else MAX_BODY_BYTES
    for content, status in (
        (b"", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b"[]", 422),
        (b"{}", 422),
        (b" " * (limit + 1), 413),
    ):
        answer = await client.post(path, content=content)
        assert answer.status_code == status, (content[:9], answer.text)
        assert answer.headers["content-type"] == "application/problem+json"


async def test_the_examples_do_what_they_say(client: httpx.AsyncClient) -> None:
    described = await get(client, "/openapi.json")
    posts = {path: operations.get("post") for path, operations in described["paths"].items()}
    documented = {path for path, operation in posts.items() if operation and "ledger" in path}
    ids: dict[str, str] = {}

    async def follow(path: str, **change: Any) -> Any:
        documented.discard(path)
        example = posts[path]["requestBody"]["content"]["application/json"]["example"] | change
        answer = await client.post(path.format(**ids), json=example)
        promised = posts[path]["responses"][str(answer.status_code)]
        content = answer.json()
        shown = promised["content"]["application/json"]["example"]
        assert answer.status_code < 300, answer.text
        assert shown.keys() <= content.keys()
        for name in ("entries", "results"):
            assert len(shown.get(name, ())) == len(content.get(name, ()))
            for one, real in zip(shown.get(name, ()), content.get(name, ()), strict=True):
                assert one.keys() - {"period"} <= real.keys()
        return content

    ids["entry_id"] = (await follow("/ledger"))["id"]
    await follow("/ledger/batch")
    await follow("/ledger/groups")
    await follow("/ledger/transfers")
    await follow("/ledger/entries/{entry_id}/reverse")
    await follow("/ledger/quote")
    ids["hold_id"] = (await follow("/ledger/holds"))["id"]
    await follow("/ledger/holds/{hold_id}/capture")
    ids["hold_id"] = (await follow("/ledger/holds", nonce="another"))["id"]
    await follow("/ledger/holds/{hold_id}/release")
    assert documented == set()


async def test_the_examples_of_reading_have_the_fields_of_the_answers(
    client: httpx.AsyncClient,
) -> None:
    await grant(client, DAY)
    held = await hold(client)
    described = await get(client, "/openapi.json")
    for path, operations in described["paths"].items():
        if "get" not in operations or "{" not in path:
            continue
        parameters = operations["get"]["parameters"]
        answer = await client.get(
            path.format(owner_id="user1", hold_id=held["id"]),
            params={p["name"]: p["example"] for p in parameters if p["name"] in ("from", "to")}
            | ({"limit": "1"} if path.endswith("entries") else {}),
        )
        shown = operations["get"]["responses"]["200"]["content"]["application/json"]["example"]
        assert set(answer.json()) == set(shown), path
        for name in ("grants", "holds"):
            for one, real in zip(shown.get(name, ()), answer.json().get(name, ()), strict=True):
                assert set(real) == set(one)


async def test_metrics_name_the_pattern_of_a_path_not_the_path(client: httpx.AsyncClient) -> None:
    await fund(client)
    held = await hold(client)
    await get(client, f"/ledger/holds/{held['id']}")
    await get(client, "/ledger/user1/entries")
    await client.post(f"/ledger/holds/{held['id']}/capture", json={"nonce": "n"})
    text = (await client.get("/metrics")).text
    for method, route, status in (
        ("GET", "/ledger/holds/{hold_id}", 200),
        ("GET", "/ledger/{owner_id}/entries", 200),
        ("POST", "/ledger/holds/{hold_id}/capture", 201),
    ):
        assert f'{{method="{method}",route="{route}",status="{status}"}} 1.0' in text


async def test_an_owner_may_be_called_as_a_part_of_a_path(client: httpx.AsyncClient) -> None:
    for owner_id in ("holds", "batch", "entries", "quote", "transfers", "groups"):
        await fund(client, 5, owner_id)
        assert (await get(client, f"/ledger/{owner_id}"))["balance"] == 5
        assert len((await get(client, f"/ledger/{owner_id}/entries"))["entries"]) == 1
        assert (await get(client, f"/ledger/{owner_id}/holds"))["holds"] == []
        assert (await get(client, f"/ledger/{owner_id}/grants"))["grants"] == []


# Credits that expire


async def test_a_posting_may_say_when_and_in_what_order_its_credits_expire(
    client: httpx.AsyncClient,
) -> None:
    entry = await grant(client, DAY, priority=3)
    lasts = datetime.fromisoformat(entry["expires_on"]) - datetime.fromisoformat(
        entry["created_on"]
    )
    assert (lasts, entry["priority"]) == (timedelta(days=1), 3)
    (one,) = (await get(client, "/ledger/user1/grants"))["grants"]
    assert (one["remaining"], one["priority"], one["entry_id"]) == (10, 3, entry["id"])
    assert (await get(client, "/ledger/user1"))["expiring"] == 10


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": -5}, "expires_in"),
        ({"expires_in": 10**15}, "expires_in"),
        ({"expires_in": 10**30}, "expires_in"),
        ({"expires_in": 1.5}, "expires_in"),
        ({"expires_in": "5"}, "expires_in"),
        ({"expires_in": True}, "expires_in"),
        ({"priority": 1}, "priority"),
        ({"expires_in": 5, "priority": -1}, "priority"),
        ({"expires_in": 5, "priority": 1_001}, "priority"),
        ({"expires_in": 5, "priority": 10**30}, "priority"),
        ({"operation": "CREDIT_SPEND", "expires_in": 5}, "expires_in"),
    ],
)
async def test_a_wrong_expiry_is_422_and_named(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    body = {"operation": "CREDIT_ADD", "owner_id": "user1", "nonce": "n"} | change
    for path in ("/ledger", "/ledger/quote"):
        assert (await send(client, path, 422, body))["field"] == field


async def test_a_spent_budget_is_409_with_the_figures(client: httpx.AsyncClient) -> None:
    body = {"operation": "LOYALTY_POINT", "owner_id": "user1"}
    for number in range(2):
        await send(client, "/ledger", 201, body | {"nonce": f"{number}"})
    problem = await send(client, "/ledger", 409, body | {"nonce": "2"})
    assert kind(problem) == "budget_spent"
    assert (problem["budget"], problem["left"], problem["required"]) == (2, 0, 1)


# Batches


async def test_a_batch_answers_for_each_entry_in_order(client: httpx.AsyncClient) -> None:
    await fund(client, 10)
    entries = [
        purchase("a", -4),
        purchase("b", "much"),
        purchase("c", -7),
        purchase("a", -4),
        purchase("a", -5),
        purchase("d", -1) | {"colour": "red"},
        purchase("e", -6),
    ]
    results = (await send(client, "/ledger/batch", 200, {"entries": entries}))["results"]
    assert [result["status"] for result in results] == [201, 422, 402, 200, 409, 422, 201]
    assert (results[0]["amount"], results[0]["replayed"]) == (-4, False)
    assert results[1]["field"] == "amount"
    assert (results[2]["available"], results[2]["required"]) == (6, 7)
    assert results[3] == results[0] | {"status": 200, "replayed": True}
    assert (kind(results[4]), results[4]["field"]) == (
        "nonce_reused_with_different_amount",
        "amount",
    )
    assert results[5]["field"] == "colour"
    assert results[6]["balance_after"] == 0


async def test_a_batch_that_is_posted_again_is_replayed(client: httpx.AsyncClient) -> None:
    body = {
        "entries": [{"operation": "CREDIT_ADD", "owner_id": f"u{n}", "nonce": "n"} for n in "ab"]
    }
    first = await send(client, "/ledger/batch", 200, body)
    again = await send(client, "/ledger/batch", 200, body)
    assert again["results"] == [
        result | {"status": 200, "replayed": True} for result in first["results"]
    ]


@pytest.mark.parametrize("atomic", [False, True])
async def test_an_empty_batch_has_no_results(client: httpx.AsyncClient, atomic: bool) -> None:
    body = {"entries": [], "atomic": atomic}
    assert await send(client, "/ledger/batch", 200, body) == {"results": []}


async def test_a_batch_takes_a_thousand_entries_and_no_more(client: httpx.AsyncClient) -> None:
    entries = [
        {"operation": "CREDIT_ADD", "owner_id": f"user{n}", "nonce": "n", "metadata": {"n": n}}
        for n in range(MAX_BATCH)
    ]
    results = (await send(client, "/ledger/batch", 200, {"entries": entries}))["results"]
    assert [result["owner_id"] for result in results] == [entry["owner_id"] for entry in entries]
    problem = await send(client, "/ledger/batch", 422, {"entries": [*entries, entries[0]]})
    assert problem["field"] == "entries"


async def test_a_batch_may_be_much_longer_than_one_posting(client: httpx.AsyncClient) -> None:
    note = {"note": "x" * 8_000}
    entries = [
        {"operation": "CREDIT_ADD", "owner_id": "user1", "nonce": f"{n}", "metadata": note}
        for n in range(100)
    ]
    results = (await send(client, "/ledger/batch", 200, {"entries": entries}))["results"]
    assert {result["status"] for result in results} == {201}


async def test_an_atomic_batch_is_posted_whole(client: httpx.AsyncClient) -> None:
    await fund(client, 10)
    body = {"entries": [purchase("a", -4), purchase("b", -6)], "atomic": True}
    results = (await send(client, "/ledger/batch", 200, body))["results"]
    assert [(result["status"], result["balance_after"]) for result in results] == [
        (201, 6),
        (201, 0),
    ]


@pytest.mark.parametrize(
    ("entries", "status", "position"),
    [
        ([purchase("a"), purchase("b", -50), purchase("c", -60)], 402, 1),
        ([purchase("a"), purchase("b", "much"), purchase("", -1)], 422, 1),
        ([purchase("a"), purchase(""), purchase("c", "much")], 422, 1),
        ([purchase("a"), {"operation": "NONE", "owner_id": "user1", "nonce": "b"}], 422, 1),
        ([5, purchase("b")], 422, 0),
        ([purchase("a"), purchase("a", -2)], 409, 1),
    ],
)
async def test_an_atomic_batch_with_a_refusal_is_refused_whole(
    client: httpx.AsyncClient, entries: list[Any], status: int, position: int
) -> None:
    await fund(client, 10)
    problem = await send(client, "/ledger/batch", status, {"entries": entries, "atomic": True})
    assert (problem["position"], problem["status"]) == (position, status)
    assert (await get(client, "/balance/user1"))["balance"] == 10


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"atomic": True}, "entries"),
        ({"entries": {}}, "entries"),
        ({"entries": [], "atomic": 1}, "atomic"),
        ({"entries": [], "colour": 1}, "colour"),
    ],
)
async def test_a_wrong_batch_is_422_and_names_the_field(
    client: httpx.AsyncClient, body: Any, field: str
) -> None:
    assert (await send(client, "/ledger/batch", 422, body))["field"] == field


async def test_an_entry_that_is_no_text_makes_the_batch_no_json(client: httpx.AsyncClient) -> None:
    content = b'{"entries":[{"operation":"CREDIT_ADD","owner_id":"\xff","nonce":"n"}]}'
    answer = await client.post("/ledger/batch", content=content)
    assert (answer.status_code, kind(answer.json())) == (400, "not_json")


# Groups

GROUP: dict[str, Any] = {
    "nonce": "sale",
    "entries": [
        {"operation": "PURCHASE", "owner_id": "user1", "amount": -4},
        {"operation": "REFUND_ITEM", "owner_id": "user2", "amount": 3, "metadata": {"item": 1}},
    ],
}


async def test_a_group_happens_together_and_once(client: httpx.AsyncClient) -> None:
    await fund(client)
    first = await send(client, "/ledger/groups", 201, GROUP)
    assert [(entry["owner_id"], entry["amount"]) for entry in first["entries"]] == [
        ("user1", -4),
        ("user2", 3),
    ]
    assert {entry["group_id"] for entry in first["entries"]} == {first["entries"][0]["id"]}
    assert first["replayed"] is False
    again = await send(client, "/ledger/groups", 200, GROUP)
    assert again == first | {"replayed": True}


async def test_a_group_of_which_one_is_refused_does_nothing(client: httpx.AsyncClient) -> None:
    body = {"nonce": "sale", "entries": GROUP["entries"][::-1]}
    assert kind(await send(client, "/ledger/groups", 402, body)) == "insufficient_credits"
    assert (await get(client, "/balance/user2"))["balance"] == 0


async def test_an_entry_of_a_group_may_expire(client: httpx.AsyncClient) -> None:
    part = {"operation": "CREDIT_ADD", "owner_id": "user1", "expires_in": DAY, "priority": 2}
    (entry,) = (await send(client, "/ledger/groups", 201, {"nonce": "n", "entries": [part]}))[
        "entries"
    ]
    assert (entry["priority"], entry["expiring_after"]) == (2, 10)


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"amount": "4"}, "entries[1].amount"),
        ({"amount": 4}, "entries[1].amount"),
        ({"owner_id": ""}, "entries[1].owner_id"),
        ({"operation": "NONE"}, "entries[1].operation"),
        ({"expires_in": 10**20}, "entries[1].expires_in"),
        ({"expires_in": 5}, "entries[1].expires_in"),
        ({"nonce": "own"}, "entries[1].nonce"),
    ],
)
async def test_a_wrong_entry_of_a_group_is_named_by_its_place(
    client: httpx.AsyncClient, part: dict[str, Any], field: str
) -> None:
    good = {"operation": "PURCHASE", "owner_id": "user1", "amount": -4}
    body = {"nonce": "n", "entries": [good, good | part]}
    problem = await send(client, "/ledger/groups", 422, body)
    assert problem["field"] == field
    assert field in problem["detail"]


async def test_a_missing_field_of_a_groups_entry_is_named(client: httpx.AsyncClient) -> None:
    body = {"nonce": "n", "entries": [{"operation": "CREDIT_ADD"}]}
    assert (await send(client, "/ledger/groups", 422, body))["field"] == "entries[0].owner_id"


@pytest.mark.parametrize("count", [0, 101])
async def test_a_group_has_1_to_100_entries(client: httpx.AsyncClient, count: int) -> None:
    body = {"nonce": "n", "entries": [{"operation": "CREDIT_ADD", "owner_id": "user1"}] * count}
    assert (await send(client, "/ledger/groups", 422, body))["field"] == "entries"


async def test_a_groups_nonce_with_another_body_is_409_and_names_the_entry(
    client: httpx.AsyncClient,
) -> None:
    await fund(client)
    await send(client, "/ledger/groups", 201, GROUP)
    first, second = GROUP["entries"]
    other = {"nonce": "sale", "entries": [first, second | {"amount": 2}]}
    problem = await send(client, "/ledger/groups", 409, other)
    assert problem["field"] == "entries[1].amount"
    assert kind(problem) == "nonce_reused_with_different_amount"


# Transfers

TRANSFER = {"source": "user1", "destination": "user2", "amount": 4, "nonce": "gift"}


async def test_a_transfer_answers_with_both_entries_and_happens_once(
    client: httpx.AsyncClient,
) -> None:
    await fund(client)
    body = TRANSFER | {"metadata": {"note": "thanks"}, "asset": "credits"}
    first = await send(client, "/ledger/transfers", 201, body)
    assert [(e["owner_id"], e["amount"], e["balance_after"]) for e in first["entries"]] == [
        ("user1", -4, 6),
        ("user2", 4, 4),
    ]
    assert await send(client, "/ledger/transfers", 200, body) == first | {"replayed": True}


async def test_a_transfer_of_more_than_there_is_is_402(client: httpx.AsyncClient) -> None:
    await fund(client, 3)
    problem = await send(client, "/ledger/transfers", 402, TRANSFER)
    assert (problem["available"], problem["required"]) == (3, 4)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"source": ""}, "source"),
        ({"source": "@issued"}, "source"),
        ({"destination": "user1"}, "destination"),
        ({"destination": "@spent"}, "destination"),
        ({"amount": 0}, "amount"),
        ({"amount": -1}, "amount"),
        ({"amount": None}, "amount"),
        ({"amount": 2**63}, "amount"),
        ({"nonce": "@1.1"}, "nonce"),
        ({"asset": ""}, "asset"),
        ({"metadata": {"a": "\x00"}}, "metadata"),
    ],
)
async def test_a_wrong_transfer_is_422_and_names_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    assert (await send(client, "/ledger/transfers", 422, TRANSFER | change))["field"] == field


# Reversals


async def test_a_reversal_takes_an_entry_back_in_parts_and_once(client: httpx.AsyncClient) -> None:
    await fund(client)
    bought = await send(client, "/ledger", 201, purchase("bought", -6))
    path = f"/ledger/entries/{bought['id']}/reverse"
    part = {"nonce": "part", "amount": 2, "metadata": {"why": "broken"}}
    first = await send(client, path, 201, part)
    (entry,) = first["entries"]
    assert (entry["operation"], entry["amount"], entry["reverses"]) == (
        "REVERSAL",
        2,
        bought["id"],
    )
    assert await send(client, path, 200, part) == first | {"replayed": True}
    rest = await send(client, path, 201, {"nonce": "rest"})
    assert rest["entries"][0]["balance_after"] == 10
    problem = await send(client, path, 409, {"nonce": "more"})
    assert kind(problem) == "reversal_exceeds_entry"
    assert (problem["left"], problem["entry_id"]) == (0, bought["id"])


async def test_a_transfer_is_reversed_on_both_sides(client: httpx.AsyncClient) -> None:
    await fund(client)
    sent = await send(client, "/ledger/transfers", 201, TRANSFER)
    path = f"/ledger/entries/{sent['entries'][1]['id']}/reverse"
    back = await send(client, path, 201, {"nonce": "back"})
    assert [(e["owner_id"], e["amount"]) for e in back["entries"]] == [("user1", 4), ("user2", -4)]


async def test_a_gain_that_was_spent_is_taken_back_into_debt_if_told_to(
    client: httpx.AsyncClient,
) -> None:
    gain = await fund(client, 10)
    await send(client, "/ledger", 201, purchase("bought", -8))
    path = f"/ledger/entries/{gain['id']}/reverse"
    assert (await send(client, path, 402, {"nonce": "r"}))["available"] == 2
    await send(client, path, 201, {"nonce": "r", "allow_debt": True})
    balance = await get(client, "/ledger/user1")
    assert (balance["balance"], balance["available"], balance["debt"]) == (-8, 0, 8)


async def test_what_cannot_be_reversed_is_409_or_404(client: httpx.AsyncClient) -> None:
    await fund(client)
    bought = await send(client, "/ledger", 201, purchase("bought"))
    path = f"/ledger/entries/{bought['id']}/reverse"
    back = await send(client, path, 201, {"nonce": "back"})
    again = f"/ledger/entries/{back['entries'][0]['id']}/reverse"
    problem = await send(client, again, 409, {"nonce": "again"})
    assert (kind(problem), problem["reason"]) == ("not_reversible", "it is a reversal itself")
    missing = await send(client, "/ledger/entries/999999/reverse", 404, {"nonce": "n"})
    assert (kind(missing), missing["entry_id"]) == ("entry_not_found", 999_999)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": 0}, "amount"),
        ({"amount": "1"}, "amount"),
        ({"allow_debt": 1}, "allow_debt"),
        ({"nonce": ""}, "nonce"),
        ({"metadata": 1}, "metadata"),
    ],
)
async def test_a_wrong_reversal_is_422_and_names_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    gain = await fund(client)
    body = {"nonce": "r"} | change
    problem = await send(client, f"/ledger/entries/{gain['id']}/reverse", 422, body)
    assert problem["field"] == field


NOT_IDS = ["x", "0", "-1", "1.0", "+1", "%20", "1e3", "9" * 19, "9" * 5_000, "%D9%A1", "%00"]


@pytest.mark.parametrize("number", NOT_IDS)
async def test_an_id_that_is_no_number_is_422_and_named(
    client: httpx.AsyncClient, number: str
) -> None:
    for path, field in (
        (f"/ledger/entries/{number}/reverse", "entry_id"),
        (f"/ledger/holds/{number}/capture", "hold_id"),
        (f"/ledger/holds/{number}/release", "hold_id"),
    ):
        assert (await send(client, path, 422, {"nonce": "n"}))["field"] == field
    assert (await get(client, f"/ledger/holds/{number}", 422))["field"] == "hold_id"


# Holds


async def test_a_hold_is_placed_once_and_shown(client: httpx.AsyncClient) -> None:
    await fund(client)
    placed = await hold(client, 4, expires_in=DAY, metadata={"order": 1})
    assert placed.keys() == {
        "id", "app", "operation", "owner_id", "counterparty", "asset", "amount", "nonce",
        "created_on", "expires_on", "captured", "state", "closed_on", "remaining", "replayed",
    }  # fmt: skip
    assert (placed["state"], placed["remaining"], placed["replayed"]) == ("open", 4, False)
    body = purchase("order", 4) | {"expires_in": DAY, "metadata": {"order": 1}}
    again = await send(client, "/ledger/holds", 200, body)
    assert again == placed | {"replayed": True}
    shown = {name: value for name, value in placed.items() if name != "replayed"}
    assert await get(client, f"/ledger/holds/{placed['id']}") == shown
    assert (await get(client, "/ledger/user1/holds"))["holds"] == [shown]
    balance = await get(client, "/ledger/user1")
    assert (balance["balance"], balance["available"], balance["held"]) == (10, 6, 4)


async def test_a_hold_may_end_at_a_time(client: httpx.AsyncClient) -> None:
    await fund(client)
    end = datetime.now(UTC) + timedelta(days=2)
    placed = await hold(client, expires_at=end.isoformat())
    assert datetime.fromisoformat(placed["expires_on"]) == end


async def test_a_capture_takes_a_part_and_releases_the_rest(client: httpx.AsyncClient) -> None:
    await fund(client)
    path = f"/ledger/holds/{(await hold(client))['id']}"
    body = {"nonce": "shipped", "amount": 3, "metadata": {"parcel": 1}}
    entry = await send(client, f"{path}/capture", 201, body)
    assert (entry["amount"], entry["operation"], entry["replayed"]) == (-3, "PURCHASE", False)
    assert await send(client, f"{path}/capture", 200, body) == entry | {"replayed": True}
    shown = await get(client, path)
    assert (shown["state"], shown["captured"], shown["remaining"]) == ("captured", 3, 0)
    assert (await get(client, "/ledger/user1"))["available"] == 7


async def test_a_capture_that_is_not_final_keeps_the_hold_open(client: httpx.AsyncClient) -> None:
    await fund(client)
    path = f"/ledger/holds/{(await hold(client))['id']}"
    await send(client, f"{path}/capture", 201, {"nonce": "first", "amount": 1, "final": False})
    assert (await get(client, path))["remaining"] == 3
    problem = await send(client, f"{path}/capture", 409, {"nonce": "second", "amount": 4})
    assert (kind(problem), problem["remaining"], problem["required"]) == ("hold_exceeded", 3, 4)


async def test_a_release_ends_a_hold_once(client: httpx.AsyncClient) -> None:
    await fund(client)
    placed = await hold(client)
    path = f"/ledger/holds/{placed['id']}"
    released = await send(client, f"{path}/release", 201, {"nonce": "cancelled"})
    assert (released["state"], released["remaining"]) == ("released", 0)
    assert released.keys() == placed.keys()
    again = await send(client, f"{path}/release", 200, {"nonce": "cancelled"})
    assert again == released | {"replayed": True}
    for end in ("capture", "release"):
        problem = await send(client, f"{path}/{end}", 409, {"nonce": f"{end} again"})
        assert (kind(problem), problem["state"]) == ("hold_closed", "released")
    assert (await get(client, "/ledger/user1/holds"))["holds"] == []


async def test_an_expired_hold_is_409(client: httpx.AsyncClient) -> None:
    await fund(client)
    placed = await hold(client, expires_in=1)
    await asyncio.sleep(1.1)
    for end in ("capture", "release"):
        path = f"/ledger/holds/{placed['id']}/{end}"
        problem = await send(client, path, 409, {"nonce": end})
        assert (kind(problem), problem["hold_id"]) == ("hold_expired", placed["id"])
        assert problem["expires_on"] == placed["expires_on"]


async def test_an_expired_hold_is_shown_as_expired(client: httpx.AsyncClient) -> None:
    await fund(client)
    placed = await hold(client, expires_in=1)
    await asyncio.sleep(1.1)
    shown = await get(client, f"/ledger/holds/{placed['id']}")
    assert (shown["state"], shown["remaining"]) == ("expired", 0)
    assert (await get(client, "/ledger/user1"))["available"] == 10


async def test_a_hold_that_nobody_placed_is_404(client: httpx.AsyncClient) -> None:
    assert kind(await get(client, "/ledger/holds/999999", 404)) == "hold_not_found"
    for end in ("capture", "release"):
        problem = await send(client, f"/ledger/holds/999999/{end}", 404, {"nonce": "n"})
        assert (kind(problem), problem["hold_id"]) == ("hold_not_found", 999_999)


async def test_a_hold_of_more_than_there_is_is_402(client: httpx.AsyncClient) -> None:
    problem = await send(client, "/ledger/holds", 402, purchase("order", 4))
    assert (problem["available"], problem["required"]) == (0, 4)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"amount": -4}, "amount"),
        ({"amount": None}, "amount"),
        ({"amount": 5_000}, "amount"),
        ({"operation": "CREDIT_ADD"}, "operation"),
        ({"operation": "NONE"}, "operation"),
        ({"expires_in": 0}, "expires_in"),
        ({"expires_in": 10**30}, "expires_in"),
        ({"expires_at": "2999-01-01T00:00:00Z", "expires_in": 5}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00"}, "expires_at"),
        ({"expires_at": "2999-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "2001-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "9999-12-31T23:59:59-23:00"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": 5}, "expires_at"),
    ],
)
async def test_a_wrong_hold_is_422_and_names_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    await fund(client)
    body = purchase("order", 4) | change
    assert (await send(client, "/ledger/holds", 422, body))["field"] == field


@pytest.mark.parametrize(
    ("change", "field"),
    [({"amount": 0}, "amount"), ({"final": "yes"}, "final"), ({"metadata": []}, "metadata")],
)
async def test_a_wrong_capture_is_422_and_names_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    await fund(client)
    path = f"/ledger/holds/{(await hold(client))['id']}/capture"
    assert (await send(client, path, 422, {"nonce": "n"} | change))["field"] == field


# Quotes


async def test_a_quote_tells_what_a_posting_would_do_and_writes_nothing(
    client: httpx.AsyncClient,
) -> None:
    await grant(client, DAY)
    quoted = await send(client, "/ledger/quote", 200, purchase("later", -4))
    assert quoted["replayed"] is False
    assert (quoted["entries"][0]["amount"], quoted["balance"]["balance"]) == (-4, 6)
    assert [burn["amount"] for burn in quoted["burns"]] == [4]
    assert (await get(client, "/ledger/user1"))["balance"] == 10
    assert len((await get(client, "/ledger/user1/entries"))["entries"]) == 1


async def test_a_quote_of_what_was_posted_is_a_replay(client: httpx.AsyncClient) -> None:
    await fund(client)
    posted = await send(client, "/ledger", 201, purchase("bought", -4))
    quoted = await send(client, "/ledger/quote", 200, purchase("bought", -4))
    assert quoted["replayed"] is True
    assert [entry["id"] for entry in quoted["entries"]] == [posted["id"]]


async def test_a_quote_is_refused_as_the_posting_would_be(client: httpx.AsyncClient) -> None:
    await send(client, "/ledger/quote", 402, purchase("later", -4))
    await fund(client)
    await send(client, "/ledger", 201, purchase("bought", -4))
    await send(client, "/ledger/quote", 409, purchase("bought", -5))
    await send(client, "/ledger/quote", 422, purchase("later", 4))


# Reading


async def test_the_ledger_shows_what_an_owner_had_at_a_time(client: httpx.AsyncClient) -> None:
    first = await fund(client)
    await send(client, "/ledger", 201, purchase("bought", -4))
    then = await get(client, f"/ledger/user1?at={first['created_on']}")
    assert then == {
        "owner_id": "user1",
        "balance": 10,
        "available": 10,
        "held": 0,
        "asset": "credits",
        "expiring": 0,
        "debt": 0,
        "at": first["created_on"],
    }
    assert (await get(client, "/ledger/user1?at=2001-01-01T00:00:00Z"))["balance"] == 0
    assert (await get(client, "/ledger/user1?at=2999-01-01T00:00:00Z"))["balance"] == 6


async def test_a_time_is_shown_in_utc_and_its_plus_needs_no_quoting(
    client: httpx.AsyncClient,
) -> None:
    for plus in ("+", "%2B"):
        balance = await get(client, f"/ledger/user1?at=2025-01-01T02:00:00{plus}02:00")
        assert balance["at"] == "2025-01-01T00:00:00Z"


async def test_every_asset_has_its_own_balance_and_history(client: httpx.AsyncClient) -> None:
    await fund(client)
    body = {"operation": "LOYALTY_POINT", "owner_id": "user1", "nonce": "p"}
    await send(client, "/ledger", 201, body)
    points = await get(client, "/ledger/user1?asset=points")
    assert (points["balance"], points["asset"]) == (1, "points")
    assert "at" not in points
    history = await get(client, "/ledger/user1/entries?asset=points")
    assert [entry["nonce"] for entry in history["entries"]] == ["p"]


async def test_history_is_read_page_by_page_newest_first(client: httpx.AsyncClient) -> None:
    await fund(client)
    for number in range(4):
        last = await send(client, "/ledger", 201, purchase(f"{number}"))
    nonces: list[str] = []
    cursor = ""
    while cursor is not None:
        page = await get(client, f"/ledger/user1/entries?limit=2{cursor}")
        nonces += [entry["nonce"] for entry in page["entries"]]
        cursor = page["cursor"] and f"&cursor={page['cursor']}"
    assert nonces == ["3", "2", "1", "0", "funds"]
    whole = await get(client, "/ledger/user1/entries")
    assert whole["cursor"] is None
    assert whole["entries"][0] == {k: v for k, v in last.items() if k != "replayed"}


async def test_history_at_a_time_shows_what_had_happened_by_then(client: httpx.AsyncClient) -> None:
    first = await fund(client)
    await send(client, "/ledger", 201, purchase("bought"))
    page = await get(client, f"/ledger/user1/entries?at={first['created_on']}")
    assert [entry["nonce"] for entry in page["entries"]] == ["funds"]


PERIOD = "from=2001-01-01T00:00:00Z&to=2999-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("?at=yesterday", "at"),
        ("?at=", "at"),
        ("?at", "at"),
        ("?at=2025-01-01", "at"),
        ("?at=2025-01-01T00:00:00", "at"),
        ("?at=0001-01-01T00:00:00%2B05:00", "at"),
        ("?at=1735689600", "at"),
        ("?at=%00", "at"),
        ("?at=2025-01-01T00:00:00Z&at=2025-01-01T00:00:00Z", "at"),
        ("?asset=", "asset"),
        ("?asset=%00", "asset"),
        ("?asset=%FF", "asset"),
        ("?colour=red", "colour"),
        ("?=1", "query"),
        ("/entries?limit=0", "limit"),
        ("/entries?limit=1001", "limit"),
        ("/entries?limit=ten", "limit"),
        ("/entries?limit=-1", "limit"),
        ("/entries?limit=1.5", "limit"),
        ("/entries?limit=%D9%A1", "limit"),
        (f"/entries?limit={'9' * 5_000}", "limit"),
        ("/entries?cursor=0", "cursor"),
        ("/entries?cursor=x", "cursor"),
        (f"/entries?cursor={2**63}", "cursor"),
        ("/entries?at=now", "at"),
        ("/entries?format=csv", "format"),
        ("/grants?asset=", "asset"),
        ("/grants?at=2025-01-01T00:00:00Z", "at"),
        ("/holds?asset=", "asset"),
        ("/statement", "from"),
        ("/statement?to=2025-01-01T00:00:00Z", "from"),
        ("/statement?from=2025-01-01T00:00:00Z", "to"),
        ("/statement?from=2025-01-01T00:00:00&to=2025-01-02T00:00:00Z", "from"),
        ("/statement?from=2025-01-01T00:00:00Z&to=x", "to"),
        ("/statement?from=2025-01-02T00:00:00Z&to=2025-01-01T00:00:00Z", "to"),
        (f"/statement?{PERIOD}&format=pdf", "format"),
        (f"/statement?{PERIOD}&asset=", "asset"),
    ],
)
async def test_a_wrong_parameter_is_422_and_named(
    client: httpx.AsyncClient, path: str, field: str
) -> None:
    problem = await get(client, f"/ledger/user1{path}", 422)
    assert problem["field"] == field
    assert field in problem["detail"]


async def test_a_hold_is_shown_without_parameters(client: httpx.AsyncClient) -> None:
    assert (await get(client, "/ledger/holds/1?at=x", 422))["field"] == "at"


@pytest.mark.parametrize("owner_id", ["@issued", "%00", "%20", "x" * 300])
@pytest.mark.parametrize("what", ["entries", "grants", "holds", f"statement?{PERIOD}"])
async def test_an_id_that_cannot_be_an_owners_is_422_everywhere(
    client: httpx.AsyncClient, owner_id: str, what: str
) -> None:
    assert (await get(client, f"/ledger/{owner_id}/{what}", 422))["field"] == "owner_id"


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z"])
async def test_the_ends_of_the_calendar_are_times_too(client: httpx.AsyncClient, at: str) -> None:
    await grant(client, DAY)
    for path in (f"?at={at}", f"/entries?at={at}", f"/statement?from={at}&to={at}"):
        await get(client, f"/ledger/user1{path}")


# Statements


async def test_a_statement_adds_up(client: httpx.AsyncClient) -> None:
    first = await fund(client)
    await send(client, "/ledger", 201, purchase("bought", -4))
    start = datetime.fromisoformat(first["created_on"]) + timedelta(microseconds=1)
    path = f"/ledger/user1/statement?from={quote(start.isoformat())}&to=2999-01-01T00:00:00Z"
    statement = await get(client, path)
    assert (statement["opening"], statement["closing"]) == (10, 6)
    assert datetime.fromisoformat(statement["from"]) == start
    assert [line["nonce"] for line in statement["lines"]] == ["bought"]
    assert statement["totals"] == [
        {"app": "shop", "operation": "PURCHASE", "count": 1, "amount": -4}
    ]


async def test_a_statement_is_a_file_of_comma_separated_values_too(
    client: httpx.AsyncClient,
) -> None:
    first = await fund(client)
    second = await send(client, "/ledger", 201, purchase('a, "b"', -4))
    answer = await client.get(f"/ledger/user1/statement?{PERIOD}&format=csv")
    assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
    assert answer.headers["content-disposition"] == (
        'attachment; filename="statement-user1-2001-01-01-2999-01-01.csv"'
    )
    assert answer.text.endswith("\r\n")
    times = first["created_on"], second["created_on"]
    assert list(csv.reader(io.StringIO(answer.text))) == [
        list(STATEMENT_COLUMNS),
        ["", "2001-01-01T00:00:00Z", "", "", "opening", "", "0", ""],
        [times[0], times[0], f"{first['id']}", "shop", "ADJUSTMENT", "10", "10", "funds"],
        [times[1], times[1], f"{second['id']}", "shop", "PURCHASE", "-4", "6", 'a, "b"'],
        ["", "2999-01-01T00:00:00Z", "", "", "closing", "", "6", ""],
    ]


async def test_a_nonce_is_no_formula_in_a_statement(client: httpx.AsyncClient) -> None:
    await fund(client, 10)
    await send(client, "/ledger", 201, purchase('=cmd|"/c calc"!A1'))
    answer = await client.get(f"/ledger/user1/statement?{PERIOD}&format=csv")
    row = list(csv.DictReader(io.StringIO(answer.text)))[2]
    assert (row["nonce"], row["amount"]) == ('\'=cmd|"/c calc"!A1', "-1")


@pytest.mark.parametrize("owner_id", ['"; x=', "../../etc", "наташа", "a;b", "x" * 255])
async def test_the_name_of_the_file_is_safe_whatever_the_owner_is_called(
    client: httpx.AsyncClient, owner_id: str
) -> None:
    path = f"/ledger/{quote(owner_id, safe='')}/statement?{PERIOD}&format=csv"
    answer = await client.get(path)
    name = answer.headers["content-disposition"].removeprefix('attachment; filename="')
    stem = name.removesuffix('.csv"')
    assert stem.replace("-", "").replace("_", "").isalnum()
    assert stem.isascii()
    assert len(stem) < 100


# The sweeper


async def test_the_sweeper_books_what_expired_and_counts_the_accounts(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    migrate(engine, schema, [BUDGETED])
    async with service(cluster.url, schema, sweep_interval_s=0.05) as client:
        await grant(client, 1)

        async def swept() -> bool:
            return "swept_accounts_total 1.0" in (await client.get("/metrics")).text

        await until(swept)
        assert (await counted(client))["entries EXPIRY"] == 1
    rows = query(cluster.url, f"select operation::text, amount from {schema}.entries order by id")
    assert rows == [("CREDIT_ADD", 10), ("EXPIRY", -10)]
    assert_sound(cluster.url, schema)


class Sweeps:
    """Stands for the ledger's sweeps, and notes them."""

    def __init__(self, *answers: int | Exception, lasting_s: float = 0) -> None:
        self.events: list[object] = []
        self._answers = list(answers)
        self._lasting_s = lasting_s

    async def asweep(self, *, limit: int) -> int:
        assert limit == ACCOUNTS
        self.events.append("began")
        await asyncio.sleep(self._lasting_s)
        answer = self._answers.pop(0) if self._answers else 0
        self.events.append(answer)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def seen(self, count: int) -> None:
        """Wait for so many events."""

        async def enough() -> bool:
            return len(self.events) >= count

        await until(enough)


@pytest.mark.parametrize("error", [LedgerUnavailable("gone"), RuntimeError("broken")])
async def test_a_sweep_that_fails_is_logged_and_tried_again(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    sweeps = Sweeps(error, error, 5)
    with caplog.at_level(logging.WARNING, "shared_ledger.service"):
        async with sweeping(cast("Ledger[Any]", sweeps), 0.01):
            await sweeps.seen(6)
    assert sweeps.events[1:6:2] == [error, error, 5]
    assert len([r for r in caplog.records if "a sweep failed" in r.getMessage()]) == 2


async def test_a_sweep_goes_on_at_once_while_more_may_be_due() -> None:
    sweeps = Sweeps(ACCOUNTS, ACCOUNTS, 7)
    async with sweeping(cast("Ledger[Any]", sweeps), 1):
        await sweeps.seen(1)
        await asyncio.sleep(0.2)
        assert sweeps.events[1::2] == [ACCOUNTS, ACCOUNTS, 7]


async def test_a_sweep_that_has_begun_is_waited_for() -> None:
    sweeps = Sweeps(ACCOUNTS, ACCOUNTS, lasting_s=0.2)
    async with sweeping(cast("Ledger[Any]", sweeps), 0.01):
        await sweeps.seen(1)
    assert sweeps.events == ["began", ACCOUNTS]


async def test_the_sweeper_has_ended_before_the_ledger_is_closed(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(engine, schema, [BUDGETED])
    running: list[bool] = []
    close = Ledger.close
    loop = asyncio.get_running_loop()

    def closing(ledger: Ledger[Any]) -> None:
        running.append(any("sweeper" in task.get_name() for task in asyncio.all_tasks(loop)))
        close(ledger)

    monkeypatch.setattr(Ledger, "close", closing)
    async with service(cluster.url, schema, sweep_interval_s=60):
        assert any("sweeper" in task.get_name() for task in asyncio.all_tasks())
    assert running == [False]


async def test_without_an_interval_nothing_is_swept(client: httpx.AsyncClient) -> None:
    await fund(client)
    assert not any("sweeper" in task.get_name() for task in asyncio.all_tasks())


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), 86_401])
def test_an_interval_that_cannot_be_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="is a number of seconds from 0 to 86400"):
        Settings(sweep_interval_s=seconds)


def test_the_interval_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().sweep_interval_s == 60
    monkeypatch.setenv("SWEEP_INTERVAL_S", "0")
    assert Settings().sweep_interval_s == 0


# Metrics


async def counted(client: httpx.AsyncClient) -> dict[str, float]:
    """What was counted of the ledger, by kind and labels."""
    counts = {}
    for line in (await client.get("/metrics")).text.splitlines():
        for name in ("entries", "replays", "refusals"):
            if line.startswith(f"shared_ledger_{name}_total{{") and not line.endswith(" 0.0"):
                labels, _, value = line.partition("{")[2].rpartition(" ")
                words = [label.split("=")[1].strip('"}') for label in labels.split(",")][1:]
                counts[" ".join((name, *words))] = float(value)
    return counts


async def test_metrics_count_every_kind_of_request(client: httpx.AsyncClient) -> None:
    gain = await fund(client, 100)
    await send(client, "/ledger/groups", 201, GROUP)
    await send(client, "/ledger/groups", 200, GROUP)
    await send(client, "/ledger/transfers", 201, TRANSFER)
    await send(client, "/ledger/transfers", 200, TRANSFER)
    await send(client, "/ledger/transfers", 402, TRANSFER | {"nonce": "n", "amount": 1_000})
    await send(client, f"/ledger/entries/{gain['id']}/reverse", 201, {"nonce": "r", "amount": 1})
    path = f"/ledger/holds/{(await hold(client))['id']}"
    await send(client, f"{path}/capture", 409, {"nonce": "c", "amount": 1_000})
    await send(client, f"{path}/release", 201, {"nonce": "r2"})
    await send(client, f"{path}/release", 409, {"nonce": "r3"})
    await send(client, "/ledger/holds", 402, purchase("order 2", 1_000))
    atomic = {"entries": [purchase("a", -1), purchase("b", -1_000)], "atomic": True}
    await send(client, "/ledger/batch", 402, atomic)
    atomic["entries"] = [purchase("c", -1), purchase("d", -1)]
    await send(client, "/ledger/batch", 200, atomic)
    assert await counted(client) == {
        "entries ADJUSTMENT": 1,
        # The group's first, the hold's placing and release, and two of the atomic batch.
        "entries PURCHASE": 5,
        "entries REFUND_ITEM": 1,
        "entries TRANSFER": 2,
        "entries REVERSAL": 1,
        "replays PURCHASE": 1,
        "replays TRANSFER": 1,
        "refusals TRANSFER insufficient_credits": 1,
        "refusals capture hold_exceeded": 1,
        "refusals release hold_closed": 1,
        "refusals PURCHASE insufficient_credits": 2,
        "refusals PURCHASE batch_refused": 1,
    }


# Anything at all

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-5, 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9)
    | st.sampled_from(["user1", "user2", "PURCHASE", "CREDIT_ADD", "2999-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=9,
)
_posting = st.fixed_dictionaries(
    {
        "operation": st.sampled_from([*BUDGETED.rules]) | _json,
        "owner_id": st.sampled_from(["user1", "user2"]) | _json,
        "nonce": st.text(max_size=3) | _json,
    },
    optional={
        "amount": st.integers(-9, 9) | _json,
        "metadata": st.dictionaries(st.text(max_size=3), _json) | _json,
        "expires_in": st.integers(0, 9) | _json,
        "priority": st.integers(0, 9) | _json,
    },
)
_bodies: st.SearchStrategy[Any] = (
    _json
    | _posting
    | st.fixed_dictionaries(
        {"entries": st.lists(_posting | _json, max_size=4)},
        optional={"atomic": st.booleans() | _json, "nonce": st.text(max_size=3) | _json},
    )
    | st.fixed_dictionaries(
        {"nonce": st.text(max_size=3) | _json},
        optional={
            "source": st.just("user1") | _json,
            "destination": st.just("user2") | _json,
            "amount": st.integers(-9, 9) | _json,
            "asset": st.just("points") | _json,
            "metadata": _json,
            "final": st.booleans() | _json,
            "allow_debt": st.booleans() | _json,
        },
    )
)
_values = st.text(max_size=12) | st.sampled_from(
    ["1", "0", "csv", "points", "2025-01-01T00:00:00Z", "0001-01-01T00:00:00Z"]
)
_queries = st.dictionaries(
    st.sampled_from(["at", "asset", "limit", "cursor", "from", "to", "format"])
    | st.text(max_size=4),
    _values,
    max_size=4,
)


def serve_anything(
    cluster: Cluster, schema: str, check: Callable[[Callable[..., httpx.Response]], None]
) -> None:
    """Run a check that has a service to send requests to."""
    engine = make_engine(cluster.url)
    migrate(engine, schema, [BUDGETED])
    engine.dispose()
    with asyncio.Runner() as runner:
        context = service(cluster.url, schema)
        client = runner.run(context.__aenter__())
        try:
            check(lambda *given, **named: runner.run(client.request(*given, **named)))
        finally:
            runner.run(context.__aexit__(None, None, None))
    assert_sound(cluster.url, schema)


def test_no_body_is_ever_answered_with_a_failure(cluster: Cluster, schema: str) -> None:
    def check(request: Callable[..., httpx.Response]) -> None:
        request("POST", "/ledger", json=purchase("funds", 9) | {"operation": "ADJUSTMENT"})
        placed = request("POST", "/ledger/holds", json=purchase("order", 3)).json()["id"]
        paths = [path.replace("holds/1", f"holds/{placed}") for path in POSTS]

        @given(st.sampled_from(paths), _bodies)
        @settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
        def answers(path: str, body: Any) -> None:
            answer = request("POST", path, json=body)
            assert answer.status_code < 500, answer.text
            if answer.status_code >= 400:
                assert answer.headers["content-type"] == "application/problem+json"

        answers()

    serve_anything(cluster, schema, check)


def test_no_bytes_are_ever_answered_with_a_failure(cluster: Cluster, schema: str) -> None:
    def check(request: Callable[..., httpx.Response]) -> None:
        @given(
            st.sampled_from(POSTS), st.binary(max_size=40), st.sampled_from([b"", b'{"entries":['])
        )
        @settings(max_examples=150)
        def answers(path: str, content: bytes, start: bytes) -> None:
            # Not all are refused: "]}" makes an empty batch of the start.
            assert request("POST", path, content=start + content).status_code < 500

        answers()

    serve_anything(cluster, schema, check)


def test_no_query_or_id_is_ever_answered_with_a_failure(cluster: Cluster, schema: str) -> None:
    def check(request: Callable[..., httpx.Response]) -> None:
        paths = st.sampled_from(["", "/entries", "/grants", "/holds", "/statement"])

        @given(st.text(max_size=9) | st.just("user1"), paths, _queries)
        @settings(max_examples=200)
        def answers(owner_id: str, path: str, parameters: dict[str, str]) -> None:
            asked = f"/ledger/{quote(owner_id, safe='')}{path}"
            answer = request("GET", asked, params=parameters)
            assert answer.status_code in (200, 404, 405, 422), answer.text

        answers()

    serve_anything(cluster, schema, check)
