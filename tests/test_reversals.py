"""Reversals: an entry is taken back in part or whole, and never more than it was."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from builders import (
    CLUB,
    SHARED,
    SHOP,
    ClubOperation,
    ShopOperation,
    adjust,
    assert_sound,
    balances,
    bonus,
    buy,
    gift,
    query,
    reserve,
)
from conftest import Clock
from shared_ledger import (
    AlreadyClaimed,
    CaptureHold,
    Entry,
    EntryNotFound,
    Group,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    NonceReused,
    NotReversible,
    Part,
    Posted,
    Posting,
    Refusal,
    Reversal,
    ReversalExceedsEntry,
    Transfer,
)
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster

Club = Ledger[ClubOperation]
Shop = Ledger[ShopOperation]
REFUND = ShopOperation.REFUND_ITEM
HOUR = timedelta(hours=1)


@pytest.fixture
def club(clock: Clock, cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger over a new book, which is sound whatever a test does."""
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as club:
        yield club
        assert_sound(cluster.url, schema)


@pytest.fixture
def shop(clock: Clock, cluster: Cluster, schema: str) -> Iterator[Shop]:
    """A ledger that names its refunds, over a new book, which is sound whatever a test does."""
    with Ledger(SHOP, clock.url, schema=schema, migrate=True) as shop:
        yield shop
        assert_sound(cluster.url, schema)


def newest(club: Club, owner_id: str = "ann") -> Entry:
    return club.history(owner_id, limit=1).entries[0]


# --- of each kind of entry ---


def test_spend_is_taken_back(club: Club, cluster: Cluster, schema: str) -> None:
    club.post(gift("ann", "funds", 10))
    spent = club.post(buy("ann", "b", 4)).entry
    back = club.post(Reversal(spent.id, "r", metadata={"why": "rain"})).entry
    assert (back.operation, back.amount, back.counterparty) == ("REVERSAL", 4, "@spent")
    assert (back.reverses, back.balance_after) == (spent.id, 10)
    assert back.metadata == {"why": "rain"}
    assert balances(cluster.url, schema)["@spent", "credits"] == 0


def test_gain_is_taken_back(club: Club, cluster: Cluster, schema: str) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    back = club.post(Reversal(given.id, "r")).entry
    assert (back.amount, back.counterparty, back.balance_after) == (-10, "@issued", 0)
    assert balances(cluster.url, schema)["@issued", "credits"] == 0


def test_capture_is_taken_back(club: Club) -> None:
    club.post(gift("ann", "funds", 10))
    hold = club.post(reserve("ann", "h", 6)).hold
    captured = club.post(CaptureHold(hold.id, "c", 4, final=False)).entry
    club.post(Reversal(captured.id, "r"))
    balance = club.balance("ann")
    # To the owner, and not to the hold.
    assert (balance.balance, balance.held) == (10, 2)


def test_entry_of_a_group_is_taken_back_alone(club: Club) -> None:
    parts = [Part(ClubOperation.GIFT, owner_id, 5) for owner_id in ("ann", "bob")]
    group = club.post(Group("g", parts))
    club.post(Reversal(group.group[0].id, "r"))
    assert [club.balance(owner_id).balance for owner_id in ("ann", "bob")] == [5, 0]


@pytest.mark.parametrize("side", [0, 1])
def test_transfer_is_taken_back_from_either_side(club: Club, side: int) -> None:
    club.post(gift("ann", "funds", 10))
    sent = club.post(Transfer(source="ann", destination="bob", amount=4, nonce="t"))
    entry = (sent.entry, *sent.group)[side]
    back = club.post(Reversal(entry.id, "r"))
    assert (back.entry.owner_id, back.entry.amount) == ("ann", 4)
    assert (back.group[0].owner_id, back.group[0].amount) == ("bob", -4)
    assert (back.entry.reverses, back.group[0].reverses) == (sent.entry.id, sent.group[0].id)
    assert [club.balance(owner_id).balance for owner_id in ("ann", "bob")] == [10, 0]
    for each in (sent.entry, *sent.group):
        with pytest.raises(ReversalExceedsEntry):
            club.post(Reversal(each.id, "again"))
        assert club.post(Reversal(each.id, "r")) == Posted(back.entry, True, back.group)


