"""Reversals: an entry is taken back in part or whole, and never more than it was."""

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
    Reversal,
    ReversalExceedsEntry,
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
