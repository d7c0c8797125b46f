"""What applications test with: a real service on a book that is thrown away."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from fastapi import APIRouter

from builders import query
from shared_ledger import InvalidPosting
from shared_ledger.access.refusals import UsernameTaken
from shared_ledger.apps.content import SERVICE
from shared_ledger.embedded import Cluster
from shared_ledger.operations import SHARED
from shared_ledger.service import OPEN, Service
from shared_ledger.testing import TemporaryService, temporary_service

ARTICLE = {"title": "Bread", "body": "Wait a day.", "nonce": "n1"}


def small(answer: Callable[[], object]) -> Service:
    """A service with one route, which asks nobody who he is."""
    router = APIRouter()
    router.get("/it")(answer)
    rights = {("GET", "/it"): OPEN}
    return Service(
        application=SHARED, title="Small", description="", routers=[router], rights=rights
    )


def schemas(url: str) -> set[str]:
    rows = query(url, "select nspname::text from pg_namespace where nspname like 'testing_%%'")
    return {name for (name,) in rows}


@pytest.fixture(scope="module")
def served(cluster: Cluster) -> Iterator[TemporaryService]:
    with temporary_service(SERVICE, url=cluster.url) as served:
        yield served


def test_a_user_calls_the_applications_own_routes(served: TemporaryService) -> None:
    user = served.user(credits=8)
    made = user.post("/content", ARTICLE)
    assert made.status_code == 201
    assert user.get(f"/content/{made.json()['id']}").json()["body"] == "Wait a day."
    assert user.credits() == 3
    assert served.ledger.balance(user.name).balance == 3


def test_a_user_may_be_named_and_is_there_once(served: TemporaryService) -> None:
    assert served.user("ada").get("/auth/me").json()["name"] == "ada"
    with pytest.raises(UsernameTaken):
        served.user("ada")
    assert served.user().name != served.user().name


def test_credits_are_given_in_any_amount(served: TemporaryService) -> None:
    user = served.user(credits=1)
    served.give(user.name, 10**12)
    assert user.credits() == 10**12 + 1


def test_a_key_is_for_what_it_says(served: TemporaryService) -> None:
    gift = {"operation": "CREDIT_ADD", "owner_id": "grace", "nonce": "n1"}
    assert served.key("CREDIT_SPEND").post("/ledger", gift).status_code == 403
    assert served.key("CREDIT_ADD").post("/ledger", gift).status_code == 201
    assert served.key().request("GET", "/balance/grace").json()["balance"] == 10
    with pytest.raises(InvalidPosting, match="CREDIT_AD,"):
        served.key("CREDIT_AD")


def test_rights_are_those_of_production(served: TemporaryService) -> None:
    user = served.user()
    gift = {"operation": "CREDIT_ADD", "owner_id": user.name, "nonce": "n1"}
    assert user.post("/ledger", gift).status_code == 403
    assert served.nobody.post("/ledger", gift).status_code == 401


def test_requests_may_come_from_many_threads(served: TemporaryService) -> None:
    user = served.user(credits=12)
    with ThreadPoolExecutor(8) as threads:
        bodies = [ARTICLE | {"nonce": f"n{number}"} for number in range(16)]
        answers = list(threads.map(lambda body: user.post("/content", body), bodies))
    assert sorted(answer.status_code for answer in answers) == [201] * 2 + [402] * 14
    assert user.credits() == 2


def test_tests_may_ask_as_often_as_they_like(cluster: Cluster) -> None:
    with temporary_service(small(lambda: "here"), url=cluster.url) as served:
        user = served.user()
        # More than production lets a network or a user ask in a minute.
        assert {served.nobody.get("/it").status_code for _ in range(130)} == {200}
        assert {user.get(f"/balance/{user.name}").status_code for _ in range(610)} == {200}


def test_what_a_route_does_not_answer_is_raised(cluster: Cluster) -> None:
    with (
        temporary_service(small(lambda: 1 // 0), url=cluster.url) as served,
        pytest.raises(ZeroDivisionError),
    ):
        served.nobody.get("/it")


def test_nothing_is_left_also_of_a_test_that_fails(cluster: Cluster) -> None:
    before = schemas(cluster.url)

    def fail() -> None:
        with temporary_service(SERVICE, url=cluster.url):
            assert len(schemas(cluster.url) - before) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert schemas(cluster.url) == before


def test_neither_environment_nor_settings_file_is_looked_at(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".env").write_text("ENVIRONMENT=development\nTOKEN_LIFETIME_S=never\n")
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@192.0.2.1/nowhere")
    monkeypatch.setenv("API_TOKEN", "a-key-of-the-environment")
    monkeypatch.setenv("PORT", "none")
    with temporary_service(SERVICE, url=cluster.url) as served:
        user = served.user(credits=5)
        assert user.post("/content", ARTICLE).status_code == 201
    assert os.listdir() == [".env"]  # noqa: PTH208  # names are asked for


@pytest.mark.slow
def test_without_a_url_it_brings_its_own_postgresql() -> None:
    with temporary_service(SERVICE) as served:
        assert served.user(credits=5).post("/content", ARTICLE).status_code == 201
        (folder,) = parse_qs(urlsplit(served.ledger.url).query)["host"]
        assert Path(folder).is_dir()
    assert not Path(folder).exists()
