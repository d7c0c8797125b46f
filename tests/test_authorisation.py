"""Who may do what: the whole matrix in one table, and what the table does not say."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import jwt
import pytest
from fastapi import APIRouter
from sqlalchemy.engine import Engine
from starlette.responses import Response

from builders import query
from serving import (
    OPERATOR,
    PASSWORD,
    SECRET_KEY,
    SERVICES,
    Served,
    bearer,
    kind,
    serving,
    tokens,
)
from shared_ledger import SHARED
from shared_ledger.apps import crowdfunding
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError
from shared_ledger.service import Service, create_app, routes
from shared_ledger.service.authorisation import KNOWN, RIGHTS, May, with_own
from shared_ledger.service.direct import DirectRoute
from shared_ledger.service.service import PREFIX, plain
from shared_ledger.settings import Settings
from spark_served import be_patient, campaign_body, funded, quiet, simulate

CALLERS = (
    "nobody",
    "expired",
    "forged",
    "other user",
    "right user",
    "key of another application",
    "key without the scope",
    "right key",
    "administrator",
)

# In the order of the callers. What is asked is alice's, in production; the scope is what her rule
# lets her post, CREDIT_SPEND, and TRANSFER, and what the application's own routes post.
OPEN = (200,) * 9
READ = (401, 401, 401, 404, 200, 403, 200, 200, 200)
POST = (401, 401, 401, 404, 201, 403, 403, 201, 404)
SERVICE = (401, 401, 401, 403, 403, 403, 403, 201, 403)
ADMIN = (401, 401, 401, 403, 403, 403, 403, 403, 200)
EVERYBODY = (401, 401, 401, 200, 200, 403, 200, 200, 200)
# What alice was given already: the right key comes after her.
ONCE = (401, 401, 401, 404, 201, 403, 403, 200, 404)
SELL = (401, 401, 401, 403, 403, 403, 403, 201, 201)
# Whatever somebody asks there, he asks for himself; a service has no account.
PERSON = (401, 401, 401, 201, 201, 403, 403, 403, 201)
MATRIX: dict[tuple[str, str], tuple[int, ...]] = {
    ("GET", "/health"): OPEN,
    ("GET", "/health/ready"): OPEN,
    ("GET", "/metrics"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/docs/oauth2-redirect"): OPEN,
    ("GET", "/redoc"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("POST", "/auth/register"): (201,) * 9,
    ("POST", "/auth/token"): OPEN,
    ("GET", "/auth/me"): (401, 401, 401, 200, 200, 200, 200, 200, 200),
    ("POST", "/ledger"): POST,
    ("POST", "/ledger/"): POST,
    ("POST", "/ledger/batch"): (401, 401, 401, 404, 200, 403, 403, 200, 404),
    ("POST", "/ledger/groups"): POST,
    ("POST", "/ledger/transfers"): POST,
    ("POST", "/ledger/entries/{entry_id}/reverse"): SERVICE,
    ("POST", "/ledger/quote"): (401, 401, 401, 404, 200, 403, 403, 200, 200),
    ("POST", "/ledger/holds"): POST,
    ("POST", "/ledger/holds/{hold_id}/capture"): SERVICE,
    ("POST", "/ledger/holds/{hold_id}/release"): SERVICE,
    ("GET", "/ledger/holds/{hold_id}"): READ,
    ("GET", "/ledger/{owner_id}"): READ,
    ("GET", "/balance/{owner_id}"): READ,
    ("GET", "/ledger/{owner_id}/entries"): READ,
    ("GET", "/ledger/{owner_id}/grants"): READ,
    ("GET", "/ledger/{owner_id}/holds"): READ,
    ("GET", "/ledger/{owner_id}/statement"): READ,
    ("GET", "/admin/keys"): ADMIN,
    ("POST", "/admin/keys"): (*ADMIN[:-1], 201),
    ("POST", "/admin/keys/{key_id}/rotate"): ADMIN,
    ("DELETE", "/admin/keys/{key_id}"): ADMIN,
    # The content application's own.
    ("POST", "/api/v1/content/signup"): ONCE,
    ("POST", "/api/v1/content/daily-reward"): ONCE,
    ("GET", "/api/v1/content/content"): EVERYBODY,
    ("POST", "/api/v1/content/content"): POST,
    ("GET", "/api/v1/content/content/{content_id}"): EVERYBODY,
    ("POST", "/api/v1/content/content/{content_id}/access"): POST,
    # The shop's.
    ("GET", "/api/v1/ecommerce/products"): EVERYBODY,
    ("POST", "/api/v1/ecommerce/products"): SELL,
    ("GET", "/api/v1/ecommerce/products/{product_id}"): EVERYBODY,
    ("POST", "/api/v1/ecommerce/products/{product_id}/stock"): SELL,
    ("GET", "/api/v1/ecommerce/orders"): READ,
    ("POST", "/api/v1/ecommerce/orders"): POST,
    ("GET", "/api/v1/ecommerce/orders/{order_id}"): READ,
    ("POST", "/api/v1/ecommerce/orders/{order_id}/ship"): SELL,
    ("POST", "/api/v1/ecommerce/orders/{order_id}/cancel"): (*POST[:-1], 201),
    ("POST", "/api/v1/ecommerce/orders/{order_id}/refund"): SELL,
    # Satoshi Spark's.
    ("POST", "/api/v1/crowdfunding/token"): OPEN,
    ("POST", "/api/v1/crowdfunding/crowdfunding/campaign"): PERSON,
    ("GET", "/api/v1/crowdfunding/crowdfunding/campaign"): OPEN,
    ("GET", "/api/v1/crowdfunding/crowdfunding/campaign/progress"): OPEN,
    ("GET", "/api/v1/crowdfunding/crowdfunding/campaigns"): OPEN,
    ("POST", "/api/v1/crowdfunding/crowdfunding/donate"): PERSON,
    ("POST", "/api/v1/crowdfunding/bitcoin/deposit"): PERSON,
    ("POST", "/api/v1/crowdfunding/bitcoin/withdraw"): PERSON,
    ("GET", "/api/v1/crowdfunding/bitcoin/invoice/{payment_hash}"): (
        *(401, 401, 401, 404, 200, 403, 403, 403, 404),
    ),
    ("GET", "/api/v1/crowdfunding/dashboard"): (401, 401, 401, 200, 200, 403, 403, 403, 200),
    ("POST", "/api/v1/crowdfunding/dev/lightning/pay"): OPEN,
    ("POST", "/api/v1/crowdfunding/dev/lightning/invoice"): OPEN,
}
"""What is not below ``/api/v1/`` every application has, at the root and below its own path."""


@pytest.fixture
async def served(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Served]:
    async with serving(cluster.url, schema, engine) as served:
        yield served


@pytest.fixture
async def developed(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Served]:
    async with serving(cluster.url, schema, engine, environment="development") as served:
        yield served


def callers(served: Served, service: Service) -> dict[str, dict[str, str]]:
    """The credentials of every kind of caller of a service."""
    application = service.application.name
    own = {name for row in service.rights.values() if row for name in row.operations}
    scope = ("CREDIT_SPEND", "TRANSFER", *own)
    alice = served.user("alice")
    expired = tokens(lifetime_s=-60).issue("alice")
    forged = tokens("another-signing-key-of-the-same-length-01").issue("alice")
    credentials: dict[str, dict[str, str]] = {
        "nobody": {},
        "expired": bearer(expired),
        "forged": bearer(forged),
        "other user": served.user("bob"),
        "right user": alice,
        "key of another application": served.key("bookings", scope),
        "key without the scope": served.key(application, ("CREDIT_ADD",)),
        "right key": served.key(application, scope),
        "administrator": served.user("root", is_admin=True),
    }
    assert tuple(credentials) == CALLERS
    return credentials


async def fund(served: Served, owner_id: str = "alice", times: int = 1) -> None:
    for _ in range(times):
        assert (await served.post(OPERATOR, "CREDIT_ADD", owner_id)).status_code == 201


async def spent(served: Served, owner_id: str = "alice") -> int:
    """Post a spend, and return its id."""
    answer = await served.post(OPERATOR, "CREDIT_SPEND", owner_id)
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


async def held(served: Served, owner_id: str = "alice", operation: str = "CREDIT_SPEND") -> int:
    """Place a hold, and return its id."""
    body = {"operation": operation, "owner_id": owner_id, "nonce": served.nonce()}
    answer = await served.client.post("/ledger/holds", json=body, headers=OPERATOR)
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


async def made(served: Served, path: str, **body: Any) -> int:
    """Let the operator make something, and return its id."""
    answer = await served.client.post(path, json=body, headers=OPERATOR)
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


async def answered(served: Served, who: str, path: str, **body: Any) -> dict[str, Any]:
    """What a user is answered who posts something that is good."""
    headers = bearer(served.gate.tokens.issue(who))
    answer = await served.client.post(path, json=body, headers=headers)
    assert answer.status_code in (200, 201), answer.text
    found: dict[str, Any] = answer.json()
    return found


async def asked_to_pay(served: Served) -> dict[str, Any]:
    """Let alice make an invoice, for a deposit."""
    return await answered(served, "alice", "/bitcoin/deposit", amount=1)


async def invoiced(served: Served) -> str:
    return str((await asked_to_pay(served))["payment_hash"])


async def asked_by_others(served: Served) -> dict[str, Any]:
    """Let somebody outside make an invoice."""
    return await answered(served, "alice", "/dev/lightning/invoice", amount=1)


async def begun(served: Served) -> dict[str, Any]:
    """Begin a campaign of somebody who is none of the callers."""
    return await answered(served, "carol", "/crowdfunding/campaign", **campaign_body())


async def ended(served: Served) -> dict[str, Any]:
    """A campaign that is over: whoever follows it is told all there is, and the answer ends."""
    made = await begun(served)
    query(
        served.url,
        f"update {served.schema}.crowdfunding_campaigns set state = 'ended', due_on = null, "
        "version = version + 1 where campaign_id = %s",
        made["campaign_id"],
    )
    return made


async def key_made(served: Served) -> str:
    return served.new_key()[0]


async def published(served: Served) -> int:
    """Create content of somebody who is none of the callers."""
    return await made(served, "/content", **ARTICLE, owner_id="carol", nonce=served.nonce())


async def stocked(served: Served) -> int:
    return await made(served, "/products", **MUG, sku=served.nonce())


async def to_be_ordered(served: Served) -> dict[str, Any]:
    return {"product_id": await stocked(served)}


async def ordered(served: Served) -> int:
    product_id = await stocked(served)
    return await made(served, "/orders", product_id=product_id, **ALICE, nonce=served.nonce())


ALICE = {"owner_id": "alice"}
ARTICLE = {"title": "Bread", "body": "Wait a day.", "price": 1}
MUG = {"title": "A mug", "price": 1, "stock": 9}

MAKERS: dict[str, Callable[[Served], Awaitable[int | str]]] = {
    "payment_hash": invoiced,
    "entry_id": spent,
    "hold_id": held,
    "key_id": key_made,
    "content_id": published,
    "product_id": stocked,
    "order_id": ordered,
}
"""How that comes to be of which a path has the number."""

NAMED: dict[tuple[str, str], Callable[[Served], Awaitable[dict[str, Any]]]] = {
    ("POST", "/orders"): to_be_ordered,
    ("GET", "/crowdfunding/campaign"): begun,
    ("GET", "/crowdfunding/campaign/progress"): ended,
    ("POST", "/crowdfunding/donate"): begun,
    ("POST", "/bitcoin/withdraw"): asked_by_others,
    ("POST", "/dev/lightning/pay"): asked_to_pay,
}
"""How that comes to be which a body names, or a query string."""

QUERIES = {
    "/ledger/{owner_id}/statement": "?from=2025-01-01T00:00:00Z&to=2025-02-01T00:00:00Z",
    "/orders": "?owner_id=alice",
    "/crowdfunding/campaign": "?campaign_id={campaign_id}",
    "/crowdfunding/campaign/progress": "?campaign_id={campaign_id}",
}


async def asked(served: Served, method: str, path: str) -> dict[str, Any]:
    """What is sent to a route: a good request, for which everything is there."""
    values: dict[str, Any] = {**ALICE}
    for name, make in MAKERS.items():
        if f"{{{name}}}" in path:
            values[name] = await make(served)
    if path == "/orders/{order_id}/refund":
        await made(served, f"/orders/{values['order_id']}/ship")
    if (method, path) in NAMED:
        values |= await NAMED[method, path](served)
    url = path.format(**values)
    if method != "POST":
        return {"method": method, "url": url + QUERIES.get(path, "").format(**values)}
    if path in ("/auth/token", "/token"):
        return {"method": method, "url": url, "data": {"username": "alice", "password": PASSWORD}}
    return {"method": method, "url": url, "json": body_of(served.nonce(), path, values)}


def body_of(fresh: str, path: str, values: dict[str, Any]) -> dict[str, Any]:
    nonce = {"nonce": fresh}
    spend = {"operation": "CREDIT_SPEND", **ALICE}
    bodies: dict[str, Any] = {
        "/auth/register": {"username": fresh.replace(" ", ""), "password": PASSWORD},
        "/ledger": spend | nonce,
        "/ledger/": spend | nonce,
        # All or nothing, so that the answer has the status of what was refused.
        "/ledger/batch": {"entries": [spend | nonce], "atomic": True},
        "/ledger/groups": {"entries": [spend], **nonce},
        "/ledger/transfers": {"source": "alice", "destination": "bob", "amount": 1, **nonce},
        "/ledger/quote": spend | nonce,
        "/ledger/holds": spend | nonce,
        "/admin/keys": {"name": "a new one"},
        "/admin/keys/{key_id}/rotate": {},
        "/signup": ALICE,
        "/daily-reward": ALICE | {"nonce": "the same"},
        "/content": ARTICLE | ALICE | nonce,
        "/content/{content_id}/access": ALICE,
        "/products": MUG | {"sku": fresh},
        "/products/{product_id}/stock": {"change": 1, **nonce},
        "/orders": {"product_id": values.get("product_id"), **ALICE, **nonce},
        "/orders/{order_id}/ship": {},
        "/orders/{order_id}/cancel": None,
        "/crowdfunding/campaign": campaign_body(),
        "/crowdfunding/donate": {
            "idempotency_key": fresh,
            "campaign_id": values.get("campaign_id"),
            "amount": 1,
        },
        "/bitcoin/deposit": {"amount": 1},
        "/bitcoin/withdraw": {"encoded_invoice": values.get("payment_request")},
        "/dev/lightning/pay": {"payment_request": values.get("payment_request")},
        "/dev/lightning/invoice": {"amount": 1},
    }
    body: dict[str, Any] = bodies.get(path, nonce)
    return body


@pytest.mark.parametrize("service", [plain(SHARED), *SERVICES], ids=lambda s: s.application.name)
async def test_every_route_lets_in_whom_the_matrix_says(
    cluster: Cluster,
    schema: str,
    engine: Engine,
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulate(monkeypatch)
    be_patient(monkeypatch)
    path = service.path if service in SERVICES else ""
    wrong = []
    async with serving(cluster.url, schema, engine, beside=SERVICES) as everywhere:
        credentials = callers(everywhere, service)
        served = everywhere.at(path)
        await fund(served, "alice", times=20)
        await fund(served, "carol", times=20)
        # What goes on by itself there writes rows, too.
        by_itself = service is crowdfunding.SERVICE
        if by_itself:
            everywhere.user("carol")
            for owner_id in ("alice", "bob", "root"):
                await funded(served, owner_id)
        for (method, route), expected in rows_of(service).items():
            for (who, headers), status in zip(credentials.items(), expected, strict=True):
                request = await asked(served, method, route)
                if by_itself:
                    await quiet(served)
                before = served.written()
                answer = await served.client.request(headers=headers, **request)
                if answer.status_code != status:
                    wrong.append((method, route, who, answer.status_code, answer.text))
                if answer.status_code >= 400:
                    assert answer.headers["content-type"] == "application/problem+json"
                    if by_itself:
                        await quiet(served)
                    assert served.written() == before, (method, route, who)
                if answer.status_code == 401:
                    assert "Bearer" in answer.headers["www-authenticate"]
    assert not wrong


def rows_of(service: Service) -> dict[tuple[str, str], tuple[int, ...]]:
    """The rows of a service: the ledger's and its own, as they are at the root."""
    return {
        (method, path.removeprefix(service.path)): row
        for (method, path), row in MATRIX.items()
        if not path.startswith(PREFIX) or path.startswith(f"{service.path}/")
    }


