"""Credits that expire: which are spent first, what becomes of the others, and who holds them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from builders import CLUB, ClubOperation, assert_sound, balances, bonus, buy, gift, query, reserve
from conftest import Clock
from shared_ledger import (
    CaptureHold,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    NonceReused,
    Posting,
    ReleaseHold,
)
from shared_ledger.embedded import Cluster
from shared_ledger.requests import command_of
from shared_ledger.store import Store

Club = Ledger[ClubOperation]
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def club(clock: Clock, cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger over a new book, which is sound whatever a test does."""
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as club:
        yield club
        assert_sound(cluster.url, schema)


def left(club: Club, owner_id: str = "ann") -> dict[str, int]:
    """What is left of an owner's grants, in the order they are spent, by the nonce that gave it."""
    by_entry = {entry.id: entry.nonce for entry in club.history(owner_id, limit=1_000).entries}
    return {by_entry[grant.entry_id]: grant.remaining for grant in club.grants(owner_id)}


def burned(url: str, schema: str, nonce: str) -> list[tuple[str, int]]:
    """Which grants an entry burned, by the nonces that gave them, in the order of their ids."""
    rows = query(
        url,
        f"""
        select giver.nonce, burns.amount
        from {schema}.entries as taker
        join {schema}.burns on burns.entry_id = taker.id
        join {schema}.grants on grants.id = burns.grant_id
        join {schema}.entries as giver on giver.id = grants.entry_id
        where taker.nonce = %s
        order by grants.id
        """,
        nonce,
    )
    return [(giver, amount) for giver, amount in rows]


# --- giving ---


def test_rule_says_when_credits_expire_and_a_posting_may_say_otherwise(
    club: Club, clock: Clock
) -> None:
    usual = club.post(bonus("ann", "usual", 5)).entry
    other = club.post(bonus("ann", "other", 5, expires_in=HOUR, priority=3)).entry
    plain = club.post(gift("ann", "plain", 5)).entry
    assert (usual.expires_on, usual.priority) == (clock.now() + 30 * DAY, 10)
    assert (other.expires_on, other.priority) == (clock.now() + HOUR, 3)
    assert (plain.expires_on, plain.priority) == (None, None)
    assert club.balance("ann").expiring == 10


def test_any_gift_may_be_told_to_expire(club: Club, clock: Clock) -> None:
    club.post(Posting(ClubOperation.GIFT, "ann", "g", 5, expires_in=HOUR))
    clock.move(HOUR)
    assert club.balance("ann").balance == 0


@pytest.mark.parametrize(
    ("posting", "field"),
    [
        (Posting(ClubOperation.PURCHASE, "ann", "b", -1, expires_in=HOUR), "expires_in"),
        (Posting(ClubOperation.PURCHASE, "ann", "b", -1, priority=1), "priority"),
        (Posting(ClubOperation.GIFT, "ann", "g", 1, priority=1), "priority"),
        (bonus("ann", "g", 1, priority=1_001), "priority"),
        (bonus("ann", "g", 1, expires_in=timedelta()), "expires_in"),
        (bonus("ann", "g", 1, expires_in=timedelta(days=36_526)), "expires_in"),
    ],
)
def test_expiry_that_makes_no_sense_is_refused_by_its_field(
    posting: Posting[ClubOperation], field: str
) -> None:
    with pytest.raises(InvalidPosting) as caught:
        command_of(CLUB, posting)
    assert caught.value.field == field


def test_repeated_gift_that_would_expire_otherwise_is_refused(club: Club) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR, priority=3))
    assert club.post(bonus("ann", "b", 5)).replayed
    assert club.post(bonus("ann", "b", 5, expires_in=HOUR, priority=3)).replayed
    with pytest.raises(NonceReused) as caught:
        club.post(bonus("ann", "b", 5, expires_in=2 * HOUR))
    assert caught.value.field == "expires_in"
    with pytest.raises(NonceReused) as caught:
        club.post(bonus("ann", "b", 5, priority=4))
    assert caught.value.field == "priority"
    assert left(club) == {"b": 5}


# --- spending ---


