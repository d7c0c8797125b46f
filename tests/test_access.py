"""Users, their passwords and tokens; the keys of services and their budgets; the commands."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from builders import query
from conftest import Clock
from documentation import block, run
from serving import (
    OPERATOR,
    PASSWORD,
    PREVIOUS_KEY,
    Served,
    bearer,
    kind,
    serving,
    tokens,
)
from shared_ledger.access import gate as gates
from shared_ledger.access import passwords
from shared_ledger.access.attempts import Attempts, network_of
from shared_ledger.access.counts import Counts, Limit
from shared_ledger.access.keys import NewKey
from shared_ledger.access.refusals import KeyBudgetSpent
from shared_ledger.access.store import AccessStore
from shared_ledger.access.tokens import Tokens
from shared_ledger.embedded import Cluster
from shared_ledger.errors import LedgerOverloaded, LedgerUnavailable
from shared_ledger.ledger import Ledger
from shared_ledger.migrations import migrate
from shared_ledger.schema import book_tables
from shared_ledger.service import users


@pytest.fixture
async def served(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Served]:
    async with serving(cluster.url, schema, engine) as served:
        yield served


@pytest.fixture
def store(cluster: Cluster, schema: str, engine: Engine) -> Iterator[AccessStore]:
    migrate(engine, schema)
    with AccessStore(cluster.url, book_tables(schema)) as store:
        yield store


async def register(served: Served, username: str, password: str = PASSWORD) -> Any:
    body = {"username": username, "password": password}
    return await served.client.post("/auth/register", json=body)


def attempts(limit: str) -> Attempts:
    """Attempts of which fewer are too many."""
    return Attempts("tests", Limit(limit), Counts())


def budgeted(store: AccessStore, daily_budget: int) -> str:
    """Add a key with a budget, and return its id."""
    return store.add_key(NewKey("a service", None, None, daily_budget), "ada")[0].id


# The flow that the README shows, as a fresh user does it.


@pytest.fixture
def running(cluster: Cluster, schema: str, tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """The URL of a service as it is without any setting, and its environment."""
    environment = os.environ | {
        "DATABASE_URL": cluster.url,
        "SHARED_LEDGER_SCHEMA": schema,
    }
    for name in ("ENVIRONMENT", "API_TOKEN", "SECRET_KEY"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "shared_ledger.cli"]
    subprocess.run([*command, "migrate"], env=environment, cwd=tmp_path, check=True)
    process = subprocess.Popen(
        [*command, "serve", "--port", "0", "--json"],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())["url"], environment
    finally:
        process.terminate()
        process.wait(30)


def test_a_fresh_user_registers_logs_in_posts_and_looks_in_development(
    running: tuple[str, dict[str, str]],
) -> None:
    url, _ = running

    def curl(path: str, *arguments: str) -> Any:
        done = subprocess.run(
            ["curl", "-sS", "--fail-with-body", f"{url}{path}", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    sends_json = ("-H", "Content-Type: application/json")
    curl(
        "/auth/register",
        *("-X", "POST", *sends_json),
        *("-d", '{"username": "testuser", "password": "Test@1234"}'),
    )
    token = curl("/auth/token", "-X", "POST", "-d", "username=testuser&password=Test@1234")
    assert token["token_type"] == "bearer"
    assert token["expires_in"] == 1_800
    credentials = ("-H", f"Authorization: Bearer {token['access_token']}")
    posting = (
        '{"owner_id": "testuser", "operation": "CREDIT_ADD", "amount": 10, '
        '"nonce": "unique-transaction-id"}'
    )
    entry = curl("/ledger/", "-X", "POST", *credentials, *sends_json, "-d", posting)
    assert (entry["amount"], entry["replayed"]) == (10, False)
    assert curl("/ledger/testuser", *credentials)["balance"] == 10
    assert curl("/ledger/testuser", "-H", "x-token: secret-token")["balance"] == 10


def test_the_guide_to_access_does_as_it_says(
    running: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    url, environment = running
    commands = (
        block("docs/access.md", "users")
        + block("docs/access.md", "administrators")
        + block("docs/access.md", "services")
        + block("docs/access.md", "health")
    )
    commands = commands.replace("localhost:8000", url).replace(
        "curl ", "curl -sS --fail-with-body "
    )
    answered = run(commands, tmp_path, environment)
    for said in (
        '{"owner_id":"grace","balance":0}',
        '"nonce":"invoice 17"',
        "the web shop",
        '"status":"ok"',
        '"status":"ready"',
    ):
        assert said in answered, answered


# Names.


@pytest.mark.parametrize(
    "username",
    [
        "",
        " ada",
        "ada ",
        "@issued",
        ".ada",
        "a b",
        "a\nb",
        "a/b",
        "a\x00b",
        "аda",  # noqa: RUF001  # its first letter is a Cyrillic one
        "ａda",  # noqa: RUF001  # its first letter is a wide one
        "ada\u200b",
        "ada\u0301",
        "ſam",  # noqa: RUF001  # a long s, of which the capital letter is S
        "x" * 65,
    ],
)
async def test_a_name_that_could_be_taken_for_another_is_refused(
    served: Served, username: str
) -> None:
    answer = await register(served, username)
    assert answer.status_code == 422
    assert answer.json()["field"] == "username"


async def test_a_name_in_other_letters_is_a_duplicate(served: Served) -> None:
    assert (await register(served, "TestUser")).status_code == 201
    for username in ("TestUser", "testuser", "TESTUSER"):
        answer = await register(served, username)
        assert (answer.status_code, kind(answer)) == (409, "username_taken")


async def test_whoever_logs_in_with_other_letters_is_whom_he_registered_as(served: Served) -> None:
    await register(served, "TestUser")
    token = (await served.log_in("testuser")).json()["access_token"]
    me = await served.client.get("/auth/me", headers=bearer(token))
    assert (me.json()["username"], me.json()["owner_id"]) == ("TestUser", "TestUser")


async def test_many_who_want_a_name_at_once_are_one_who_gets_it(served: Served) -> None:
    answers = await asyncio.gather(*(register(served, name) for name in ("Ada", "ada", "ADA") * 3))
    assert sorted(answer.status_code for answer in answers) == [201, *[409] * 8]


async def test_in_production_nobody_registers_as_an_owner_the_book_knows(served: Served) -> None:
    await served.post(OPERATOR, "CREDIT_ADD", "ada")
    answer = await register(served, "ada")
    assert (answer.status_code, kind(answer)) == (409, "username_taken")


@pytest.mark.parametrize("password", ["", "seven77", "x" * 257, "\ud800" * 8, 12345678, None])
async def test_a_password_that_cannot_be_used_is_refused_and_not_shown(
    served: Served, password: Any
) -> None:
    body = json.dumps({"username": "ada", "password": password})
    answer = await served.client.post("/auth/register", content=body)
    assert answer.status_code in (400, 422)
    assert not password or str(password) not in answer.text
    assert served.written()[2] == 0


async def test_a_password_is_the_same_however_a_keyboard_makes_its_letters(
    served: Served,
) -> None:
    await register(served, "ada", "caf\u00e9-caf\u00e9")
    assert (await served.log_in("ada", "cafe\u0301-cafe\u0301")).status_code == 200


async def test_of_a_password_only_an_argon2_hash_is_stored(served: Served) -> None:
    await register(served, "ada")
    stored = query(served.url, f"select password_hash from {served.schema}.users")[0][0]
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert PASSWORD not in stored


# Logging in.


async def test_an_unknown_user_and_a_wrong_password_get_the_same_answer(served: Served) -> None:
    served.user("ada")
    served.client.headers["x-request-id"] = "one"
    answers = [
        await served.log_in(username, "a wrong password")
        for username in ("ada", "nobody", "\u0430da", "x" * 1_000, "a\x00b")
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert len({answer.text for answer in answers}) == 1
    assert len({tuple(sorted(answer.headers.items())) for answer in answers}) == 1


async def test_an_unknown_user_costs_the_same_hashing_as_a_wrong_password(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.user("ada")
    compared: list[str] = []
    verify = passwords._hasher.verify

    def counted(password: str | bytes, stored: str | bytes) -> bool:
        compared.append(str(stored).rpartition("$")[0].rpartition("$")[0])
        return verify(password, stored)

    monkeypatch.setattr(passwords._hasher, "verify", counted)
    for username in ("ada", "nobody", "not a name"):
        await served.log_in(username, "a wrong password")
    # Three comparisons, each with a hash of the same parameters.
    assert compared == ["$argon2id$v=19$m=19456,t=2,p=1"] * 3


async def test_passwords_are_hashed_off_the_event_loop(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    where: list[str] = []

    def hashed(password: str) -> str:
        where.append(threading.current_thread().name)
        return passwords.hash_password(password)

    def compared(*arguments: Any) -> bool:
        where.append(threading.current_thread().name)
        return passwords.is_password(*arguments)

    monkeypatch.setattr(users, "hash_password", hashed)
    monkeypatch.setattr(users, "is_password", compared)
    await register(served, "ada")
    await served.log_in("ada")
    assert len(where) == 2
    assert all(name.startswith("shared-ledger-passwords") for name in where)


async def test_too_many_wrong_passwords_of_a_name_are_429_even_with_the_right_one(
    served: Served,
) -> None:
    served.user("ada")
    served.user("bob")
    served.app.state.doorkeeper.of_user = attempts("3/5minutes")
    assert [(await served.log_in("ada", "a wrong one")).status_code for _ in range(3)] == [401] * 3
    for username in ("ada", "ADA"):
        answer = await served.log_in(username)
        assert (answer.status_code, kind(answer)) == (429, "too_many_attempts")
        assert 290 < int(answer.headers["retry-after"]) <= 300
    assert (await served.log_in("bob")).status_code == 200


async def test_many_at_once_do_not_pass_the_limit(served: Served) -> None:
    served.user("ada")
    answers = await asyncio.gather(*(served.log_in("ada", "a wrong one") for _ in range(30)))
    codes = [answer.status_code for answer in answers]
    assert (codes.count(401), codes.count(429)) == (10, 20)


async def test_too_many_wrong_passwords_from_an_address_are_429_for_any_name(
    served: Served,
) -> None:
    served.user("ada")
    served.app.state.doorkeeper.of_client = attempts("3/5minutes")
    for number in range(3):
        assert (await served.log_in(f"name{number}", "a wrong one")).status_code == 401
    assert (await served.log_in("ada")).status_code == 429


async def test_who_is_refused_for_a_name_has_not_tried_again_from_his_address(
    served: Served,
) -> None:
    served.app.state.doorkeeper.of_user = attempts("1/5minutes")
    served.app.state.doorkeeper.of_client = attempts("3/5minutes")
    guesses = [(await served.log_in("ada", "a wrong one")).status_code for _ in range(6)]
    assert guesses == [401] + [429] * 5
    assert (await served.log_in("bob", "a wrong one")).status_code == 401


async def test_right_passwords_are_not_counted(served: Served) -> None:
    served.user("ada")
    served.app.state.doorkeeper.of_user = attempts("2/5minutes")
    assert {(await served.log_in("ada")).status_code for _ in range(5)} == {200}


async def test_when_very_many_wait_to_be_hashed_the_next_is_429(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "MAX_HASHING", 0)
    assert (await register(served, "ada")).status_code == 429


@pytest.mark.parametrize(
    ("content", "form"),
    [
        (b"username=ada", "application/x-www-form-urlencoded"),
        (b"username=ada&password=", "application/x-www-form-urlencoded"),
        (b"username=ada&username=bob&password=x", "application/x-www-form-urlencoded"),
        (b"username=ada&password=%ff%fe", "application/x-www-form-urlencoded"),
        (b"username=ada&password=x&grant_type=magic", "application/x-www-form-urlencoded"),
        (b"a=b&" * 50, "application/x-www-form-urlencoded"),
        (b'{"username": "ada", "password": "x"}', "application/json"),
        (b"username=ada&password=x", ""),
    ],
)
async def test_a_log_in_that_is_no_form_is_422(served: Served, content: bytes, form: str) -> None:
    headers = {"content-type": form}
    answer = await served.client.post("/auth/token", content=content, headers=headers)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_network_of_version_6_is_one_client() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1") != network_of("2001:db9::1")
    assert network_of("::ffff:10.0.0.1") == network_of("10.0.0.1") != network_of("10.0.0.2")
    assert network_of("testclient") == network_of("") == "unknown"


# Tokens.


async def test_a_token_of_the_signing_key_of_before_is_taken_and_new_ones_are_of_the_new(
    served: Served,
) -> None:
    served.user("ada")
    old = tokens(PREVIOUS_KEY).issue("ada")
    assert (await served.client.get("/auth/me", headers=bearer(old))).status_code == 200
    new = (await served.log_in("ada")).json()["access_token"]
    assert tokens().read(new).username == "ada"


async def test_a_token_ends_with_its_lifetime_also_while_it_is_remembered(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "RENEWED_S", 60.0)
    async with serving(cluster.url, schema, engine, token_lifetime_s=1) as served:
        ada = served.user("ada")
        began = time.time()
        assert (await served.client.get("/auth/me", headers=ada)).status_code == 200
        asked = began
        while (await served.client.get("/auth/me", headers=ada)).status_code == 200:
            assert asked < began + 3
            await asyncio.sleep(0.05)
            asked = time.time()


async def test_no_repr_shows_a_secret(served: Served) -> None:
    secrets = [OPERATOR["x-token"], PREVIOUS_KEY]
    for thing in (Tokens(PREVIOUS_KEY, lifetime_s=1), served.gate, served.gate.tokens):
        assert not any(secret in repr(thing) for secret in secrets)


# Keys.


async def test_an_administrator_makes_lists_rotates_and_revokes_keys(served: Served) -> None:
    root = served.user("root", is_admin=True)
    body = {"name": "shop", "operations": ["CREDIT_ADD"], "daily_budget": 100}
    made = await served.client.post("/admin/keys", json=body, headers=root)
    assert made.status_code == 201
    assert made.headers["cache-control"] == "no-store"
    first = made.json()["key"]
    key_id = made.json()["id"]
    assert made.json() | body == made.json()
    assert (made.json()["application"], made.json()["created_by"]) == ("shared", "root")
    assert (await served.post({"x-token": first}, "CREDIT_ADD", "ada")).status_code == 201

    listed = (await served.client.get("/admin/keys", headers=root)).json()["keys"]
    assert [(key["id"], key["issued_today"]) for key in listed] == [(key_id, 10)]
    assert first.rpartition("_")[2] not in str(listed)

    rotated = await served.client.post(f"/admin/keys/{key_id}/rotate", headers=root)
    second = rotated.json()["key"]
    assert (await served.post({"x-token": first}, "CREDIT_ADD", "ada")).status_code == 401
    assert (await served.post({"x-token": second}, "CREDIT_ADD", "ada")).status_code == 201

    revoked = await served.client.delete(f"/admin/keys/{key_id}", headers=root)
    assert revoked.json()["revoked_on"]
    assert (await served.post({"x-token": second}, "CREDIT_ADD", "ada")).status_code == 401
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        again = await served.client.request(method, f"/admin/keys/{key_id}{path}", headers=root)
        assert (again.status_code, kind(again)) == (404, "key_not_found")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"name": "x" * 101}, "name"),
        ({"operations": []}, "operations"),
        ({"operations": ["PURCHASE"]}, "operations"),
        ({"operations": ["a b"], "application": None}, "operations"),
        ({"application": "Not a name"}, "application"),
        ({"daily_budget": -1}, "daily_budget"),
        ({"daily_budget": 2**63}, "daily_budget"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_a_key_that_cannot_be_is_422_and_names_the_field(
    served: Served, change: dict[str, Any], field: str
) -> None:
    root = served.user("root", is_admin=True)
    answer = await served.client.post("/admin/keys", json={"name": "shop"} | change, headers=root)
    assert (answer.status_code, answer.json()["field"]) == (422, field)
    assert served.written()[3] == 0


async def test_of_a_key_only_a_digest_is_stored(served: Served) -> None:
    key = served.key()["x-token"]
    row = query(served.url, f"select to_jsonb(k)::text from {served.schema}.api_keys as k")[0][0]
    assert key.rpartition("_")[2] not in row
    assert key not in row


async def test_a_key_revoked_elsewhere_is_refused_within_five_seconds(
    served: Served, cluster: Cluster
) -> None:
    key_id, key = served.new_key()
    headers = {"x-token": key}
    assert (await served.client.get("/balance/ada", headers=headers)).status_code == 200
    with AccessStore(cluster.url, book_tables(served.schema)) as elsewhere:
        elsewhere.revoke_key(key_id)
    # Not even one that nobody used meanwhile opens once more.
    await asyncio.sleep(4.8)
    assert (await served.client.get("/balance/ada", headers=headers)).status_code == 401


async def test_a_key_in_use_is_looked_up_again_while_it_is_used(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "REMEMBERED_S", 60.0)
    monkeypatch.setattr(gates, "RENEWED_S", 0.05)
    key_id, key = served.new_key()
    headers = {"x-token": key}
    assert (await served.client.get("/balance/ada", headers=headers)).status_code == 200
    served.store.revoke_key(key_id)
    revoked = time.monotonic()
    while (await served.client.get("/balance/ada", headers=headers)).status_code == 200:
        assert time.monotonic() < revoked + 30
        await asyncio.sleep(0.02)


async def test_an_administrator_who_is_none_any_more_is_refused(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "REMEMBERED_S", 0.05)
    root = served.user("root", is_admin=True)
    assert (await served.client.get("/admin/keys", headers=root)).status_code == 200
    query(served.url, f"update {served.schema}.users set is_admin = false")
    await asyncio.sleep(0.1)
    assert (await served.client.get("/admin/keys", headers=root)).status_code == 403


async def test_a_credential_is_looked_up_once_for_all_who_ask_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[str] = []
    look_up = AccessStore.caller_of_key

    def counted(store: AccessStore, key_id: str, key: str) -> Any:
        looked_up.append(key_id)
        return look_up(store, key_id, key)

    monkeypatch.setattr(AccessStore, "caller_of_key", counted)
    headers = served.key()
    for _ in range(2):
        await asyncio.gather(
            *(served.client.get("/balance/ada", headers=headers) for _ in range(50))
        )
    assert len(looked_up) == 1


async def test_when_users_and_keys_cannot_be_looked_up_it_is_503(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object) -> None:
        raise LedgerUnavailable

    monkeypatch.setattr(AccessStore, "caller_of_key", down)
    answer = await served.client.get("/balance/ada", headers=served.key())
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")


def test_a_rotated_keys_old_secret_opens_for_its_grace(
    store: AccessStore, cluster: Cluster, schema: str, clock: Clock
) -> None:
    with AccessStore(clock.url, book_tables(schema)) as moving:
        made, old = moving.add_key(NewKey("shop", None, None, None), "ada")
        _, new = moving.rotate_key(made.id, 60)
        assert moving.caller_of_key(made.id, old) is not None
        assert moving.caller_of_key(made.id, new) is not None
        clock.move(timedelta(seconds=61))
        assert moving.caller_of_key(made.id, old) is None
        assert moving.caller_of_key(made.id, new) is not None


# What a key may give in a day.


def test_what_processes_reserve_at_once_never_passes_the_budget(
    store: AccessStore, cluster: Cluster, schema: str
) -> None:
    key_id = budgeted(store, 100)
    stores = [AccessStore(cluster.url, book_tables(schema)) for _ in range(4)]

    def reserve(number: int) -> int:
        try:
            return stores[number % 4].reserve(key_id, 7).amount
        except KeyBudgetSpent:
            return 0

    with ThreadPoolExecutor(16) as threads:
        reserved = sum(threads.map(reserve, range(80)))
    for one in stores:
        one.close()
    assert reserved == 98
    assert query(cluster.url, f"select issued from {schema}.key_issues") == [(98,)]


def test_a_budget_is_for_a_day_of_the_databases_clock(
    store: AccessStore, schema: str, clock: Clock
) -> None:
    key_id = budgeted(store, 10)
    with AccessStore(clock.url, book_tables(schema)) as moving:
        moving.reserve(key_id, 10)
        with pytest.raises(KeyBudgetSpent):
            moving.reserve(key_id, 1)
        clock.move(timedelta(days=1))
        moving.reserve(key_id, 10)


def test_no_amount_is_too_large_to_be_refused(store: AccessStore) -> None:
    key_id = budgeted(store, 2**63 - 1)
    store.reserve(key_id, 2**63 - 1)
    with pytest.raises(KeyBudgetSpent) as caught:
        store.reserve(key_id, 1_000 * 2**63)
    assert caught.value.left == 0


async def test_two_services_together_give_no_more_than_the_budget(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    async with (
        serving(cluster.url, schema, engine) as one,
        serving(cluster.url, schema, None) as other,
    ):
        key = one.key(daily_budget=75)
        answers = await asyncio.gather(
            *(
                served.client.post(
                    "/ledger",
                    headers=key,
                    json={"operation": "CREDIT_ADD", "owner_id": f"u{n}", "nonce": "n"},
                )
                for n in range(20)
                # Each is sent to both: one of the two is a replay, or refused for want of budget.
                for served in (one, other)
            )
        )
        assert {answer.status_code for answer in answers} <= {201, 200, 403}
        given = query(cluster.url, f"select coalesce(sum(amount), 0) from {schema}.entries")
        assert given == [(sum(10 for answer in answers if answer.status_code == 201),)]
        assert given[0][0] <= 75
        assert query(cluster.url, f"select issued from {schema}.key_issues") == given


async def test_a_spent_budget_is_403_with_what_is_left(served: Served) -> None:
    key = served.key(daily_budget=15)
    assert (await served.post(key, "CREDIT_ADD", "ada")).status_code == 201
    answer = await served.post(key, "CREDIT_ADD", "ada")
    assert (answer.status_code, kind(answer)) == (403, "key_budget_spent")
    assert (answer.json()["left"], answer.json()["required"]) == (5, 10)
    assert (await served.post(key, "CREDIT_SPEND", "ada")).status_code == 201


def issued(served: Served) -> int:
    rows = query(served.url, f"select coalesce(sum(issued), 0) from {served.schema}.key_issues")
    return int(rows[0][0])


async def test_what_is_replayed_or_refused_is_given_back(served: Served) -> None:
    key = served.key(daily_budget=30)
    for _ in range(4):
        answer = await served.post(key, "CREDIT_ADD", "ada", nonce="the same")
        assert answer.status_code in (200, 201)
    assert issued(served) == 10
    answer = await served.post(key, "SIGNUP_CREDIT", "ada", nonce="the same")
    assert answer.status_code == 409
    assert issued(served) == 10


async def test_what_was_posted_before_is_replayed_though_the_budget_is_spent(
    served: Served,
) -> None:
    key = served.key(daily_budget=10)
    answers = [await served.post(key, "CREDIT_ADD", "ada", nonce="n") for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 200]
    group = {"nonce": "n", "entries": [{"operation": "CREDIT_ADD", "owner_id": "bob"}]}
    refused = await served.client.post("/ledger/groups", json=group, headers=key)
    assert kind(refused) == "key_budget_spent"


@pytest.mark.parametrize(
    ("error", "counted"), [(LedgerOverloaded, 0), (LedgerUnavailable, 10), (RuntimeError, 10)]
)
async def test_what_may_have_been_posted_stays_counted(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: type[Exception], counted: int
) -> None:
    def failed(*_: object) -> None:
        raise error

    monkeypatch.setattr(Ledger, "apost", failed)
    assert (await served.post(served.key(daily_budget=30), "CREDIT_ADD", "ada")).status_code >= 500
    assert issued(served) == counted


async def test_a_batch_posts_what_fits_into_the_budget(served: Served) -> None:
    key = served.key(daily_budget=25)
    await served.post(key, "CREDIT_ADD", "ada", nonce="before")

    def entry(nonce: str, operation: str = "CREDIT_ADD") -> dict[str, str]:
        return {"operation": operation, "owner_id": "ada", "nonce": nonce}

    entries = [
        entry("before"),
        entry("1"),
        entry("2"),
        entry("3", "SIGNUP_CREDIT"),
        entry("4", "CREDIT_SPEND"),
        entry("5", "NOTHING"),
    ]
    answer = await served.client.post("/ledger/batch", json={"entries": entries}, headers=key)
    statuses = [result["status"] for result in answer.json()["results"]]
    assert statuses == [200, 201, 403, 201, 201, 422]
    assert issued(served) == 23
    again = await served.client.post("/ledger/batch", json={"entries": entries}, headers=key)
    assert [r["status"] for r in again.json()["results"]] == [200, 200, 403, 200, 200, 422]
    assert issued(served) == 23


async def test_an_atomic_batch_that_does_not_fit_into_the_budget_is_refused(
    served: Served,
) -> None:
    key = served.key(daily_budget=15)
    body = {
        "entries": [
            {"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": nonce} for nonce in "12"
        ],
        "atomic": True,
    }
    answer = await served.client.post("/ledger/batch", json=body, headers=key)
    assert (answer.status_code, kind(answer)) == (403, "key_budget_spent")
    assert issued(served) == 0
    body["entries"] = body["entries"][:1]  # type: ignore[index]  # it is a list
    for status in (201, 200):
        answer = await served.client.post("/ledger/batch", json=body, headers=key)
        assert [result["status"] for result in answer.json()["results"]] == [status]
    assert issued(served) == 10


async def test_a_group_counts_what_it_gives_and_not_what_it_takes(served: Served) -> None:
    key = served.key(daily_budget=25)
    await served.post(key, "CREDIT_ADD", "ada")
    group = {
        "nonce": "g",
        "entries": [
            {"operation": "CREDIT_SPEND", "owner_id": "ada"},
            {"operation": "CREDIT_ADD", "owner_id": "bob"},
        ],
    }
    for status in (201, 200):
        answer = await served.client.post("/ledger/groups", json=group, headers=key)
        assert answer.status_code == status
    assert issued(served) == 20


# On the command line.


class Shell:
    """The command on a book of its own."""

    def __init__(self, url: str, schema: str, folder: Path) -> None:
        self._folder = folder
        self._environment = os.environ | {"DATABASE_URL": url, "SHARED_LEDGER_SCHEMA": schema}

    def run(self, *arguments: str, status: int = 0, given: str = "") -> str:
        done = subprocess.run(
            [sys.executable, "-m", "shared_ledger.cli", *arguments],
            cwd=self._folder,
            env=self._environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr


@pytest.fixture
def shell(cluster: Cluster, schema: str, tmp_path: Path) -> Shell:
    shell = Shell(cluster.url, schema, tmp_path)
    shell.run("migrate")
    return shell


def test_the_first_administrator_is_made_on_the_command_line(
    shell: Shell, cluster: Cluster, schema: str
) -> None:
    assert "administrator" in shell.run("user", "create-admin", "root", given=f"{PASSWORD}\n")
    with AccessStore(cluster.url, book_tables(schema)) as store:
        found = store.user("root")
        assert found is not None
        assert found[0].is_admin
        assert passwords.is_password(PASSWORD, found[1])
    taken = shell.run("user", "create-admin", "ROOT", given=f"{PASSWORD}\n", status=1)
    assert taken == "error: the name ROOT is taken\n"
    short = shell.run("user", "create-admin", "other", given="short\n", status=1)
    assert short == "error: password is 8 to 256 characters\n"


def test_keys_are_made_listed_rotated_and_revoked_on_the_command_line(
    shell: Shell, cluster: Cluster, schema: str
) -> None:
    made = json.loads(
        shell.run(
            *("key", "create", "the shop", "--operation", "CREDIT_ADD", "--operation", "TRANSFER"),
            *("--daily-budget", "100", "--json"),
        )
    )
    with AccessStore(cluster.url, book_tables(schema)) as store:
        caller = store.caller_of_key(made["id"], made["key"])
        assert caller is not None
        assert caller.operations == frozenset({"CREDIT_ADD", "TRANSFER"})
        assert (caller.application, caller.daily_budget) == ("shared", 100)
        rotated = json.loads(shell.run("key", "rotate", made["id"], "--json"))
        assert store.caller_of_key(made["id"], made["key"]) is None
        assert store.caller_of_key(made["id"], rotated["key"]) is not None
        shown = shell.run("key", "list")
        assert all(word in shown for word in (made["id"], "the shop", "CREDIT_ADD, TRANSFER"))
        assert rotated["key"].rpartition("_")[2] not in shown
        shell.run("key", "revoke", made["id"])
        assert store.caller_of_key(made["id"], rotated["key"]) is None
    (listed,) = json.loads(shell.run("key", "list", "--json"))["keys"]
    assert listed["revoked_on"]
    for command in ("rotate", "revoke"):
        gone = shell.run("key", command, made["id"], status=1)
        assert gone == f"error: there is no key {made['id']} that is not revoked\n"
        assert "no key nonsense" in shell.run("key", command, "nonsense", status=1)


def test_a_key_for_an_operation_that_is_none_is_refused(shell: Shell) -> None:
    said = shell.run("key", "create", "shop", "--operation", "PURCHASE", status=1)
    assert "PURCHASE, which is not one of shared's" in said


def test_a_key_may_be_for_every_application(shell: Shell) -> None:
    made = json.loads(shell.run("key", "create", "all", "--every-application", "--json"))
    assert (made["application"], made["operations"]) == (None, None)
