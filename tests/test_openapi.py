"""The description of every service: other clients are generated from it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import example, given
from hypothesis import strategies as st

from shared_ledger import SHARED
from shared_ledger.access.keys import NewKey, check_new
from shared_ledger.access.users import check_username
from shared_ledger.checks import check_asset, check_nonce, check_owner_id
from shared_ledger.cli.options import load_services
from shared_ledger.errors import InvalidPosting
from shared_ledger.service import Service, create_app, schemas
from shared_ledger.service.service import plain
from shared_ledger.settings import Settings

PROBLEM = "application/problem+json"
CREDENTIALS: list[dict[str, list[str]]] = [{"x-token": []}, {"bearer": []}]
SERVICES = [plain(SHARED), *load_services(Settings())]

# Names in every client that was generated: a new one is added, an old one never changed.
IDS_OF_ALL = {
    "post_entry",
    "post_batch",
    "post_group",
    "post_transfer",
    "reverse_entry",
    "quote_entry",
    "place_hold",
    "get_hold",
    "capture_hold",
    "release_hold",
    "get_ledger",
    "get_balance",
    "get_entries",
    "get_grants",
    "get_holds",
    "get_statement",
    "register",
    "log_in",
    "show_me",
    "list_keys",
    "create_key",
    "rotate_key",
    "revoke_key",
    "health",
    "ready",
    "metrics",
}
IDS_OF = {
    "shared": set[str](),
    "content": {
        "sign_up",
        "claim_daily_reward",
        "list_content",
        "create_content",
        "show_content",
        "access_content",
    },
    "ecommerce": {
        "list_products",
        "add_product",
        "show_product",
        "change_stock",
        "list_orders",
        "place_order",
        "show_order",
        "ship_order",
        "cancel_order",
        "refund_order",
    },
    "crowdfunding": {
        "get_token",
        "begin_campaign",
        "show_campaign",
        "follow_campaign",
        "list_campaigns",
        "donate",
        "deposit",
        "withdraw",
        "show_invoice",
        "show_dashboard",
        "pay_as_outsider",
        "ask_as_outsider",
    },
}


class Described:
    """A service's description, as a test looks at it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        app = create_app(service, Settings())
        self.document: dict[str, Any] = app.openapi()
        self.rights = app.state.rights

    def operations(self) -> Iterator[tuple[str, str, dict[str, Any]]]:
        for path, methods in self.document["paths"].items():
            for method, operation in methods.items():
                yield method.upper(), path, operation

    def resolved(self, node: Any) -> Any:
        """What a reference refers to; other things are themselves."""
        while "$ref" in node:
            found: Any = self.document
            for part in node["$ref"].removeprefix("#/").split("/"):
                found = found[part]
            node = found
        return node

    def answers(self, operation: dict[str, Any], *, good: bool) -> dict[str, Any]:
        return {
            status: self.resolved(answer)
            for status, answer in operation["responses"].items()
            if (status < "300") is good
        }

    def valid(self, schema: Any, value: Any) -> None:
        rooted = schema | {"components": self.document["components"]}
        jsonschema_rs.Draft202012Validator(rooted, validate_formats=True).validate(value)

    def fields(self, schema: Any, seen: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
        """Every schema within one, with the way to it."""
        if "$ref" in schema:
            if schema["$ref"] not in seen:
                target = self.resolved(schema)
                yield from self.fields(target, (*seen, schema["$ref"]))
            return
        yield "/".join(seen), schema
        for name, field in schema.get("properties", {}).items():
            yield from self.fields(field, (*seen, name))
        for kind in (*schema.get("anyOf", ()), *filter(None, [schema.get("items")])):
            yield from self.fields(kind, seen)


@pytest.fixture(scope="module", params=SERVICES, ids=lambda service: service.application.name)
def described(request: pytest.FixtureRequest) -> Described:
    return Described(request.param)


def nodes(node: Any) -> Iterator[dict[str, Any]]:
    """Every object of a document."""
    if isinstance(node, dict):
        yield node
        for child in node.values():
            yield from nodes(child)
    elif isinstance(node, list):
        for child in node:
            yield from nodes(child)


def contents(part: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from part.get("content", {}).values()


# The document.


def test_it_is_openapi_3_1(described: Described) -> None:
    assert described.document["openapi"].startswith("3.1.")
    document = copy.deepcopy(described.document)
    # A URL may be relative to the server's (4.6); the specification's own schema forgets that.
    flow = document["components"]["securitySchemes"]["bearer"]["flows"]["password"]
    flow["tokenUrl"] = f"https://ledger/{flow['tokenUrl']}"
    schemathesis.openapi.from_dict(document).validate()


def test_every_schema_is_one(described: Described) -> None:
    for name, schema in described.document["components"]["schemas"].items():
        assert re.fullmatch(r"[A-Z][A-Za-z0-9]+", name), name
        jsonschema_rs.meta.validate(schema)
        assert schema["title"] == name
    for node in nodes(described.document):
        if isinstance(node.get("pattern"), str):
            re.compile(node["pattern"])


def test_every_reference_resolves_and_every_component_is_referred_to(described: Described) -> None:
    references = {
        node["$ref"] for node in nodes(described.document) if isinstance(node.get("$ref"), str)
    }
    for reference in references:
        assert described.resolved({"$ref": reference})
    components = {
        f"#/components/{kind}/{name}"
        for kind, named in described.document["components"].items()
        for name in named
        if kind != "securitySchemes"
    }
    assert components == references


# The operations.


def test_operations_have_ids_that_never_change(described: Described) -> None:
    ids = [operation["operationId"] for _, _, operation in described.operations()]
    assert len(set(ids)) == len(ids)
    name = described.service.application.name
    assert set(ids) == IDS_OF_ALL | IDS_OF[name]


def test_operations_say_what_they_do(described: Described) -> None:
    tags = {tag["name"] for tag in described.document["tags"] if tag["description"]}
    for method, path, operation in described.operations():
        where = f"{method} {path}"
        assert operation["description"].endswith("."), where
        assert re.fullmatch(r"[A-Z].*[^.]", operation["summary"]), where
        assert set(operation["tags"]) <= tags, where
        assert operation["tags"], where


def test_operations_ask_for_credentials_where_the_table_of_rights_does(
    described: Described,
) -> None:
    schemes = described.document["components"]["securitySchemes"]
    assert schemes.keys() == {"x-token", "bearer"}
    assert "security" not in described.document
    for method, path, operation in described.operations():
        asks = described.rights[method, path] is not None
        assert operation.get("security", []) == (CREDENTIALS if asks else []), (method, path)


def test_operations_say_what_may_go_wrong(described: Described) -> None:
    own = described.service.rights
    for method, path, operation in described.operations():
        said = described.answers(operation, good=False)
        expected = set()
        if described.rights[method, path] is not None:
            expected |= {"401", "403", "429", "503"}
        if "requestBody" in operation:
            expected |= {"413", "422", "429", "503"}
            if "application/json" in operation["requestBody"]["content"]:
                expected |= {"400"}
        if "{" in path:
            expected |= {"404"}
        if any(parameter["in"] == "query" for parameter in operation.get("parameters", ())):
            expected |= {"422"}
        if path.startswith("/ledger") and method == "POST":
            expected |= {"402", "409"}
        rights = own.get((method, path))
        if rights is not None and rights.operations:
            expected |= {"402", "409"}
        assert expected <= said.keys(), (method, path)


def test_problems_are_described_as_they_are_answered(described: Described) -> None:
    for method, path, operation in described.operations():
        for status, answer in described.answers(operation, good=False).items():
            (content,) = contents(answer)
            assert answer["content"].keys() == {PROBLEM}, (method, path, status)
            described.valid(content["schema"], content["example"])
            assert content["example"]["status"] == int(status)
            headers = {"401": {"WWW-Authenticate"}, "429": {"Retry-After"}, "503": {"Retry-After"}}
            assert answer.get("headers", {}).keys() == headers.get(status, set())


def test_parameters_of_the_path_are_described(described: Described) -> None:
    for _, path, operation in described.operations():
        said = {p["name"]: p for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert said.keys() == set(re.findall(r"{(.*?)}", path)), path


def test_links_lead_to_operations_with_what_the_answer_has(described: Described) -> None:
    parameters = {
        operation["operationId"]: {p["name"] for p in operation.get("parameters", ())}
        for _, _, operation in described.operations()
    }
    followed = 0
    for _, _, operation in described.operations():
        for answer in described.answers(operation, good=True).values():
            for link in answer.get("links", {}).values():
                assert link["parameters"].keys() <= parameters[link["operationId"]]
                for expression in link["parameters"].values():
                    found = answer["content"]["application/json"]["example"]
                    for part in expression.removeprefix("$response.body#/").split("/"):
                        found = found[int(part) if part.isdigit() else part]
                    followed += 1
    assert followed > 10


# The values.


def test_every_body_and_every_good_answer_has_an_example_that_is_valid(
    described: Described,
) -> None:
    for method, path, operation in described.operations():
        body = operation.get("requestBody", {})
        answers = described.answers(operation, good=True)
        assert answers, path
        for part in (body, *answers.values()):
            for content in contents(part):
                assert content["example"] not in ({}, "text"), (method, path)
                described.valid(content["schema"], content["example"])
        for parameter in operation.get("parameters", ()):
            if "example" in parameter:
                described.valid(parameter["schema"], parameter["example"])
            else:
                assert not parameter["required"], (method, path)


def test_what_was_written_before_is_shown_as_that(described: Described) -> None:
    for method, path, operation in described.operations():
        answers = described.answers(operation, good=True)
        if answers.keys() == {"200", "201"}:
            now, before = (
                answers[status]["content"]["application/json"] for status in ("201", "200")
            )
            assert now["example"] | {"replayed": True} == before["example"], (method, path)


def test_what_is_sent_has_bounds(described: Described) -> None:
    for method, path, operation in described.operations():
        sent = [content["schema"] for content in contents(operation.get("requestBody", {}))]
        sent += [parameter["schema"] for parameter in operation.get("parameters", ())]
        for schema in sent:
            for where, field in described.fields(schema):
                told = (method, path, where)
                match field.get("type"):
                    case "string":
                        assert "enum" in field or {"maxLength"} <= field.keys(), told
                    case "array":
                        assert {"maxItems", "items"} <= field.keys(), told
                    case "object" if "properties" in field:
                        assert "application/json" not in operation.get("requestBody", {}).get(
                            "content", ()
                        ) or (field["additionalProperties"] is False), told


def test_every_number_says_how_large_it_may_be(described: Described) -> None:
    numbers = [node for node in nodes(described.document) if node.get("type") == "integer"]
    assert len(numbers) > 50
    for number in numbers:
        assert number["format"] in ("int64", "int32")
        assert -(2**63) <= number["minimum"] < number["maximum"] < 2**63
        assert {type(number["minimum"]), type(number["maximum"])} == {int}


def test_an_operation_is_one_of_the_applications(described: Described) -> None:
    known = described.document["components"]["schemas"]
    rules = described.service.application.rules
    assert known["Operation"]["enum"] == list(rules)
    held = known["HoldBody"]["properties"]["operation"]["enum"]
    assert held == [name for name, rule in rules.items() if rule.minimum < 0 and not rule.once]


_letters = st.text(st.sampled_from(" @1a.é-\x00\n\x7f\x80\xa0\xad"), max_size=5)


@pytest.mark.parametrize(
    ("schema", "check"),
    [
        (schemas.OWNER_ID, check_owner_id),
        (schemas.NONCE, check_nonce),
        (schemas.ASSET, check_asset),
        (schemas.USERNAME, check_username),
        (schemas.KEY_NAME, lambda name: check_new(NewKey(name, None, None, None), None)),
    ],
    ids=["owner_id", "nonce", "asset", "username", "name of a key"],
)
@given(text=_letters | st.text(st.characters(codec="latin-1"), max_size=5))
@example(text="x" * 64)
@example(text="x" * 65)
@example(text="x" * 100)
@example(text="x" * 101)
@example(text="x" * 255)
@example(text="x" * 256)
def test_what_a_schema_says_of_a_text_is_what_is_checked(
    schema: schemas.Schema, check: Callable[[str], object], text: str
) -> None:
    try:
        check(text)
    except InvalidPosting:
        right = False
    else:
        right = True
    # One nonce of a service's own is not described: '@', a digit and something that is no number.
    if schema is schemas.NONCE and re.match(r"@[0-9 ]", text):
        return
    assert jsonschema_rs.Draft202012Validator(schema).is_valid(text) == right
