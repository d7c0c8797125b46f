"""The book at any time: balances, history and statements, past and to come; and quotes of now."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from builders import (
    CLUB,
    ClubOperation,
    assert_sound,
    bonus,
    buy,
    gift,
    query,
    reserve,
)
from conftest import Clock
from shared_ledger import (
    CaptureHold,
    Group,
    Held,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    NonceReused,
    Part,
    Posted,
    ReleaseHold,
    Request,
    Reversal,
    Total,
    Transfer,
)
from shared_ledger.embedded import Cluster

Club = Ledger[ClubOperation]
HOUR = timedelta(hours=1)
INSTANT = timedelta(microseconds=1)


@pytest.fixture
def club(clock: Clock, cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger over a new book, which is sound whatever a test does."""
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as club:
        yield club
        assert_sound(cluster.url, schema)


def amounts(club: Club, at: datetime) -> tuple[int, int, int, int]:
    balance = club.balance("ann", at=at)
    return balance.balance, balance.held, balance.available, balance.expiring


# --- balances ---


def test_balance_is_what_it_was_at_each_instant(club: Club, clock: Clock) -> None:
    before = clock.now() - INSTANT
    times = []
    for number in range(1, 9):
        times.append(club.post(gift("ann", str(number), number)).entry.created_on)
        club.post(gift("bob", str(number), 100))
        clock.move(HOUR)
    assert amounts(club, before)[0] == 0
    for number, at in enumerate(times, 1):
        total = number * (number + 1) // 2
        assert amounts(club, at)[0] == total
        assert amounts(club, at + HOUR - INSTANT)[0] == total
        assert amounts(club, at - INSTANT)[0] == total - number


def test_balance_of_nobody_was_nothing(club: Club, clock: Clock) -> None:
    assert amounts(club, clock.now()) == (0, 0, 0, 0)


def test_entries_of_one_instant_are_all_in_it(club: Club, clock: Clock) -> None:
    club.post_batch([gift("ann", str(number), 1) for number in range(10)])
    assert amounts(club, clock.now())[0] == 10
    assert amounts(club, clock.now() - INSTANT)[0] == 0


def test_past_balance_tells_what_was_held_and_would_expire(club: Club, clock: Clock) -> None:
    start = clock.now()
    club.post(bonus("ann", "b", 5))
    club.post(gift("ann", "plain", 5))
    clock.move(HOUR)
    hold = club.post(reserve("ann", "h", 7)).hold
    clock.move(HOUR)
    club.post(CaptureHold(hold.id, "c", 6))
    clock.move(HOUR)
    club.post(gift("ann", "later", 1))
    assert amounts(club, start) == (10, 0, 10, 5)
    assert amounts(club, start + HOUR) == (10, 7, 3, 5)
    assert amounts(club, start + 2 * HOUR) == (4, 0, 4, 0)


def test_expiry_counts_from_its_own_time_however_late_it_is_booked(
    club: Club, clock: Clock
) -> None:
    start = clock.now()
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    club.post(gift("ann", "plain", 3))
    club.post(reserve("ann", "h", 1, expires_in=2 * HOUR))

    def facts() -> list[tuple[int, int, int, int]]:
        times = [start, start + HOUR - INSTANT, start + HOUR, start + 2 * HOUR]
        return [amounts(club, at) for at in times]

    expected = [(8, 1, 7, 5), (8, 1, 7, 5), (4, 1, 3, 1), (3, 0, 3, 0)]
    # To come, past and not booked, and past and booked are the same.
    assert facts() == expected
    clock.move(9 * HOUR)
    assert facts() == expected
    club.post(gift("ann", "later", 1))
    assert facts() == expected


def test_future_balance_is_what_is_left_if_nothing_but_expiry_happens(
    club: Club, clock: Clock, cluster: Cluster, schema: str
) -> None:
    start = clock.now()
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    club.post(gift("ann", "plain", 3))
    assert amounts(club, start + HOUR) == (3, 0, 3, 0)
    assert amounts(club, start + 9_999 * HOUR) == (3, 0, 3, 0)
    assert query(cluster.url, f"select count(*) from {schema}.entries") == [(2,)]
    assert club.balance("ann").balance == 8


def test_debt_of_the_past_is_told(club: Club, clock: Clock) -> None:
    given = club.post(gift("ann", "funds", 5)).entry
    club.post(buy("ann", "b", 5))
    club.post(Reversal(given.id, "r", allow_debt=True))
    at = clock.now()
    clock.move(HOUR)
    club.post(gift("ann", "g", 9))
    then = club.balance("ann", at=at)
    assert (then.balance, then.available, then.debt) == (-5, 0, 5)
    assert club.balance("ann").debt == 0


def test_time_without_a_zone_is_refused(club: Club) -> None:
    naive = datetime(2027, 1, 1)  # noqa: DTZ001  # that is the point
    for call in (
        lambda: club.balance("ann", at=naive),
        lambda: club.history("ann", at=naive),
        lambda: club.statement("ann", naive, naive),
    ):
        with pytest.raises(InvalidPosting, match="has no time zone"):
            call()


