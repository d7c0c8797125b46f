"""The application as its callers meet it: the real service, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from shared_ledger.testing import TemporaryService, temporary_service

from example import SERVICE

PATH = "/example"
FIRST = {"title": "the first", "nonce": "n1"}


@pytest.fixture(scope="module")
def served() -> Iterator[TemporaryService]:
    """Serve the application; each test has users of its own."""
    with temporary_service(SERVICE) as served:
        yield served


def test_it_is_stored_and_charged_at_once(served: TemporaryService) -> None:
    user = served.user(credits=10)
    made = user.post(PATH, FIRST)
    assert made.status_code == 201
    assert user.credits() == 6
    shown = user.get(f"{PATH}/{made.json()['id']}").json()
    assert made.json() == shown | {"replayed": False}


def test_the_same_again_changes_nothing(served: TemporaryService) -> None:
    user = served.user(credits=10)
    made = user.post(PATH, FIRST)
    again = user.post(PATH, FIRST)
    assert again.status_code == 200
    assert again.json() == made.json() | {"replayed": True}
    assert user.credits() == 6


def test_the_same_nonce_for_something_else_is_refused(served: TemporaryService) -> None:
    user = served.user(credits=10)
    user.post(PATH, FIRST)
    other = user.post(PATH, FIRST | {"title": "another"})
    assert (other.status_code, other.json()["field"]) == (409, "title")
    assert user.credits() == 6


def test_whoever_cannot_pay_gets_nothing(served: TemporaryService) -> None:
    user = served.user(credits=3)
    refused = user.post(PATH, FIRST)
    assert refused.status_code == 402
    assert (refused.json()["available"], refused.json()["required"]) == (3, 4)
    # Nothing was written under the nonce: with more credits the same request succeeds.
    served.give(user.name, 1)
    assert user.post(PATH, FIRST).status_code == 201
    assert user.credits() == 0


def test_cancelling_gives_the_credits_back_once(served: TemporaryService) -> None:
    user = served.user(credits=10)
    place = f"{PATH}/{user.post(PATH, FIRST).json()['id']}"
    cancelled = user.post(f"{place}/cancel")
    assert cancelled.json()["cancelled_on"] is not None
    assert user.post(f"{place}/cancel").json() == cancelled.json()
    assert user.get(place).json() == cancelled.json()
    assert user.credits() == 10


def test_what_is_anothers_is_not_there(served: TemporaryService) -> None:
    user = served.user(credits=10)
    place = f"{PATH}/{user.post(PATH, FIRST).json()['id']}"
    other = served.user()
    assert other.get(place).status_code == 404
    assert other.post(f"{place}/cancel").status_code == 404
    assert user.credits() == 6


def test_a_service_acts_for_an_owner_within_its_key(served: TemporaryService) -> None:
    user = served.user(credits=10)
    body = FIRST | {"owner_id": user.name}
    assert served.key("RECORD").post(PATH, body).status_code == 201
    assert served.key("CREDIT_ADD").post(PATH, body).status_code == 403
    assert served.nobody.post(PATH, body).status_code == 401
    assert user.credits() == 6