def test_what_moved_nothing_or_is_the_ledgers_own_is_not_reversible(
    club: Club, clock: Clock
) -> None:
    club.post(gift("ann", "funds", 10))
    placing = club.post(reserve("ann", "h", 1)).hold.id
    spent = club.post(buy("ann", "b", 4)).entry
    reversal = club.post(Reversal(spent.id, "r")).entry.id
    club.post(bonus("ann", "short", 1, expires_in=HOUR))
    clock.move(HOUR)
    club.sweep()
    expiry = newest(club).id
    for entry_id, reason in [
        (placing, "it moved nothing"),
        (reversal, "it is a reversal itself"),
        (expiry, "it books what has expired"),
    ]:
        with pytest.raises(NotReversible) as caught:
            club.post(Reversal(entry_id, "r2"))
        assert caught.value.reason == reason


def test_entry_of_another_application_is_not_found(
    club: Club, cluster: Cluster, schema: str
) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True) as other:
        for entry_id in (given.id, given.id + 99):
            with pytest.raises(EntryNotFound):
                other.post(Reversal(entry_id, "r"))
    assert club.balance("ann").balance == 10


def test_reversal_with_a_wrong_field_is_refused_by_its_name(club: Club) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    for reversal, field in [
        (Reversal(0, "r"), "entry_id"),
        (Reversal(given.id, ""), "nonce"),
        (Reversal(given.id, "r", 0), "amount"),
        (Reversal(given.id, "r", -1), "amount"),
    ]:
        with pytest.raises(InvalidPosting) as caught:
            club.post(reversal)
        assert caught.value.field == field


# --- how much ---


def test_reversals_add_up_to_no_more_than_the_entry(club: Club) -> None:
    club.post(gift("ann", "funds", 10))
    spent = club.post(buy("ann", "b", 6)).entry
    club.post(Reversal(spent.id, "r1", 2))
    club.post(Reversal(spent.id, "r2", 3))
    with pytest.raises(ReversalExceedsEntry) as caught:
        club.post(Reversal(spent.id, "r3", 2))
    assert (caught.value.left, caught.value.required) == (1, 2)
    assert club.post(Reversal(spent.id, "r4")).entry.amount == 1
    with pytest.raises(ReversalExceedsEntry) as caught:
        club.post(Reversal(spent.id, "r5"))
    assert caught.value.left == 0
    assert club.balance("ann").balance == 10


def test_reversals_in_one_batch_add_up_too(club: Club) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    outcomes = club.post_batch([Reversal(given.id, f"r{n}", 4) for n in range(3)])
    assert [type(outcome) for outcome in outcomes] == [Posted, Posted, ReversalExceedsEntry]
    assert club.balance("ann").balance == 2


def test_repeated_reversal_replays(club: Club, cluster: Cluster, schema: str) -> None:
    club.post(gift("ann", "funds", 10))
    spent = club.post(buy("ann", "b", 6)).entry
    first = club.post(Reversal(spent.id, "r", 6))
    assert club.post(Reversal(spent.id, "r", 6)) == Posted(first.entry, replayed=True)
    # What was left out asks for what was decided then.
    assert club.post(Reversal(spent.id, "r")) == Posted(first.entry, replayed=True)
    with pytest.raises(NonceReused) as caught:
        club.post(Reversal(spent.id, "r", 5))
    assert caught.value.field == "amount"
    assert query(cluster.url, f"select count(*) from {schema}.entries") == [(3,)]


def test_repeated_reversal_of_another_entry_is_refused(club: Club) -> None:
    first, second = (club.post(gift("ann", str(n), 5)).entry for n in range(2))
    club.post(Reversal(first.id, "r"))
    with pytest.raises(NonceReused) as caught:
        club.post(Reversal(second.id, "r"))
    assert caught.value.field == "entry_id"
    with pytest.raises(NonceReused) as caught:
        club.post(Reversal(second.id, "1"))
    assert (caught.value.recorded, caught.value.given) == ("posting", "reversal")