def test_the_matrix_has_every_route_of_every_application() -> None:
    own = {(method, s.path + path) for s in SERVICES for method, path in s.rights}
    assert MATRIX.keys() == RIGHTS.keys() | own
    # No route is missing in the tables: the start would end.
    create_app(SHARED, Settings(), beside=SERVICES)
    for service in SERVICES:
        described = create_app(service, Settings()).openapi()["paths"]
        documented = {
            (method.upper(), path) for path, methods in described.items() for method in methods
        }
        assert service.rights.keys() <= documented <= rows_of(service).keys()


@pytest.mark.parametrize("service", [plain(SHARED), *SERVICES], ids=lambda s: s.application.name)
def test_the_matrix_agrees_with_the_tables_of_rights(service: Service) -> None:
    for route, rights in with_own(service.rights).items():
        row = dict(zip(CALLERS, rows_of(service)[route], strict=True))
        open_to_all = (rights is None, row["nobody"] < 400)
        assert open_to_all in {(True, True), (False, False)}, route
        if rights is None:
            assert set(row.values()) <= {200, 201}, route
            continue
        assert {row["expired"], row["forged"], row["nobody"]} == {401}, route
        for who, may in (
            ("right user", rights.user),
            ("right key", rights.service),
            ("administrator", rights.administrator),
        ):
            assert (row[who] == 403) == (may is May.NOT), (route, who)
        # A foreign account is not there; what of it is everybody's may be, or the caller asks for
        # himself.
        others = {May.ALL: {200}, May.OWN: {200, 201, 404}, May.NOT: {403}}
        assert row["other user"] in others[rights.user], route
        assert row["key of another application"] == (200 if rights is KNOWN else 403), route
        out_of_scope = 403 if rights.service in {May.SCOPE, May.NOT} else 200
        assert row["key without the scope"] == out_of_scope, route


