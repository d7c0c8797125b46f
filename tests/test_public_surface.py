"""What users may rely on: the public names, their documentation, and the tree of errors."""

from __future__ import annotations

import inspect
import pickle
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import shared_ledger
from shared_ledger import errors

REFERENCE = Path(__file__).parent.parent / "docs/reference.md"

# Values have no docstring of their own; the reference shows their comment or their type.
VALUES = {"__version__", "SHARED", "SHARED_OPERATION_VALUES", "SHARED_RULES"} | {
    "Outcome",
    "Request",
    "Result",
}

REFUSALS = [
    errors.InvalidPosting("amount", "is required"),
    errors.InsufficientCredits("user1", asset="credits", available=1, required=2),
    errors.NonceReused("user1", "n1", field="amount", recorded=1, given=2),
    errors.AlreadyClaimed("user1", operation="SIGNUP_CREDIT", period="ever"),
    errors.BudgetSpent("CREDIT_ADD", period="ever", budget=9, left=3, required=10),
    errors.HoldNotFound(7),
    errors.HoldExpired(7, expires_on=datetime(2026, 11, 21, 12, tzinfo=UTC)),
    errors.HoldClosed(7, state="released"),
    errors.HoldExceeded(7, remaining=1, required=2),
    errors.EntryNotFound(7),
    errors.NotReversible(7, reason="it moved nothing"),
    errors.ReversalExceedsEntry(7, left=1, required=2),
    errors.BatchRefused(position=1, reason="insufficient_credits"),
    errors.BalanceOutOfRange("user1", asset="credits", posted=1, amount=2),
    errors.AccountBusy("user1"),
    errors.RejectedByDatabase("user1", "n1", reason="no"),
]


def public_methods(value: type) -> list[tuple[str, Any]]:
    return [
        (name, member)
        for name, member in vars(value).items()
        if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property))
    ]


def test_all_names_are_there_and_sorted() -> None:
    names = shared_ledger.__all__
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(shared_ledger, name)] == []


def test_no_public_name_is_forgotten() -> None:
    found = {
        name
        for name, value in vars(shared_ledger).items()
        if not name.startswith("_") and not inspect.ismodule(value)
    }
    assert found | {"__version__"} == set(shared_ledger.__all__)


def test_reference_documents_the_public_names_and_no_others() -> None:
    documented = set(re.findall(r"^### `(\w+)", REFERENCE.read_text(), re.MULTILINE))
    assert documented == set(shared_ledger.__all__)


@pytest.mark.parametrize("name", sorted(set(shared_ledger.__all__) - VALUES))
def test_public_name_is_documented(name: str) -> None:
    value = getattr(shared_ledger, name)
    assert inspect.isclass(value)
    # Its own, and not that of the class above it.
    assert vars(value).get("__doc__"), name
    undocumented = [
        method for method, member in public_methods(value) if not inspect.getdoc(member)
    ]
    assert undocumented == []


def test_every_asynchronous_method_has_its_synchronous_twin() -> None:
    methods = dict(public_methods(shared_ledger.Ledger))
    coroutines = {name for name, method in methods.items() if inspect.iscoroutinefunction(method)}
    functions = {name for name, method in methods.items() if inspect.isfunction(method)}
    assert coroutines
    assert {name[1:] for name in coroutines} == functions - coroutines
    for name in coroutines - {"apost_in"}:
        twin = inspect.signature(methods[name[1:]])
        assert inspect.signature(methods[name]).parameters == twin.parameters


# --- errors ---


def drawn_tree() -> dict[str, str]:
    """Each error's parent, as the docstring of the module draws it."""
    parents: dict[str, str] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ((?:│   |    )*(?:[├└]── )?)(\w+)(?:  .*)?$", line)
        if found is None:
            continue
        depth = len(found[1]) // 4
        del above[depth:]
        parents[found[2]] = above[-1] if above else "Exception"
        above.append(found[2])
    return parents


def test_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    classes = {
        value.__name__: value.__bases__[0].__name__
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, Exception)
    }
    assert drawn_tree() == classes
    assert sorted(classes) == sorted(errors.__all__)


def test_every_error_is_public() -> None:
    assert set(errors.__all__) <= set(shared_ledger.__all__)


def test_first_line_of_the_docstring_is_the_default_message() -> None:
    assert str(errors.LedgerClosed()) == "The ledger is closed."
    assert str(errors.LedgerClosed("gone")) == "gone"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_refusal_carries_its_data(refusal: errors.Refusal) -> None:
    data = refusal.data()
    assert data == {name: getattr(refusal, name) for name in data}
    assert data
    assert re.fullmatch(r"[a-z_]+", refusal.code)
    for value in data.values():
        assert str(value) in str(refusal) or value == "ever" or type(refusal) is errors.AccountBusy
        assert repr(value) in repr(refusal)


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_refusal_survives_the_way_to_another_process(refusal: errors.Refusal) -> None:
    copy = pickle.loads(pickle.dumps(refusal))
    assert copy == refusal
    assert (str(copy), copy.code) == (str(refusal), refusal.code)
    with pytest.raises(type(refusal)):
        raise copy


def test_every_refusal_is_among_the_examples() -> None:
    assert {type(refusal) for refusal in REFUSALS} == set(errors.Refusal.__subclasses__())


def test_codes_of_refusals_differ() -> None:
    codes = [refusal.code for refusal in REFUSALS]
    assert len(codes) == len(set(codes))


def test_refusals_are_equal_by_what_they_say() -> None:
    assert errors.AccountBusy("user1") == errors.AccountBusy("user1")
    assert errors.AccountBusy("user1") != errors.AccountBusy("user2")
    assert errors.AccountBusy("user1") != errors.Refusal("user1")
