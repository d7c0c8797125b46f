"""Satoshi Spark as its callers meet it: what they send, and each field of what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import psycopg
import pytest
import sqlalchemy.exc
from sqlalchemy.engine import Engine
from sqlalchemy.ext.asyncio import AsyncConnection

from builders import locked_account, query
from serving import OPERATOR, PASSWORD, Served, bearer, kind, serving
from shared_ledger import SHARED
from shared_ledger.access.users import MAX_USERNAME
from shared_ledger.apps.crowdfunding import SERVICE
from shared_ledger.apps.crowdfunding.common.amounts import MAX_SAT
from shared_ledger.apps.crowdfunding.crowdfunding.routes import MAX_DONATION_KEY
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster, temporary_cluster
from shared_ledger.service.fields import MAX_NONCE, MAX_TEXT
from spark_served import (
    MAINNET,
    NOBODYS,
    SAT,
    UNKNOWN,
    WITHOUT_LIMITS,
    Person,
    available,
    be_patient,
    came_to,
    campaign_body,
    funded,
    let_it_end,
    person,
    quiet,
    rich,
    simulate,
    spark_serving,
)


@pytest.fixture
async def served(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    async with spark_serving(cluster, schema, engine, monkeypatch) as served:
        yield served


def accounts(served: Served) -> set[str]:
    """Who takes part, as the auth context knows."""
    return {
        name
        for (name,) in query(
            served.url, f"select account_id from {served.schema}.crowdfunding_auth_accounts"
        )
    }


# --- the whole of it ---


async def test_people_register_deposit_give_and_withdraw(served: Served) -> None:
    client = served.client
    people: dict[str, dict[str, str]] = {}
    for name in ("ada", "bob"):
        who = {"username": name, "password": PASSWORD}
        registered = await client.post("/auth/register", json=who)
        assert registered.status_code == 201
        logged_in = await client.post("/token", data=who)
        assert logged_in.status_code == 200
        token = logged_in.json()
        assert (token["token_type"], token["expires_in"]) == ("bearer", 1_800)
        people[name] = bearer(token["access_token"])
    ada, bob = (Person(served, name, headers) for name, headers in people.items())

    campaign_id = await ada.campaign()
    made = await bob.post("/bitcoin/deposit", amount=2_000)
    assert made.status_code == 201
    request = made.json()["payment_request"]
    paid = await client.post("/dev/lightning/pay", json={"payment_request": request})
    assert paid.status_code == 200
    deposited = made.json()["payment_hash"]
    assert paid.json() == {"payment_hash": deposited, "received": 2_000}
    await came_to(bob, deposited, "credited")

    given = await bob.donate(campaign_id, 1_500, "first")
    assert given.status_code == 201
    shown = await client.get("/crowdfunding/campaign", params={"campaign_id": campaign_id})
    assert (shown.json()["total_raised"], shown.json()["state"]) == (1_500, "open")

    outside = await client.post("/dev/lightning/invoice", json={"amount": 1_000})
    withdrawn = await ada.post(
        "/bitcoin/withdraw", encoded_invoice=outside.json()["payment_request"]
    )
    assert withdrawn.status_code == 201
    payment_hash = withdrawn.json()["payment_hash"]
    fee = (await came_to(ada, payment_hash, "succeeded"))["fee_msat"]

    await quiet(served)
    board = await bob.dashboard()
    for entry in board["activity"]:
        assert entry.pop("entry_id") > 0
        assert datetime.fromisoformat(entry.pop("created_on")).utcoffset() == timedelta()
    assert board == {
        "account_id": "bob",
        "username": "bob",
        "balance": 500,
        "balance_msat": 500_000,
        "activity": [
            {"operation": "DONATION", "amount_msat": -1_500_000, "about": campaign_id},
            {"operation": "DEPOSIT", "amount_msat": 2_000_000, "about": deposited},
        ],
        "campaigns": [],
    }
    board = await ada.dashboard()
    assert board["balance_msat"] == 500_000 - fee
    assert board["balance"] == (500_000 - fee) // SAT
    assert [(entry["operation"], entry["amount_msat"]) for entry in board["activity"]] == [
        ("WITHDRAWAL_FEE", -fee),
        ("WITHDRAWAL", -1_000_000),
        ("DONATION_RECEIVED", 1_500_000),
    ]
    assert [entry["about"] for entry in board["activity"]] == [*[payment_hash] * 2, campaign_id]
    (own,) = board["campaigns"]
    assert own == {
        "campaign_id": campaign_id,
        "title": "A bridge for toads",
        "goal": 5_000,
        "total_raised": 1_500,
        "deadline": shown.json()["deadline"],
        "kind": "keep_it_all",
        "state": "open",
    }


# --- who takes part ---


async def test_who_registers_here_takes_part_at_once(served: Served) -> None:
    body = {"username": "Ada.L", "password": PASSWORD}
    assert (await served.client.post("/auth/register", json=body)).status_code == 201
    await quiet(served)
    assert accounts(served) == {"Ada.L"}


async def test_a_user_of_another_service_takes_part_from_his_first_call(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(monkeypatch)
    async with serving(cluster.url, schema, engine, beside=[SERVICE]) as root:
        body = {"username": "ada", "password": PASSWORD}
        assert (await root.client.post("/auth/register", json=body)).status_code == 201
        await quiet(root)
        assert accounts(root) == set()
        logged_in = await root.client.post(f"{SERVICE.path}/token", data=body)
        headers = bearer(logged_in.json()["access_token"])
        ada = Person(root.at(SERVICE.path), "ada", headers)
        assert (await ada.dashboard())["username"] == "ada"
        await quiet(root)
        assert accounts(root) == {"ada"}
        told = f"select count(*) from {schema}.crowdfunding_auth_inbox"
        assert query(cluster.url, told) == [(1,)]
        for _ in range(3):
            await ada.dashboard()
        await quiet(root)
        assert query(cluster.url, told) == [(1,)]


async def test_who_is_told_nowhere_else_is_registered_all_the_same(served: Served) -> None:
    body = {"username": "ada", "password": PASSWORD}
    with psycopg.connect(served.url) as connection:
        connection.execute(f"lock table {served.schema}.crowdfunding_auth_outbox".encode())
        registered = await served.client.post("/auth/register", json=body)
    assert registered.status_code == 201
    assert (await served.log_in("ada")).status_code == 200
    await quiet(served)
    assert accounts(served) == set()


async def test_services_have_no_account_here(served: Served) -> None:
    calls: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "/crowdfunding/campaign", campaign_body()),
        (
            "POST",
            "/crowdfunding/donate",
            {"idempotency_key": "k", "campaign_id": UNKNOWN, "amount": 1},
        ),
        ("POST", "/bitcoin/deposit", {"amount": 1}),
        ("POST", "/bitcoin/withdraw", {"encoded_invoice": "lnbcrt1"}),
        ("GET", f"/bitcoin/invoice/{NOBODYS}", None),
        ("GET", "/dashboard", None),
    ]
    await quiet(served)
    before = served.written()
    for headers in (OPERATOR, served.key("crowdfunding")):
        for method, path, body in calls:
            answer = await served.client.request(method, path, json=body, headers=headers)
            assert (answer.status_code, kind(answer)) == (403, "not_allowed"), path
    keys = 1
    after = served.written()
    assert sum(after) == sum(before) + keys


# --- campaigns ---


async def test_a_campaign_is_answered_with_all_that_it_is(served: Served) -> None:
    ada = person(served, "ada")
    deadline = datetime.now(UTC) + timedelta(days=2)
    berlin = deadline.astimezone(timezone(timedelta(hours=1)))
    made = await ada.begin(kind="all_or_nothing", deadline=berlin.isoformat())
    assert made.status_code == 201
    answer = made.json()
    assert UUID(answer.pop("campaign_id")).version == 4
    assert answer == {
        "title": "A bridge for toads",
        "description": "They cross the road every March.",
        "goal": 5_000,
        "total_raised": 0,
        "deadline": deadline.isoformat().replace("+00:00", "Z"),
        "kind": "all_or_nothing",
        "state": "open",
        "creator_username": "ada",
        "replayed": False,
    }
    campaign_id = made.json()["campaign_id"]
    shown = await served.client.get("/crowdfunding/campaign", params={"campaign_id": campaign_id})
    assert shown.status_code == 200
    assert shown.json() | {"replayed": False} == made.json()


async def test_without_a_key_each_request_is_another_campaign(served: Served) -> None:
    ada = person(served, "ada")
    assert await ada.campaign() != await ada.campaign()


async def test_the_same_key_and_body_again_is_the_same_campaign(served: Served) -> None:
    ada, bob = person(served, "ada"), person(served, "bob")
    deadline = datetime.now(UTC) + timedelta(seconds=1.5)
    body = {"idempotency_key": "the first", "deadline": deadline.isoformat()}
    first = await ada.begin(**body)
    assert (first.status_code, first.json()["replayed"]) == (201, False)
    elsewhere = deadline.astimezone(timezone(timedelta(hours=-3))).isoformat()
    for again in (body, body | {"deadline": elsewhere}):
        answer = await ada.begin(**again)
        assert answer.status_code == 200
        assert answer.json() == first.json() | {"replayed": True}
    # Another's key is another key.
    others = await bob.begin(**body)
    assert (others.status_code, others.json()["creator_username"]) == (201, "bob")
    assert others.json()["campaign_id"] != first.json()["campaign_id"]
    # The deadline of the first has passed by now, which is no reason to refuse it again.
    await asyncio.sleep((deadline - datetime.now(UTC)).total_seconds())
    late = await ada.begin(**body)
    assert (late.status_code, late.json()["campaign_id"]) == (200, first.json()["campaign_id"])


@pytest.mark.parametrize(
    ("field", "given", "recorded"),
    [
        ("title", "Another", "A bridge for toads"),
        ("description", "Another.", "They cross the road every March."),
        ("goal", 5_001, 5_000),
        ("kind", "all_or_nothing", "keep_it_all"),
    ],
)
async def test_a_key_that_began_another_campaign_is_refused_by_the_field(
    served: Served, field: str, given: object, recorded: object
) -> None:
    ada = person(served, "ada")
    body = campaign_body(idempotency_key="the first")
    assert (await ada.begin(**body)).status_code == 201
    answer = await ada.begin(**body | {field: given})
    assert (answer.status_code, kind(answer)) == (409, f"nonce_reused_with_different_{field}")
    said = answer.json()
    assert (said["field"], said["recorded"], said["given"]) == (field, recorded, given)
    assert (said["owner_id"], said["nonce"]) == ("ada", "the first")


async def test_a_key_with_another_deadline_is_refused_by_the_field(served: Served) -> None:
    ada = person(served, "ada")
    body = campaign_body(idempotency_key="the first")
    assert (await ada.begin(**body)).status_code == 201
    later = datetime.fromisoformat(body["deadline"]) + timedelta(microseconds=1)
    answer = await ada.begin(**body | {"deadline": later.isoformat()})
    assert (answer.status_code, answer.json()["field"]) == (409, "deadline")
    assert answer.json()["given"] == later.isoformat()
    assert body["deadline"] in answer.json()["detail"]


async def test_who_begins_many_times_at_once_begins_once(served: Served) -> None:
    ada = person(served, "ada")
    body = campaign_body(idempotency_key="the first")
    answers = await asyncio.gather(*(ada.begin(**body) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
    assert len({answer.json()["campaign_id"] for answer in answers}) == 1


NOW = datetime.now(UTC)
DEADLINES: dict[str, tuple[object, str]] = {
    "now": (NOW.isoformat(), "invalid_posting"),
    "long ago": ("1970-01-01T00:00:00Z", "invalid_posting"),
    "in more than a year": ((NOW + timedelta(days=366)).isoformat(), "invalid_posting"),
    "the last of days": ("9999-12-31T23:59:59Z", "invalid_posting"),
    "without a zone": ("2030-01-01T00:00:00", "invalid_request"),
    "before the calendar": ("0001-01-01T00:00:00+14:00", "invalid_request"),
    "after the calendar": ("9999-12-31T23:59:59-14:00", "invalid_request"),
    "a day": ("2030-01-01", "invalid_request"),
    "no day": ("2027-02-30T00:00:00Z", "invalid_request"),
    "a number": (1_900_000_000, "invalid_request"),
    "a number in words": ("1900000000", "invalid_request"),
    "a fraction": (1.9e9, "invalid_request"),
    "nothing": (None, "invalid_request"),
    "a list": ([], "invalid_request"),
    "much": ("2" * 5_000, "invalid_request"),
    "other digits": ("２030-01-01T00:00:00Z", "invalid_request"),  # noqa: RUF001
}


@pytest.mark.parametrize("when", DEADLINES)
async def test_a_deadline_is_a_time_within_a_year(served: Served, when: str) -> None:
    deadline, problem = DEADLINES[when]
    ada = person(served, "ada")
    await ada.dashboard()
    await quiet(served)
    before = served.written()
    answer = await ada.begin(deadline=deadline)
    assert (answer.status_code, kind(answer)) == (422, problem)
    assert answer.json()["field"] == "deadline"
    assert served.written() == before


async def test_a_deadline_may_be_a_year_ahead(served: Served) -> None:
    ada = person(served, "ada")
    last = datetime.now(UTC) + timedelta(days=365) - timedelta(seconds=30)
    assert (await ada.begin(deadline=last.isoformat())).status_code == 201


WRONG: dict[str, tuple[Any, ...]] = {
    "title": (
        "",
        " a bridge",
        "a\nbridge",
        "a\x00bridge",
        "\N{RIGHT-TO-LEFT OVERRIDE}bridge",
        "\N{ZERO WIDTH SPACE}",
        "\N{ZERO WIDTH JOINER}bridge",
        "a" * 256,
        1,
        None,
    ),
    "description": ("", "a\x00bridge", "a" * (MAX_TEXT + 1), 1, None),
    "goal": (0, -1, MAX_SAT + 1, 2**63, 1.5, 1.0, "1", True, None),
    "kind": ("", "KEEP_IT_ALL", 1, None),
    "idempotency_key": ("", " ", "@mine", "a" * (MAX_NONCE + 1), "a\x00", "a\n", 1),
    "colour": ("red",),
}


async def test_a_wrong_field_of_a_campaign_is_named_and_nothing_is_written(
    served: Served,
) -> None:
    ada = person(served, "ada")
    await ada.dashboard()
    await quiet(served)
    before = served.written()
    for field, values in WRONG.items():
        for value in values:
            answer = await ada.begin(**{field: value})
            assert (answer.status_code, kind(answer)) == (422, "invalid_request"), (field, value)
            assert answer.json()["field"] == field
    assert served.written() == before


@pytest.mark.parametrize(
    "title",
    [
        "\N{GRINNING FACE}" * 255,
        "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{ROCKET}",
        "می\N{ZERO WIDTH NON-JOINER}خواهم",
        "\N{HIRAGANA LETTER A}\N{IDEOGRAPHIC SPACE}\N{HIRAGANA LETTER A}",
        "'; drop table crowdfunding_campaigns; --",
        "data: {}",
    ],
    ids=["long", "joined", "persian", "wide", "sql", "event"],
)
async def test_a_campaign_in_any_script_comes_back_as_it_was_sent(
    served: Served, title: str
) -> None:
    ada = person(served, "ada")
    description = f"{title}\r\n\n" * 70
    campaign_id = await ada.campaign(
        title=title, description=description, goal=MAX_SAT, idempotency_key="k"
    )
    shown = await served.client.get("/crowdfunding/campaign", params={"campaign_id": campaign_id})
    assert shown.json()["title"] == title
    assert shown.json()["description"] == description
    assert shown.json()["goal"] == MAX_SAT
    await quiet(served)
    assert [each["title"] for each in (await ada.dashboard())["campaigns"]] == [title]


async def test_a_campaign_that_is_not_there_is_404(served: Served) -> None:
    for path in ("/crowdfunding/campaign", "/crowdfunding/campaign/progress"):
        answer = await served.client.get(path, params={"campaign_id": UNKNOWN})
        assert (answer.status_code, kind(answer)) == (404, "campaign_not_found")
        assert answer.json()["campaign_id"] == UNKNOWN
        for wrong in ("", "x", UNKNOWN.upper(), f"{UNKNOWN}\x00", f"{UNKNOWN}0"):
            answer = await served.client.get(path, params={"campaign_id": wrong})
            assert (answer.status_code, answer.json()["field"]) == (422, "campaign_id")
        answer = await served.client.get(path)
        assert (answer.status_code, answer.json()["field"]) == (422, "campaign_id")
        answer = await served.client.get(path, params={"campaign_id": UNKNOWN, "colour": "red"})
        assert (answer.status_code, answer.json()["field"]) == (422, "colour")


async def test_pages_show_every_campaign_once_newest_first(served: Served) -> None:
    ada = person(served, "ada")
    begun = [await ada.campaign(title=f"number {number}") for number in range(5)]
    for limit in (1, 2, 4, 5, 6):
        found: list[dict[str, Any]] = []
        params: dict[str, Any] = {"limit": limit}
        while len(found) <= len(begun):
            answer = await served.client.get("/crowdfunding/campaigns", params=params)
            assert answer.status_code == 200
            page = answer.json()
            assert page.keys() == {"campaigns", "cursor"}
            assert len(page["campaigns"]) <= limit
            found += page["campaigns"]
            if page["cursor"] is None:
                break
            assert page["cursor"] == page["campaigns"][-1]["campaign_id"]
            params["cursor"] = page["cursor"]
        assert [each["campaign_id"] for each in found] == begun[::-1]
    shown = await served.client.get("/crowdfunding/campaign", params={"campaign_id": begun[0]})
    assert found[-1] == shown.json()


async def test_a_page_is_of_1_to_100_and_after_a_campaign_that_there_is(served: Served) -> None:
    empty = await served.client.get("/crowdfunding/campaigns")
    assert empty.json() == {"campaigns": [], "cursor": None}
    for params, field in (
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"cursor": "1"}, "cursor"),
        ({"limt": "1"}, "limt"),
    ):
        answer = await served.client.get("/crowdfunding/campaigns", params=params)
        assert (answer.status_code, answer.json()["field"]) == (422, field)
    answer = await served.client.get("/crowdfunding/campaigns", params={"cursor": UNKNOWN})
    assert (answer.status_code, kind(answer)) == (404, "campaign_not_found")


# --- donations ---


async def test_a_donation_is_answered_with_all_that_it_is_and_again_with_the_same(
    served: Served,
) -> None:
    campaign_id = await person(served, "ada").campaign()
    bob = await rich(served, "bob")
    given = await bob.donate(campaign_id, 1_500, "first")
    assert given.status_code == 201
    answer = given.json()
    created_on = datetime.fromisoformat(answer.pop("created_on"))
    assert timedelta() < datetime.now(UTC) - created_on < timedelta(minutes=1)
    assert answer == {
        "donation_id": "bob:first",
        "campaign_id": campaign_id,
        "amount": 1_500,
        "state": "registered",
        "replayed": False,
    }
    again = await bob.donate(campaign_id, 1_500, "first")
    assert again.status_code == 200
    assert again.json() == given.json() | {"replayed": True}
    assert available(served, "bob") == 998_500 * SAT


async def test_who_gives_many_times_at_once_with_one_key_gives_once(served: Served) -> None:
    campaign_id = await person(served, "ada").campaign()
    bob = await rich(served, "bob")
    answers = await asyncio.gather(*(bob.donate(campaign_id, 10, "first") for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] * 9 + [201]
    assert available(served, "bob") == 999_990 * SAT


async def test_a_key_that_gave_something_else_is_refused_by_the_field(served: Served) -> None:
    ada = person(served, "ada")
    one, two = await ada.campaign(), await ada.campaign()
    bob = await rich(served, "bob")
    assert (await bob.donate(one, 10, "first")).status_code == 201
    for campaign_id, amount, field, recorded, tried in (
        (two, 10, "campaign_id", one, two),
        (one, 11, "amount", 10, 11),
        (UNKNOWN, 10, "campaign_id", one, UNKNOWN),
    ):
        answer = await bob.donate(campaign_id, amount, "first")
        assert (answer.status_code, kind(answer)) == (409, f"nonce_reused_with_different_{field}")
        said = answer.json()
        assert (said["field"], said["recorded"], said["given"]) == (field, recorded, tried)
        assert (said["owner_id"], said["nonce"]) == ("bob", "first")
    # Another's key is another key.
    carol = await rich(served, "carol")
    assert (await carol.donate(two, 10, "first")).status_code == 201
    assert available(served, "bob") == 999_990 * SAT


async def test_what_nobody_can_pay_is_402_and_stays_so_for_its_key(served: Served) -> None:
    campaign_id = await person(served, "ada").campaign()
    bob = await rich(served, "bob", 9)
    for _ in range(2):
        answer = await bob.donate(campaign_id, 10, "first")
        assert (answer.status_code, kind(answer)) == (402, "donation_rejected")
        said = answer.json()
        assert (said["donation_id"], said["reason"]) == ("bob:first", "insufficient_credits")
        await funded(served, "bob", 1)
    assert (await bob.donate(campaign_id, 10, "second")).status_code == 201


async def test_nobody_gives_to_a_campaign_of_his_own(served: Served) -> None:
    ada = await rich(served, "ada")
    campaign_id = await ada.campaign()
    answer = await ada.donate(campaign_id, 10, "first")
    assert (answer.status_code, kind(answer)) == (409, "own_campaign")
    assert answer.json()["campaign_id"] == campaign_id


async def test_nobody_gives_to_a_campaign_that_is_over(served: Served) -> None:
    campaign_id = await person(served, "ada").campaign()
    bob = await rich(served, "bob")
    assert (await bob.donate(campaign_id, 10, "first")).status_code == 201
    let_it_end(served, campaign_id)
    answer = await bob.donate(campaign_id, 10, "second")
    assert (answer.status_code, kind(answer)) == (409, "campaign_over")
    assert answer.json()["campaign_id"] == campaign_id
    # What was given before is answered as before.
    assert (await bob.donate(campaign_id, 10, "first")).status_code == 200


async def test_nobody_gives_to_a_campaign_that_is_not_there(served: Served) -> None:
    bob = await rich(served, "bob")
    answer = await bob.donate(UNKNOWN, 10, "first")
    assert (answer.status_code, kind(answer)) == (404, "campaign_not_found")


async def test_a_wrong_field_of_a_donation_is_named_and_nothing_is_written(
    served: Served,
) -> None:
    campaign_id = await person(served, "ada").campaign()
    bob = await rich(served, "bob")
    await bob.dashboard()
    await quiet(served)
    before = served.written()
    good: dict[str, Any] = {"idempotency_key": "k", "campaign_id": campaign_id, "amount": 1}
    wrong: dict[str, tuple[Any, ...]] = {
        "amount": (0, -1, MAX_SAT + 1, 1.5, 1.0, "1", True, None),
        "idempotency_key": ("", "@k", "a" * (MAX_DONATION_KEY + 1), "a\x00", 1, None),
        "campaign_id": ("", campaign_id.upper(), f"{{{campaign_id}}}", 1, None),
        "donor_id": ("ada",),
    }
    for field, values in wrong.items():
        for value in values:
            answer = await bob.post("/crowdfunding/donate", **good | {field: value})
            assert (answer.status_code, kind(answer)) == (422, "invalid_request"), (field, value)
            assert answer.json()["field"] == field
    assert served.written() == before


async def test_the_longest_name_gives_with_the_longest_key(served: Served) -> None:
    campaign_id = await person(served, "ada").campaign()
    longest = await rich(served, "b" * MAX_USERNAME)
    for letter in ("k", "\N{GRINNING FACE}"):
        given = await longest.donate(campaign_id, 1, letter * MAX_DONATION_KEY)
        assert (given.status_code, given.json()["state"]) == (201, "registered")


async def test_a_donation_that_takes_long_is_202_and_can_be_asked_for_again(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign_id = await person(served, "ada").campaign()
    bob = await rich(served, "bob")
    be_patient(monkeypatch, 0.2)
    with locked_account(served.url, served.schema, "bob"):
        for replayed in (False, True):
            answer = await bob.donate(campaign_id, 10, "first")
            assert answer.status_code == 202
            assert answer.json()["state"] == "requested"
            assert answer.json()["replayed"] is replayed
    await quiet(served)
    answer = await bob.donate(campaign_id, 10, "first")
    assert (answer.status_code, answer.json()["state"]) == (200, "registered")


async def test_all_or_nothing_gives_back_what_was_not_enough(served: Served) -> None:
    campaign_id = await person(served, "ada").campaign(kind="all_or_nothing")
    bob = await rich(served, "bob")
    assert (await bob.donate(campaign_id, 10, "first")).status_code == 201
    let_it_end(served, campaign_id)
    params = {"campaign_id": campaign_id}
    for _ in range(1_000):
        shown = (await served.client.get("/crowdfunding/campaign", params=params)).json()
        if shown["state"] == "failed":
            break
        await asyncio.sleep(0.02)
    assert (shown["state"], shown["total_raised"]) == ("failed", 10)
    assert available(served, "bob") == 1_000_000 * SAT
    answer = await bob.donate(campaign_id, 10, "first")
    assert (answer.status_code, answer.json()["state"]) == (200, "refunded")


# --- the dashboard ---


async def test_the_dashboard_shows_what_is_ones_own_the_newest_50_of_each(served: Served) -> None:
    ada, bob = await rich(served, "ada"), person(served, "bob")
    ends = datetime.now(UTC) + timedelta(days=1)
    for number in range(51):
        deadline = (ends + timedelta(minutes=number)).isoformat()
        await ada.campaign(title=f"number {number}", deadline=deadline)
    campaign_id = await bob.campaign()
    given = [ada.donate(campaign_id, number, f"{number}") for number in range(1, 52)]
    assert {answer.status_code for answer in await asyncio.gather(*given)} == {201}
    await quiet(served)
    board = await ada.dashboard()
    titles = [each["title"] for each in board["campaigns"]]
    assert titles == [f"number {number}" for number in range(50, 0, -1)]
    newest = served.ledger.history("ada", asset="msat", limit=50).entries
    assert [(entry["entry_id"], entry["amount_msat"]) for entry in board["activity"]] == [
        (entry.id, entry.amount) for entry in newest
    ]
    assert board["balance"] == 1_000_000 - sum(range(1, 52))
    board = await bob.dashboard()
    assert (len(board["campaigns"]), len(board["activity"])) == (1, 50)
    assert board["campaigns"][0]["total_raised"] == board["balance"] == sum(range(1, 52))


async def test_who_has_done_nothing_sees_nothing(served: Served) -> None:
    assert await person(served, "ada").dashboard() == {
        "account_id": "ada",
        "username": "ada",
        "balance": 0,
        "balance_msat": 0,
        "activity": [],
        "campaigns": [],
    }


# --- what goes wrong ---


async def test_a_database_that_is_gone_is_503_until_it_is_back(
    schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(monkeypatch)
    with temporary_cluster() as fragile:
        engine = make_engine(fragile.url)
        async with serving(
            fragile.url, schema, engine, application=SERVICE, **WITHOUT_LIMITS
        ) as served:
            ada = person(served, "ada")
            campaign_id = await ada.campaign()
            asked: list[tuple[str, str, dict[str, Any]]] = [
                ("GET", f"/crowdfunding/campaign?campaign_id={campaign_id}", {}),
                ("GET", f"/crowdfunding/campaign/progress?campaign_id={campaign_id}", {}),
                ("GET", "/crowdfunding/campaigns", {}),
                ("POST", "/dev/lightning/invoice", {"amount": 1}),
                ("POST", "/dev/lightning/pay", {"payment_request": MAINNET}),
            ]
            fragile.kill()
            for method, path, body in asked:
                answer = await served.client.request(method, path, json=body)
                assert answer.status_code == 503, (path, answer.text)
                assert "retry-after" in answer.headers
            fragile.ensure_running()
            for _ in range(1_000):
                if (await ada.get("/dashboard")).status_code == 200:
                    break
                await asyncio.sleep(0.02)
            await ada.campaign()
        engine.dispose()


async def all_connections(served: Served) -> list[AsyncConnection]:
    """Take all connections that nobody has."""
    taken = []
    while True:
        try:
            taken.append(await served.app.state.own.engine.connect())
        except sqlalchemy.exc.TimeoutError:
            return taken


async def test_without_a_free_connection_it_is_503(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(monkeypatch)
    monkeypatch.setattr("shared_ledger.apps.crowdfunding.running.CONNECTION_WAIT_S", 0.1)
    async with serving(cluster.url, schema, engine, application=SERVICE) as served:
        ada = person(served, "ada")
        campaign_id = await ada.campaign()
        await quiet(served)
        taken = await all_connections(served)
        try:
            paths = ["/crowdfunding/campaigns", f"/crowdfunding/campaign?campaign_id={campaign_id}"]
            for path in paths:
                answer = await served.client.get(path)
                assert (answer.status_code, kind(answer)) == (503, "overloaded")
            for path in ("/dashboard", f"/bitcoin/invoice/{NOBODYS}"):
                answer = await ada.get(path)
                assert (answer.status_code, kind(answer)) == (503, "overloaded")
        finally:
            for connection in taken:
                await connection.close()
        assert (await ada.get("/dashboard")).status_code == 200


async def test_below_a_path_beside_others_it_is_the_same(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(monkeypatch)
    be_patient(monkeypatch)
    async with serving(cluster.url, schema, engine, application=SHARED, beside=[SERVICE]) as root:
        served = root.at(SERVICE.path)
        campaign_id = await person(served, "ada").campaign()
        bob = await rich(served, "bob")
        assert (await bob.donate(campaign_id, 10, "first")).status_code == 201
        assert (await root.client.get("/crowdfunding/campaigns")).status_code == 404


async def test_a_context_that_runs_elsewhere_is_421(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(monkeypatch)
    async with serving(
        cluster.url, schema, engine, application=SERVICE, shared_ledger_contexts="auth,dashboard"
    ) as served:
        ada = person(served, "ada")
        assert (await ada.dashboard())["username"] == "ada"
        for answer, context in (
            (await ada.begin(), "crowdfunding"),
            (await served.client.get("/crowdfunding/campaigns"), "crowdfunding"),
            (await ada.post("/bitcoin/deposit", amount=1), "bitcoin"),
            (await ada.post("/dev/lightning/invoice", amount=1), "bitcoin"),
        ):
            assert (answer.status_code, kind(answer)) == (421, "not_run_here")
            assert answer.json()["context"] == context
