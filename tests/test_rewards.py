"""What an operation may give: once per period by the database's clock, and within a budget."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from builders import CLUB, ClubOperation, assert_sound, query
from conftest import Clock
from shared_ledger import (
    AlreadyClaimed,
    Application,
    BudgetSpent,
    Group,
    Ledger,
    Part,
    Posted,
    Posting,
    Reversal,
    Rule,
)
from shared_ledger.embedded import Cluster

Club = Ledger[ClubOperation]
DAY = timedelta(days=1)
INSTANT = timedelta(microseconds=1)


def weekly(nonce: str, owner_id: str = "ann") -> Posting[ClubOperation]:
    return Posting(ClubOperation.WEEKLY, owner_id, nonce)


def monthly(nonce: str, owner_id: str = "ann") -> Posting[ClubOperation]:
    return Posting(ClubOperation.MONTHLY, owner_id, nonce)


def promote(nonce: str, amount: int, owner_id: str = "ann") -> Posting[ClubOperation]:
    """Of the 100 that there are."""
    return Posting(ClubOperation.PROMOTION, owner_id, nonce, amount)


def promote_today(nonce: str, amount: int, owner_id: str = "ann") -> Posting[ClubOperation]:
    """Of the 50 that there are each day."""
    return Posting(ClubOperation.DAILY_PROMOTION, owner_id, nonce, amount)


@pytest.fixture
def sunday(cluster: Cluster) -> Iterator[Clock]:
    """A clock that stands at the last instant of Sunday, 31 January 2027, in UTC."""
    clock = Clock(cluster, datetime(2027, 2, 1, tzinfo=UTC) - INSTANT)
    yield clock
    clock.close()


@pytest.fixture
def club(sunday: Clock, cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger over a new book, which is sound whatever a test does."""
    with Ledger(CLUB, sunday.url, schema=schema, migrate=True) as club:
        yield club
        assert_sound(cluster.url, schema)


# --- once per period ---


def test_week_ends_with_sunday_in_utc(club: Club, sunday: Clock) -> None:
    first = club.post(weekly("1")).entry
    assert first.period == "2027-01-31"
    with pytest.raises(AlreadyClaimed) as caught:
        club.post(weekly("2"))
    assert caught.value.period == "2027-01-31"
    sunday.move(INSTANT)
    second = club.post(weekly("2")).entry
    assert (second.created_on.weekday(), second.period) == (0, "2027-02-07")
    sunday.move(7 * DAY - INSTANT)
    with pytest.raises(AlreadyClaimed):
        club.post(weekly("3"))
    sunday.move(INSTANT)
    club.post(weekly("3"))


def test_month_ends_with_its_last_day_in_utc(club: Club, sunday: Clock) -> None:
    assert club.post(monthly("1")).entry.period == "2027-01-31"
    with pytest.raises(AlreadyClaimed):
        club.post(monthly("2"))
    sunday.move(INSTANT)
    assert club.post(monthly("2")).entry.period == "2027-02-28"
    sunday.move(28 * DAY - INSTANT)
    with pytest.raises(AlreadyClaimed):
        club.post(monthly("3"))
    sunday.move(INSTANT)
    assert club.post(monthly("3")).entry.period == "2027-03-31"


def test_month_may_end_with_a_leap_day_or_the_year(club: Club, sunday: Clock) -> None:
    sunday.move(datetime(2028, 2, 29, 23, tzinfo=UTC) - sunday.now())
    assert club.post(monthly("1")).entry.period == "2028-02-29"
    sunday.move(datetime(2028, 12, 31, 23, tzinfo=UTC) - sunday.now())
    assert club.post(monthly("2")).entry.period == "2028-12-31"
    # This week reaches into the next year.
    sunday.move(datetime(2030, 12, 31, tzinfo=UTC) - sunday.now())
    assert club.post(weekly("3")).entry.period == "2031-01-05"


def test_servers_clock_and_not_the_nonce_decides(club: Club, sunday: Clock) -> None:
    club.post(weekly("2027-W04"))
    with pytest.raises(AlreadyClaimed):
        club.post(weekly("2027-W05"))
    sunday.move(INSTANT)
    assert club.post(weekly("2027-W04")).replayed
    assert not club.post(weekly("2027-W04 again")).replayed


def test_session_in_another_time_zone_has_the_same_periods(
    sunday: Clock, cluster: Cluster, schema: str
) -> None:
    # In Tokyo it is Monday already.
    zone = sunday.url.replace("options=", "options=-cTimeZone%3DAsia/Tokyo%20")
    with Ledger(CLUB, zone, schema=schema, migrate=True) as club:
        assert club.post(weekly("1")).entry.period == "2027-01-31"
        assert club.post(monthly("2")).entry.period == "2027-01-31"
    assert_sound(cluster.url, schema)


