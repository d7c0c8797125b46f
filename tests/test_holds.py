"""Holds: credits that are reserved until they are captured, released or expire."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    CLUB,
    SHARED,
    ClubOperation,
    add,
    assert_sound,
    bonus,
    buy,
    gift,
    query,
    reserve,
)
from conftest import Clock
from shared_ledger import (
    Balance,
    CaptureHold,
    Held,
    HoldClosed,
    HoldExceeded,
    HoldExpired,
    HoldNotFound,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    NonceReused,
    PlaceHold,
    Posted,
    ReleaseHold,
    SharedOperation,
    Transfer,
    ledger,
)
from shared_ledger.embedded import Cluster
from shared_ledger.requests import command_of
from shared_ledger.store import Store

Club = Ledger[ClubOperation]
HOUR = timedelta(hours=1)


@pytest.fixture
def club(clock: Clock, cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger whose owner "ann" has 100 credits; whatever a test does, its book is sound."""
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as club:
        club.post(gift("ann", "funds", 100))
        yield club
        assert_sound(cluster.url, schema)


def money(balance: Balance) -> tuple[int, int, int]:
    return balance.balance, balance.held, balance.available


def entries(url: str, schema: str) -> int:
    count: int = query(url, f"select count(*) from {schema}.entries")[0][0]
    return count


# --- placing ---


