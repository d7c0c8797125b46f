"""All or nothing: groups under one nonce, and atomic batches of requests with their own."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from builders import CLUB, ClubOperation, assert_sound, bonus, buy, gift, query, reserve
from conftest import Clock
from shared_ledger import (
    AlreadyClaimed,
    BatchRefused,
    CaptureHold,
    Group,
    Held,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    NonceReused,
    Part,
    Posted,
    Request,
    Transfer,
)
from shared_ledger.embedded import Cluster

Club = Ledger[ClubOperation]
Operation = ClubOperation
HOUR = timedelta(hours=1)


@pytest.fixture
def club(clock: Clock, cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger over a new book, which is sound whatever a test does."""
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as club:
        yield club
        assert_sound(cluster.url, schema)


def rows(url: str, schema: str) -> int:
    """How many accounts, entries, holds and grants there are."""
    tables = ["accounts", "entries", "holds", "grants"]
    return sum(query(url, f"select count(*) from {schema}.{name}")[0][0] for name in tables)


# --- groups ---


def test_group_happens_together_under_one_nonce(club: Club) -> None:
    parts = [Part(Operation.GIFT, "ann", 10, {"a": 1}), Part(Operation.GIFT, "bob", 5)]
    posted = club.post(Group("g", parts))
    (other,) = posted.group
    assert (posted.entry.owner_id, posted.entry.amount, posted.entry.nonce) == ("ann", 10, "g")
    assert (other.owner_id, other.amount, other.nonce) == ("bob", 5, f"@{posted.entry.id}.1")
    assert posted.entry.group_id == other.group_id == posted.entry.id
    assert posted.entry.metadata == {"a": 1}
    assert club.history("bob").entries == [other]


def test_part_may_spend_what_another_gave_before_it(club: Club) -> None:
    gain, loss = Part(Operation.GIFT, "ann", 10), Part(Operation.PURCHASE, "ann", -10)
    with pytest.raises(InsufficientCredits):
        club.post(Group("g", [loss, gain]))
    posted = club.post(Group("g", [gain, loss]))
    assert [entry.balance_after for entry in (posted.entry, *posted.group)] == [10, 0]


def test_refused_part_refuses_the_group(club: Club, cluster: Cluster, schema: str) -> None:
    before = rows(cluster.url, schema)
    parts = [
        Part(Operation.BONUS, "ann", 10),
        Part(Operation.SIGNUP_CREDIT, "ann"),
        Part(Operation.PURCHASE, "bob", -1),
    ]
    with pytest.raises(InsufficientCredits) as caught:
        club.post(Group("g", parts))
    assert caught.value.owner_id == "bob"
    assert rows(cluster.url, schema) == before
    # Its nonce and its claim are free.
    posted = club.post(Group("g", parts[:2]))
    assert not posted.replayed


def test_group_of_two_claims_of_one_is_refused(club: Club) -> None:
    with pytest.raises(AlreadyClaimed):
        club.post(Group("g", [Part(Operation.WEEKLY, "ann")] * 2))
    assert club.balance("ann").balance == 0


def test_wrong_part_is_refused_by_its_number_and_field(club: Club) -> None:
    good = Part(Operation.GIFT, "ann", 10)
    for part, field in [
        (Part(Operation.GIFT, "ann"), "parts[1].amount"),
        (Part(Operation.GIFT, "@ann", 1), "parts[1].owner_id"),
        (Part(Operation.PURCHASE, "ann", -1, expires_in=HOUR), "parts[1].expires_in"),
    ]:
        with pytest.raises(InvalidPosting) as caught:
            club.post(Group("g", [good, part]))
        assert caught.value.field == field


def test_group_has_one_to_a_hundred_parts(club: Club) -> None:
    part = Part(Operation.GIFT, "ann", 1)
    for count in (0, 101):
        with pytest.raises(InvalidPosting, match=f"parts are 1 to 100, not {count}"):
            club.post(Group("g", [part] * count))
    parts = [Part(Operation.GIFT, f"user{number % 7}", number + 1) for number in range(100)]
    first = club.post(Group("g", parts))
    assert [entry.amount for entry in (first.entry, *first.group)] == list(range(1, 101))
    assert club.post(Group("g", parts)) == Posted(first.entry, True, first.group)
    single = club.post(Group("one", [part]))
    assert (single.group, single.entry.group_id) == ((), single.entry.id)
    assert club.post(Group("one", [part])).replayed


def test_repeated_group_that_differs_is_refused_by_its_part_and_field(club: Club) -> None:
    gain = Part(Operation.GIFT, "ann", 10)
    club.post(Group("g", [gain, Part(Operation.GIFT, "bob", 5)]))
    for other, field in [
        (Part(Operation.GIFT, "bob", 6), "parts[1].amount"),
        (Part(Operation.GIFT, "cy", 5), "parts[1].owner_id"),
        (Part(Operation.BONUS, "bob", 5), "parts[1].operation"),
        (Part(Operation.GIFT, "bob", 5, {"a": 1}), "parts[1].metadata"),
    ]:
        with pytest.raises(NonceReused) as caught:
            club.post(Group("g", [gain, other]))
        assert caught.value.field == field
    for parts in ([gain], [gain, gain, gain]):
        with pytest.raises(NonceReused) as caught:
            club.post(Group("g", parts))
        assert (caught.value.field, caught.value.given) == ("parts", len(parts))
    with pytest.raises(NonceReused) as caught:
        club.post(gift("ann", "g", 10))
    assert (caught.value.recorded, caught.value.given) == ("group", "posting")