def test_each_owner_and_operation_has_its_own_period(club: Club) -> None:
    outcomes = club.post_batch([weekly("1"), monthly("2"), weekly("1", "bob"), weekly("3")])
    assert [type(outcome) for outcome in outcomes] == [Posted, Posted, Posted, AlreadyClaimed]


def test_clock_that_is_set_back_gives_no_second_claim(club: Club, sunday: Clock) -> None:
    sunday.move(INSTANT)
    club.post(weekly("1"))
    sunday.move(-DAY)
    with pytest.raises(AlreadyClaimed):
        club.post(weekly("2"))


# --- budgets ---


def test_budget_refuses_what_would_exceed_it(club: Club) -> None:
    club.post(promote("1", 60))
    club.post(promote("2", 30, "bob"))
    with pytest.raises(BudgetSpent) as caught:
        club.post(promote("3", 11, "cy"))
    refusal = caught.value
    assert (refusal.operation, refusal.period, refusal.budget) == ("PROMOTION", "ever", 100)
    assert (refusal.left, refusal.required) == (10, 11)
    club.post(promote("3", 10, "cy"))
    with pytest.raises(BudgetSpent) as caught:
        club.post(promote("4", 1))
    assert caught.value.left == 0


def test_budget_counts_what_one_batch_gives(club: Club) -> None:
    outcomes = club.post_batch([promote(str(n), 40, f"user{n}") for n in range(4)])
    given = [outcome for outcome in outcomes if isinstance(outcome, Posted)]
    refused = [outcome for outcome in outcomes if isinstance(outcome, BudgetSpent)]
    assert (len(given), {refusal.left for refusal in refused}) == (2, {20})


def test_refused_posting_spends_nothing_of_the_budget(club: Club) -> None:
    club.post(promote("first", 60))
    for number in range(3):
        with pytest.raises(BudgetSpent):
            club.post(promote(str(number), 41))
    club.post(promote("rest", 40))


def test_daily_budget_begins_anew_with_each_utc_day(club: Club, sunday: Clock) -> None:
    club.post(promote_today("1", 50))
    with pytest.raises(BudgetSpent) as caught:
        club.post(promote_today("2", 1, "bob"))
    assert (caught.value.period, caught.value.left, caught.value.required) == ("2027-01-31", 0, 1)
    sunday.move(INSTANT)
    club.post(promote_today("2", 50, "bob"))
    with pytest.raises(BudgetSpent) as caught:
        club.post(promote_today("3", 1))
    assert caught.value.period == "2027-02-01"


def test_posting_within_a_spent_budget_still_replays(club: Club, sunday: Clock) -> None:
    first = club.post(promote("1", 100))
    today = club.post(promote_today("2", 50))
    assert club.post(promote("1", 100)) == Posted(first.entry, replayed=True)
    assert club.post(promote_today("2", 50)) == Posted(today.entry, replayed=True)
    sunday.move(DAY)
    assert club.post(promote_today("2", 50)) == Posted(today.entry, replayed=True)
    assert not club.post(promote_today("3", 50)).replayed


def test_reversal_gives_no_budget_back(club: Club) -> None:
    given = club.post(promote("1", 100)).entry
    club.post(Reversal(given.id, "r"))
    with pytest.raises(BudgetSpent):
        club.post(promote("2", 1))


def test_refused_group_spends_nothing_of_the_budget(club: Club) -> None:
    parts = [Part(ClubOperation.PROMOTION, "ann", 60), Part(ClubOperation.PURCHASE, "bob", -1)]
    with pytest.raises(Exception, match="bob has 0 credits available"):
        club.post(Group("g", parts))
    club.post(promote("1", 100))


def test_budget_counts_from_when_it_was_set(cluster: Cluster, schema: str) -> None:
    generous = Application("club", ClubOperation, rules={**_rules(), ClubOperation.GIFT: _gift()})
    with Ledger(CLUB, cluster.url, schema=schema, migrate=True) as club:
        club.post(Posting(ClubOperation.GIFT, "ann", "before", 10))
    with Ledger(generous, cluster.url, schema=schema) as club:
        club.post(Posting(ClubOperation.GIFT, "ann", "1", 10))
        with pytest.raises(BudgetSpent) as caught:
            club.post(Posting(ClubOperation.GIFT, "ann", "2", 6))
        assert caught.value.left == 5
    kept = f"select spent from {schema}.budgets where operation = 'GIFT'"
    assert query(cluster.url, kept) == [(10,)]
    assert_sound(cluster.url, schema)


def _rules() -> dict[ClubOperation, Rule]:
    return {operation: CLUB.rules[operation] for operation in ClubOperation}


def _gift() -> Rule:
    return Rule.variable(minimum=1, maximum=100, budget=15)
