"""What bad input gets, on every route that takes some: the problem that is described.

Nothing is written. Names of users are in ``test_access``, wrong tokens in ``test_authorisation``.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple
from urllib.parse import quote

import jsonschema_rs
import pytest
from sqlalchemy.engine import Engine

from builders import query
from serving import OPERATOR, PASSWORD, Served, kind, serving
from shared_ledger import SHARED
from shared_ledger.apps import crowdfunding
from shared_ledger.cli.options import load_services
from shared_ledger.embedded import Cluster
from shared_ledger.service.authorisation import May, with_own
from shared_ledger.service.bodies import MAX_BATCH_BYTES
from shared_ledger.service.direct import MAX_BODY_BYTES
from shared_ledger.service.service import MAX_APPLICATION_BODY_BYTES
from shared_ledger.settings import Settings
from spark_served import quiet, simulate

BESIDE = load_services(Settings())
PATHS = ["", *(service.path for service in BESIDE)]
RIGHTS = {"": with_own({})} | {service.path: with_own(service.rights) for service in BESIDE}
CONTENT = "/api/v1/content/content"
JSON = "application/json"
HUGE = "9" * 5_000
VALUES: tuple[Any, ...] = (None, True, 1, 1.5, 1.0, "1", "text", [], {})


@pytest.fixture
async def served(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    simulate(monkeypatch)
    async with serving(
        cluster.url, schema, engine, application=SHARED, beside=BESIDE, rate_limit_service=""
    ) as served:
        await quiet(served)
        yield served


class Asked(NamedTuple):
    """A route that takes a body, and a good one; ``limit`` is how many bytes it may have."""

    url: str
    headers: dict[str, str]
    body: dict[str, Any]
    schema: dict[str, Any]
    limit: int

    def allows(self, name: str, value: Any) -> bool:
        rooted = self.schema["properties"][name] | {"components": self.schema["components"]}
        return bool(jsonschema_rs.Draft202012Validator(rooted).is_valid(value))


async def routes(served: Served, service: str) -> AsyncIterator[Asked]:
    """Every route of a service that takes a body of JSON; in the end nothing may be written."""
    root = served.user("root", is_admin=True)
    document = (await served.client.get(f"{service}/openapi.json")).json()
    components = document["components"]
    if service == crowdfunding.SERVICE.path:
        # Whoever calls takes part from then on, whatever he asks.
        await served.client.get(f"{service}/dashboard", headers=root)
        await quiet(served)
    before = rows(served)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            if JSON in content:
                schema = components["schemas"][content[JSON]["schema"]["$ref"].rpartition("/")[2]]
                values = {p["name"]: p["example"] for p in operation.get("parameters", ())}
                rights = RIGHTS[service][method.upper(), path]
                yield Asked(
                    service + path.format(**values),
                    root if rights and rights.service is May.NOT else OPERATOR,
                    content[JSON]["example"],
                    schema | {"components": components},
                    limit_of(path),
                )
    assert rows(served) == before


def rows(served: Served) -> dict[str, int]:
    """How many rows there are in each table of the book, those of applications too."""
    named = "select table_name from information_schema.tables where table_schema = %s"
    return {
        table: query(served.url, f"select count(*) from {served.schema}.{table}")[0][0]
        for (table,) in query(served.url, named, served.schema)
    }


def limit_of(path: str) -> int:
    if path.endswith(("/batch", "/groups")):
        return MAX_BATCH_BYTES
    own = path.split("/")[1] not in ("ledger", "auth", "admin")
    return MAX_APPLICATION_BODY_BYTES if own else MAX_BODY_BYTES


async def refused(
    served: Served, asked: Asked, content: bytes, *expected: tuple[int, str]
) -> dict[str, Any]:
    """Send a body, which is answered by one of the problems expected."""
    headers = asked.headers | {"content-type": JSON}
    answer = await served.client.post(asked.url, content=content, headers=headers)
    assert (answer.status_code, kind(answer)) in expected, (asked.url, content[:99], answer.text)
    found: dict[str, Any] = answer.json()
    return found


WRONG = (422, "invalid_posting"), (422, "invalid_request")
# What the path names is looked for first.
NOT_THERE = (404, "entry_not_found"), (404, "hold_not_found")


@pytest.mark.parametrize("path", PATHS)
async def test_what_is_not_json_is_400(served: Served, path: str) -> None:
    async for asked in routes(served, path):
        good = json.dumps(asked.body).encode()
        for content in (b"{", b"{'a': 1}", b"\xff", good[:-1], good + b"]", b"/**/" + good):
            await refused(served, asked, content, (400, "not_json"))


@pytest.mark.parametrize("path", PATHS)
async def test_another_type_is_422_and_names_the_field(served: Served, path: str) -> None:
    tried = 0
    async for asked in routes(served, path):
        for name in asked.schema["properties"]:
            for value in VALUES:
                # JSON Schema takes 1.0 for an integer, and the ledger does not.
                if not asked.allows(name, value) or (value == 1.0 and type(value) is float):
                    content = json.dumps(asked.body | {name: value}).encode()
                    problem = await refused(served, asked, content, *WRONG)
                    assert problem["field"].partition(".")[0].partition("[")[0] == name
                    tried += 1
    assert tried > 10


@pytest.mark.parametrize("path", PATHS)
async def test_a_field_that_is_missing_is_422_and_named(served: Served, path: str) -> None:
    async for asked in routes(served, path):
        for name in asked.schema.get("required", ()):
            body = {key: value for key, value in asked.body.items() if key != name}
            problem = await refused(served, asked, json.dumps(body).encode(), *WRONG)
            assert problem["field"] == name


@pytest.mark.parametrize("path", PATHS)
async def test_a_field_that_nobody_knows_is_422_and_named(served: Served, path: str) -> None:
    async for asked in routes(served, path):
        content = json.dumps(asked.body | {"colour": "red"}).encode()
        problem = await refused(served, asked, content, *WRONG)
        assert problem["field"] == "colour"


@pytest.mark.parametrize("path", PATHS)
async def test_a_number_that_is_too_large_is_422_and_names_the_field(
    served: Served, path: str
) -> None:
    tried = 0
    async for asked in routes(served, path):
        for name in asked.schema["properties"]:
            if not asked.allows(name, 1):
                continue
            good = json.dumps(asked.body | {name: "here"})
            for number in ("9223372036854775808", "-9223372036854775809", "1e400", "9" * 30):
                content = good.replace('"here"', number).encode()
                problem = await refused(served, asked, content, *WRONG, *NOT_THERE)
                assert problem["status"] == 404 or problem["field"] == name
                tried += problem["status"] == 422
    assert tried > 4


@pytest.mark.parametrize("path", PATHS)
async def test_a_huge_body_is_413(served: Served, path: str) -> None:
    async for asked in routes(served, path):
        content = json.dumps(asked.body).encode()
        content += b" " * (asked.limit + 1 - len(content))
        await refused(served, asked, content, (413, "content_too_large"))


async def test_what_json_cannot_say_is_400(served: Served) -> None:
    posting = '{"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": "n", "%s": %s}'
    before = served.written()
    for name, value in (
        ("amount", "NaN"),
        ("amount", "Infinity"),
        ("amount", "0x10"),
        ("amount", "01"),
        ("metadata", '{"a": ' + "[" * 20_000 + "]" * 20_000 + "}"),
        ("metadata", r'{"a": "\ud800"}'),
        ("metadata", '{"a": "\n"}'),
    ):
        answer = await served.client.post(
            "/ledger", content=(posting % (name, value)).encode(), headers=OPERATOR
        )
        assert (answer.status_code, kind(answer)) == (400, "not_json"), value[:20]
    for content in (b"\xef\xbb\xbf" + posting[:-12].encode() + b"}", posting.encode("utf-16")):
        answer = await served.client.post("/ledger", content=content, headers=OPERATOR)
        assert (answer.status_code, kind(answer)) == (400, "not_json")
    assert served.written() == before


async def test_of_a_field_that_is_given_twice_the_last_counts(served: Served) -> None:
    content = b'{"operation": "CREDIT_ADD", "owner_id": "bob", "nonce": "1", "owner_id": "ada"}'
    answer = await served.client.post("/ledger", content=content, headers=OPERATOR)
    assert (answer.status_code, answer.json()["owner_id"]) == (201, "ada")


async def test_json_is_json_whatever_the_content_type_says_of_a_posting(served: Served) -> None:
    for number, content_type in enumerate(("text/plain", "application/x-www-form-urlencoded", "")):
        body = {"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": str(number)}
        answer = await served.client.post(
            "/ledger",
            content=json.dumps(body).encode(),
            headers=OPERATOR | {"content-type": content_type},
        )
        assert answer.status_code == 201


async def test_an_application_is_sent_json_by_its_content_type(served: Served) -> None:
    before = served.written()
    answer = await served.client.post(
        CONTENT,
        content=b'{"title": "a", "body": "b", "nonce": "n", "owner_id": "ada"}',
        headers=OPERATOR | {"content-type": "text/plain"},
    )
    assert (answer.status_code, kind(answer)) == (422, "invalid_request")
    assert "application/json" in answer.json()["detail"]
    assert served.written() == before


async def test_the_body_of_a_get_is_not_read(served: Served) -> None:
    answer = await served.client.request("GET", "/balance/ada", content=b"{", headers=OPERATOR)
    assert answer.json() == {"owner_id": "ada", "balance": 0}


# Names that are not what they seem. An owner's id is the application's affair, so letters of all
# scripts are taken, each as what it is; what nobody can see, or can be written in two ways, is not.

UNSEEN = {
    "a NUL": "a\x00b",
    "a control character": "a\x1bb",
    "a line end": "ada\n",
    "a space at the end": "ada ",
    "a space that is none": "\xa0ada",
    "a zero-width space": "ada\u200b",
    "a zero-width joiner": "a\u200dda",
    "a byte order mark": "\ufeffada",
    "right to left from here": "\u202eada",
    "a soft hyphen": "a\xadda",
    "an accent of its own": "ade\u0301",
    "letters that are one": "\u1112\u1161\u11ab",
    "a sign that is another": "5\u212b",
    "a private character": "\ue000",
    "no character": "\uffff",
    "a replacement": "ada\ufffd",
    "a system account": "@issued",
    "another's system account": "@ada",
    "half of a character": "\ud83d",
    "nothing": "",
    "very long": "a" * 256,
}


async def test_an_owner_whom_nobody_can_tell_from_another_is_refused_everywhere(
    served: Served,
) -> None:
    before = served.written()
    for trick, owner in UNSEEN.items():
        spend = {"operation": "CREDIT_SPEND", "owner_id": owner}
        transfer = {"source": "bob", "destination": "bob2", "amount": 1, "nonce": "n"}
        for path, body in (
            ("/ledger", spend | {"nonce": "n"}),
            ("/ledger/quote", spend | {"nonce": "n"}),
            ("/ledger/holds", spend | {"nonce": "n"}),
            ("/ledger/groups", {"nonce": "n", "entries": [spend]}),
            ("/ledger/batch", {"entries": [spend | {"nonce": "n"}], "atomic": True}),
            ("/ledger/transfers", transfer | {"source": owner}),
            ("/ledger/transfers", transfer | {"destination": owner}),
        ):
            answer = await served.client.post(path, content=json.dumps(body), headers=OPERATOR)
            # Half of a character cannot be written as JSON at all.
            half = trick == "half of a character"
            expected = (400, "not_json") if half else (422, "invalid_posting")
            assert (answer.status_code, kind(answer)) == expected, (trick, path)
        if trick in ("nothing", "half of a character"):
            continue
        for path in ("/ledger/{}", "/balance/{}", "/ledger/{}/entries", "/ledger/{}/holds"):
            answer = await served.client.get(path.format(quote(owner)), headers=OPERATOR)
            assert (answer.status_code, answer.json()["field"]) == (422, "owner_id"), (trick, path)
    assert served.written() == before


async def test_letters_that_look_alike_are_two_owners(served: Served) -> None:
    latin, cyrillic = "ada", "\u0430d\u0430"
    assert (await served.post(OPERATOR, "CREDIT_ADD", cyrillic)).status_code == 201
    for owner, balance in ((latin, 0), (cyrillic, 10), ("ADA", 0), ("ａｄａ", 0)):  # noqa: RUF001
        answer = await served.client.get(f"/balance/{quote(owner)}", headers=OPERATOR)
        assert answer.json() == {"owner_id": owner, "balance": balance}


async def test_nobody_logs_in_by_letters_that_look_like_his(served: Served) -> None:
    served.user("ada")
    for name in ("ａｄａ", "\u0430da", "ada\u200b", "ada\x00", " ada", "ada/"):  # noqa: RUF001
        assert (await served.log_in(name, PASSWORD)).status_code == 401, name
    assert (await served.log_in("ADA", PASSWORD)).status_code == 200


# Ids that are paths.


async def test_an_owner_may_have_slashes_and_is_nothing_but_an_owner(served: Served) -> None:
    bob = served.user("bob")
    for owner in ("../admin/keys", "..", "/", "a/b", "a//b", "holds/1", "a/entries", "%2F"):
        name = quote(owner, safe="").replace(".", "%2E")
        assert (await served.post(OPERATOR, "CREDIT_ADD", owner)).status_code == 201
        for path in PATHS:
            balance = await served.client.get(f"{path}/balance/{name}", headers=OPERATOR)
            assert balance.json() == {"owner_id": owner, "balance": 10}
            page = await served.client.get(f"{path}/ledger/{name}/entries", headers=OPERATOR)
            assert [entry["owner_id"] for entry in page.json()["entries"]] == [owner]
        # To another user it is an owner like others, whom he may not see.
        answer = await served.client.get(f"/ledger/{name}", headers=bob)
        assert (answer.status_code, kind(answer)) == (404, "owner_not_found")


async def test_a_quoted_slash_parts_no_path(served: Served) -> None:
    root = served.user("root", is_admin=True)
    for path in (
        "/admin%2Fkeys",
        "/%2Fadmin/keys",
        "/ledger%2Fada",
        "/ledger%2fada/entries",
        "/ledger/%2e%2e/admin/keys",
        "/ledger/holds/..%2F1",
        "/static-offline-docs/..%2F..%2Fapp.py",
    ):
        answer = await served.client.get(path, headers=root)
        assert (answer.status_code, kind(answer)) == (404, "not_found"), path


async def test_an_id_that_is_no_number_is_no_id(served: Served) -> None:
    before = served.written()
    body = {"nonce": "n"}
    for method, path, content in (
        ("GET", "/ledger/holds/{}", None),
        ("POST", "/ledger/holds/{}/capture", body),
        ("POST", "/ledger/holds/{}/release", body),
        ("POST", "/ledger/entries/{}/reverse", body),
        ("GET", f"{CONTENT}/{{}}", None),
        ("POST", f"{CONTENT}/{{}}/access", {"owner_id": "ada"}),
    ):
        for number in ("0", "-1", "1.0", "1e3", "0x1", "1_0", "%201", "%D9%A3", "1%00", "x", HUGE):
            url = path.format(number)
            answer = await served.client.request(method, url, headers=OPERATOR, json=content)
            assert answer.status_code == 422, (url, answer.text)
            assert kind(answer) in ("invalid_posting", "invalid_request")
    assert served.written() == before


async def test_the_id_of_a_key_is_nothing_else(served: Served) -> None:
    root = served.user("root", is_admin=True)
    served.key()
    before = served.written()
    for key_id in ("%2e%2e%2fkeys", "*", "%25", "'%20or%20'1'='1", "%00", "A" * 12, HUGE):
        answer = await served.client.delete(f"/admin/keys/{key_id}", headers=root)
        assert (answer.status_code, kind(answer)) == (404, "key_not_found"), key_id
    assert served.written() == before
    listed = (await served.client.get("/admin/keys", headers=root)).json()["keys"]
    assert [key["revoked_on"] for key in listed] == [None]


# The query string.


async def test_a_parameter_that_is_wrong_or_unknown_or_given_twice_is_422_and_named(
    served: Served,
) -> None:
    for path, field in (
        ("/balance/ada?at=2025-01-01T00:00:00Z", "at"),
        ("/ledger/ada/entries?limit=1&limit=2", "limit"),
        ("/ledger/ada/entries?limit=9223372036854775808", "limit"),
        ("/ledger/ada/entries?cursor=9223372036854775808", "cursor"),
        ("/ledger/ada/entries?cursor=-1", "cursor"),
        ("/ledger/ada/entries?limt=1", "limt"),
        ("/ledger/ada/entries?limit=1%00", "limit"),
        ("/ledger/ada?asset=%ff", "asset"),
        (f"{CONTENT}?limit=1&limit=2", "limit"),
        (f"{CONTENT}?limit=101", "limit"),
        (f"{CONTENT}?cursor=9223372036854775808", "cursor"),
        (f"{CONTENT}?limt=1", "limt"),
    ):
        answer = await served.client.get(path, headers=OPERATOR)
        assert kind(answer) in ("invalid_posting", "invalid_request"), path
        assert (answer.status_code, answer.json()["field"]) == (422, field)


# Methods.


async def test_another_method_is_405_and_told_which_there_are(served: Served) -> None:
    for method, path, takes in (
        ("DELETE", "/ledger", "POST"),
        ("GET", "/ledger/holds/1/capture", "POST"),
        ("POST", "/ledger/holds/1", "GET, HEAD"),
        ("POST", "/balance/ada", "GET, HEAD"),
        ("PUT", "/admin/keys", "GET, HEAD, POST"),
        ("GET", "/admin/keys/0f3c5a7e9b1d", "DELETE"),
        ("POST", "/health", "GET, HEAD"),
        # Both of what is placed here, and of what the owner "holds" has.
        ("OPTIONS", "/ledger/holds", "GET, HEAD, POST"),
        ("PATCH", CONTENT, "GET, HEAD, POST"),
        ("DELETE", f"{BESIDE[0].path}/ledger/ada", "GET, HEAD"),
    ):
        answer = await served.client.request(method, path, headers=OPERATOR)
        assert (answer.status_code, kind(answer)) == (405, "method_not_allowed"), path
        assert answer.headers["allow"] == takes, path


async def test_what_get_answers_head_answers_too(served: Served) -> None:
    root = served.user("root", is_admin=True)
    for path in ("/balance/ada", "/ledger/holds", "/admin/keys", "/health", CONTENT):
        head, get = [await served.client.request(m, path, headers=root) for m in ("HEAD", "GET")]
        assert head.status_code == get.status_code == 200, path
        assert head.headers["content-length"] == get.headers["content-length"], path


# Keys.


async def test_a_wrong_key_is_401_writes_nothing_and_is_one_line_in_the_log(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    before = served.written()
    body = {"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": "n"}
    unknown = "slk_000000000000_" + "A" * 43
    for key in ("secret-token", unknown, "slk_", "", " ", "x" * 10_000, "\xff\xfe"):
        caplog.clear()
        headers = [(b"x-token", key.encode("latin-1"))]
        answer = await served.client.post("/ledger", json=body, headers=headers)
        assert (answer.status_code, kind(answer)) == (401, "unauthorized")
        lines = [r.getMessage() for r in caplog.records if r.name.startswith("shared_ledger")]
        assert len(lines) == 1, key
        assert "POST /ledger" in lines[0]
        assert not key.strip() or key not in caplog.text + answer.text
    assert served.written() == before