def test_a_route_that_nobody_decided_about_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    async def leak(_: Any) -> Response:
        return Response("everything")

    router = APIRouter(route_class=DirectRoute)
    router.add_api_route("/leak", leak, methods=["GET"])
    monkeypatch.setattr(routes, "ROUTERS", (*routes.ROUTERS, router))
    with pytest.raises(ConfigurationError, match="nobody decided who may call GET /leak"):
        create_app(SHARED, Settings())


# What is another's is not there.


async def test_a_foreign_hold_is_answered_as_one_that_is_not_there(served: Served) -> None:
    bob = served.user("bob")
    await fund(served)
    number = await held(served)
    foreign, missing = [
        await served.client.get(f"/ledger/holds/{n}", headers=bob) for n in (number, number + 1_000)
    ]
    assert (foreign.status_code, missing.status_code) == (404, 404)
    unsaid = {"hold_id": 0, "detail": ""}
    assert foreign.json() | unsaid == missing.json() | unsaid
    assert foreign.json()["detail"].replace(str(number), "?") == missing.json()["detail"].replace(
        str(number + 1_000), "?"
    )


@pytest.mark.parametrize("end", ["capture", "release"])
async def test_an_owner_cannot_end_a_hold_that_a_service_placed(served: Served, end: str) -> None:
    alice = served.user("alice")
    await fund(served)
    number = await held(served)
    path = f"/ledger/holds/{number}/{end}"
    answer = await served.client.post(path, json={"nonce": served.nonce()}, headers=alice)
    assert answer.status_code == 403
    shown = await served.client.get(f"/ledger/holds/{number}", headers=alice)
    assert shown.json()["state"] == "open"


