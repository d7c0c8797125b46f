"""The law, without a database: what a posting must be, and what becomes of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders import SHOP, ShopOperation, posted, refused
from shared_ledger import (
    SHARED,
    AlreadyClaimed,
    Application,
    BalanceOutOfRange,
    Entry,
    InsufficientCredits,
    InvalidPosting,
    NonceReused,
    Outcome,
    Posted,
    Posting,
    Refusal,
    Rule,
    SharedOperation,
)
from shared_ledger.book import Account
from shared_ledger.changes import Book, Changes
from shared_ledger.checks import MAX_METADATA_BYTES, MAX_METADATA_DEPTH, check_owner_id
from shared_ledger.commands import Command
from shared_ledger.decide import decide
from shared_ledger.operations import INT64_MAX, INT64_MIN
from shared_ledger.requests import command_of

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAILY, SIGN_UP = SharedOperation.DAILY_REWARD, SharedOperation.SIGNUP_CREDIT
SPEND, ADD = SharedOperation.CREDIT_SPEND, SharedOperation.CREDIT_ADD
ADJUST = ShopOperation.ADJUSTMENT


def shared(operation: Any, owner_id: str = "user1", nonce: str = "n1", **more: Any) -> Command:
    return command_of(SHARED, Posting(operation, owner_id, nonce, **more))


def shop(operation: Any, owner_id: str = "user1", nonce: str = "n1", **more: Any) -> Command:
    return command_of(SHOP, Posting(operation, owner_id, nonce, **more))


def decided(
    commands: Sequence[Command],
    *accounts: Account,
    now: datetime = NOW,
    entries: Sequence[Entry] = (),
    claims: dict[tuple[str, str, str], str] | None = None,
) -> tuple[list[Outcome], Changes]:
    book = Book(
        now,
        range(1, len(commands) + 1),
        {(account.owner_id, account.asset): account for account in accounts},
        {(entry.owner_id, entry.app, entry.nonce): entry for entry in entries},
        claims or {},
    )
    results, changes = decide(book, commands)
    outcomes = [result for result in results if isinstance(result, Posted | Refusal)]
    assert len(outcomes) == len(commands)
    return outcomes, changes


def balances(changes: Changes) -> dict[tuple[str, str], int]:
    return {key: account.posted for key, account in changes.accounts.items()}


def outcome_of(command: Command, *accounts: Account, **more: Any) -> Outcome:
    (outcome,), _ = decided([command], *accounts, **more)
    return outcome


def invalid(application: Application[Any], **fields: Any) -> InvalidPosting:
    """The refusal of a posting that is right but for these fields."""
    whole = {"operation": ADD, "owner_id": "user1", "nonce": "n1", **fields}
    with pytest.raises(InvalidPosting) as caught:
        command_of(application, Posting(**whole))
    return caught.value


# --- what becomes of commands ---


def test_entry_says_everything_about_the_posting() -> None:
    outcome = outcome_of(shared(ADD, metadata={"order": 7}), Account("user1", "credits", 5))
    assert outcome == Posted(
        Entry(
            id=1,
            app="shared",
            operation="CREDIT_ADD",
            owner_id="user1",
            counterparty="@issued",
            asset="credits",
            amount=10,
            balance_after=15,
            nonce="n1",
            created_on=NOW,
            metadata={"order": 7},
        )
    )


def test_new_account_is_opened_and_an_existing_one_changed() -> None:
    _, changes = decided([shared(ADD, "old"), shared(ADD, "new")], Account("old", "credits", 5))
    assert balances(changes) == {("old", "credits"): 15, ("new", "credits"): 10}
    assert changes.system == {("@issued", "credits"): -20}


def test_refusal_changes_nothing_and_leaves_the_nonce_free() -> None:
    (first, second), changes = decided([shared(SPEND), shared(ADD)])
    assert first == InsufficientCredits("user1", asset="credits", available=0, required=1)
    assert posted(second).entry.id == 1
    assert len(changes.entries) == 1


def test_commands_see_those_before_them() -> None:
    outcomes, _ = decided(
        [shared(SPEND, nonce="a"), shared(ADD, nonce="b"), shared(SPEND, nonce="c")]
    )
    refused(outcomes[0])
    assert [posted(outcome).entry.balance_after for outcome in outcomes[1:]] == [10, 9]


def test_assets_are_separate_accounts() -> None:
    (outcome,), changes = decided(
        [shop(ShopOperation.LOYALTY_POINT)], Account("user1", "credits", 5)
    )
    assert posted(outcome).entry.balance_after == 1
    assert balances(changes) == {("user1", "points"): 1}
    assert changes.system == {("@issued", "points"): -1}


def test_held_credits_cannot_be_spent() -> None:
    outcome = outcome_of(shared(SPEND), Account("user1", "credits", 5, held=5))
    assert outcome == InsufficientCredits("user1", asset="credits", available=0, required=1)


def test_floor_below_zero_is_credit() -> None:
    account = Account("user1", "credits", 0, floor=-1)
    outcomes, _ = decided([shared(SPEND, nonce="a"), shared(SPEND, nonce="b")], account)
    assert posted(outcomes[0]).entry.balance_after == -1
    assert outcomes[1] == InsufficientCredits("user1", asset="credits", available=0, required=1)


def test_gain_is_never_refused_for_the_floor() -> None:
    outcome = outcome_of(shared(ADD), Account("user1", "credits", -100))
    assert posted(outcome).entry.balance_after == -90


def test_balance_reaches_the_largest_integer_and_not_beyond() -> None:
    account = Account("user1", "credits", INT64_MAX - 10)
    outcomes, changes = decided([shared(ADD, nonce="a"), shared(ADD, nonce="b")], account)
    assert posted(outcomes[0]).entry.balance_after == INT64_MAX
    assert outcomes[1] == BalanceOutOfRange("user1", asset="credits", posted=INT64_MAX, amount=10)
    assert balances(changes) == {("user1", "credits"): INT64_MAX}


def test_balance_without_a_floor_reaches_the_smallest_integer_and_not_beyond() -> None:
    account = Account("user1", "credits", -1, floor=None)
    outcomes, _ = decided(
        [shop(ADJUST, nonce="a", amount=INT64_MIN + 1), shop(ADJUST, nonce="b", amount=-1)], account
    )
    assert posted(outcomes[0]).entry.balance_after == INT64_MIN
    assert isinstance(outcomes[1], BalanceOutOfRange)


# --- nonces ---


@given(st.integers(INT64_MIN + 1, INT64_MAX), st.integers(INT64_MIN + 1, INT64_MAX))
def test_replay_gives_the_first_entry_whatever_has_happened_since(amount: int, since: int) -> None:
    command = shop(ADJUST, amount=amount)
    first = posted(outcome_of(command, Account("user1", "credits", floor=None)))
    again = outcome_of(
        command,
        Account("user1", "credits", since),
        now=NOW + timedelta(days=900),
        entries=[first.entry],
    )
    assert again == Posted(first.entry, replayed=True)


def test_replay_inside_a_batch_gives_the_first_entry() -> None:
    (first, second), changes = decided([shared(ADD), shared(ADD)])
    assert second == Posted(posted(first).entry, replayed=True)
    assert len(changes.entries) == 1
    assert balances(changes) == {("user1", "credits"): 10}


def test_replay_is_recognised_before_the_balance_is_looked_at() -> None:
    entry = posted(outcome_of(shared(SPEND), Account("user1", "credits", 1))).entry
    assert posted(outcome_of(shared(SPEND), entries=[entry])).replayed


def test_replay_of_a_claim_is_no_second_claim() -> None:
    entry = posted(outcome_of(shared(SIGN_UP))).entry
    claims = {("user1", "shared", "SIGNUP_CREDIT"): "ever"}
    assert posted(outcome_of(shared(SIGN_UP), entries=[entry], claims=claims)).replayed


def test_nonces_of_other_owners_and_applications_are_free() -> None:
    commands = [shared(ADD, "user1"), shared(ADD, "user2"), shop(ShopOperation.CREDIT_ADD, "user1")]
    outcomes, _ = decided(commands)
    assert [posted(outcome).replayed for outcome in outcomes] == [False, False, False]


REUSED: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "operation",
        {"operation": ADJUST, "amount": 1},
        {"operation": ShopOperation.REFUND_ITEM, "amount": 2},
    ),
    ("amount", {"amount": 1, "metadata": {"a": 1}}, {"amount": 2, "metadata": {"a": 2}}),
    ("metadata", {"amount": 1, "metadata": {"a": 1}}, {"amount": 1, "metadata": {"a": 2}}),
    ("metadata", {"amount": 1, "metadata": {"a": 1}}, {"amount": 1}),
    ("metadata", {"amount": 1}, {"amount": 1, "metadata": {}}),
    ("metadata", {"amount": 1, "metadata": {"a": 1}}, {"amount": 1, "metadata": {"a": True}}),
]


@pytest.mark.parametrize(("field", "first", "second"), REUSED)
def test_reused_nonce_names_the_first_field_that_differs(
    field: str, first: dict[str, Any], second: dict[str, Any]
) -> None:
    outcomes, changes = decided(
        [shop(**{"operation": ADJUST, **first}), shop(**{"operation": ADJUST, **second})]
    )
    conflict = outcomes[1]
    assert isinstance(conflict, NonceReused)
    assert conflict.field == field
    assert conflict.code == f"nonce_reused_with_different_{field}"
    assert len(changes.entries) == 1


def test_nonce_reused_for_another_asset_says_operation_first() -> None:
    outcomes, _ = decided([shared(ADD), shared(SPEND)])
    assert outcomes[1] == NonceReused(
        "user1", "n1", field="operation", recorded="CREDIT_ADD", given="CREDIT_SPEND"
    )


def test_nonce_reused_after_the_rule_moved_to_another_asset_says_asset() -> None:
    moved = Application("shared", SharedOperation, rules={ADD: Rule.fixed(10, asset="points")})
    command = command_of(moved, Posting(ADD, "user1", "n1"))
    outcome = outcome_of(command, entries=[posted(outcome_of(shared(ADD))).entry])
    assert isinstance(outcome, NonceReused)
    assert outcome.field == "asset"


def test_amount_that_was_left_out_agrees_with_what_the_rule_gave_then() -> None:
    entry = posted(outcome_of(shared(ADD))).entry
    raised = Application("shared", SharedOperation, rules={ADD: Rule.fixed(20)})
    command = command_of(raised, Posting(ADD, "user1", "n1"))
    assert outcome_of(command, entries=[entry]) == Posted(entry, replayed=True)
    stated = command_of(raised, Posting(ADD, "user1", "n1", 20))
    assert isinstance(outcome_of(stated, entries=[entry]), NonceReused)


@pytest.mark.parametrize(
    ("recorded", "given_again"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 1}, {"a": 1.0}),
        ({"a": 1e300}, {"a": 1e300}),
        ({"a": -0.0}, {"a": 0.0}),
    ],
)
def test_metadata_is_compared_as_json_is(
    recorded: dict[str, Any], given_again: dict[str, Any]
) -> None:
    outcomes, _ = decided([shared(ADD, metadata=recorded), shared(ADD, metadata=given_again)])
    assert posted(outcomes[1]).replayed


# --- once per period ---


def test_sign_up_is_once_ever() -> None:
    outcomes, _ = decided([shared(SIGN_UP, nonce="a"), shared(SIGN_UP, nonce="b")])
    assert outcomes[1] == AlreadyClaimed("user1", operation="SIGNUP_CREDIT", period="ever")


def test_claim_of_one_application_is_not_that_of_another() -> None:
    claims = {("user1", "shared", "SIGNUP_CREDIT"): "ever"}
    outcome = outcome_of(shop(ShopOperation.SIGNUP_CREDIT), claims=claims)
    assert posted(outcome).entry.period == "ever"


def test_refused_claim_does_not_use_up_the_period() -> None:
    full = Account("user1", "credits", INT64_MAX)
    outcomes, _ = decided([shared(SIGN_UP, nonce="a"), shared(SIGN_UP, "user2", "b")], full)
    assert isinstance(outcomes[0], BalanceOutOfRange)
    spent = Account("user1", "credits", INT64_MAX - 3)
    posted(outcome_of(shared(SIGN_UP, nonce="c"), spent))


def test_claim_refused_for_range_can_be_made_later_in_the_batch() -> None:
    full = Account("user1", "credits", INT64_MAX)
    commands = [
        shared(SIGN_UP, nonce="a"),
        shop(ADJUST, nonce="b", amount=-5),
        shared(SIGN_UP, nonce="a"),
    ]
    outcomes, _ = decided(commands, full)
    assert [isinstance(outcome, Posted) for outcome in outcomes] == [False, True, True]


MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("claimed", "now", "allowed"),
    [
        ("2026-11-21", MIDNIGHT - MICROSECOND, False),
        ("2026-11-21", MIDNIGHT, True),
        ("2026-11-22", MIDNIGHT, False),
        ("2026-11-22", MIDNIGHT + timedelta(days=1) - MICROSECOND, False),
        # The clock was set back behind the day that was claimed.
        ("2026-11-22", MIDNIGHT - MICROSECOND, False),
        ("2025-12-31", datetime(2026, 1, 1, tzinfo=UTC), True),
    ],
)
def test_daily_reward_follows_the_utc_day(claimed: str, now: datetime, *, allowed: bool) -> None:
    claims = {("user1", "shared", "DAILY_REWARD"): claimed}
    outcome = outcome_of(shared(DAILY), now=now, claims=claims)
    if allowed:
        assert posted(outcome).entry.period == now.date().isoformat()
    else:
        assert outcome == AlreadyClaimed(
            "user1", operation="DAILY_REWARD", period=now.date().isoformat()
        )


def test_clock_set_back_over_midnight_gives_no_second_reward() -> None:
    first = posted(outcome_of(shared(DAILY, nonce="a"), now=MIDNIGHT))
    account = Account("user1", "credits", 1, changed_on=first.entry.created_on)
    outcome = outcome_of(shared(DAILY, nonce="b"), account, now=MIDNIGHT - timedelta(hours=3))
    # The account's time stands still at midnight, and so does its day; its claim is not looked up.
    assert posted(outcome).entry.period == first.entry.period


@given(st.lists(st.timedeltas(timedelta(days=-3), timedelta(days=3)), max_size=20))
def test_created_on_never_runs_backwards(steps: list[timedelta]) -> None:
    account = Account("user1", "credits")
    now = NOW
    for number, step in enumerate(steps):
        now += step
        entry = posted(outcome_of(shared(ADD, nonce=str(number)), account, now=now)).entry
        assert entry.created_on >= now
        assert account.changed_on is None or entry.created_on >= account.changed_on
        account = Account("user1", "credits", changed_on=entry.created_on)


@given(st.lists(st.timedeltas(timedelta(), timedelta(days=3))))
def test_nobody_has_two_rewards_for_one_day(times: list[timedelta]) -> None:
    claims: dict[tuple[str, str, str], str] = {}
    days: list[str] = []
    for number, time in enumerate(times):
        outcome = outcome_of(shared(DAILY, nonce=str(number)), now=NOW + time, claims=claims)
        if isinstance(outcome, Posted):
            day = str(outcome.entry.period)
            claims["user1", "shared", "DAILY_REWARD"] = day
            days.append(day)
    assert len(days) == len(set(days))
    assert days == sorted(days)


# --- any book and any commands ---

OWNERS = st.sampled_from(["ann", "bob", "cy"])
AMOUNTS = st.one_of(
    st.integers(-20, 20),
    st.sampled_from([INT64_MIN + 1, INT64_MIN + 2, INT64_MAX - 1, INT64_MAX]),
    st.integers(INT64_MIN + 1, INT64_MAX),
)
NONCES = st.sampled_from("abcde")
COMMANDS = st.one_of(
    st.builds(shared, st.sampled_from([DAILY, SIGN_UP, SPEND, ADD]), OWNERS, NONCES),
    st.builds(shop, st.just(ADJUST), OWNERS, NONCES, amount=AMOUNTS),
    st.builds(shop, st.just(ShopOperation.LOYALTY_POINT), OWNERS, NONCES),
)


@st.composite
def any_accounts(draw: st.DrawFn) -> list[Account]:
    """Accounts that keep the database's CHECK: floor <= posted - held, held >= 0."""
    accounts = []
    for owner_id in draw(st.sets(OWNERS)):
        floor = draw(st.one_of(st.none(), st.integers(-50, 50)))
        posted_ = draw(st.one_of(st.integers(-50, 100), st.just(INT64_MAX)))
        room = 60 if floor is None else posted_ - floor
        if room < 0:
            floor, room = posted_, 0
        held = draw(st.integers(0, min(room, 60)))
        accounts.append(Account(owner_id, "credits", posted_, held, floor, NOW))
    return accounts


