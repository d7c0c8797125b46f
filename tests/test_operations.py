"""Operations and rules: declared in two ways, checked when they are declared."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Any

import pytest

from builders import SHOP, ShopOperation
from shared_ledger import (
    SHARED,
    SHARED_OPERATION_VALUES,
    SHARED_RULES,
    Application,
    BaseLedgerOperation,
    ConfigurationError,
    InvalidPosting,
    PlaceHold,
    Posting,
    Rule,
    SharedOperation,
)
from shared_ledger.operations import INT64_MAX, INT64_MIN
from shared_ledger.requests import command_of, command_of_request

SHARED_NAMES = ["DAILY_REWARD", "SIGNUP_CREDIT", "CREDIT_SPEND", "CREDIT_ADD"]


def composed(name: str, values: dict[str, Any]) -> Any:
    """The functional form, with whatever values."""
    return BaseLedgerOperation(name, values)


def with_shared(**values: Any) -> dict[str, Any]:
    return {**values, **SHARED_OPERATION_VALUES}


def test_shared_operations_are_the_four() -> None:
    assert list(SHARED_OPERATION_VALUES) == SHARED_NAMES
    assert [operation.value for operation in SharedOperation] == SHARED_NAMES


def test_class_body_that_lacks_an_operation_is_refused_when_defined() -> None:
    with pytest.raises(
        TypeError, match=r"^Torso lacks the shared operations CREDIT_ADD: "
    ) as caught:

        class Torso(BaseLedgerOperation):
            DAILY_REWARD = "DAILY_REWARD"
            SIGNUP_CREDIT = "SIGNUP_CREDIT"
            CREDIT_SPEND = "CREDIT_SPEND"
            BOOKING = "BOOKING"

    assert "compose with SHARED_OPERATION_VALUES" in str(caught.value)


@pytest.mark.parametrize("lacking", SHARED_NAMES)
def test_composition_that_lacks_an_operation_is_refused_when_defined(lacking: str) -> None:
    values = with_shared(BOOKING="BOOKING")
    del values[lacking]
    with pytest.raises(TypeError, match=rf"^Torso lacks the shared operations {lacking}: "):
        composed("Torso", values)


def test_everything_that_is_missing_is_named() -> None:
    with pytest.raises(TypeError, match=", ".join(SHARED_NAMES)):
        composed("Torso", {"BOOKING": "BOOKING"})


def test_shared_operation_with_another_value_is_missing() -> None:
    with pytest.raises(TypeError, match="lacks the shared operations CREDIT_ADD"):
        composed("Torso", {**with_shared(), "CREDIT_ADD": "CREDITS_ADDED"})


def test_both_forms_give_the_same_operations() -> None:
    values = with_shared(
        PURCHASE="PURCHASE",
        REFUND_ITEM="REFUND_ITEM",
        CONTENT_ACCESS="CONTENT_ACCESS",
        ADJUSTMENT="ADJUSTMENT",
        LOYALTY_POINT="LOYALTY_POINT",
    )
    operations = composed("ShopOperation", values)
    assert {member.name: member.value for member in operations} == {
        member.name: member.value for member in ShopOperation
    }
    assert issubclass(operations, BaseLedgerOperation)
    assert Application("shop", operations, rules=_as_rules(operations)).rules == SHOP.rules


def _as_rules(operations: Any) -> dict[Any, Rule]:
    return {operations(value): rule for value, rule in SHOP.rules.items()}


def test_member_is_its_string() -> None:
    assert SharedOperation.CREDIT_ADD == "CREDIT_ADD"
    assert f"{SharedOperation.CREDIT_ADD}" == "CREDIT_ADD"
    found: dict[str, int] = {SharedOperation.CREDIT_ADD: 1}
    assert found["CREDIT_ADD"] == 1


@pytest.mark.parametrize(
    "label",
    ["", "BOOK ING", "1BOOKING", "_BOOKING", "BOOK-ING", "BÖOKING", "BOOK'ING", "B\n", "B" * 64],
)
def test_label_that_the_database_could_misread_is_refused(label: str) -> None:
    with pytest.raises(TypeError, match=r"Bookings\.BOOKING = .*letters, digits and underscores"):
        composed("Bookings", with_shared(BOOKING=label))


def test_label_of_63_characters_is_taken() -> None:
    assert composed("Bookings", with_shared(BOOKING="B" * 63)).BOOKING == "B" * 63


@pytest.mark.parametrize("value", [1, None, ("BOOKING",), b"BOOKING"])
def test_value_that_is_not_a_string_is_refused(value: object) -> None:
    if value == ("BOOKING",):  # the arguments of str(), as with any enum of strings
        assert composed("Bookings", with_shared(BOOKING=value)).BOOKING == "BOOKING"
        return
    with pytest.raises(TypeError):
        composed("Bookings", with_shared(BOOKING=value))


def test_two_names_for_one_operation_are_refused() -> None:
    with pytest.raises(TypeError, match="Bookings gives two names to one operation"):
        composed("Bookings", with_shared(BOOKING="BOOKING", RESERVATION="BOOKING"))


def test_another_name_for_a_shared_operation_is_refused() -> None:
    with pytest.raises(TypeError, match="two names"):
        composed("Bookings", {"SPEND": "CREDIT_SPEND", **SHARED_OPERATION_VALUES})


@pytest.mark.parametrize(
    ("operation", "amount"),
    [("DAILY_REWARD", 1), ("SIGNUP_CREDIT", 3), ("CREDIT_SPEND", -1), ("CREDIT_ADD", 10)],
)
def test_shared_operation_has_its_default_amount(operation: str, amount: int) -> None:
    rule = SHARED_RULES[operation]
    assert (rule.minimum, rule.maximum) == (amount, amount)
    posting = Posting(SHARED.operation(operation), "user1", "n1")
    assert command_of(SHARED, posting).amount == amount


def test_sign_up_is_once_ever_and_the_reward_once_a_day() -> None:
    assert {name: rule.once for name, rule in SHARED_RULES.items()} == {
        "DAILY_REWARD": "day",
        "SIGNUP_CREDIT": "ever",
        "CREDIT_SPEND": None,
        "CREDIT_ADD": None,
    }


def test_users_may_not_give_themselves_credits() -> None:
    by_users = {name for name, rule in SHARED_RULES.items() if "user" in rule.posted_by}
    assert by_users == {"DAILY_REWARD", "CREDIT_SPEND"}


@pytest.mark.parametrize(
    ("amount", "counterparty"), [(-5, "@spent"), (0, "@spent"), (5, "@issued")]
)
def test_counterparty_follows_the_sign(amount: int, counterparty: str) -> None:
    assert Rule.fixed(amount).counterparty == counterparty


def test_counterparty_may_be_named() -> None:
    assert Rule.fixed(-5, counterparty="@escrow").counterparty == "@escrow"


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"minimum": 2, "maximum": 1}, "minimum 2 is above its maximum 1"),
        ({"minimum": 1.5}, r"64-bit integer, not 1\.5"),
        ({"minimum": True}, "64-bit integer, not True"),
        ({"minimum": "1"}, "64-bit integer, not '1'"),
        ({"maximum": INT64_MAX + 1}, "64-bit integer"),
        # Its negative, which the counterparty gains, would leave the range.
        ({"minimum": INT64_MIN}, "64-bit integer"),
        ({"default": -2}, "default is a whole number within -1 to 1, not -2"),
        ({"default": 2}, "within -1 to 1, not 2"),
        ({"default": True}, "within -1 to 1, not True"),
        ({"default": 0.5}, r"within -1 to 1, not 0\.5"),
        ({"minimum": 1, "default": 0}, "within 1 to 1, not 0"),
        ({"counterparty": "user1"}, "'user1' is not a system account"),
        ({"counterparty": "@"}, "not a system account"),
        ({"counterparty": "@Issued"}, "not a system account"),
        ({"counterparty": "@issued\n"}, "not a system account"),
        ({"counterparty": "@a" + "b" * 127}, "not a system account"),
        ({"counterparty": "@transfers"}, "'@transfers' is the ledger's own"),
        ({"counterparty": "@expired"}, "'@expired' is the ledger's own"),
        ({"asset": "Credits"}, "the asset 'Credits' is not"),
        ({"asset": ""}, "the asset '' is not"),
        ({"posted_by": frozenset()}, "posted_by is a set of 'user' and 'service'"),
        ({"posted_by": frozenset({"anyone"})}, "posted_by is a set of 'user' and 'service'"),
        ({"once": "year"}, "once is 'ever', 'day', 'week' or 'month', not 'year'"),
        ({"expires_in": timedelta()}, "expires_in is more than nothing and at most 36525 days"),
        ({"expires_in": timedelta(days=-1)}, "expires_in is more than nothing"),
        ({"expires_in": timedelta(days=36_526)}, "at most 36525 days, not 36526 days"),
        ({"maximum": 0, "expires_in": timedelta(1)}, "for rules that give credits, not for one up"),
        ({"maximum": 0, "budget": 1}, "for rules that give credits"),
        ({"maximum": -1, "daily_budget": 1}, "for rules that give credits, not for one up to -1"),
        ({"priority": -1}, "priority is 0 to 1000, not -1"),
        ({"priority": 1_001}, "priority is 0 to 1000"),
        ({"priority": True}, "priority is 0 to 1000, not True"),
        ({"budget": -1}, "budget is a 64-bit integer, not -1"),
        ({"budget": 1.5}, r"budget is a 64-bit integer, not 1\.5"),
        ({"daily_budget": INT64_MAX + 1}, "budget is a 64-bit integer"),
    ],
)
def test_rule_that_cannot_work_is_refused(given: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        Rule.variable(**{"minimum": -1, "maximum": 1, **given})


def test_rule_has_the_default_it_is_given_and_a_fixed_amount_is_its_own() -> None:
    assert Rule.variable(minimum=-9, maximum=9).default is None
    assert Rule.variable(minimum=-9, maximum=9, default=0).default == 0
    assert Rule.fixed(5).default == 5
    assert Rule.variable(minimum=5, maximum=5) == Rule.fixed(5)


def bookings(default: int | None) -> Application[Any]:
    """An application whose bookings take up to 9 credits, or give as many."""
    operations = composed("Bookings", with_shared(BOOKING="BOOKING"))
    rule = Rule.variable(minimum=-9, maximum=9, default=default)
    return Application("bookings", operations, rules={operations.BOOKING: rule})


@pytest.mark.parametrize("default", [-9, -5, 0, 9])
def test_posting_without_an_amount_moves_the_default(default: int) -> None:
    application = bookings(default)
    booking = application.operation("BOOKING")
    left_out = command_of(application, Posting(booking, "user1", "n1"))
    assert (left_out.amount, left_out.amount_given) == (default, False)
    said = command_of(application, Posting(booking, "user1", "n1", -3))
    assert (said.amount, said.amount_given) == (-3, True)


def hold(application: Application[Any], amount: int | None) -> Any:
    booking = application.operation("BOOKING")
    return command_of_request(application, PlaceHold(booking, "user1", "n1", amount), {}, {})


def test_hold_without_an_amount_reserves_what_the_default_takes() -> None:
    left_out, said = (hold(bookings(-5), amount) for amount in (None, 3))
    assert (left_out.amount, left_out.amount_given) == (5, False)
    assert (said.amount, said.amount_given) == (3, True)


@pytest.mark.parametrize(
    ("default", "problem"),
    [
        (None, "is required: this operation has no default amount"),
        (0, "is required: the default 0 takes no credits"),
        (5, "is required: the default 5 takes no credits"),
    ],
)
def test_hold_without_an_amount_needs_a_default_that_takes_credits(
    default: int | None, problem: str
) -> None:
    with pytest.raises(InvalidPosting) as caught:
        hold(bookings(default), None)
    assert (caught.value.field, caught.value.problem) == ("amount", problem)


@pytest.mark.parametrize("once", [None, "ever", "day", "week", "month"])
def test_rule_may_be_once_in_each_period(once: Any) -> None:
    assert Rule.fixed(1, once=once).once == once


def test_rule_keeps_what_it_says_of_expiry_and_budgets() -> None:
    rule = Rule.fixed(
        5, expires_in=timedelta(days=36_525), priority=1_000, budget=0, daily_budget=INT64_MAX
    )
    assert (rule.expires_in, rule.priority) == (timedelta(days=36_525), 1_000)
    assert (rule.budget, rule.daily_budget) == (0, INT64_MAX)


def test_rule_is_plain_if_what_it_gives_neither_expires_nor_has_a_budget() -> None:
    assert Rule.fixed(5, once="week", priority=3).plain
    assert not Rule.fixed(5, expires_in=timedelta(1)).plain
    assert not Rule.fixed(5, budget=0).plain
    assert not Rule.fixed(5, daily_budget=9).plain


@pytest.mark.parametrize("reserved", ["TRANSFER", "REVERSAL", "EXPIRY"])
def test_operation_of_the_ledger_itself_cannot_be_declared(reserved: str) -> None:
    with pytest.raises(TypeError, match=f"= '{reserved}' is an operation of the ledger itself"):
        composed("Bookings", with_shared(BOOKING=reserved))


def test_operation_without_a_rule_is_refused_and_named() -> None:
    operations = composed("Bookings", with_shared(BOOKING="BOOKING", VISIT="VISIT"))
    with pytest.raises(
        ConfigurationError, match=r"^application bookings: no rule for BOOKING, no rule for VISIT$"
    ):
        Application("bookings", operations)


def test_rule_for_something_else_is_refused_and_named() -> None:
    rules: Any = {"BOOKING": Rule.fixed(1)}
    with pytest.raises(ConfigurationError, match="a rule for BOOKING, which is not an operation"):
        Application("shared", SharedOperation, rules=rules)


def test_rule_that_is_none_is_refused() -> None:
    rules: Any = {SharedOperation.CREDIT_ADD: 5}
    with pytest.raises(ConfigurationError, match="the rule for CREDIT_ADD is not a Rule: 5"):
        Application("shared", SharedOperation, rules=rules)


def test_shared_rule_may_be_overridden() -> None:
    generous = Application(
        "generous", SharedOperation, rules={SharedOperation.SIGNUP_CREDIT: Rule.fixed(50)}
    )
    assert generous.rules["SIGNUP_CREDIT"] == Rule.fixed(50)
    assert generous.rules["CREDIT_ADD"] == SHARED_RULES["CREDIT_ADD"]


@pytest.mark.parametrize(
    "name", ["", "Shop", "1shop", "shop-1", "shop.eu", "shop\n", "é", "s" * 56]
)
def test_application_whose_name_cannot_name_a_table_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="the application's name"):
        Application(name, SharedOperation)


def test_longest_application_name_still_names_its_version_table() -> None:
    assert Application("s" * 55, SharedOperation).name == "s" * 55


@pytest.mark.parametrize("operations", [BaseLedgerOperation, StrEnum("Plain", {"A": "A"}), dict])
def test_application_of_another_enum_is_refused(operations: Any) -> None:
    with pytest.raises(ConfigurationError, match="over BaseLedgerOperation"):
        Application("plain", operations, rules={})


def test_rules_cannot_be_changed_afterwards() -> None:
    rules: Any = SHOP.rules
    with pytest.raises(TypeError):
        rules["PURCHASE"] = Rule.fixed(1)


def test_operation_is_found_by_its_text() -> None:
    assert SHOP.operation("PURCHASE") is ShopOperation.PURCHASE


@pytest.mark.parametrize("name", ["PURCHASE", "credit_add", "", "CREDIT_ADD "])
def test_another_applications_operation_is_refused_and_own_ones_named(name: str) -> None:
    with pytest.raises(InvalidPosting) as caught:
        SHARED.operation(name)
    assert caught.value.field == "operation"
    assert str(caught.value) == (
        f"operation {name!r} is not one of shared's: "
        "DAILY_REWARD, SIGNUP_CREDIT, CREDIT_SPEND, CREDIT_ADD"
    )