async def test_a_foreign_owner_is_answered_as_one_that_nobody_knows(served: Served) -> None:
    bob = served.user("bob")
    await fund(served)
    for path in ("/ledger/{}", "/balance/{}", "/ledger/{}/entries", "/ledger/{}/holds"):
        known, unknown = [
            await served.client.get(path.format(owner), headers=bob) for owner in ("alice", "zoe")
        ]
        assert (known.status_code, unknown.status_code) == (404, 404)
        assert known.json() | {"owner_id": "zoe"} == unknown.json()


async def test_the_name_in_other_letters_is_another_owner(served: Served) -> None:
    bob = served.user("bob")
    for owner in ("Bob", "BOB", "bob ", "b\u043eb", "%62ob/../alice"):
        answer = await served.client.get(f"/balance/{owner}", headers=bob)
        assert answer.status_code == 404, owner
    # The same name, only written for a URL.
    assert (await served.client.get("/balance/%62ob", headers=bob)).status_code == 200


# What a user may post.


async def test_in_production_a_user_gives_credits_to_nobody(served: Served) -> None:
    bob = served.user("bob")
    for owner in ("bob", "alice"):
        for operation in ("CREDIT_ADD", "SIGNUP_CREDIT"):
            answer = await served.post(bob, operation, owner)
            assert answer.status_code == (403 if owner == "bob" else 404)
    answer = await served.post(bob, "CREDIT_ADD", "bob")
    assert (kind(answer), answer.json()["operation"]) == ("not_allowed", "CREDIT_ADD")
    assert served.ledger.balance("bob").balance == 0
    group = {"nonce": "g", "entries": [{"operation": "CREDIT_ADD", "owner_id": "bob"}]}
    answer = await served.client.post("/ledger/groups", json=group, headers=bob)
    assert answer.status_code == 403
    assert served.ledger.balance("bob").balance == 0