@given(any_accounts(), st.lists(COMMANDS, max_size=25))
def test_sum_of_all_accounts_stays_zero(accounts: list[Account], commands: list[Command]) -> None:
    _, changes = decided(commands, *accounts)
    before = {(account.owner_id, account.asset): account.posted for account in accounts}
    gained = sum(after - before.get(key, 0) for key, after in balances(changes).items())
    assert gained + sum(changes.system.values()) == 0
    assert gained == sum(entry.amount for entry in changes.entries)


@given(any_accounts(), st.lists(COMMANDS, max_size=25))
def test_no_spend_passes_the_floor(accounts: list[Account], commands: list[Command]) -> None:
    outcomes, changes = decided(commands, *accounts)
    of = {account.owner_id: account for account in accounts}
    for entry in changes.entries:
        account = of.get(entry.owner_id, Account(entry.owner_id, entry.asset))
        if entry.asset == "credits" and account.floor is not None and entry.amount < 0:
            assert entry.balance_after - account.held >= account.floor
        assert INT64_MIN <= entry.balance_after <= INT64_MAX
    for outcome in outcomes:
        if isinstance(outcome, InsufficientCredits):
            assert outcome.available < outcome.required


@given(any_accounts(), st.lists(COMMANDS, max_size=25))
def test_balance_after_is_the_running_sum(accounts: list[Account], commands: list[Command]) -> None:
    _, changes = decided(commands, *accounts)
    running = {(account.owner_id, account.asset): account.posted for account in accounts}
    for entry in changes.entries:
        key = (entry.owner_id, entry.asset)
        running[key] = running.get(key, 0) + entry.amount
        assert entry.balance_after == running[key]
    for key, after in balances(changes).items():
        assert after == running[key]