def test_nonce_of_a_group_is_its_first_owners(club: Club) -> None:
    club.post(Group("g", [Part(Operation.GIFT, "ann", 1), Part(Operation.GIFT, "bob", 1)]))
    assert not club.post(gift("bob", "g", 1)).replayed


def test_group_comes_after_what_has_expired(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    clock.move(HOUR)
    parts = [Part(Operation.GIFT, "ann", 3), Part(Operation.PURCHASE, "ann", -2)]
    posted = club.post(Group("g", parts))
    amounts = [entry.amount for entry in club.history("ann").entries]
    assert amounts == [-2, 3, -5, 5]
    assert posted.entry.balance_after == 3


# --- atomic batches ---


def atomic(ann: int) -> list[Request[ClubOperation]]:
    """Several kinds of request, of which the last takes so much of the owner's 10 credits."""
    return [
        gift("ann", "g", 10),
        bonus("bob", "b", 5),
        Transfer(source="bob", destination="cy", amount=3, nonce="t"),
        Group("group", [Part(Operation.GIFT, "dee", 1), Part(Operation.GIFT, "ann", 1)]),
        reserve("ann", "h", 5),
        buy("ann", "p", ann),
    ]


def test_atomic_batch_is_written_whole(club: Club) -> None:
    results = club.post_batch(atomic(6), atomic=True)
    assert [type(result) for result in results] == [Posted] * 4 + [Held, Posted]
    assert [club.balance(owner).balance for owner in ("ann", "bob", "cy", "dee")] == [5, 2, 3, 1]


def test_atomic_batch_is_refused_whole(club: Club, cluster: Cluster, schema: str) -> None:
    before = rows(cluster.url, schema)
    results = club.post_batch(atomic(7), atomic=True)
    assert rows(cluster.url, schema) == before
    assert isinstance(results[5], InsufficientCredits)
    assert (results[5].available, results[5].required) == (6, 7)
    assert results[:5] == [BatchRefused(position=5, reason="insufficient_credits")] * 5
    # All of its nonces are free.
    again = club.post_batch(atomic(6), atomic=True)
    assert not any(result.replayed for result in again if isinstance(result, Posted | Held))


def test_atomic_batch_with_a_wrong_field_is_refused_whole(club: Club) -> None:
    results = club.post_batch([gift("ann", "g", 10), gift("@ann", "g", 10)], atomic=True)
    assert results[0] == BatchRefused(position=1, reason="invalid_posting")
    assert isinstance(results[1], InvalidPosting)
    assert club.balance("ann").balance == 0


def test_repeated_atomic_batch_replays_whole(club: Club, cluster: Cluster, schema: str) -> None:
    first = club.post_batch(atomic(6), atomic=True)
    before = rows(cluster.url, schema)
    again = club.post_batch(atomic(6), atomic=True)
    assert rows(cluster.url, schema) == before
    for one, other in zip(first, again, strict=True):
        assert isinstance(other, Posted | Held)
        assert other.replayed
        if isinstance(one, Posted) and isinstance(other, Posted):
            assert (one.entry, one.group) == (other.entry, other.group)


def test_replay_inside_an_atomic_batch_is_no_refusal(club: Club) -> None:
    known = club.post(gift("ann", "g", 10))
    results = club.post_batch([gift("ann", "g", 10), buy("ann", "p", 4)], atomic=True)
    assert results[0] == Posted(known.entry, replayed=True)
    assert isinstance(results[1], Posted)
    assert club.balance("ann").balance == 6


def test_same_nonce_twice_in_an_atomic_batch_is_posted_once(club: Club) -> None:
    first, second = club.post_batch([gift("ann", "g", 10)] * 2, atomic=True)
    assert isinstance(first, Posted)
    assert second == Posted(first.entry, replayed=True)


def test_replay_inside_a_refused_batch_is_not_answered(club: Club) -> None:
    club.post(gift("ann", "g", 10))
    results = club.post_batch(
        [gift("ann", "g", 10), gift("ann", "g", 11), buy("ann", "p", 11)], atomic=True
    )
    assert [type(result) for result in results] == [BatchRefused, NonceReused, InsufficientCredits]
    assert results[0] == BatchRefused(position=1, reason=results[1].code)  # type: ignore[union-attr]  # a refusal


def test_atomic_batch_may_capture_what_was_held_before(club: Club) -> None:
    club.post(gift("ann", "g", 10))
    hold = club.post(reserve("ann", "h", 10)).hold
    capture = CaptureHold(hold.id, "c", 4)
    assert club.post_batch([capture, buy("ann", "p", 7)], atomic=True)[0] == BatchRefused(
        position=1, reason="insufficient_credits"
    )
    assert club.hold(hold.id).state == "open"
    club.post_batch([capture, buy("ann", "p", 6)], atomic=True)
    assert (club.hold(hold.id).state, club.balance("ann").balance) == ("captured", 0)


def test_atomic_batch_after_what_has_expired(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 5, expires_in=HOUR))
    club.post(bonus("bob", "b", 5, expires_in=HOUR))
    clock.move(HOUR)
    results = club.post_batch([gift("ann", "g", 1), gift("bob", "g", 1)], atomic=True)
    assert [type(result) for result in results] == [Posted, Posted]
    assert [club.balance(owner_id).balance for owner_id in ("ann", "bob")] == [1, 1]


def test_empty_atomic_batch_is_nothing(club: Club) -> None:
    assert club.post_batch([], atomic=True) == []


async def test_coroutine_posts_an_atomic_batch(club: Club) -> None:
    refused = await club.apost_batch(atomic(7), atomic=True)
    assert isinstance(refused[0], BatchRefused)
    written = await club.apost_batch(atomic(6), atomic=True)
    assert [type(result) for result in written] == [Posted] * 4 + [Held, Posted]