def test_hold_counts_at_once(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    assert (hold.state, hold.remaining) == ("open", 60)
    assert money(club.balance("ann")) == (100, 60, 40)
    with pytest.raises(InsufficientCredits) as caught:
        club.post(buy("ann", "too much", 41))
    assert (caught.value.available, caught.value.required) == (40, 41)
    club.post(buy("ann", "the rest", 40))


def test_hold_of_more_than_there_is_is_refused(club: Club, cluster: Cluster, schema: str) -> None:
    club.post(reserve("ann", "first", 60))
    with pytest.raises(InsufficientCredits):
        club.post(reserve("ann", "second", 41))
    assert len(club.holds("ann")) == 1
    assert query(cluster.url, f"select count(*) from {schema}.holds") == [(1,)]


def test_hold_is_named_by_the_entry_that_places_it(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    entry = club.history("ann").entries[0]
    assert (entry.id, entry.hold_id, entry.amount) == (hold.id, hold.id, 0)
    assert (entry.held_after, entry.balance_after) == (60, 100)
    assert club.hold(hold.id) == hold


def test_hold_lasts_a_week_if_nobody_says(club: Club, clock: Clock) -> None:
    assert club.post(reserve("ann", "h", 1)).hold.expires_on == clock.now() + timedelta(days=7)


def test_hold_of_a_fixed_operation_needs_no_amount(club: Club) -> None:
    assert club.post(PlaceHold(ClubOperation.CREDIT_SPEND, "ann", "h")).hold.amount == 1


def test_hold_that_would_have_expired_is_refused(club: Club, clock: Clock) -> None:
    past = PlaceHold(ClubOperation.PURCHASE, "ann", "h", 1, expires_at=clock.now())
    with pytest.raises(InvalidPosting, match="expires_at has passed"):
        club.post(past)


def test_hold_with_a_wrong_field_is_refused_by_its_name(club: Club) -> None:
    wrong: list[tuple[Any, str]] = [
        (PlaceHold(ClubOperation.GIFT, "ann", "h", 1), "operation"),
        (PlaceHold(ClubOperation.PURCHASE, "ann", "h"), "amount"),
        (PlaceHold(ClubOperation.PURCHASE, "ann", "h", -1), "amount"),
        (PlaceHold(ClubOperation.PURCHASE, "ann", "h", 1_000_001), "amount"),
        (PlaceHold(ClubOperation.PURCHASE, "ann", "h", 1, expires_in=-HOUR), "expires_in"),
        (PlaceHold(ClubOperation.PURCHASE, "@ann", "h", 1), "owner_id"),
        (PlaceHold(ClubOperation.PURCHASE, "ann", "@1", 1), "nonce"),
        (CaptureHold(0, "c"), "hold_id"),
        (ReleaseHold(2**63, "r"), "hold_id"),
    ]
    for request_, field in wrong:
        with pytest.raises(InvalidPosting) as caught:
            club.post(request_)
        assert caught.value.field == field, request_


# --- capturing and releasing ---


def test_capture_takes_all_that_is_left(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    entry = club.post(CaptureHold(hold.id, "c", metadata={"order": 7})).entry
    assert (entry.operation, entry.amount, entry.hold_id) == ("PURCHASE", -60, hold.id)
    assert entry.metadata == {"order": 7}
    assert money(club.balance("ann")) == (40, 0, 40)
    after = club.hold(hold.id)
    assert (after.state, after.captured, after.closed_by) == ("captured", 60, entry.id)


def test_hold_is_captured_in_parts_while_it_is_open(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    club.post(CaptureHold(hold.id, "c1", 20, final=False))
    assert club.hold(hold.id).state == "open"
    assert money(club.balance("ann")) == (80, 40, 40)
    club.post(CaptureHold(hold.id, "c2", 25, final=False))
    assert money(club.balance("ann")) == (55, 15, 40)
    club.post(CaptureHold(hold.id, "c3"))
    assert money(club.balance("ann")) == (40, 0, 40)


def test_final_capture_releases_the_rest(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    club.post(CaptureHold(hold.id, "c", 20))
    assert money(club.balance("ann")) == (80, 0, 80)
    with pytest.raises(HoldClosed) as caught:
        club.post(CaptureHold(hold.id, "late", 1))
    assert caught.value.state == "captured"


def test_hold_of_which_nothing_is_left_is_closed(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    club.post(CaptureHold(hold.id, "c", 60, final=False))
    assert club.hold(hold.id).state == "captured"
    assert club.holds("ann") == []


def test_capture_of_more_than_is_left_is_refused(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    club.post(CaptureHold(hold.id, "c1", 20, final=False))
    with pytest.raises(HoldExceeded) as caught:
        club.post(CaptureHold(hold.id, "c2", 41))
    assert (caught.value.remaining, caught.value.required) == (40, 41)
    assert money(club.balance("ann")) == (80, 40, 40)


def test_released_hold_is_available_again(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    released = club.post(ReleaseHold(hold.id, "r"))
    assert isinstance(released, Held)
    assert (released.hold.state, released.hold.remaining) == ("released", 0)
    assert money(club.balance("ann")) == (100, 0, 100)
    with pytest.raises(HoldClosed):
        club.post(CaptureHold(hold.id, "c"))


# --- repetitions ---


def test_repeated_requests_of_a_hold_replay(club: Club, cluster: Cluster, schema: str) -> None:
    first = club.post(reserve("ann", "h", 60))
    assert club.post(reserve("ann", "h", 60)) == Held(first.hold, replayed=True)
    captured = club.post(CaptureHold(first.hold.id, "c", 20, final=False))
    assert club.post(CaptureHold(first.hold.id, "c", 20, final=False)) == Posted(
        captured.entry, replayed=True
    )
    released = club.post(ReleaseHold(first.hold.id, "r"))
    assert club.post(ReleaseHold(first.hold.id, "r")) == Held(released.hold, replayed=True)
    # As it was placed, whatever became of it.
    assert club.post(reserve("ann", "h", 60)) == Held(first.hold, replayed=True)
    assert money(club.balance("ann")) == (80, 0, 80)
    assert entries(cluster.url, schema) == 4


def test_repetitions_in_one_batch_replay(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    captures = [CaptureHold(hold.id, "c", 20, final=False)] * 3
    outcomes = club.post_batch([*captures, ReleaseHold(hold.id, "r"), ReleaseHold(hold.id, "r")])
    replayed = [outcome.replayed for outcome in outcomes if isinstance(outcome, Posted | Held)]
    assert replayed == [False, True, True, False, True]
    assert money(club.balance("ann")) == (80, 0, 80)


def test_repeated_hold_of_the_last_credits_replays(club: Club) -> None:
    # As if it were new, it would be refused: nothing is left to reserve.
    first = club.post(reserve("ann", "h", 100))
    assert club.post(reserve("ann", "h", 100)) == Held(first.hold, replayed=True)


def test_nonce_of_a_hold_is_not_free_for_a_posting(club: Club) -> None:
    club.post(reserve("ann", "h", 60))
    with pytest.raises(NonceReused) as caught:
        club.post(buy("ann", "h", 60))
    refusal = caught.value
    assert (refusal.field, refusal.recorded, refusal.given) == ("kind", "hold", "posting")
    assert refusal.code == "nonce_reused_with_different_kind"


def test_nonce_of_a_posting_is_not_free_for_a_hold(club: Club) -> None:
    with pytest.raises(NonceReused) as caught:
        club.post(reserve("ann", "funds", 60))
    assert (caught.value.recorded, caught.value.given) == ("posting", "hold")


def test_repeated_request_that_differs_is_refused_by_its_field(club: Club) -> None:
    hold = club.post(reserve("ann", "h", 60, expires_in=HOUR)).hold
    other = club.post(reserve("ann", "other", 10)).hold
    club.post(CaptureHold(hold.id, "c", 20, final=False))
    club.post(ReleaseHold(hold.id, "r"))
    different: list[tuple[Any, str]] = [
        (reserve("ann", "h", 61, expires_in=HOUR), "amount"),
        (reserve("ann", "h", 60, expires_in=2 * HOUR), "expires_in"),
        (PlaceHold(ClubOperation.CREDIT_SPEND, "ann", "h", 1), "operation"),
        (CaptureHold(other.id, "c", 20, final=False), "hold_id"),
        (CaptureHold(hold.id, "c", 21, final=False), "amount"),
        (CaptureHold(hold.id, "c", 20), "final"),
        (CaptureHold(hold.id, "r"), "kind"),
        (ReleaseHold(other.id, "r"), "hold_id"),
        (ReleaseHold(hold.id, "c"), "kind"),
    ]
    for request_, field in different:
        with pytest.raises(NonceReused) as caught:
            club.post(request_)
        assert caught.value.field == field, request_


# --- expiry ---


def test_expired_hold_stops_counting_before_any_sweep(
    club: Club, clock: Clock, cluster: Cluster, schema: str
) -> None:
    club.post(reserve("ann", "h", 60, expires_in=HOUR))
    clock.move(HOUR)
    before = entries(cluster.url, schema)
    assert money(club.balance("ann")) == (100, 0, 100)
    assert entries(cluster.url, schema) == before
    club.post(buy("ann", "all", 100))


def test_hold_counts_until_its_last_instant(club: Club, clock: Clock) -> None:
    hold = club.post(reserve("ann", "h", 60, expires_in=HOUR)).hold
    clock.move(HOUR - timedelta(microseconds=1))
    assert money(club.balance("ann")) == (100, 60, 40)
    club.post(CaptureHold(hold.id, "c"))


def test_late_capture_is_refused_and_nothing_changes(club: Club, clock: Clock) -> None:
    hold = club.post(reserve("ann", "h", 60, expires_in=HOUR)).hold
    clock.move(HOUR)
    for number in range(2):
        with pytest.raises(HoldExpired) as caught:
            club.post(CaptureHold(hold.id, f"c{number}"))
        assert caught.value.code == "hold_expired"
        assert caught.value.expires_on == hold.expires_on
        assert money(club.balance("ann")) == (100, 0, 100)
    with pytest.raises(HoldExpired):
        club.post(ReleaseHold(hold.id, "r"))
    assert [entry.amount for entry in club.history("ann").entries] == [0, 0, 100]


def test_capture_in_time_replays_after_the_hold_expired(club: Club, clock: Clock) -> None:
    hold = club.post(reserve("ann", "h", 60, expires_in=HOUR)).hold
    captured = club.post(CaptureHold(hold.id, "c", 20, final=False))
    clock.move(HOUR)
    again = club.post(CaptureHold(hold.id, "c", 20, final=False))
    assert again == Posted(captured.entry, replayed=True)
    assert money(club.balance("ann")) == (80, 0, 80)


def test_expiry_of_a_hold_is_booked_with_its_own_time(club: Club, clock: Clock) -> None:
    hold = club.post(reserve("ann", "h", 60, expires_in=HOUR)).hold
    clock.move(3 * HOUR)
    assert club.sweep() == 1
    entry = club.history("ann").entries[0]
    assert (entry.operation, entry.amount, entry.held_after) == ("EXPIRY", 0, 0)
    assert (entry.effective_on, entry.created_on) == (hold.expires_on, clock.now())
    after = club.hold(hold.id)
    assert (after.state, after.closed_on) == ("expired", hold.expires_on)
    assert club.sweep() == 0


def test_rest_of_a_hold_that_was_captured_in_part_expires(club: Club, clock: Clock) -> None:
    hold = club.post(reserve("ann", "h", 60, expires_in=HOUR)).hold
    club.post(CaptureHold(hold.id, "c", 20, final=False))
    clock.move(HOUR)
    assert money(club.balance("ann")) == (80, 0, 80)
    assert club.holds("ann") == []


def test_open_holds_are_listed_with_what_expires_first(club: Club, clock: Clock) -> None:
    for number, hours in enumerate([3, 1, 2]):
        club.post(reserve("ann", str(number), 10, expires_in=hours * HOUR))
    assert [hold.nonce for hold in club.holds("ann")] == ["1", "2", "0"]
    clock.move(HOUR)
    assert [hold.nonce for hold in club.holds("ann")] == ["2", "0"]


# --- others' holds ---


def test_hold_of_another_application_is_not_found(
    club: Club, cluster: Cluster, schema: str
) -> None:
    hold = club.post(reserve("ann", "h", 60)).hold
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True) as other:
        for request_ in (CaptureHold(hold.id, "c"), CaptureHold(hold.id + 99, "c")):
            with pytest.raises(HoldNotFound):
                other.post(request_)
        with pytest.raises(HoldNotFound):
            other.post(ReleaseHold(hold.id, "r"))
        with pytest.raises(HoldNotFound):
            other.hold(hold.id)
        # But it counts for all of them.
        assert other.balance("ann").available == 40
        assert [held.id for held in other.holds("ann")] == [hold.id]
        assert isinstance(other.post(add("ann", "n1")), Posted)
        with pytest.raises(InsufficientCredits):
            other.post(Transfer(source="ann", destination="bob", amount=51, nonce="t"))


def test_id_of_an_entry_that_places_nothing_is_not_a_hold(club: Club) -> None:
    entry = club.post(buy("ann", "b", 1)).entry
    with pytest.raises(HoldNotFound):
        club.post(CaptureHold(entry.id, "c"))


# --- what holds cost others ---


def test_hundreds_of_open_holds_are_not_loaded_for_a_posting(
    club: Club, cluster: Cluster, schema: str
) -> None:
    club.post(bonus("ann", "bonus", 200))
    club.post_batch([reserve("ann", f"h{number}", 1) for number in range(250)])
    command = command_of(CLUB, buy("ann", "b", 1))
    store = Store(cluster.url, schema)
    try:
        book = store.load([command], careful=True)
        store.rollback()
    finally:
        store.close()
    assert book.accounts["ann", "credits"].held == 250
    assert (book.holds, book.grants) == ({}, {})


def test_holds_of_a_batch_see_each_other(club: Club) -> None:
    outcomes = club.post_batch([reserve("ann", f"h{number}", 30) for number in range(4)])
    assert [type(outcome) for outcome in outcomes] == [Held] * 3 + [InsufficientCredits]
    assert money(club.balance("ann")) == (100, 90, 10)


async def test_coroutine_holds_captures_and_releases(club: Club) -> None:
    hold = (await club.apost(reserve("ann", "h", 60))).hold
    entry = (await club.apost(CaptureHold(hold.id, "c", 20, final=False))).entry
    assert entry.balance_after == 80
    assert (await club.aholds("ann"))[0].remaining == 40
    assert (await club.apost(ReleaseHold(hold.id, "r"))).hold.state == "released"
    assert (await club.ahold(hold.id)).state == "released"


def test_hold_may_be_opened_by_an_application_of_bare_shared_operations(
    club: Club, cluster: Cluster, schema: str
) -> None:
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True) as other:
        held = other.post(PlaceHold(SharedOperation.CREDIT_SPEND, "ann", "h"))
        assert other.post(CaptureHold(held.hold.id, "c")).entry.app == "shared"


def test_hold_is_found_though_other_calls_forget_the_holds_they_know(
    club: Club, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one call looks its holds up, another may fill what is remembered of them."""
    monkeypatch.setattr(ledger, "REMEMBERED", 2)
    hold = club.post(reserve("ann", "kept", 10)).hold
    questions = ledger._questions
    others = iter(range(3))

    def overtaken(*arguments: Any) -> Any:
        asked = questions(*arguments)
        for number in others:
            club.post(reserve("ann", f"other {number}", 1))
        return asked

    monkeypatch.setattr(ledger, "_questions", overtaken)
    captured = club.post(CaptureHold(hold.id, "captured"))
    assert captured.entry.amount == -10