async def test_a_user_has_his_daily_reward_once_but_does_not_say_when_it_expires(
    served: Served,
) -> None:
    bob = served.user("bob")
    for more in ({"expires_in": 9_999_999}, {"priority": 1_000}):
        answer = await served.post(bob, "DAILY_REWARD", "bob", **more)
        assert kind(answer) == "not_allowed"
    assert (await served.post(bob, "DAILY_REWARD", "bob")).status_code == 201
    assert (await served.post(bob, "DAILY_REWARD", "bob")).status_code == 409


async def test_in_development_a_user_posts_anything_to_himself_and_nothing_to_others(
    developed: Served,
) -> None:
    bob = developed.user("bob")
    assert (await developed.post(bob, "CREDIT_ADD", "bob")).status_code == 201
    assert (await developed.post(bob, "CREDIT_ADD", "alice")).status_code == 404
    assert developed.ledger.balance("alice").balance == 0


async def test_a_users_batch_refuses_what_is_not_his_and_posts_the_rest(served: Served) -> None:
    bob = served.user("bob")
    await fund(served, "bob")
    await fund(served, "alice")
    entries = [
        {"operation": "CREDIT_SPEND", "owner_id": "bob", "nonce": "1"},
        {"operation": "CREDIT_SPEND", "owner_id": "alice", "nonce": "2"},
        {"operation": "CREDIT_ADD", "owner_id": "bob", "nonce": "3"},
    ]
    answer = await served.client.post("/ledger/batch", json={"entries": entries}, headers=bob)
    assert [result["status"] for result in answer.json()["results"]] == [201, 404, 403]
    assert served.ledger.balance("alice").balance == 10