def test_reversal_of_a_transfer_may_be_partial(club: Club) -> None:
    club.post(gift("ann", "funds", 10))
    sent = club.post(Transfer(source="ann", destination="bob", amount=6, nonce="t"))
    club.post(Reversal(sent.group[0].id, "r1", 2))
    with pytest.raises(ReversalExceedsEntry) as caught:
        club.post(Reversal(sent.entry.id, "r2", 5))
    assert caught.value.left == 4
    club.post(Reversal(sent.entry.id, "r3"))
    assert [club.balance(owner_id).balance for owner_id in ("ann", "bob")] == [10, 0]


def test_reversal_gives_no_claim_back(club: Club) -> None:
    claimed = club.post(Posting(ClubOperation.SIGNUP_CREDIT, "ann", "first")).entry
    club.post(Reversal(claimed.id, "r"))
    with pytest.raises(AlreadyClaimed):
        club.post(Posting(ClubOperation.SIGNUP_CREDIT, "ann", "second"))


# --- credits that expire ---


def test_reversed_spend_goes_back_to_what_paid_the_last_first(club: Club) -> None:
    club.post(bonus("ann", "first", 3, priority=1))
    club.post(bonus("ann", "second", 3, priority=2))
    club.post(gift("ann", "plain", 3))
    spent = club.post(buy("ann", "b", 8)).entry
    club.post(Reversal(spent.id, "r1", 3))
    assert [(grant.priority, grant.remaining) for grant in club.grants("ann")] == [(2, 1)]
    club.post(Reversal(spent.id, "r2", 4))
    assert [(grant.priority, grant.remaining) for grant in club.grants("ann")] == [(1, 2), (2, 3)]
    club.post(Reversal(spent.id, "r3"))
    assert [grant.remaining for grant in club.grants("ann")] == [3, 3]
    assert club.balance("ann").balance == 9


def test_what_paid_and_expired_meanwhile_expires_again_at_once(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 3, expires_in=HOUR))
    spent = club.post(buy("ann", "b1", 3)).entry
    clock.move(2 * HOUR)
    club.post(Reversal(spent.id, "r"))
    expiry, back, *_ = club.history("ann").entries
    assert (back.amount, back.balance_after) == (3, 3)
    assert (expiry.operation, expiry.amount, expiry.balance_after) == ("EXPIRY", -3, 0)
    with pytest.raises(ReversalExceedsEntry):
        club.post(Reversal(spent.id, "again"))


def test_reversed_gain_is_taken_of_the_credits_it_gave(club: Club) -> None:
    club.post(bonus("ann", "first", 3, priority=1))
    given = club.post(bonus("ann", "second", 3, priority=2)).entry
    club.post(Reversal(given.id, "r", 2))
    assert [(grant.priority, grant.remaining) for grant in club.grants("ann")] == [(1, 3), (2, 1)]


def test_expired_gain_cannot_be_taken_back(club: Club, clock: Clock) -> None:
    given = club.post(bonus("ann", "b", 5, expires_in=HOUR)).entry
    club.post(gift("ann", "plain", 100))
    club.post(buy("ann", "b1", 2))
    clock.move(HOUR)
    with pytest.raises(ReversalExceedsEntry) as caught:
        club.post(Reversal(given.id, "all", 3))
    assert caught.value.left == 2
    club.post(Reversal(given.id, "what was spent"))
    assert club.balance("ann").balance == 98


def test_transfer_of_expiring_credits_is_taken_back_to_their_grants(
    club: Club, clock: Clock
) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR, priority=7))
    sent = club.post(Transfer(source="ann", destination="bob", amount=5, nonce="t"))
    club.post(Reversal(sent.entry.id, "r", 2))
    assert [(grant.priority, grant.remaining) for grant in club.grants("ann")] == [(7, 2)]
    assert [grant.remaining for grant in club.grants("bob")] == [3]
    clock.move(HOUR)
    with pytest.raises(ReversalExceedsEntry):
        club.post(Reversal(sent.entry.id, "r2"))


# --- debt ---