@given(any_accounts(), st.lists(COMMANDS, max_size=15))
def test_deciding_all_again_replays_what_was_posted(
    accounts: list[Account], commands: list[Command]
) -> None:
    outcomes, changes = decided(commands, *accounts)
    again, more = decided(commands, *accounts, entries=changes.entries)
    for first, second in zip(outcomes, again, strict=True):
        if isinstance(first, Posted):
            assert second == Posted(first.entry, replayed=True)
        elif isinstance(first, NonceReused):
            assert second == first
    keys = {(entry.owner_id, entry.app, entry.nonce) for entry in changes.entries}
    assert not [entry for entry in more.entries if (entry.owner_id, entry.app, entry.nonce) in keys]


@given(any_accounts(), st.lists(COMMANDS, max_size=15), st.integers(0, 15))
def test_two_batches_decide_as_one(
    accounts: list[Account], commands: list[Command], cut: int
) -> None:
    whole, changes = decided(commands, *accounts)
    first, written = decided(commands[:cut], *accounts)
    after = {(account.owner_id, account.asset): account for account in accounts}
    for key, total in balances(written).items():
        old = after.get(key, Account(*key))
        after[key] = Account(*key, total, old.held, old.floor, NOW)
    claims: dict[tuple[str, str, str], str] = {}
    for entry in written.entries:
        if entry.period is not None:
            claims[entry.owner_id, entry.app, entry.operation] = entry.period
    book = Book(
        NOW,
        range(len(written.entries) + 1, len(commands) + 1),
        after,
        {(entry.owner_id, entry.app, entry.nonce): entry for entry in written.entries},
        claims,
    )
    second, rest = decide(book, commands[cut:])
    assert first + second == whole
    assert written.entries + rest.entries == changes.entries