def test_credits_are_spent_by_priority_then_expiry_then_age_then_id(
    club: Club, clock: Clock
) -> None:
    club.post(gift("ann", "plain", 5))
    club.post(bonus("ann", "late", 5, expires_in=9 * HOUR, priority=1))
    club.post(bonus("ann", "old", 5, expires_in=5 * HOUR, priority=1))
    clock.move(HOUR)
    club.post(bonus("ann", "young", 5, expires_in=4 * HOUR, priority=1))
    club.post(bonus("ann", "young, larger id", 5, expires_in=4 * HOUR, priority=1))
    club.post(bonus("ann", "first of all", 5, expires_in=99 * HOUR, priority=0))
    order = ["first of all", "old", "young", "young, larger id", "late"]
    assert list(left(club)) == order
    for number, name in enumerate(order):
        club.post(buy("ann", name + " 1", 3))
        assert left(club) == {name: 2} | dict.fromkeys(order[number + 1 :], 5)
        club.post(buy("ann", name + " 2", 2))
    balance = club.balance("ann")
    assert (balance.balance, balance.expiring) == (5, 0)


def test_one_spend_takes_several_in_the_same_order(club: Club) -> None:
    club.post(bonus("ann", "third", 5, expires_in=HOUR, priority=2))
    club.post(bonus("ann", "second", 5, expires_in=9 * HOUR, priority=1))
    club.post(bonus("ann", "first", 5, expires_in=5 * HOUR, priority=1))
    club.post(buy("ann", "b", 8))
    assert left(club) == {"second": 2, "third": 5}
    club.post(reserve("ann", "h", 4))
    assert left(club) == {"third": 3}


def test_entry_records_which_credits_paid_for_it(club: Club, cluster: Cluster, schema: str) -> None:
    club.post(bonus("ann", "first", 5, priority=1))
    club.post(bonus("ann", "second", 5, priority=2))
    club.post(gift("ann", "plain", 5))
    club.post(buy("ann", "b", 12))
    assert burned(cluster.url, schema, "b") == [("first", 5), ("second", 5)]
    assert club.balance("ann").balance == 3


def test_one_batch_spends_what_it_gives(club: Club) -> None:
    club.post_batch(
        [
            bonus("ann", "first", 5, priority=1),
            buy("ann", "b1", 3),
            bonus("ann", "second", 5, priority=0),
            buy("ann", "b2", 6),
        ]
    )
    assert left(club) == {"first": 1}


# --- expiring ---


def test_expired_credits_do_not_count_before_any_sweep(
    club: Club, clock: Clock, cluster: Cluster, schema: str
) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    club.post(gift("ann", "plain", 2))
    clock.move(HOUR - timedelta(microseconds=1))
    assert club.balance("ann").available == 7
    clock.move(timedelta(microseconds=1))
    balance = club.balance("ann")
    assert (balance.balance, balance.available, balance.expiring) == (2, 2, 0)
    assert balances(cluster.url, schema)["ann", "credits"] == 7, "nothing was booked for asking"
    with pytest.raises(InsufficientCredits) as caught:
        club.post(buy("ann", "too much", 3))
    assert caught.value.available == 2


def test_expiry_is_booked_before_anything_else_with_its_own_time(
    club: Club, clock: Clock, cluster: Cluster, schema: str
) -> None:
    given = club.post(bonus("ann", "b", 5, expires_in=HOUR)).entry
    clock.move(3 * HOUR)
    club.post(gift("ann", "later", 1))
    later, expiry, _ = club.history("ann").entries
    assert (later.nonce, later.balance_after) == ("later", 1)
    assert (expiry.operation, expiry.app, expiry.counterparty) == ("EXPIRY", "club", "@expired")
    assert (expiry.amount, expiry.balance_after) == (-5, 0)
    assert (expiry.effective_on, expiry.created_on) == (given.expires_on, clock.now())
    assert expiry.nonce == f"@{expiry.id}"
    assert balances(cluster.url, schema)["@expired", "credits"] == 5
    assert burned(cluster.url, schema, expiry.nonce) == [("b", 5)]


def test_only_what_is_left_expires(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    club.post(buy("ann", "some", 3))
    clock.move(HOUR)
    assert club.sweep() == 1
    assert club.history("ann").entries[0].amount == -2
    assert club.balance("ann").balance == 0


def test_several_expire_in_the_order_of_time(club: Club, clock: Clock) -> None:
    for hours in (3, 1, 2, 9):
        club.post(bonus("ann", str(hours), hours, expires_in=hours * HOUR, priority=9 - hours))
    clock.move(5 * HOUR)
    club.sweep()
    assert [-entry.amount for entry in club.history("ann").entries[:3]] == [3, 2, 1]
    assert left(club) == {"9": 9}


def test_sweep_takes_what_was_due_longest_ago_and_comes_to_an_end(club: Club, clock: Clock) -> None:
    for hours in (3, 1, 2):
        club.post(bonus(f"user{hours}", "b", 5, expires_in=hours * HOUR))
    clock.move(3 * HOUR)
    assert club.sweep(limit=2) == 2
    assert [len(club.history(f"user{n}").entries) for n in (1, 2)] == [2, 2]
    assert club.sweep() == 1
    assert club.sweep() == 0


def test_account_whose_next_credits_expire_later_is_swept_again(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "1", 1, expires_in=HOUR))
    club.post(bonus("ann", "2", 1, expires_in=2 * HOUR))
    clock.move(HOUR)
    assert club.sweep() == 1
    clock.move(HOUR)
    assert club.sweep() == 1
    assert club.balance("ann").balance == 0


