"""Transfers between owners: one entry on each side, and what expires keeps its expiry."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from builders import (
    CLUB,
    SHARED,
    ClubOperation,
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
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    NonceReused,
    Posted,
    Refusal,
    Transfer,
)
from shared_ledger.embedded import Cluster

Club = Ledger[ClubOperation]
HOUR = timedelta(hours=1)


@pytest.fixture
def club(clock: Clock, cluster: Cluster, schema: str) -> Iterator[Club]:
    """A ledger over a new book, which is sound whatever a test does."""
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as club:
        yield club
        assert_sound(cluster.url, schema)


def move(
    amount: int, nonce: str = "t", *, source: str = "ann", destination: str = "bob"
) -> Transfer:
    return Transfer(source=source, destination=destination, amount=amount, nonce=nonce)


def test_transfer_is_an_entry_on_each_side(club: Club, cluster: Cluster, schema: str) -> None:
    club.post_batch([gift("ann", "funds", 10), gift("bob", "funds", 1)])
    posted = club.post(
        Transfer(source="ann", destination="bob", amount=4, nonce="t", metadata={"for": "tea"})
    )
    assert not posted.replayed
    (other,) = posted.group
    assert (posted.entry.owner_id, posted.entry.amount, posted.entry.nonce) == ("ann", -4, "t")
    assert (other.owner_id, other.amount) == ("bob", 4)
    for entry in (posted.entry, other):
        assert (entry.operation, entry.counterparty) == ("TRANSFER", "@transfers")
        assert entry.group_id == posted.entry.id
        assert entry.metadata == {"for": "tea"}
        assert club.history(entry.owner_id).entries[0] == entry
    assert (posted.entry.balance_after, other.balance_after) == (6, 5)
    assert balances(cluster.url, schema)["@transfers", "credits"] == 0


def test_transfer_opens_the_account_of_its_destination(club: Club) -> None:
    club.post(gift("ann", "funds", 10))
    club.post(move(4))
    assert club.balance("bob").available == 4
    club.post(buy("bob", "b", 4))


def test_transfer_from_somebody_unknown_is_refused_and_opens_nothing(
    club: Club, cluster: Cluster, schema: str
) -> None:
    with pytest.raises(InsufficientCredits) as caught:
        club.post(move(4))
    assert (caught.value.owner_id, caught.value.available) == ("ann", 0)
    assert balances(cluster.url, schema) == {}


def test_transfer_of_what_is_held_is_refused(club: Club) -> None:
    club.post(gift("ann", "funds", 10))
    club.post(reserve("ann", "h", 7))
    with pytest.raises(InsufficientCredits) as caught:
        club.post(move(4))
    assert (caught.value.available, caught.value.required) == (3, 4)
    assert club.balance("bob").balance == 0


def test_transfer_that_cannot_be_is_refused_by_its_field(club: Club) -> None:
    wrong = [
        (move(1, destination="ann"), "destination"),
        (move(1, source="@issued"), "source"),
        (move(1, destination="@spent"), "destination"),
        (move(0), "amount"),
        (move(-1), "amount"),
        (move(2**63), "amount"),
        (move(1, nonce=""), "nonce"),
    ]
    for transfer, field in wrong:
        with pytest.raises(InvalidPosting) as caught:
            club.post(transfer)
        assert caught.value.field == field, transfer


def test_repeated_transfer_replays_both_entries(club: Club, cluster: Cluster, schema: str) -> None:
    club.post(gift("ann", "funds", 10))
    first = club.post(move(10))
    assert club.post(move(10)) == Posted(first.entry, True, first.group)
    assert club.post_batch([move(10), move(10)]) == [Posted(first.entry, True, first.group)] * 2
    assert query(cluster.url, f"select count(*) from {schema}.entries") == [(3,)]


def test_repeated_transfer_that_differs_is_refused_by_its_field(club: Club) -> None:
    club.post(gift("ann", "funds", 10))
    club.post(move(4))
    different = [
        (move(5), "amount"),
        (move(4, destination="cy"), "destination"),
        (Transfer(source="ann", destination="bob", amount=4, nonce="t", asset="points"), "asset"),
        (move(4, nonce="funds"), "kind"),
    ]
    for transfer, field in different:
        with pytest.raises(NonceReused) as caught:
            club.post(transfer)
        assert caught.value.field == field, transfer


def test_nonce_of_a_transfer_is_the_sources(club: Club) -> None:
    club.post_batch([gift("ann", "funds", 10), gift("bob", "funds", 10)])
    club.post(move(4, "t"))
    assert not club.post(move(4, "t", source="bob", destination="ann")).replayed
    assert not club.post(gift("bob", "t2", 1)).replayed


def test_transfer_keeps_expiry_and_priority_in_several_pieces(club: Club, clock: Clock) -> None:
    first = club.post(bonus("ann", "first", 3, expires_in=2 * HOUR, priority=1)).entry
    second = club.post(bonus("ann", "second", 3, expires_in=HOUR, priority=2)).entry
    club.post(gift("ann", "plain", 3))
    (received,) = club.post(move(8)).group
    assert received.expiring_after == 6
    grants = club.grants("bob")
    assert [(grant.remaining, grant.expires_on, grant.priority) for grant in grants] == [
        (3, first.expires_on, 1),
        (3, second.expires_on, 2),
    ]
    assert {grant.entry_id for grant in grants} == {received.id}
    assert club.grants("ann") == []
    clock.move(HOUR)
    assert club.balance("bob").available == 5
    clock.move(HOUR)
    assert club.balance("bob").available == 2
    assert club.balance("ann").available == 1


def test_transferred_credits_are_spent_in_the_receivers_order(club: Club) -> None:
    club.post(bonus("ann", "b", 3, priority=1))
    club.post(bonus("bob", "later", 3, priority=2))
    club.post(bonus("bob", "sooner", 3, priority=0))
    club.post(move(3))
    club.post(buy("bob", "b", 5))
    assert [(grant.priority, grant.remaining) for grant in club.grants("bob")] == [(1, 1), (2, 3)]


def test_credits_that_expired_cannot_be_transferred(club: Club, clock: Clock) -> None:
    club.post(bonus("ann", "b", 3, expires_in=HOUR))
    clock.move(HOUR)
    with pytest.raises(InsufficientCredits):
        club.post(move(1))


def test_credits_go_round_within_one_batch(club: Club) -> None:
    club.post(bonus("ann", "b", 6, priority=1))
    outcomes = club.post_batch(
        [
            move(6, "1"),
            move(5, "2", source="bob", destination="cy"),
            move(5, "3", source="cy", destination="ann"),
            move(6, "4"),
        ]
    )
    # A batch is in the order of each owner, and these are several.
    refused = [outcome for outcome in outcomes if isinstance(outcome, Refusal)]
    assert sum(club.balance(owner_id).balance for owner_id in ("ann", "bob", "cy")) == 6
    assert all(isinstance(refusal, InsufficientCredits) for refusal in refused)
    assert isinstance(outcomes[0], Posted)
    assert isinstance(outcomes[3], Refusal)


def test_other_applications_see_the_transfer_and_may_use_its_nonce(
    club: Club, cluster: Cluster, schema: str
) -> None:
    club.post(gift("ann", "funds", 10))
    club.post(move(4))
    with Ledger(SHARED, cluster.url, schema=schema, migrate=True) as other:
        assert other.balance("bob").balance == 4
        assert not other.post(move(1)).replayed


async def test_coroutine_transfers(club: Club) -> None:
    await club.apost(gift("ann", "funds", 10))
    assert (await club.apost(move(4))).group[0].amount == 4
    assert (await club.apost(move(4))).replayed