@given(any_accounts(), st.lists(COMMANDS, max_size=15))
def test_book_is_not_changed(accounts: list[Account], commands: list[Command]) -> None:
    of = {(account.owner_id, account.asset): account for account in accounts}
    book = Book(NOW, range(1, 16), of)
    assert decide(book, commands)[0] == decide(book, commands)[0]
    assert list(of.values()) == accounts


# --- what a posting must be ---


@pytest.mark.parametrize(
    "operation",
    [
        "PURCHASE",
        ShopOperation.PURCHASE,
        "credit_add",
        "",
        "@",
        None,
        1,
        pytest.param(10**5000, id="huge"),
        b"CREDIT_ADD",
        ["x"],
    ],
)
def test_operation_of_nobody_or_of_another_application_is_refused(operation: object) -> None:
    refusal = invalid(SHARED, operation=operation)
    assert refusal.field == "operation"
    assert str(refusal).endswith(
        "is not one of shared's: DAILY_REWARD, SIGNUP_CREDIT, CREDIT_SPEND, CREDIT_ADD"
    )


def test_operation_of_text_is_taken_for_what_it_says() -> None:
    assert shared("CREDIT_ADD").operation == "CREDIT_ADD"


def test_shared_operation_of_another_enum_is_written_as_its_value() -> None:
    class Foreign(str, Enum):  # noqa: UP042  # its str() is "Foreign.CREDIT_ADD"
        CREDIT_ADD = "CREDIT_ADD"

    operation = shared(Foreign.CREDIT_ADD).operation
    assert (type(operation), operation) == (str, "CREDIT_ADD")


