"""The content application as its callers meet it: rewards, publishing, and reading for a price."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Engine

from builders import (
    SHOP,
    ShopOperation,
    assert_sound,
    balances,
    fund,
    locked_account,
    query,
)
from conftest import Clock
from serving import OPERATOR, Served, kind, serving
from shared_ledger import Ledger, Posting
from shared_ledger.apps.content import SERVICE
from shared_ledger.apps.content.operations import FEES, MAX_PRICE
from shared_ledger.embedded import Cluster
from shared_ledger.operations import INT64_MAX
from shared_ledger.service import calls
from shared_ledger.service.fields import MAX_TEXT

Headers = dict[str, str]

JSON = "application/json"
ARTICLE: Mapping[str, Any] = {"title": "Bread", "body": "Wait a day.", "price": 10}


@pytest.fixture
async def served(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Served]:
    async with serving(cluster.url, schema, engine, application=SERVICE) as served:
        yield served


def member(served: Served, name: str, *, credits: int = 0) -> Headers:  # noqa: A002
    """A user who has so many credits."""
    if credits:
        fund(served.url, served.schema, name, credits)
    return served.user(name)


async def create(served: Served, headers: Headers, **change: Any) -> httpx.Response:
    body = {**ARTICLE, "nonce": served.nonce()} | change
    return await served.client.post("/content", json=body, headers=headers)


async def published(served: Served, headers: Headers, **change: Any) -> int:
    """Create content, and return its id."""
    made = await create(served, headers, **change)
    assert made.status_code == 201, made.text
    number: int = made.json()["id"]
    return number


async def show(served: Served, headers: Headers, number: int) -> dict[str, Any]:
    answer = await served.client.get(f"/content/{number}", headers=headers)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


async def access(served: Served, headers: Headers, number: int, **body: Any) -> httpx.Response:
    return await served.client.post(f"/content/{number}/access", json=body or None, headers=headers)


def credits_of(served: Served, owner_id: str) -> int:
    return balances(served.url, served.schema).get((owner_id, "credits"), 0)


def rows(served: Served) -> tuple[int, ...]:
    """How many entries, pieces of content and accesses are stored."""
    counts = (
        f"(select count(*) from {served.schema}.{table})"
        for table in ("entries", "content_items", "content_accesses")
    )
    found: tuple[int, ...] = query(served.url, f"select {', '.join(counts)}")[0]
    return found


# Rewards


async def test_signing_up_gives_the_first_credits_once(served: Served) -> None:
    alice = served.user("alice")
    first, again = [await served.client.post("/signup", headers=alice) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert (first.json()["operation"], first.json()["amount"]) == ("SIGNUP_CREDIT", 3)
    assert again.json() == first.json() | {"replayed": True}
    assert credits_of(served, "alice") == 3


async def test_who_signs_up_many_times_at_once_is_given_credits_once(served: Served) -> None:
    alice = served.user("alice")
    answers = await asyncio.gather(
        *(served.client.post("/signup", headers=alice) for _ in range(50))
    )
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert credits_of(served, "alice") == 3


async def test_the_daily_reward_comes_once_on_each_day_of_utc(
    clock: Clock, moving_url: str, schema: str, engine: Engine
) -> None:
    # Half an hour before midnight in UTC it is early in the evening for the database's sessions.
    url = f"{moving_url}%20-cTimeZone%3DAmerica/New_York"
    clock.move(datetime(2026, 3, 1, 23, 30, tzinfo=UTC) - clock.now())
    async with serving(url, schema, engine, application=SERVICE) as served:
        alice = served.user("alice")

        async def claim(nonce: str) -> httpx.Response:
            return await served.client.post("/daily-reward", json={"nonce": nonce}, headers=alice)

        first = await claim("a")
        assert (first.status_code, first.json()["period"]) == (201, "2026-03-01")
        other = await claim("b")
        assert (other.status_code, kind(other)) == (409, "already_claimed")
        again = await claim("a")
        assert (again.status_code, again.json()) == (200, first.json() | {"replayed": True})
        clock.move(timedelta(minutes=40))
        second = await claim("b")
        assert (second.status_code, second.json()["period"]) == (201, "2026-03-02")
        clock.move(timedelta(hours=5))
        assert (await claim("c")).status_code == 409
        assert (await claim("a")).json() == again.json()
        assert credits_of(served, "alice") == 2


async def test_the_daily_reward_can_be_claimed_without_a_nonce(served: Served) -> None:
    alice = served.user("alice")
    first, again = [await served.client.post("/daily-reward", headers=alice) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 409)
    assert kind(again) == "already_claimed"


async def test_a_key_gives_first_credits_within_its_budget_of_the_day(served: Served) -> None:
    key = served.key("content", ("SIGNUP_CREDIT",), daily_budget=5)

    async def sign_up(owner_id: str) -> httpx.Response:
        return await served.client.post("/signup", json={"owner_id": owner_id}, headers=key)

    assert (await sign_up("alice")).status_code == 201
    spent = await sign_up("bob")
    assert (spent.status_code, kind(spent)) == (403, "key_budget_spent")
    assert (spent.json()["left"], spent.json()["required"]) == (2, 3)
    assert (await sign_up("alice")).status_code == 200
    assert (credits_of(served, "alice"), credits_of(served, "bob")) == (3, 0)


# Publishing


async def test_content_is_stored_with_the_entry_that_pays_for_it(served: Served) -> None:
    alice = member(served, "alice", credits=7)
    made = await create(served, alice)
    assert made.status_code == 201
    content = made.json()
    assert content | ARTICLE | {"creator": "alice", "replayed": False} == content
    entry = served.ledger.history("alice").entries[0]
    assert (content["entry_id"], content["created_on"]) == (
        entry.id,
        entry.created_on.isoformat().replace("+00:00", "Z"),
    )
    assert (entry.operation, entry.amount, entry.balance_after) == ("CONTENT_CREATION", -5, 2)
    shown = await show(served, alice, content["id"])
    assert content == shown | {"entry_id": entry.id, "replayed": False}


async def test_the_same_request_again_answers_200_and_charges_nothing(served: Served) -> None:
    alice = member(served, "alice", credits=7)
    first, again = [await create(served, alice, nonce="n") for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"replayed": True}
    assert credits_of(served, "alice") == 2
    assert rows(served)[1] == 1


async def test_content_that_is_sent_many_times_at_once_is_stored_once(served: Served) -> None:
    alice = member(served, "alice", credits=1_000)
    answers = await asyncio.gather(*(create(served, alice, nonce="n") for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert {answer.json()["id"] for answer in answers} == {1}
    assert (credits_of(served, "alice"), rows(served)[1]) == (995, 1)


@pytest.mark.parametrize(
    ("field", "other"), [("title", "Cake"), ("body", "Wait."), ("price", 11), ("price", 0)]
)
async def test_a_nonce_that_made_other_content_is_refused_by_the_field(
    served: Served, field: str, other: object
) -> None:
    alice = member(served, "alice", credits=50)
    await create(served, alice, nonce="n")
    before = rows(served)
    refused = await create(served, alice, nonce="n", **{field: other})
    assert (refused.status_code, kind(refused)) == (409, f"nonce_reused_with_different_{field}")
    problem = refused.json()
    assert (problem["field"], problem["nonce"]) == (field, "n")
    assert (problem["recorded"], problem["given"]) == (ARTICLE[field], other)
    assert rows(served) == before


async def test_a_long_text_that_differs_is_not_sent_back_whole(served: Served) -> None:
    alice = member(served, "alice", credits=50)
    await create(served, alice, nonce="n", body="x" * MAX_TEXT)
    refused = await create(served, alice, nonce="n", body="x" * (MAX_TEXT - 1))
    assert (refused.status_code, refused.json()["field"]) == (409, "body")
    assert len(refused.content) < 1_000


async def test_the_nonce_of_another_creator_is_another_nonce(served: Served) -> None:
    alice, bob = member(served, "alice", credits=5), member(served, "bob", credits=5)
    assert await published(served, alice, nonce="n") != await published(served, bob, nonce="n")


async def test_who_cannot_pay_stores_nothing_and_may_use_the_nonce_later(served: Served) -> None:
    alice = member(served, "alice", credits=4)
    before = rows(served)
    refused = await create(served, alice, nonce="n")
    assert (refused.status_code, kind(refused)) == (402, "insufficient_credits")
    assert (refused.json()["available"], refused.json()["required"]) == (4, 5)
    assert rows(served) == before
    fund(served.url, served.schema, "alice", 1)
    assert (await create(served, alice, nonce="n", title="Cake")).status_code == 201
    assert credits_of(served, "alice") == 0


FAILURES = {
    "an error": ("raise exception 'no'", 500),
    "a lost connection": ("perform pg_terminate_backend(pg_backend_pid())", 503),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_content_that_cannot_be_stored_is_not_paid_for(served: Served, failure: str) -> None:
    happens, status = FAILURES[failure]
    alice = member(served, "alice", credits=5)
    before = rows(served)
    break_inserts(served, happens)
    failed = await create(served, alice, nonce="n")
    assert failed.status_code == status
    assert "retry-after" in failed.headers or status == 500
    assert (rows(served), credits_of(served, "alice")) == (before, 5)
    query(served.url, f"drop trigger broken on {served.schema}.content_items")
    assert (await create(served, alice, nonce="n")).status_code == 201
    assert_sound(served.url, served.schema)


def break_inserts(served: Served, happens: str) -> None:
    """Let something happen whenever content is about to be stored: its entry is written already."""
    name = f"{served.schema}.broken"
    query(
        served.url,
        f"create function {name}() returns trigger language plpgsql "
        f"as $$ begin {happens}; return new; end $$",
    )
    query(
        served.url,
        f"create trigger broken before insert on {served.schema}.content_items "
        f"for each row execute function {name}()",
    )


async def test_an_entry_that_a_service_posted_alone_pays_for_no_content(served: Served) -> None:
    alice = member(served, "alice", credits=20)
    posted = await served.post(OPERATOR, "CONTENT_CREATION", "alice", nonce="@content:n")
    assert posted.status_code == 201
    refused = await create(served, alice, nonce="n")
    assert (refused.status_code, refused.json()["field"]) == (409, "kind")
    assert rows(served)[1] == 0


@pytest.mark.parametrize(
    "title",
    [
        "\N{GRINNING FACE}" * 255,
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}",
        "می\N{ZERO WIDTH NON-JOINER}خواهم",
        "\N{HIRAGANA LETTER A}\N{IDEOGRAPHIC SPACE}\N{HIRAGANA LETTER A}",
        "'; drop table content_items; --",
    ],
    ids=["long", "joined", "persian", "wide", "sql"],
)
async def test_a_title_in_any_script_comes_back_as_it_was_sent(served: Served, title: str) -> None:
    alice = member(served, "alice", credits=5)
    body = title * 70
    number = await published(served, alice, title=title, body=body)
    shown = await show(served, alice, number)
    assert (shown["title"], shown["body"]) == (title, body)


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/New_York"])
async def test_times_are_shown_in_utc_whatever_the_databases_zone(
    cluster: Cluster, schema: str, engine: Engine, zone: str
) -> None:
    url = f"{cluster.url}&options=-cTimeZone%3D{zone}"
    async with serving(url, schema, engine, application=SERVICE) as served:
        alice = member(served, "alice", credits=5)
        made = (await create(served, alice)).json()
        entry = served.ledger.history("alice").entries[0]
        assert made["created_on"] == entry.created_on.isoformat().replace("+00:00", "Z")
        shown = await show(served, alice, made["id"])
        assert shown["created_on"] == made["created_on"]


# Reading


async def test_the_text_is_hidden_until_it_is_paid_for(served: Served) -> None:
    alice, bob = member(served, "alice", credits=5), member(served, "bob", credits=12)
    number = await published(served, alice)
    before = await show(served, bob, number)
    assert (before["title"], before["price"], before["body"]) == ("Bread", 10, None)
    bought = await access(served, bob, number)
    assert bought.status_code == 201
    assert (bought.json()["body"], bought.json()["charged"]) == ("Wait a day.", 10)
    assert await show(served, bob, number) == before | {"body": "Wait a day."}
    assert (await show(served, member(served, "carol"), number))["body"] is None
    assert credits_of(served, "bob") == 2


async def test_access_is_charged_once_for_ever(served: Served) -> None:
    alice, bob = member(served, "alice", credits=10), member(served, "bob", credits=50)
    number = await published(served, alice)
    first, again = [await access(served, bob, number) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"replayed": True}
    other = await published(served, alice)
    assert (await access(served, bob, other)).status_code == 201
    assert credits_of(served, "bob") == 30
    assert_sound(served.url, served.schema)


async def test_who_asks_many_times_at_once_pays_once(served: Served) -> None:
    alice, bob = member(served, "alice", credits=5), member(served, "bob", credits=1_000)
    number = await published(served, alice)
    answers = await asyncio.gather(*(access(served, bob, number) for _ in range(50)))
    assert sorted(answer.status_code for answer in answers) == [200] * 49 + [201]
    assert {answer.json()["charged"] for answer in answers} == {10}
    assert (credits_of(served, "bob"), rows(served)[2]) == (990, 1)
    assert_sound(served.url, served.schema)


@pytest.mark.parametrize(
    ("price", "share"), [(0, 0), (1, 1), (4, 4), (5, 4), (9, 8), (10, 8), (MAX_PRICE, 800_000)]
)
async def test_the_creator_and_the_platform_share_all_of_the_price(
    served: Served, price: int, share: int
) -> None:
    alice, bob = member(served, "alice", credits=5), member(served, "bob", credits=price)
    number = await published(served, alice, price=price)
    bought = await access(served, bob, number)
    assert (bought.status_code, bought.json()["charged"]) == (201, price)
    assert (credits_of(served, "alice"), credits_of(served, "bob")) == (share, 0)
    assert credits_of(served, FEES) == price - share
    assert (await show(served, bob, number))["body"] == "Wait a day."
    assert_sound(served.url, served.schema)


async def test_what_is_free_can_be_had_without_an_account(served: Served) -> None:
    number = await published(served, member(served, "alice", credits=5), price=0)
    bought = await access(served, served.user("bob"), number)
    assert (bought.status_code, bought.json()["charged"]) == (201, 0)


async def test_creators_read_what_is_their_own_for_nothing(served: Served) -> None:
    alice = member(served, "alice", credits=20)
    number = await published(served, alice)
    before = rows(served)
    answer = await access(served, alice, number)
    assert (answer.status_code, answer.json()["charged"]) == (200, 0)
    assert answer.json()["body"] == "Wait a day."
    assert (rows(served), credits_of(served, "alice")) == (before, 15)


async def test_who_cannot_pay_gets_no_access(served: Served) -> None:
    alice, bob = member(served, "alice", credits=5), member(served, "bob", credits=9)
    number = await published(served, alice)
    before = rows(served)
    refused = await access(served, bob, number)
    assert (refused.status_code, kind(refused)) == (402, "insufficient_credits")
    assert (rows(served), (await show(served, bob, number))["body"]) == (before, None)
    fund(served.url, served.schema, "bob", 1)
    assert (await access(served, bob, number)).status_code == 201


async def test_users_who_read_each_others_content_at_once_do_not_wait_for_each_other(
    served: Served,
) -> None:
    alice, bob = member(served, "alice", credits=1_000), member(served, "bob", credits=1_000)
    of_alice = [await published(served, alice) for _ in range(20)]
    of_bob = [await published(served, bob) for _ in range(20)]
    answers = await asyncio.gather(
        *(
            access(served, reader, number)
            for pair in zip(of_alice, of_bob, strict=True)
            for reader, number in zip((bob, alice), pair, strict=True)
        )
    )
    assert [answer.status_code for answer in answers] == [201] * 40
    # Each paid 100 for publishing and 200 for reading, and earned 160.
    assert (credits_of(served, "alice"), credits_of(served, "bob")) == (860, 860)
    assert_sound(served.url, served.schema)


async def test_a_creators_account_that_is_locked_for_long_is_503_and_nothing_is_charged(
    served: Served,
) -> None:
    alice, bob = member(served, "alice", credits=5), member(served, "bob", credits=50)
    number = await published(served, alice)
    before = rows(served)
    with locked_account(served.url, served.schema, "alice"):
        busy = await access(served, bob, number)
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert rows(served) == before
    assert (await access(served, bob, number)).status_code == 201


async def test_a_creator_whose_account_is_full_costs_no_reader_anything(served: Served) -> None:
    alice, bob = member(served, "alice", credits=INT64_MAX), served.user("bob")
    # Not from @issued, which has given all it can.
    number = await published(served, alice, price=5)
    with Ledger(SHOP, served.url, schema=served.schema, migrate=True, lanes=1) as shop:
        for owner_id in ("alice", "bob"):
            shop.post(Posting(ShopOperation.REFUND_ITEM, owner_id, "gift", 5))
    before = rows(served)
    refused = await access(served, bob, number)
    assert (refused.status_code, kind(refused)) == (409, "creator_cannot_be_paid")
    assert str(INT64_MAX) not in refused.text
    assert (rows(served), credits_of(served, "bob")) == (before, 5)
    # Where he has spent something he can be paid again.
    await published(served, alice)
    assert (await access(served, bob, number)).status_code == 201


async def test_an_administrator_sees_all_and_pays_for_himself_only(served: Served) -> None:
    alice, bob = member(served, "alice", credits=5), member(served, "bob", credits=50)
    root = served.user("root", is_admin=True)
    number = await published(served, alice)
    assert (await show(served, root, number))["body"] == "Wait a day."
    assert (await access(served, root, number, owner_id="bob")).status_code == 404
    assert (await access(served, root, number)).status_code == 402
    assert (await show(served, bob, number))["body"] is None


# Who it is about


async def test_a_user_who_names_another_is_answered_as_if_there_were_none(served: Served) -> None:
    alice = member(served, "alice", credits=50)
    number = await published(served, member(served, "bob", credits=5))
    before = rows(served)
    for path, body in (
        ("/signup", {}),
        ("/daily-reward", {}),
        ("/content", {**ARTICLE, "nonce": "n"}),
        (f"/content/{number}/access", {}),
    ):
        answers = [
            await served.client.post(path, json=body | {"owner_id": owner_id}, headers=alice)
            for owner_id in ("bob", "nobody", "Alice")
        ]
        assert [answer.status_code for answer in answers] == [404] * 3, path
        assert kind(answers[0]) == "owner_not_found"
        assert rows(served) == before
        named = await served.client.post(path, json=body | {"owner_id": "alice"}, headers=alice)
        assert named.status_code == 201, path
        before = rows(served)


async def test_a_service_says_whose_account_it_is(served: Served) -> None:
    number = await published(served, member(served, "alice", credits=5))
    fund(served.url, served.schema, "bob", 50)
    before = rows(served)
    for path, body in (
        ("/signup", {}),
        ("/daily-reward", {}),
        ("/content", {**ARTICLE, "nonce": "n"}),
        (f"/content/{number}/access", {}),
    ):
        for nobody in ({}, {"owner_id": None}, {"owner_id": "@issued"}, {"owner_id": "@content"}):
            refused = await served.client.post(path, json=body | nobody, headers=OPERATOR)
            assert (refused.status_code, refused.json()["field"]) == (422, "owner_id")
        assert rows(served) == before
        done = await served.client.post(path, json=body | {"owner_id": "bob"}, headers=OPERATOR)
        assert done.status_code == 201, path
        before = rows(served)
    shown = await show(served, served.key("content", ("CREDIT_ADD",)), number)
    assert shown["body"] == "Wait a day."


async def test_keys_are_for_their_own_application_and_operations(served: Served) -> None:
    number = await published(served, member(served, "alice", credits=5))
    bob = {"owner_id": "bob"}
    fund(served.url, served.schema, "bob", 50)
    before = rows(served)
    for path, body, operation in (
        ("/signup", bob, "SIGNUP_CREDIT"),
        ("/daily-reward", bob, "DAILY_REWARD"),
        ("/content", {**ARTICLE, **bob, "nonce": "n"}, "CONTENT_CREATION"),
        (f"/content/{number}/access", bob, "CONTENT_ACCESS"),
    ):
        for refused, reason in (
            (served.key("shop", (operation,)), "the key is for shop"),
            (served.key("content", ("CREDIT_SPEND",)), "not for this operation"),
        ):
            answer = await served.client.post(path, json=body, headers=refused)
            assert (answer.status_code, kind(answer)) == (403, "not_allowed")
            assert reason in answer.json()["detail"]
        assert rows(served) == before
        right = served.key("content", (operation,))
        assert (await served.client.post(path, json=body, headers=right)).status_code == 201, path
        before = rows(served)


# Finding


async def test_pages_show_everything_once_and_the_last_one_has_no_cursor(served: Served) -> None:
    alice, bob = member(served, "alice", credits=500), served.user("bob")
    numbers = [await published(served, alice, title=f"Number {n}") for n in range(6)]

    async def page(**query: int) -> dict[str, Any]:
        answer = await served.client.get("/content", params=query, headers=bob)
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found

    first = await page(limit=3)
    # What comes meanwhile moves nothing from one page to another.
    await published(served, alice)
    second = await page(limit=3, cursor=first["cursor"])
    assert [item["id"] for item in first["contents"] + second["contents"]] == numbers[::-1]
    assert second["cursor"] is None
    assert [set(item) for item in first["contents"]] == [
        {"id", "creator", "title", "price", "created_on"}
    ] * 3
    assert (await page(cursor=numbers[0])) == {"contents": [], "cursor": None}
    assert len((await page())["contents"]) == 7


async def test_what_is_not_there_is_404(served: Served) -> None:
    bob = member(served, "bob", credits=50)
    for method, path in (("GET", "/content/7"), ("POST", "/content/7/access")):
        answer = await served.client.request(method, path, headers=bob)
        assert (answer.status_code, kind(answer)) == (404, "content_not_found")
        assert answer.json()["content_id"] == 7
    for path in ("/content/", "/contents", "/content/7/accesses", "/content/7/8"):
        assert (await served.client.get(path, headers=bob)).status_code == 404, path


# Input that is wrong

WRONG_NUMBERS = (
    *("0", "-1", "x", "1.0", "1e3", "%2B1", "1_0", "%201", "%D9%A1", "%00"),
    *("9" * 20, "9" * 5_000),
)


async def test_a_number_that_is_none_is_422(served: Served) -> None:
    bob = member(served, "bob", credits=50)
    for number in WRONG_NUMBERS:
        for method, path, field in (
            ("GET", f"/content/{number}", "content_id"),
            ("POST", f"/content/{number}/access", "content_id"),
            ("GET", f"/content?cursor={number}", "cursor"),
        ):
            answer = await served.client.request(method, path, headers=bob)
            assert (answer.status_code, answer.json().get("field")) == (422, field), path
            assert len(answer.content) < 1_000


async def test_a_page_is_of_1_to_100(served: Served) -> None:
    bob = served.user("bob")
    for limit, status in (("1", 200), ("100", 200), ("0", 422), ("101", 422), ("", 422)):
        answer = await served.client.get(f"/content?limit={limit}", headers=bob)
        assert answer.status_code == status, limit


WRONG_FIELDS: list[tuple[str, object]] = [
    ("title", None),
    ("title", ""),
    ("title", 7),
    ("title", ["a"]),
    ("title", "a" * 256),
    ("title", " a"),
    ("title", "a "),
    ("title", "a\nb"),
    ("title", "a\0b"),
    ("title", "a\u202eb"),
    ("title", "\u200d"),
    ("title", "\ud800"),
    ("body", None),
    ("body", ""),
    ("body", "a\0b"),
    ("body", "\udfff"),
    ("body", "a" * (MAX_TEXT + 1)),
    ("body", {"a": 1}),
    ("price", None),
    ("price", -1),
    ("price", MAX_PRICE + 1),
    ("price", 10**400),
    ("price", 1.0),
    ("price", 1.5),
    ("price", True),
    ("price", "1"),
    ("price", float("inf")),
    ("price", float("nan")),
    ("nonce", None),
    ("nonce", ""),
    ("nonce", 7),
    ("nonce", "@daily:1"),
    ("nonce", "a" * 201),
    ("nonce", "a\tb"),
    ("nonce", "\ud800"),
    ("owner_id", ""),
    ("owner_id", 7),
    ("owner_id", "@content"),
    ("owner_id", "a" * 256),
    ("owner_id", "\ud800"),
    ("another", 1),
    ("x" * 5_000, 1),
]


async def test_a_wrong_field_is_named_and_nothing_is_written(served: Served) -> None:
    alice = member(served, "alice", credits=500)
    before = rows(served)
    for field, value in WRONG_FIELDS:
        # As any client may write it: httpx would refuse half a character itself.
        content = json.dumps({**ARTICLE, "nonce": served.nonce(), field: value})
        refused = await served.client.post(
            "/content", content=content, headers=alice | {"content-type": JSON}
        )
        assert refused.status_code == 422, (field, value, refused.text)
        assert field.startswith(refused.json()["field"]), (field, value)
        assert len(refused.content) < 1_000
    assert rows(served) == before


@pytest.mark.parametrize("missing", ["title", "body", "nonce"])
async def test_a_field_that_is_missing_is_named(served: Served, missing: str) -> None:
    alice = member(served, "alice", credits=50)
    body = {**ARTICLE, "nonce": "n"}
    del body[missing]
    refused = await served.client.post("/content", json=body, headers=alice)
    assert (refused.status_code, refused.json()["field"]) == (422, missing)


WRONG_BODIES: dict[str, tuple[bytes, str, int]] = {
    "nothing": (b"", JSON, 422),
    "null": (b"null", JSON, 422),
    "a list": (b"[]", JSON, 422),
    "a string": (b'"a"', JSON, 422),
    "half of it": (b'{"title": ', JSON, 400),
    "no UTF-8": (b'{"title": "\xff"}', JSON, 400),
    "a number of 5,000 digits": (b'{"price": ' + b"9" * 5_000 + b"}", JSON, 400),
    "a list in a list": (b"[" * 100_000, JSON, 400),
    "no JSON at all": (b"title=a", "application/x-www-form-urlencoded", 422),
    "JSON that is not said to be": (b"{}", "text/plain", 422),
    "a field with half a character": (b'{"\\ud800": 1}', JSON, 422),
    "more than a megabyte": (b'{"body": "' + b"a" * 1_048_576 + b'"}', JSON, 413),
}


async def test_a_body_that_cannot_be_read_is_a_problem_and_nothing_is_written(
    served: Served,
) -> None:
    alice = member(served, "alice", credits=50)
    before = rows(served)
    codes = {400: "not_json", 413: "content_too_large", 422: "invalid_request"}
    for what, (content, media_type, status) in WRONG_BODIES.items():
        refused = await served.client.post(
            "/content", content=content, headers=alice | {"content-type": media_type}
        )
        assert (refused.status_code, kind(refused)) == (status, codes[status]), what
    assert rows(served) == before


async def test_a_body_of_any_length_is_read_no_further_than_it_may_be(served: Served) -> None:
    alice = served.user("alice")
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1
            yield b" " * 65_536

    refused = await served.client.post(
        "/content", content=endless(), headers=alice | {"content-type": JSON}
    )
    assert (refused.status_code, kind(refused)) == (413, "content_too_large")
    assert sent < 30


async def test_other_methods_are_405_and_head_is_answered_as_get(served: Served) -> None:
    alice = member(served, "alice", credits=5)
    number = await published(served, alice)
    for method, path in (("PUT", "/content/1"), ("DELETE", "/content"), ("GET", "/signup")):
        answer = await served.client.request(method, path, headers=alice)
        assert (answer.status_code, kind(answer)) == (405, "method_not_allowed")
    for path in ("/content", f"/content/{number}", "/content/99", "/health", "/balance/alice"):
        named = alice | {"x-request-id": "one"}
        got = await served.client.get(path, headers=named)
        head = await served.client.head(path, headers=named)
        assert (head.status_code, head.content) == (got.status_code, b"")
        assert head.headers == got.headers
    assert (await served.client.head("/content")).status_code == 401
    assert (await served.client.head("/signup", headers=alice)).status_code == 405


# When much happens at once, or the database does not answer


async def test_without_a_free_connection_it_is_503(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "CONNECTIONS", 1)
    monkeypatch.setattr(calls, "CONNECTION_WAIT_S", 0.1)
    async with serving(cluster.url, schema, engine, application=SERVICE) as served:
        alice = member(served, "alice", credits=5)
        with ExitStack() as held:
            for _ in range(11):
                held.enter_context(served.app.state.engine.connect())
            busy = await create(served, alice, nonce="n")
        assert (busy.status_code, kind(busy)) == (503, "overloaded")
        assert busy.headers["retry-after"] == "1"
        assert (await create(served, alice, nonce="n")).status_code == 201


async def test_connections_that_were_cut_are_opened_again(served: Served) -> None:
    alice = member(served, "alice", credits=5)
    await published(served, alice)
    others = "pg_stat_activity where pid <> pg_backend_pid() and application_name <> ''"
    query(served.url, f"select pg_terminate_backend(pid) from {others}")
    answers: list[httpx.Response] = []

    async def asked() -> bool:
        answers.append(await served.client.get("/content", headers=alice))
        return answers[-1].status_code == 200

    for _ in range(50):
        if await asked():
            break
        assert answers[-1].status_code == 503
    assert answers[-1].status_code == 200


# The ledger's own routes


async def test_an_access_that_a_service_posts_by_itself_is_free_unless_it_says_more(
    served: Served,
) -> None:
    key = served.key("content", ("CONTENT_ACCESS",))
    fund(served.url, served.schema, "bob", 5)
    free = await served.post(key, "CONTENT_ACCESS", "bob", nonce="n")
    assert (free.status_code, free.json()["amount"]) == (201, 0)
    again = await served.post(key, "CONTENT_ACCESS", "bob", nonce="n", amount=0)
    assert again.status_code == 200
    paid = await served.post(key, "CONTENT_ACCESS", "bob", amount=-5)
    assert (paid.status_code, paid.json()["balance_after"]) == (201, 0)
    assert (await served.post(key, "CONTENT_ACCESS", "bob", amount=1)).status_code == 422