async def test_coroutines_read_the_past_too(club: Club, clock: Clock) -> None:
    at = clock.now()
    await club.apost(gift("ann", "1", 5))
    clock.move(HOUR)
    await club.apost(gift("ann", "2", 5))
    assert (await club.abalance("ann", at=at)).balance == 5
    assert [entry.nonce for entry in (await club.ahistory("ann", at=at)).entries] == ["1"]
    assert (await club.astatement("ann", at, clock.now())).closing == 5


# --- history ---


def test_history_at_a_time_is_what_had_taken_effect(club: Club, clock: Clock) -> None:
    start = clock.now()
    club.post(bonus("ann", "b", 5, expires_in=2 * HOUR))
    clock.move(HOUR)
    club.post(gift("ann", "g", 5))
    clock.move(9 * HOUR)
    club.post(gift("ann", "later", 5))
    assert [entry.nonce for entry in club.history("ann", at=start).entries] == ["b"]
    assert [entry.nonce for entry in club.history("ann", at=start + HOUR).entries] == ["g", "b"]
    assert club.history("ann", at=start + 2 * HOUR).entries[0].operation == "EXPIRY"
    assert club.history("ann", at=start - INSTANT).entries == []


def test_history_at_a_time_has_pages(club: Club, clock: Clock) -> None:
    club.post_batch([gift("ann", str(number), 1) for number in range(5)])
    at = clock.now()
    clock.move(HOUR)
    club.post(gift("ann", "later", 1))
    seen, cursor = [], None
    while True:
        page = club.history("ann", at=at, limit=2, cursor=cursor)
        seen += [entry.nonce for entry in page.entries]
        if (cursor := page.cursor) is None:
            break
    assert seen == ["4", "3", "2", "1", "0"]


# --- statements ---


def test_statements_lines_add_up_and_join_the_next(club: Club, clock: Clock) -> None:
    start = clock.now()
    for number in range(4):
        club.post(gift("ann", f"g{number}", 10))
        club.post(bonus("ann", f"b{number}", 3, expires_in=HOUR))
        club.post(buy("ann", f"p{number}", 4))
        clock.move(2 * HOUR)
    edges = [start + hours * HOUR for hours in range(0, 10, 3)]
    closing = 0
    for begin, end in pairwise(edges):
        statement = club.statement("ann", begin, end)
        assert statement.opening == closing
        closing = statement.closing
        assert statement.opening + sum(line.amount for line in statement.lines) == closing
        assert sum(total.amount for total in statement.totals) == closing - statement.opening
        assert sum(total.count for total in statement.totals) == len(statement.lines)
        assert closing == club.balance("ann", at=end - INSTANT).balance
    assert closing == club.balance("ann").balance == 36


def test_statement_begins_at_its_start_and_ends_before_its_end(club: Club, clock: Clock) -> None:
    start = clock.now()
    club.post(gift("ann", "1", 1))
    clock.move(HOUR)
    club.post(gift("ann", "2", 2))

    def lines(begin: datetime, end: datetime) -> list[str]:
        return [line.nonce for line in club.statement("ann", begin, end).lines]

    assert lines(start, start + HOUR) == ["1"]
    assert lines(start + INSTANT, start + HOUR + INSTANT) == ["2"]
    assert lines(start, start) == []
    assert lines(start, start + 2 * HOUR) == ["1", "2"]


def test_statement_sums_by_operation(club: Club, clock: Clock) -> None:
    start = clock.now()
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    club.post_batch([gift("ann", "g1", 10), gift("ann", "g2", 20), buy("ann", "p", 3)])
    clock.move(2 * HOUR)
    # What has expired is booked first.
    statement = club.statement("ann", start, clock.now())
    assert statement.totals == [
        Total("club", "BONUS", 1, 5),
        Total("club", "EXPIRY", 1, -2),
        Total("club", "GIFT", 2, 30),
        Total("club", "PURCHASE", 1, -3),
    ]
    assert (statement.opening, statement.closing) == (0, 30)
    assert [line.id for line in statement.lines] == sorted(line.id for line in statement.lines)


def test_expiry_is_in_the_statement_of_its_own_time(club: Club, clock: Clock) -> None:
    start = clock.now()
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    clock.move(9 * HOUR)
    assert club.statement("ann", start, start + HOUR).closing == 5
    (line,) = club.statement("ann", start + HOUR, start + 2 * HOUR).lines
    assert (line.operation, line.amount, line.created_on) == ("EXPIRY", -5, clock.now())


def test_statement_of_nobody_is_empty(club: Club, clock: Clock) -> None:
    statement = club.statement("nobody", clock.now(), clock.now() + HOUR)
    assert (statement.opening, statement.closing, statement.lines) == (0, 0, [])