BAD_TEXTS: list[tuple[Any, str]] = [
    ("", "is empty"),
    ("x" * 256, "is longer than 255 characters"),
    ("tab\tbed", "holds a control character"),
    ("line\nbreak", "holds a control character"),
    ("return\r", "holds a control character"),
    ("nul\0", "holds a control character"),
    ("\x7f", "holds a control character"),
    ("\x85", "holds a control character"),
    ("\u2028", "holds a control character"),
    ("zero\u200bwidth", "holds a control character"),
    ("right\u202eleft", "holds a control character"),
    ("\ud800", "holds a control character"),
    ("no\u00a0break", "holds a control character"),
    (" user1", "begins or ends with a space"),
    ("user1 ", "begins or ends with a space"),
    (" ", "begins or ends with a space"),
    (None, "is a string, not NoneType"),
    (1, "is a string, not int"),
    (b"user1", "is a string, not bytes"),
    (["user1"], "is a string, not list"),
]


@pytest.mark.parametrize("field", ["owner_id", "nonce"])
@pytest.mark.parametrize(("text", "problem"), BAD_TEXTS)
def test_text_that_cannot_be_kept_is_refused(field: str, text: object, problem: str) -> None:
    refusal = invalid(SHARED, **{field: text})
    assert refusal.field == field
    assert refusal.problem.startswith(problem)