def test_reversal_of_what_was_spent_is_refused_without_leave(club: Club) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    club.post(buy("ann", "b", 7))
    with pytest.raises(InsufficientCredits) as caught:
        club.post(Reversal(given.id, "r"))
    assert (caught.value.available, caught.value.required) == (3, 10)
    assert club.balance("ann").balance == 3


def test_debt_is_reported_and_paid_back_first(club: Club, cluster: Cluster, schema: str) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    club.post(buy("ann", "b", 7))
    club.post(Reversal(given.id, "r", allow_debt=True))
    balance = club.balance("ann")
    assert (balance.balance, balance.available, balance.debt) == (-7, 0, 7)
    stored = f"select debt from {schema}.accounts where owner_id = 'ann'"
    assert query(cluster.url, stored) == [(7,)]
    club.post(gift("ann", "g1", 5))
    assert club.balance("ann").debt == 2
    with pytest.raises(InsufficientCredits):
        club.post(buy("ann", "b2", 1))
    club.post(gift("ann", "g2", 5))
    balance = club.balance("ann")
    assert (balance.balance, balance.available, balance.debt) == (3, 3, 0)
    assert query(cluster.url, stored) == [(0,)]


def test_debt_is_paid_with_expiring_credits_too(club: Club, clock: Clock) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    club.post(buy("ann", "b", 7))
    club.post(Reversal(given.id, "r", allow_debt=True))
    club.post(bonus("ann", "bonus", 10, expires_in=HOUR))
    balance = club.balance("ann")
    assert (balance.balance, balance.expiring, balance.debt) == (3, 3, 0)
    clock.move(HOUR)
    # What has paid the debt is not there to expire.
    assert club.balance("ann").balance == 0


def test_debtor_can_neither_hold_nor_transfer(club: Club) -> None:
    given = club.post(gift("ann", "funds", 10)).entry
    club.post(buy("ann", "b", 7))
    club.post(Reversal(given.id, "r", allow_debt=True))
    with pytest.raises(InsufficientCredits):
        club.post(reserve("ann", "h", 1))
    with pytest.raises(InsufficientCredits):
        club.post(Transfer(source="ann", destination="bob", amount=1, nonce="t"))


def test_reversal_of_a_transfer_may_leave_the_receiver_in_debt(club: Club) -> None:
    club.post(gift("ann", "funds", 10))
    sent = club.post(Transfer(source="ann", destination="bob", amount=4, nonce="t"))
    club.post(buy("bob", "b", 3))
    with pytest.raises(InsufficientCredits) as caught:
        club.post(Reversal(sent.entry.id, "r"))
    assert (caught.value.owner_id, caught.value.available) == ("bob", 1)
    assert club.balance("ann").balance == 6
    club.post(Reversal(sent.entry.id, "r", allow_debt=True))
    assert (club.balance("ann").balance, club.balance("bob").debt) == (10, 3)


async def test_coroutine_reverses(club: Club) -> None:
    given = (await club.apost(gift("ann", "funds", 10))).entry
    assert (await club.apost(Reversal(given.id, "r"))).entry.amount == -10
    outcomes = await club.apost_batch([Reversal(given.id, "r"), Reversal(given.id, "r2")])
    assert [type(outcome) for outcome in outcomes] == [Posted, ReversalExceedsEntry]


# --- under an operation of the application's own ---


def voucher(nonce: str, amount: int) -> Posting[ShopOperation]:
    return Posting(ShopOperation.ADJUSTMENT, "ann", nonce, amount, expires_in=HOUR)


def purchase(shop: Shop, amount: int) -> Entry:
    """A purchase for which a voucher of 6 pays first, and then what never expires."""
    shop.post_batch([adjust("ann", "funds", 10_000), voucher("voucher", 6)])
    return shop.post(Posting(ShopOperation.PURCHASE, "ann", "bought", -amount)).entry


def left(shop: Shop) -> list[int]:
    return [grant.remaining for grant in shop.grants("ann")]


