"""The service's routes, over ASGI and the real database."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from shared_ledger import SHARED
from shared_ledger.embedded import Cluster
from shared_ledger.ledger import Ledger
from shared_ledger.migrations import migrate
from shared_ledger.service import create_app
from shared_ledger.service.direct import MAX_BODY_BYTES
from shared_ledger.settings import Settings

TOKEN = {"x-token": "secret-token"}
SIGNUP = {"operation": "SIGNUP_CREDIT", "owner_id": "user1", "nonce": "2025-02-13T21:07:11.064Z"}


@pytest.fixture
async def client(cluster: Cluster, schema: str, engine: Any) -> AsyncIterator[httpx.AsyncClient]:
    migrate(engine, schema, [SHARED])
    settings = Settings(
        database_url=SecretStr(cluster.url),
        shared_ledger_schema=schema,
        environment="development",
        api_token=SecretStr(TOKEN["x-token"]),
    )
    app = create_app(SHARED, settings)
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://ledger", headers=TOKEN) as client,
    ):
        yield client


async def test_first_post_answers_201_with_the_entry(client: httpx.AsyncClient) -> None:
    answer = await client.post("/ledger", json=SIGNUP)
    assert answer.status_code == 201
    entry = answer.json()
    assert entry | SIGNUP == entry
    assert (entry["amount"], entry["balance_after"], entry["replayed"]) == (3, 3, False)
    assert entry["created_on"].endswith("Z")


async def test_the_same_post_again_answers_200_with_the_same_entry(
    client: httpx.AsyncClient,
) -> None:
    first = await client.post("/ledger", json=SIGNUP)
    again = await client.post("/ledger/", json=SIGNUP)
    assert again.status_code == 200
    assert again.json() == first.json() | {"replayed": True}


async def test_the_ledger_shows_the_balance(client: httpx.AsyncClient) -> None:
    await client.post("/ledger", json=SIGNUP)
    assert (await client.get("/ledger/user1")).json() == {
        "owner_id": "user1",
        "balance": 3,
        "available": 3,
        "held": 0,
        "asset": "credits",
        "expiring": 0,
        "debt": 0,
    }
    assert (await client.get("/balance/user1")).json() == {"owner_id": "user1", "balance": 3}


async def test_an_owner_nobody_has_heard_of_has_nothing(client: httpx.AsyncClient) -> None:
    assert (await client.get("/balance/nobody")).json() == {"owner_id": "nobody", "balance": 0}


@pytest.mark.parametrize("headers", [{}, {"x-token": "wrong"}, {"x-token": ""}])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/ledger"), ("POST", "/ledger/"), ("GET", "/ledger/a"), ("GET", "/balance/a")],
)
async def test_without_the_key_there_is_no_answer(
    client: httpx.AsyncClient, method: str, path: str, headers: dict[str, str]
) -> None:
    client.headers.pop("x-token")
    answer = await client.request(method, path, headers=headers, json=SIGNUP)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "application/problem+json"
    assert "www-authenticate" in answer.headers


async def test_not_enough_credits_is_402_with_the_figures(client: httpx.AsyncClient) -> None:
    await client.post("/ledger", json=SIGNUP)
    spends = [
        await client.post(
            "/ledger", json={"operation": "CREDIT_SPEND", "owner_id": "user1", "nonce": f"{n}"}
        )
        for n in range(4)
    ]
    assert [answer.status_code for answer in spends] == [201, 201, 201, 402]
    problem = spends[-1].json()
    assert problem["type"] == "urn:shared-ledger:problem:insufficient_credits"
    assert (problem["available"], problem["required"], problem["status"]) == (0, 1, 402)


async def test_a_nonce_reused_with_another_body_is_409_and_names_the_field(
    client: httpx.AsyncClient,
) -> None:
    await client.post("/ledger", json=SIGNUP)
    answer = await client.post("/ledger", json=SIGNUP | {"operation": "CREDIT_ADD"})
    assert answer.status_code == 409
    assert answer.json()["field"] == "operation"
    assert answer.json()["recorded"] == "SIGNUP_CREDIT"


async def test_a_second_signup_is_409(client: httpx.AsyncClient) -> None:
    await client.post("/ledger", json=SIGNUP)
    answer = await client.post("/ledger", json=SIGNUP | {"nonce": "another"})
    assert answer.status_code == 409
    assert answer.json()["type"].endswith(":already_claimed")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"operation": "PURCHASE"}, "operation"),
        ({"operation": 5}, "operation"),
        ({"owner_id": ""}, "owner_id"),
        ({"owner_id": "@issued"}, "owner_id"),
        ({"owner_id": "a\tb"}, "owner_id"),
        ({"owner_id": "x" * 256}, "owner_id"),
        ({"nonce": "a\x00b"}, "nonce"),
        ({"nonce": None}, "nonce"),
        ({"amount": 4}, "amount"),
        ({"amount": 3.5}, "amount"),
        ({"amount": True}, "amount"),
        ({"amount": "3"}, "amount"),
        ({"amount": 2**80}, "amount"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"note": "x" * 9_000}}, "metadata"),
        ({"metadata": {"note": "\x00"}}, "metadata"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_bad_input_is_422_and_names_the_field(
    client: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await client.post("/ledger", json=SIGNUP | change)
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field
    assert field in answer.json()["detail"]
    assert (await client.get("/balance/user1")).json()["balance"] == 0


@pytest.mark.parametrize("missing", ["operation", "owner_id", "nonce"])
async def test_a_missing_field_is_named(client: httpx.AsyncClient, missing: str) -> None:
    body = {name: value for name, value in SIGNUP.items() if name != missing}
    answer = await client.post("/ledger", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, missing)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b'{"metadata":{"a":' + b"[" * 10_000])
async def test_what_is_not_json_is_400(client: httpx.AsyncClient, body: bytes) -> None:
    answer = await client.post("/ledger", content=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["type"].endswith(":not_json")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"text"', b"5"])
async def test_json_that_is_no_object_is_422(client: httpx.AsyncClient, body: bytes) -> None:
    assert (await client.post("/ledger", content=body)).status_code == 422


async def test_a_huge_body_is_413(client: httpx.AsyncClient) -> None:
    answer = await client.post("/ledger", content=b" " * (MAX_BODY_BYTES + 1))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("owner_id", ["@issued", "%00", "a%0Ab", "%20", "x" * 300, "%F0%28%8C%28"])
async def test_an_id_that_cannot_be_an_owners_is_422(
    client: httpx.AsyncClient, owner_id: str
) -> None:
    for path in (f"/ledger/{owner_id}", f"/balance/{owner_id}"):
        answer = await client.get(path)
        assert answer.status_code == 422, answer.text


async def test_unknown_paths_and_methods_are_problems(client: httpx.AsyncClient) -> None:
    for method, path, status in (
        ("GET", "/nothing", 404),
        ("DELETE", "/ledger", 405),
        ("GET", "/ledger/a/b/c", 404),
        ("GET", "/balance/", 404),
    ):
        answer = await client.request(method, path)
        assert answer.status_code == status, path
        assert answer.headers["content-type"] == "application/problem+json"


async def test_what_is_public_needs_no_key(client: httpx.AsyncClient) -> None:
    client.headers.pop("x-token")
    for path in ("/health", "/metrics", "/docs", "/redoc", "/openapi.json"):
        assert (await client.get(path)).status_code == 200, path


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
async def test_documentation_pages_load_nothing_from_elsewhere(
    client: httpx.AsyncClient, page: str
) -> None:
    text = (await client.get(page)).text
    scripts = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert scripts
    assert all(script.startswith("/") for script in scripts), scripts
    for script in scripts:
        assert (await client.get(script)).status_code == 200, script


async def test_metrics_count_entries_replays_and_refusals(client: httpx.AsyncClient) -> None:
    await client.post("/ledger", json=SIGNUP)
    await client.post("/ledger", json=SIGNUP)
    await client.post("/ledger", json=SIGNUP | {"nonce": "again"})
    await client.get("/no/such/path")
    text = (await client.get("/metrics")).text
    labels = 'app="shared",operation="SIGNUP_CREDIT"'
    assert f"shared_ledger_entries_total{{{labels}}} 1.0" in text
    assert f"shared_ledger_replays_total{{{labels}}} 1.0" in text
    assert f'shared_ledger_refusals_total{{{labels},reason="already_claimed"}} 1.0' in text
    assert 'http_requests_total{method="POST",route="/ledger",status="201"} 1.0' in text
    assert 'route="unknown",status="404"' in text
    assert "/no/such/path" not in text


async def test_a_full_queue_is_503_with_retry_after(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from shared_ledger.errors import LedgerOverloaded

    def full(*_: object) -> None:
        raise LedgerOverloaded

    monkeypatch.setattr(Ledger, "apost", full)
    answer = await client.post("/ledger", json=SIGNUP)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["type"].endswith(":overloaded")


async def test_an_unexpected_failure_shows_nothing_of_itself(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("the password is hunter2")

    monkeypatch.setattr(Ledger, "apost", broken)
    answer = await client.post("/ledger", json=SIGNUP)
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