@pytest.mark.parametrize("owner_id", ["@issued", "@", "@user"])
def test_owner_cannot_be_a_system_account(owner_id: str) -> None:
    refusal = invalid(SHARED, owner_id=owner_id)
    assert str(refusal) == "owner_id begins with '@', which is kept for system accounts"


def test_owner_in_two_spellings_is_refused_in_all_but_one() -> None:
    assert invalid(SHARED, owner_id="rene\u0301").field == "owner_id"
    assert shared(ADD, "ren\u00e9").owner_id == "ren\u00e9"


@pytest.mark.parametrize(
    "owner_id",
    ["x" * 255, "ö" * 255, "a b", "user@example.org", "o'brien", "a\\b", '{"a",b}', "🙂"],
)
def test_ordinary_ids_are_taken_as_they_are(owner_id: str) -> None:
    assert shared(ADD, owner_id, owner_id).owner_id == owner_id
    assert check_owner_id(owner_id) == owner_id


def test_nonce_may_begin_with_an_at_sign() -> None:
    assert shared(ADD, nonce="@issued").nonce == "@issued"


@pytest.mark.parametrize("nonce", ["@17", "@17.1"])
def test_nonce_of_the_ledgers_own_entries_is_refused(nonce: str) -> None:
    with pytest.raises(InvalidPosting, match="nonce is '@' and a number"):
        shared(ADD, nonce=nonce)