async def test_an_administrator_posts_as_himself_only(served: Served) -> None:
    root = served.user("root", is_admin=True)
    await fund(served, "root")
    assert (await served.post(root, "CREDIT_SPEND", "root")).status_code == 201
    assert (await served.post(root, "CREDIT_ADD", "root")).status_code == 403
    assert (await served.post(root, "CREDIT_SPEND", "alice")).status_code == 404


# What a key is for.


async def test_a_key_without_the_scope_is_told_the_operation(served: Served) -> None:
    key = served.key("shared", ("CREDIT_SPEND",))
    answer = await served.post(key, "CREDIT_ADD", "alice")
    assert (answer.status_code, kind(answer)) == (403, "not_allowed")
    assert answer.json()["operation"] == "CREDIT_ADD"


async def test_a_hold_is_used_by_keys_of_its_operation(served: Served) -> None:
    await fund(served)
    for operations, status in ((("CREDIT_ADD",), 403), (("CREDIT_SPEND",), 201)):
        number = await held(served)
        answer = await served.client.post(
            f"/ledger/holds/{number}/capture",
            json={"nonce": served.nonce()},
            headers=served.key("shared", operations),
        )
        assert answer.status_code == status


async def test_a_reversal_is_by_keys_of_the_entrys_operation(served: Served) -> None:
    await fund(served)
    number = await spent(served)
    path = f"/ledger/entries/{number}/reverse"
    for operations, status in ((("CREDIT_ADD", "REVERSAL"), 403), (("CREDIT_SPEND",), 201)):
        key = served.key("shared", operations)
        answer = await served.client.post(path, json={"nonce": served.nonce()}, headers=key)
        assert answer.status_code == status
    missing = await served.client.post(
        "/ledger/entries/99999/reverse", json={"nonce": "n"}, headers=key
    )
    assert (missing.status_code, kind(missing)) == (404, "entry_not_found")