def test_statement_that_ends_before_it_begins_is_refused(club: Club, clock: Clock) -> None:
    with pytest.raises(InvalidPosting, match="to is before from"):
        club.statement("ann", clock.now(), clock.now() - INSTANT)


# --- quotes ---


def state(url: str, schema: str) -> list[Any]:
    """All that is in the book, but for what ids it will give next."""
    tables = ["accounts", "entries", "holds", "grants", "burns", "budgets"]
    return [query(url, f"select * from {schema}.{name} order by 1, 2, 3") for name in tables]


def one_of_each_kind(club: Club, owner_id: str) -> list[Request[ClubOperation]]:
    """One request of each kind; the owner has credits of every kind, holds, and something due."""
    friend = f"{owner_id}'s"
    club.post_batch(
        [
            gift(owner_id, "funds", 50),
            bonus(owner_id, "due", 7, expires_in=HOUR),
            bonus(owner_id, "first", 5, priority=1),
            bonus(owner_id, "second", 5, priority=2),
            gift(friend, "funds", 5),
        ]
    )
    hold = club.post(reserve(owner_id, "h", 14)).hold
    club.post(reserve(owner_id, "short", 2, expires_in=HOUR))
    spent = club.post(buy(owner_id, "spent", 4)).entry
    given = club.post(bonus(owner_id, "given", 6)).entry
    moved = club.post(Transfer(source=owner_id, destination=friend, amount=2, nonce="t")).entry
    parts = [Part(ClubOperation.GIFT, owner_id, 5), Part(ClubOperation.PURCHASE, owner_id, -9)]
    return [
        gift(owner_id, "q1", 5),
        bonus(owner_id, "q2", 5),
        buy(owner_id, "q3", 8),
        Group("q4", parts),
        Transfer(source=owner_id, destination=friend, amount=8, nonce="q5"),
        reserve(owner_id, "q6", 8),
        CaptureHold(hold.id, "q7", 10, final=False),
        CaptureHold(hold.id, "q8", 3),
        ReleaseHold(hold.id, "q9"),
        Reversal(spent.id, "q10"),
        Reversal(given.id, "q11"),
        Reversal(moved.id, "q12", 1),
    ]


@pytest.mark.parametrize("late", [False, True])
def test_quote_writes_nothing_and_a_post_then_does_what_it_said(
    club: Club, clock: Clock, cluster: Cluster, schema: str, *, late: bool
) -> None:
    # Of twelve owners one request each.
    owners = [f"user{number}" for number in range(12)]
    requests = [one_of_each_kind(club, owner_id)[number] for number, owner_id in enumerate(owners)]
    if late:
        clock.move(2 * HOUR)
    for owner_id, request in zip(owners, requests, strict=True):
        before = state(cluster.url, schema)
        quote = club.quote(request)
        assert state(cluster.url, schema) == before, request
        assert not quote.replayed

        last = query(cluster.url, f"select max(id) from {schema}.entries")[0][0]
        (result,) = club.post_batch([request])
        assert isinstance(result, Posted | Held)
        assert club.balance(owner_id) == quote.balance, request
        written = query(
            cluster.url,
            "select owner_id, operation::text, amount, balance_after, coalesce(held_after, 0), "
            f"coalesce(expiring_after, 0) from {schema}.entries where id > %s order by id",
            last,
        )
        assert written == [
            (e.owner_id, e.operation, e.amount, e.balance_after, e.held_after, e.expiring_after)
            for e in quote.entries
        ], request
        burned = query(
            cluster.url,
            "select grant_id, sum(burns.amount)::int "
            f"from {schema}.burns join {schema}.entries on entries.id = entry_id "
            "where entry_id > %s and operation <> 'EXPIRY' group by grant_id",
            last,
        )
        if isinstance(result, Held):
            burned = list(club.hold(result.hold.id).grants)
        said = [(payment.grant_id, payment.amount) for payment in quote.burns]
        assert sorted(said) == sorted(burned), request


def test_quote_of_what_would_be_refused_is_refused(club: Club) -> None:
    club.post(gift("ann", "funds", 5))
    with pytest.raises(InsufficientCredits):
        club.quote(buy("ann", "b", 6))
    with pytest.raises(InvalidPosting):
        club.quote(buy("@ann", "b", 6))
    with pytest.raises(NonceReused):
        club.quote(gift("ann", "funds", 6))


def test_quote_of_what_was_posted_tells_so(club: Club) -> None:
    club.post(gift("ann", "funds", 5))
    posted = club.post(Transfer(source="ann", destination="bob", amount=2, nonce="t"))
    quote = club.quote(Transfer(source="ann", destination="bob", amount=2, nonce="t"))
    assert quote.replayed
    assert quote.entries == [posted.entry, *posted.group]
    assert quote.balance == club.balance("ann")


async def test_coroutine_quotes(club: Club) -> None:
    quote = await club.aquote(gift("ann", "g", 5))
    assert (quote.balance.balance, quote.entries[0].id) == (5, 1)
    assert quote.entries[0].created_on.tzinfo is UTC