class Plain(StrEnum):
    ANN = "ann"


class Mixed(str, Enum):  # noqa: UP042  # its str() is "Mixed.ANN"
    ANN = "ann"


@pytest.mark.parametrize("owner", [Plain.ANN, Mixed.ANN])
def test_ids_of_an_enum_are_their_values(owner: str) -> None:
    command = shared(ADD, owner, owner)
    assert (type(command.owner_id), command.owner_id) == (str, "ann")
    assert (type(command.nonce), command.nonce) == (str, "ann")


BAD_AMOUNTS: list[Any] = [
    (ADD, 9, "is fixed at 10 for this operation"),
    (ADD, -10, "is fixed at 10 for this operation"),
    (ADD, 10.0, "is a whole number, not float"),
    (ADD, "10", "is a whole number, not str"),
    (ADD, Decimal(10), "is a whole number, not Decimal"),
    (ShopOperation.REFUND_ITEM, True, "is a whole number, not bool"),
    (ShopOperation.REFUND_ITEM, None, "is required: this operation has no default amount"),
    (ShopOperation.REFUND_ITEM, 0, "0 is not within 1 to 1000"),
    (ShopOperation.REFUND_ITEM, 1_001, "1001 is not within 1 to 1000"),
    (ShopOperation.REFUND_ITEM, -1, "-1 has the wrong sign: this operation gives credits"),
    (ShopOperation.PURCHASE, 1, "1 has the wrong sign: this operation takes credits"),
    (ShopOperation.PURCHASE, -1_001, "-1001 is not within -1000 to -1"),
    (ShopOperation.CONTENT_ACCESS, 1, "is fixed at 0 for this operation"),
    (ADJUST, INT64_MAX + 1, "is outside the range of a 64-bit integer"),
    (ADJUST, INT64_MIN - 1, "is outside the range of a 64-bit integer"),
    pytest.param(ADJUST, 10**5000, "is outside the range of a 64-bit integer", id="huge"),
    (ADJUST, math.nan, "is a whole number, not float"),
]


@pytest.mark.parametrize(("operation", "amount", "problem"), BAD_AMOUNTS)
def test_amount_that_breaks_the_rule_is_refused(
    operation: Any, amount: object, problem: str
) -> None:
    refusal = invalid(SHOP, operation=operation, amount=amount)
    assert (refusal.field, refusal.problem) == ("amount", problem)


def test_amount_that_agrees_with_a_fixed_one_may_be_given() -> None:
    assert shared(ADD, amount=10).amount == shared(ADD).amount == 10


@pytest.mark.parametrize("amount", [INT64_MIN + 1, -1, 0, 1, INT64_MAX])
def test_bounds_are_inclusive(amount: int) -> None:
    assert shop(ADJUST, amount=amount).amount == amount


def nested(levels: int) -> dict[str, Any]:
    value: Any = 0
    for _ in range(levels - 1):
        value = [value]
    return {"a": value}


CYCLE: dict[str, Any] = {}
CYCLE["again"] = CYCLE