# --- holds ---


def test_hold_reserves_what_a_spend_would_have_burned(
    club: Club, cluster: Cluster, schema: str
) -> None:
    club.post(bonus("ann", "first", 5, priority=1))
    club.post(bonus("ann", "second", 5, priority=2))
    club.post(gift("ann", "plain", 5))
    hold = club.post(reserve("ann", "h", 7)).hold
    assert left(club) == {"second": 3}
    assert club.balance("ann").expiring == 10
    club.post(buy("ann", "b", 4))
    assert burned(cluster.url, schema, "b") == [("second", 3)]
    club.post(CaptureHold(hold.id, "c", 6))
    assert burned(cluster.url, schema, "c") == [("first", 5), ("second", 1)]
    assert left(club) == {"second": 1}


def test_hold_keeps_credits_from_expiring(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    hold = club.post(reserve("ann", "h", 3, expires_in=DAY)).hold
    clock.move(2 * HOUR)
    balance = club.balance("ann")
    assert (balance.balance, balance.held, balance.available) == (3, 3, 0)
    club.post(CaptureHold(hold.id, "c"))
    assert club.balance("ann").balance == 0


def test_credits_released_after_their_expiry_expire_at_once(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    hold = club.post(reserve("ann", "h", 3, expires_in=DAY)).hold
    clock.move(2 * HOUR)
    club.post(ReleaseHold(hold.id, "r"))
    expiry, release, *_ = club.history("ann").entries
    assert (release.nonce, release.held_after, release.balance_after) == ("r", 0, 3)
    assert (expiry.operation, expiry.amount, expiry.balance_after) == ("EXPIRY", -3, 0)
    # With the release's time.
    assert expiry.created_on == release.created_on == clock.now()
    assert expiry.effective_on is None


def test_rest_of_a_final_capture_expires_at_once_too(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    hold = club.post(reserve("ann", "h", 5, expires_in=DAY)).hold
    clock.move(2 * HOUR)
    club.post(CaptureHold(hold.id, "c", 2))
    assert [entry.amount for entry in club.history("ann").entries[:2]] == [-3, -2]
    assert club.balance("ann").balance == 0


def test_credits_of_an_expired_hold_expire_at_its_time(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    hold = club.post(reserve("ann", "h", 5, expires_in=2 * HOUR)).hold
    clock.move(DAY)
    assert club.balance("ann").balance == 0
    club.sweep()
    credits_, held = club.history("ann").entries[:2]
    assert (held.amount, held.effective_on) == (0, hold.expires_on)
    assert (credits_.amount, credits_.effective_on) == (-5, hold.expires_on)


def test_credits_released_in_time_can_be_spent_again(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=DAY))
    hold = club.post(reserve("ann", "h", 5, expires_in=HOUR)).hold
    clock.move(2 * HOUR)
    assert club.hold(hold.id).expires_on < clock.now()
    assert club.balance("ann").available == 5
    assert left(club) == {"b": 5}
    clock.move(DAY)
    assert club.balance("ann").balance == 0


def test_only_as_many_grants_are_loaded_as_a_spend_may_take(
    club: Club, cluster: Cluster, schema: str
) -> None:
    club.post_batch([bonus("ann", str(number), 1) for number in range(200)])
    store = Store(cluster.url, schema)
    try:
        book = store.load([command_of(CLUB, buy("ann", "b", 3))], careful=True)
        store.rollback()
    finally:
        store.close()
    assert len(book.grants["ann", "credits"]) == 3


def test_account_of_which_nothing_had_expired_is_not_changed_by_looking(
    club: Club, clock: Clock, cluster: Cluster, schema: str
) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    last = club.post(buy("ann", "all", 5)).entry
    clock.move(HOUR)
    assert club.sweep() == 1
    assert club.sweep() == 0
    changed_on = f"select changed_on from {schema}.accounts where owner_id = 'ann'"
    assert query(cluster.url, changed_on) == [(last.created_on,)]