def test_refund_in_parts_goes_back_to_what_paid_and_never_is_more(
    shop: Shop, cluster: Cluster, schema: str
) -> None:
    bought = purchase(shop, 10)
    refund = shop.post(Reversal(bought.id, "r1", 7, metadata={"item": 1}, operation=REFUND)).entry
    assert (refund.operation, refund.amount, refund.reverses) == ("REFUND_ITEM", 7, bought.id)
    assert (refund.counterparty, refund.metadata) == (bought.counterparty, {"item": 1})
    assert left(shop) == [3]
    with pytest.raises(ReversalExceedsEntry) as caught:
        shop.post(Reversal(bought.id, "r2", 4, operation=REFUND))
    assert (caught.value.left, caught.value.required) == (3, 4)
    assert shop.post(Reversal(bought.id, "r3", operation=REFUND)).entry.amount == 3
    assert left(shop) == [6]
    # Under whatever name.
    for operation in (None, REFUND):
        with pytest.raises(ReversalExceedsEntry):
            shop.post(Reversal(bought.id, "r4", operation=operation))
    assert balances(cluster.url, schema)["@spent", "credits"] == 0


def test_gain_is_taken_back_under_an_operation_that_takes(
    shop: Shop, cluster: Cluster, schema: str
) -> None:
    given = shop.post(adjust("ann", "given", 10)).entry
    back = shop.post(Reversal(given.id, "r", operation=ShopOperation.PURCHASE)).entry
    assert (back.operation, back.amount, back.balance_after) == ("PURCHASE", -10, 0)
    # From where it came, and not to where a purchase goes.
    assert back.counterparty == given.counterparty
    assert balances(cluster.url, schema)[given.counterparty, "credits"] == 0


def test_named_reversal_replays(shop: Shop, cluster: Cluster, schema: str) -> None:
    bought = purchase(shop, 10)
    named = shop.post(Reversal(bought.id, "named", 4, operation=REFUND))
    again = Posted(named.entry, replayed=True)
    assert shop.post(Reversal(bought.id, "named", 4, operation=REFUND)) == again
    # What was left out asks for what was decided then.
    assert shop.post(Reversal(bought.id, "named")) == again
    assert query(cluster.url, f"select count(*) from {schema}.entries") == [(4,)]


def test_repeated_reversal_under_another_operation_is_refused(shop: Shop) -> None:
    bought = purchase(shop, 10)
    shop.post(Reversal(bought.id, "named", 4, operation=REFUND))
    shop.post(Reversal(bought.id, "plain", 4))
    for nonce, operation, recorded in [
        ("named", ShopOperation.ADJUSTMENT, "REFUND_ITEM"),
        ("plain", REFUND, "REVERSAL"),
    ]:
        with pytest.raises(NonceReused) as caught:
            shop.post(Reversal(bought.id, nonce, 4, operation=operation))
        assert (caught.value.field, caught.value.recorded) == ("operation", recorded)
        assert caught.value.given == operation
    with pytest.raises(NonceReused) as caught:
        shop.post(Posting(REFUND, "ann", "named", 4))
    assert (caught.value.recorded, caught.value.given) == ("reversal", "posting")


@pytest.mark.parametrize(
    ("operation", "amount", "problem"),
    [
        (ShopOperation.PURCHASE, 4, "4 has the wrong sign: this operation takes credits"),
        (ShopOperation.PURCHASE, None, "1500 has the wrong sign: this operation takes credits"),
        (ShopOperation.CREDIT_ADD, 4, "is fixed at 10 for this operation"),
        (ShopOperation.CONTENT_ACCESS, None, "is fixed at 0 for this operation"),
        (REFUND, 1_001, "1001 is not within 1 to 1000"),
        (REFUND, None, "1500 is not within 1 to 1000"),
    ],
)
def test_reversal_of_more_than_its_operation_allows_is_refused(
    shop: Shop, operation: ShopOperation, amount: int | None, problem: str
) -> None:
    shop.post(adjust("ann", "funds", 10_000))
    spent = shop.post(adjust("ann", "spent", -1_500)).entry
    with pytest.raises(InvalidPosting) as caught:
        shop.post(Reversal(spent.id, "r", amount, operation=operation))
    assert (caught.value.field, caught.value.problem) == ("amount", problem)
    # What is left of it may be allowed.
    shop.post(Reversal(spent.id, "r", 500, operation=REFUND))
    assert shop.post(Reversal(spent.id, "rest", operation=REFUND)).entry.amount == 1_000