async def test_a_key_of_every_application_and_operation_may_do_all(served: Served) -> None:
    key = served.key(None)
    assert (await served.post(key, "CREDIT_ADD", "alice")).status_code == 201
    transfer = {"source": "alice", "destination": "bob", "amount": 1, "nonce": "t"}
    answer = await served.client.post("/ledger/transfers", json=transfer, headers=key)
    assert answer.status_code == 201


# Credentials that are wrong.


def signed(secret: str = SECRET_KEY, *, algorithm: str = "HS256", **change: Any) -> str:
    """A token as the service issues it, but for what is changed; None is left out."""
    now = int(time.time())
    claims: dict[str, Any] = {
        "sub": "alice",
        "iss": "shared-ledger",
        "aud": "shared-ledger",
        "iat": now,
        "exp": now + 600,
    } | change
    kid = jwt.get_unverified_header(tokens().issue("alice"))["kid"]
    return jwt.encode(
        {name: value for name, value in claims.items() if value is not None},
        "" if algorithm == "none" else secret,
        algorithm=algorithm,
        headers={"kid": kid},
    )


async def test_a_token_as_the_service_issues_it_is_taken(served: Served) -> None:
    served.user("alice")
    answer = await served.client.get("/balance/alice", headers=bearer(signed()))
    assert answer.status_code == 200


WRONG_TOKENS: dict[str, Any] = {
    "no algorithm": lambda: signed(algorithm="none"),
    "another algorithm": lambda: signed(algorithm="HS512"),
    "another audience": lambda: signed(aud="another-service"),
    "no audience": lambda: signed(aud=None),
    "another issuer": lambda: signed(iss="another-service"),
    "issued in the future": lambda: signed(iat=int(time.time()) + 60),
    "not yet valid": lambda: signed(nbf=int(time.time()) + 60),
    "expired": lambda: signed(exp=int(time.time()) - 60),
    "no expiry": lambda: signed(exp=None),
    "an expiry that is no number": lambda: signed(exp="never"),
    "an endless expiry": lambda: signed(exp=10**400),
    "no subject": lambda: signed(sub=None),
    "a subject that is a list": lambda: signed(sub=["alice"]),
    "an unknown user": lambda: signed(sub="zoe"),
    "the name in other letters": lambda: signed(sub="Alice"),
    "another key": lambda: signed("x" * 40),
    "no kid": lambda: jwt.encode({"sub": "alice"}, SECRET_KEY),
    "too long": lambda: signed(more="x" * 3_000),
    "no token": lambda: "a.b.c",
    "nothing": lambda: "",
    "cut": lambda: signed()[:-1],
    "bytes": lambda: "\xff\xfe",
}


@pytest.mark.parametrize("name", WRONG_TOKENS)
async def test_a_wrong_token_is_401_writes_nothing_and_is_one_line_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    served.user("alice")
    await fund(served)
    token = WRONG_TOKENS[name]()
    before = served.written()
    caplog.clear()
    answer = await served.client.post(
        "/ledger",
        json={"operation": "CREDIT_SPEND", "owner_id": "alice", "nonce": "n"},
        headers={"authorization": b"Bearer " + token.encode("latin-1")},
    )
    assert (answer.status_code, kind(answer)) == (401, "unauthorized")
    assert "www-authenticate" in answer.headers
    assert served.written() == before
    lines = [r.getMessage() for r in caplog.records if r.name.startswith("shared_ledger")]
    assert len(lines) == 1
    assert "POST /ledger" in lines[0]
    assert not token or token not in caplog.text + answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Basic YWxpY2U6VGVzdEAxMjM0"},
        {"authorization": "Bearer"},
        {"x-token": "secret-token"},
        {"x-token": "slk_000000000000_" + "A" * 43},
        {"x-token": ""},
        [("x-token", OPERATOR["x-token"]), ("x-token", OPERATOR["x-token"])],
        {"x-token": OPERATOR["x-token"], "authorization": "Bearer a.b.c"},
        {"x-token": OPERATOR["x-token"] + " x"},
    ],
)
async def test_other_wrong_credentials_are_401(served: Served, headers: Any) -> None:
    assert (await served.client.get("/balance/alice", headers=headers)).status_code == 401