BAD_METADATA: list[tuple[Any, str]] = [
    ([], "is a JSON object, not list"),
    ("{}", "is a JSON object, not str"),
    (1, "is a JSON object, not int"),
    ({"a": math.nan}, "is not JSON: "),
    ({"a": math.inf}, "is not JSON: "),
    ({"a": b"bytes"}, "is not JSON: "),
    ({"a": {1, 2}}, "is not JSON: "),
    ({"a": NOW}, "is not JSON: "),
    ({"a": Decimal(1)}, "is not JSON: "),
    ({"a": "\ud800"}, "is not JSON: "),
    ({"\udfff": 1}, "is not JSON: "),
    ({"a": 10**5000}, "is not JSON: "),
    (CYCLE, "is not JSON: "),
    ({1: "a"}, "is not JSON: keys are strings"),
    ({None: "a"}, "is not JSON: keys are strings"),
    ({"a": {True: 1}}, "is not JSON: keys are strings"),
    ({("a", "b"): 1}, "is not JSON: "),
    ({"a": (1, 2)}, "is not JSON: keys are strings, sequences are lists"),
    ({"a": "\0"}, "holds a NUL character"),
    ({"\0": 1}, "holds a NUL character"),
    ({"a": "\\\0"}, "holds a NUL character"),
    ({"a": "x" * MAX_METADATA_BYTES}, "is 8200 bytes of JSON, over 8192"),
    ({"a": "ö" * (MAX_METADATA_BYTES // 2)}, "is 8200 bytes of JSON, over 8192"),
    (nested(MAX_METADATA_DEPTH + 1), "is nested deeper than 64 levels"),
    (nested(100_000), "is not JSON: "),
]


@pytest.mark.parametrize(("metadata", "problem"), BAD_METADATA)
def test_metadata_that_cannot_be_kept_is_refused(metadata: object, problem: str) -> None:
    refusal = invalid(SHARED, metadata=metadata)
    assert refusal.field == "metadata"
    assert refusal.problem.startswith(problem)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"a": None, "b": [1, 2.5, "x", True, {"c": []}]},
        {"a": "\\u0000"},
        {"a": "x" * (MAX_METADATA_BYTES - len('{"a":""}'))},
        nested(MAX_METADATA_DEPTH),
        {str(number): [] for number in range(500)},
        {"a": 10**100, "b": 1e15, "c": 5e-324},
    ],
)
def test_metadata_of_json_is_taken(metadata: dict[str, Any]) -> None:
    assert posted(outcome_of(shared(ADD, metadata=metadata))).entry.metadata == metadata


def test_float_that_the_database_gives_back_whole_is_whole_at_once() -> None:
    entry = posted(outcome_of(shared(ADD, metadata={"a": 1e300}))).entry
    assert entry.metadata == {"a": 10**300}


def test_callers_metadata_may_change_afterwards() -> None:
    metadata = {"tags": ["a"]}
    command = shared(ADD, metadata=metadata)
    metadata["tags"].append("b")
    assert posted(outcome_of(command)).entry.metadata == {"tags": ["a"]}


OBJECTS: list[object] = [
    *SharedOperation, *ShopOperation, Mixed.ANN, object(), str, Ellipsis,
]  # fmt: skip

ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.complex_numbers(), st.binary(),
        st.text(st.characters()), st.text(st.characters(categories=["Cs", "Cc", "Zs", "Mn"])),
        st.decimals(), st.fractions(), st.datetimes(), st.uuids(),
        # By index: Hypothesis would take a member that is drawn for a string of its own.
        st.integers(0, len(OBJECTS) - 1).map(OBJECTS.__getitem__),
    ),
    lambda children: st.one_of(
        st.lists(children), st.tuples(children), st.frozensets(st.integers()),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.none()), children),
    ),
    max_leaves=10,
)  # fmt: skip


@given(ANYTHING, ANYTHING, ANYTHING, ANYTHING, ANYTHING)
def test_no_value_at_all_gives_another_error_than_invalid_posting(
    operation: Any, owner_id: Any, nonce: Any, amount: Any, metadata: Any
) -> None:
    good: dict[str, Any] = {"operation": ADD, "owner_id": "user1", "nonce": "n1"}
    bad = {
        "operation": operation, "owner_id": owner_id, "nonce": nonce, "amount": amount,
        "metadata": metadata,
    }  # fmt: skip
    # Each by itself, so that a wrong one does not hide another; then all together.
    for fields in [{name: value} for name, value in bad.items()] + [bad]:
        for application in (SHARED, SHOP):
            problem = None
            try:
                outcome_of(command_of(application, Posting(**{**good, **fields})))
            except InvalidPosting as refusal:
                problem = refusal
            if problem is not None:
                # Of an operation without a default the amount is missing.
                assert problem.field in {*fields, "amount"}
                assert str(problem).startswith(f"{problem.field} ")