@pytest.mark.parametrize(
    ("operation", "problem"),
    [
        ("GIFT", "'GIFT' is not one of shop's"),
        ("REVERSAL", "'REVERSAL' is not one of shop's"),
        (ShopOperation.SIGNUP_CREDIT, "SIGNUP_CREDIT is allowed once per period"),
        (ShopOperation.DAILY_REWARD, "DAILY_REWARD is allowed once per period"),
        (ShopOperation.LOYALTY_POINT, "LOYALTY_POINT moves points, but the entry moved credits"),
    ],
)
def test_operation_that_cannot_show_a_reversal_is_refused(
    shop: Shop, operation: Any, problem: str
) -> None:
    bought = purchase(shop, 10)
    with pytest.raises(InvalidPosting) as caught:
        shop.post(Reversal(bought.id, "r", 1, operation=operation))
    assert caught.value.field == "operation"
    assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize(
    "operation", [ClubOperation.BONUS, ClubOperation.PROMOTION, ClubOperation.DAILY_PROMOTION]
)
def test_operation_with_an_expiry_or_a_budget_shows_no_reversal(
    club: Club, operation: ClubOperation
) -> None:
    club.post(gift("ann", "funds", 10))
    spent = club.post(buy("ann", "b", 4)).entry
    with pytest.raises(InvalidPosting) as caught:
        club.post(Reversal(spent.id, "r", operation=operation))
    assert caught.value.field == "operation"
    assert caught.value.problem.startswith(f"{operation} has an expiry or a budget")


def test_reversal_of_a_transfer_is_the_ledgers_own(shop: Shop) -> None:
    shop.post(adjust("ann", "funds", 10))
    sent = shop.post(Transfer(source="ann", destination="bob", amount=4, nonce="t"))
    for entry in (sent.entry, *sent.group):
        with pytest.raises(InvalidPosting) as caught:
            shop.post(Reversal(entry.id, "r", operation=ShopOperation.ADJUSTMENT))
        assert caught.value.field == "operation"


def test_refund_is_not_reversible(shop: Shop) -> None:
    bought = purchase(shop, 10)
    refund = shop.post(Reversal(bought.id, "r", operation=REFUND)).entry
    for operation in (None, ShopOperation.PURCHASE):
        with pytest.raises(NotReversible) as caught:
            shop.post(Reversal(refund.id, "r2", operation=operation))
        assert caught.value.reason == "it is a reversal itself"


def test_named_reversals_in_a_batch_see_each_other(shop: Shop) -> None:
    bought = purchase(shop, 10)
    parts = [Reversal(bought.id, f"r{n}", 4, operation=REFUND) for n in range(3)]
    refused = shop.post_batch(parts, atomic=True)
    assert [outcome.code for outcome in refused if isinstance(outcome, Refusal)] == [
        "batch_refused",
        "batch_refused",
        "reversal_exceeds_entry",
    ]
    outcomes = shop.post_batch([*parts, Reversal(bought.id, "rest", operation=REFUND)])
    assert [type(outcome) for outcome in outcomes] == [Posted, Posted, ReversalExceedsEntry, Posted]
    assert left(shop) == [6]


def test_refund_is_quoted_and_posted_in_the_callers_transaction(shop: Shop, clock: Clock) -> None:
    bought = purchase(shop, 10)
    refund = Reversal(bought.id, "r", operation=REFUND)
    (quoted,) = shop.quote(refund).entries
    assert (quoted.operation, quoted.amount) == ("REFUND_ITEM", 10)
    too_little = Reversal(bought.id, "r", operation=ShopOperation.CONTENT_ACCESS)
    engine = make_engine(clock.url)
    with engine.begin() as connection:
        for ask in (shop.quote, partial(shop.post_in, connection)):
            with pytest.raises(InvalidPosting, match="amount is fixed at 0"):
                ask(too_little)
        entry = shop.post_in(connection, refund).entry
    engine.dispose()
    assert (entry.operation, entry.amount, entry.reverses) == ("REFUND_ITEM", 10, bought.id)
    assert left(shop) == [6]
