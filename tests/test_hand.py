"""Properties of the book in hand, without a database: what burns, what comes back, what expires."""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from hypothesis import assume, given
from hypothesis import strategies as st

from builders import SHOP, ShopOperation, adjust
from shared_ledger import (
    CaptureHold,
    Group,
    Part,
    PlaceHold,
    Posting,
    Refusal,
    ReleaseHold,
    Reversal,
    Transfer,
)
from shared_ledger.book import Account, AccountKey, Entry, Grant, Hold
from shared_ledger.changes import Book, Changes
from shared_ledger.commands import AnyCommand, SweepCommand, atomic
from shared_ledger.decide import Together, decide
from shared_ledger.requests import command_of_request

NOW = datetime(2027, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
ANN = ("ann", "credits")


class Shelf:
    """A book that keeps what was decided, as the database does."""

    def __init__(self, plain: int, grants: Sequence[Grant] = ()) -> None:
        expiring = sum(grant.remaining for grant in grants)
        due_on = min((grant.expires_on for grant in grants), default=None)
        self.accounts: dict[AccountKey, Account] = {
            ANN: Account(
                *ANN,
                posted=plain + expiring,
                changed_on=NOW,
                expiring=expiring,
                due_on=due_on,
                whole=due_on is not None,
            )
        }
        self.grants = {grant.id: grant for grant in grants}
        self.holds: dict[int, Hold] = {}
        self.entries: dict[int, Entry] = {}
        self.burns: dict[tuple[int, int], int] = {}

    def book(self, now: datetime = NOW) -> Book:
        """Everything, as it is loaded."""
        grants: dict[AccountKey, list[Grant]] = {}
        for grant in self.grants.values():
            grants.setdefault((grant.owner_id, grant.asset), []).append(grant)
        next_due: dict[AccountKey, datetime] = {}
        ends: list[Grant | Hold] = [grant for grant in self.grants.values() if grant.remaining]
        ends += [hold for hold in self.holds.values() if hold.state == "open"]
        for end in ends:
            key = (end.owner_id, end.asset)
            if end.expires_on > now:
                next_due[key] = min(end.expires_on, next_due.get(key, end.expires_on))
        reversed_: dict[int, int] = {}
        for entry in self.entries.values():
            if entry.reverses is not None:
                before = reversed_.get(entry.reverses, 0)
                reversed_[entry.reverses] = before + abs(entry.amount)
        burned: dict[int, dict[int, int]] = {}
        for (entry_id, grant_id), amount in self.burns.items():
            burned.setdefault(entry_id, {})[grant_id] = amount
        first = max([99, *self.entries, *self.grants, *self.holds]) + 1
        return Book(
            now,
            range(first, first + 1_000),
            accounts=self.accounts,
            entries={(e.owner_id, e.app, e.nonce): e for e in self.entries.values()},
            holds=self.holds,
            grants=grants,
            next_due=next_due,
            reversed=reversed_,
            burned=burned,
        )

    def ask(self, *requests: Any, now: datetime = NOW) -> list[Any]:
        """Decide requests and keep what they change."""
        return self.take([self.command(request) for request in requests], now)

    def take(self, commands: Sequence[AnyCommand], now: datetime = NOW) -> list[Any]:
        results, changes = decide(self.book(now), commands)
        self.accounts |= changes.accounts
        self.grants |= changes.grants
        self.holds |= changes.holds
        self.burns |= changes.burns
        self.entries |= {entry.id: entry for entry in changes.entries}
        return list(results)

    def command(self, request: Any) -> AnyCommand:
        entries = {entry.id: [entry] for entry in self.entries.values()}
        return command_of_request(SHOP, request, self.holds, entries)

    def left(self) -> dict[int, int]:
        """What is left of each grant, by its id."""
        return {grant.id: grant.remaining for grant in self.grants.values()}


@st.composite
def grants(draw: st.DrawFn, *, min_size: int = 0) -> list[Grant]:
    """Grants of which none has expired, many of them alike."""
    small = st.integers(0, 2)
    return [
        Grant(
            number,
            number,
            "shop",
            *ANN,
            amount=amount,
            remaining=amount,
            priority=draw(small),
            granted_on=NOW - draw(small) * HOUR,
            expires_on=NOW + (1 + draw(small)) * HOUR,
        )
        for number, amount in enumerate(
            draw(st.lists(st.integers(1, 9), min_size=min_size, max_size=6)), 1
        )
    ]


@st.composite
def shelves(draw: st.DrawFn) -> Shelf:
    """Books in which Ann has credits that expire, and maybe others."""
    return Shelf(draw(st.integers(0, 9)), draw(grants(min_size=1)))


def spend(amount: int, nonce: str = "spend") -> Posting[ShopOperation]:
    return adjust("ann", nonce, -amount)


def available(shelf: Shelf) -> int:
    return shelf.accounts[ANN].available


@given(shelf=shelves(), data=st.data())
def test_a_grant_burns_only_when_all_that_come_before_it_are_burned(
    shelf: Shelf, data: st.DataObject
) -> None:
    amount = data.draw(st.integers(1, available(shelf)))
    order = sorted(
        shelf.grants.values(), key=lambda g: (g.priority, g.expires_on, g.granted_on, g.id)
    )
    shelf.ask(spend(amount))
    for grant in order:
        burned = min(amount, grant.amount)
        assert shelf.left()[grant.id] == grant.amount - burned
        amount -= burned


@given(shelf=shelves(), data=st.data(), seed=st.integers())
def test_what_burns_does_not_depend_on_the_order_in_which_grants_are_loaded(
    shelf: Shelf, data: st.DataObject, seed: int
) -> None:
    amount = data.draw(st.integers(1, available(shelf)))
    other = deepcopy(shelf)
    shuffled = list(other.grants.items())
    random.Random(seed).shuffle(shuffled)  # not a secret
    other.grants = dict(shuffled)
    shelf.ask(spend(amount))
    other.ask(spend(amount))
    assert other.left() == shelf.left()


@given(shelf=shelves(), data=st.data(), together=st.booleans())
def test_parts_of_a_spend_burn_what_the_whole_would(
    shelf: Shelf, data: st.DataObject, *, together: bool
) -> None:
    parts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    assume(sum(parts) <= available(shelf))
    other = deepcopy(shelf)
    shelf.ask(spend(sum(parts)))
    spends = [spend(amount, str(number)) for number, amount in enumerate(parts)]
    for batch in [spends] if together else [[one] for one in spends]:
        other.ask(*batch)
    assert other.left() == shelf.left()
    assert other.accounts == shelf.accounts


@given(shelf=shelves(), data=st.data())
def test_a_hold_reserves_what_a_spend_would_burn(shelf: Shelf, data: st.DataObject) -> None:
    amount = data.draw(st.integers(1, available(shelf)))
    other = deepcopy(shelf)
    shelf.ask(spend(amount))
    (held,) = other.ask(PlaceHold(ShopOperation.ADJUSTMENT, "ann", "hold", amount))
    assert other.left() == shelf.left()
    burned = sum(shelf.burns.values())
    assert sum(size for _, size in other.holds[held.hold.id].grants) == burned


@given(shelf=shelves(), data=st.data())
def test_reversed_parts_leave_what_a_smaller_spend_would_have(
    shelf: Shelf, data: st.DataObject
) -> None:
    amount = data.draw(st.integers(1, available(shelf)))
    parts = data.draw(st.lists(st.integers(1, 5), max_size=4))
    assume(sum(parts) < amount)
    smaller = deepcopy(shelf)
    (spent,) = shelf.ask(spend(amount))
    for number, part in enumerate(parts):
        shelf.ask(Reversal(spent.entry.id, f"back {number}", part))
    smaller.ask(spend(amount - sum(parts)))
    assert shelf.left() == smaller.left()
    account, expected = shelf.accounts[ANN], smaller.accounts[ANN]
    assert (account.posted, account.expiring) == (expected.posted, expected.expiring)


@given(shelf=shelves(), owed=st.integers(1, 9), data=st.data())
def test_reversed_parts_pay_debt_and_come_back_as_the_whole_would(
    shelf: Shelf, owed: int, data: st.DataObject
) -> None:
    spent_amount = available(shelf)
    (spent,) = shelf.ask(spend(spent_amount))
    gift, _ = shelf.ask(adjust("ann", "gift", owed), spend(owed, "of the gift"))
    shelf.ask(Reversal(gift.entry.id, "taken back", allow_debt=True))
    assert shelf.accounts[ANN].debt == owed
    parts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    assume(sum(parts) <= spent_amount)
    whole = deepcopy(shelf)
    for number, part in enumerate(parts):
        shelf.ask(Reversal(spent.entry.id, f"back {number}", part))
    whole.ask(Reversal(spent.entry.id, "back", sum(parts)))
    assert shelf.left() == whole.left()
    assert numbers(shelf.accounts[ANN]) == numbers(whole.accounts[ANN])


def numbers(account: Account) -> tuple[int, int, int, int]:
    return account.posted, account.held, account.expiring, account.debt


REQUESTS = st.sampled_from(["spend", "gain", "grant", "transfer", "hold", "group", "spend of all"])


def requests(shelf: Shelf, kinds: Sequence[str]) -> list[Any]:
    """Requests of these kinds, with nonces of their own."""
    made: list[Any] = []
    for number, kind in enumerate(kinds):
        nonce = f"{kind} {number}"
        operation = ShopOperation.ADJUSTMENT
        lasting = HOUR + timedelta(minutes=number)
        parts = [Part(operation, "bob", 3, expires_in=lasting), Part(operation, "bob", -2)]
        made.append(
            {
                "spend": spend(2, nonce),
                "spend of all": spend(max(1, available(shelf)), nonce),
                "gain": adjust("ann", nonce, 3),
                "grant": Posting(operation, "ann", nonce, 3, expires_in=lasting, priority=1),
                "transfer": Transfer(source="ann", destination="bob", amount=2, nonce=nonce),
                "hold": PlaceHold(operation, "ann", nonce, 2),
                "group": Group(nonce, parts),
            }[kind]
        )
    return made


def ends(shelf: Shelf, *, refused: bool = False) -> list[Any]:
    """A capture or release of every hold and a reversal of every entry, with their own nonces."""
    made: list[Any] = []
    for number in shelf.holds:
        half: Any = CaptureHold(number, f"part of {number}", 1, final=False)
        made += [half, ReleaseHold(number, f"end of {number}")]
    for entry in shelf.entries.values():
        if entry.amount and entry.reverses is None:
            amount = abs(entry.amount) + 1 if refused else 1
            made.append(Reversal(entry.id, f"back {entry.id}", amount, allow_debt=True))
    return made


@given(
    shelf=shelves(),
    before=st.lists(REQUESTS, max_size=5),
    kinds=st.lists(REQUESTS, min_size=1, max_size=5),
    later=st.sampled_from([0, 1, 2, 400]),
    together=st.booleans(),
)
def test_decide_leaves_what_was_loaded_as_it_was(
    shelf: Shelf, before: list[str], kinds: list[str], later: int, *, together: bool
) -> None:
    shelf.ask(*requests(shelf, before))
    commands = [shelf.command(one) for one in ends(shelf)]
    commands += [
        shelf.command(msgspec.structs.replace(one, nonce=f"new {one.nonce}"))
        for one in requests(shelf, kinds)
    ]
    book = shelf.book(NOW + later * HOUR)
    untouched = deepcopy(book)
    decide(book, [atomic(commands)] if together else commands)
    assert book == untouched


@given(
    shelf=shelves(),
    before=st.lists(REQUESTS, max_size=4),
    kinds=st.lists(REQUESTS, max_size=4),
    refused=st.booleans(),
)
def test_refused_atomic_batch_changes_nothing(
    shelf: Shelf, before: list[str], kinds: list[str], *, refused: bool
) -> None:
    shelf.ask(*requests(shelf, before))
    # Decided in the same batch, before the one that is refused and after it.
    first, last = (shelf.command(adjust("ann", nonce, 5)) for nonce in ("first", "last"))
    members = [shelf.command(one) for one in ends(shelf, refused=refused)]
    members += [
        shelf.command(msgspec.structs.replace(one, nonce=f"new {one.nonce}"))
        for one in requests(shelf, kinds)
    ]
    members.append(shelf.command(spend(1_000, "too much")))
    (_, together, _), changes = decide(shelf.book(), [first, atomic(members), last])
    _, expected = decide(shelf.book(), [first, last])
    assert isinstance(together, Together)
    assert all(isinstance(result, Refusal) for result in together.results)
    assert without_ids(changes) == without_ids(expected)


@given(shelf=shelves(), kinds=st.lists(st.integers(-4, 6).filter(bool), max_size=5))
def test_refused_group_changes_nothing(shelf: Shelf, kinds: list[int]) -> None:
    operation = ShopOperation.ADJUSTMENT
    parts = [
        Part(operation, owner, amount, expires_in=HOUR if amount > 0 else None)
        for owner in ("ann", "bob")
        for amount in kinds
    ]
    group = Group("group", [*parts, Part(operation, "ann", -1_000)])
    first, last = (shelf.command(adjust("ann", nonce, 5)) for nonce in ("first", "last"))
    (_, refused, _), changes = decide(shelf.book(), [first, shelf.command(group), last])
    _, expected = decide(shelf.book(), [first, last])
    assert isinstance(refused, Refusal)
    assert without_ids(changes) == without_ids(expected)


def without_ids(changes: Changes) -> Changes:
    """What is written, whatever ids were left out before it."""
    return replace(
        changes, entries=[msgspec.structs.replace(entry, id=0) for entry in changes.entries]
    )


@given(
    shelf=shelves(),
    holds=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 8)), max_size=4),
    beyond=st.integers(0, 8),
)
def test_what_expires_at_once_is_what_expires_one_by_one(
    shelf: Shelf, holds: list[tuple[int, int]], beyond: int
) -> None:
    halves = timedelta(minutes=30)
    for number, (amount, lasting) in enumerate(holds):
        placed = PlaceHold(ShopOperation.ADJUSTMENT, "ann", str(number), amount, lasting * halves)
        shelf.ask(placed)
    until = NOW + beyond * halves
    sweep = SweepCommand(*ANN)
    step_by_step = deepcopy(shelf)
    shelf.take([sweep], until)
    at = NOW
    while at < until:
        at += halves
        step_by_step.take([sweep], at)
    assert expiries(shelf) == expiries(step_by_step)
    assert shelf.grants == step_by_step.grants
    assert shelf.holds == step_by_step.holds
    assert numbers(shelf.accounts[ANN]) == numbers(step_by_step.accounts[ANN])


def expiries(shelf: Shelf) -> list[tuple[Any, ...]]:
    """What was booked and when it took effect, of each moment in the order of grants and holds."""
    return [
        (
            entry.effective_on or entry.created_on,
            entry.hold_id,
            entry.amount,
            entry.balance_after,
            entry.held_after,
            entry.expiring_after,
        )
        for entry in shelf.entries.values()
        if entry.operation == "EXPIRY"
    ]


@given(shelf=shelves(), beyond=st.integers(1, 8))
def test_expiry_has_no_effect_on_what_expires_later(shelf: Shelf, beyond: int) -> None:
    until = NOW + beyond * timedelta(minutes=30)
    before = shelf.left()
    shelf.take([SweepCommand(*ANN)], until)
    for grant in shelf.grants.values():
        assert grant.remaining == (0 if grant.expires_on <= until else before[grant.id])
        assert grant.expired == before[grant.id] - grant.remaining
