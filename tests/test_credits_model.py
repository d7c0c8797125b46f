"""Every command in random order, with time moved at will, against a ledger that expires eagerly.

The ledger of the product books what has expired when somebody touches the account; the one in
``eager_ledger`` does so whenever time moves. Whatever is asked of the two, they have to agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from psycopg import sql

from builders import assert_sound
from conftest import Clock
from eager_ledger import (
    CLUB,
    DAY,
    HOUR,
    INSTANT,
    KIOSK,
    MINUTE,
    SECOND,
    ClubOperation,
    Line,
    Model,
    No,
    Numbers,
    Reserve,
    Taken,
    Yes,
)
from shared_ledger import (
    CaptureHold,
    Entry,
    Group,
    Held,
    Hold,
    Ledger,
    Part,
    PlaceHold,
    Posted,
    Posting,
    Refusal,
    ReleaseHold,
    Reversal,
    Transfer,
)
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster
from shared_ledger.schema import book_tables
from shared_ledger.verify import verify

# What is asked for

OWNERS = ("ann", "bob", "cy")
OWNER = st.sampled_from(OWNERS)
AMOUNT = st.integers(1, 30)
LITTLE = st.integers(1, 12)
SOME = st.none() | st.none() | st.integers(1, 6)
# As much as there is, and one more.
ALL = st.sampled_from(["all", "all", "more"])
WHICH = st.integers(0, 12)
METADATA = st.sampled_from([None, None, {"a": 1}, {}])
LASTS = st.sampled_from([30 * SECOND, MINUTE, HOUR, 5 * HOUR, DAY, 3 * DAY, 10 * DAY, 40 * DAY])
PRIORITY = st.sampled_from([None, 0, 1, 5])
# Most of what is asked is the application's own.
FOREIGN = st.sampled_from([False] * 15 + [True])
APP = st.sampled_from(["club"] * 7 + ["kiosk"])

Wish = tuple[Any, ...]
"""A request that may name an earlier one by a number: which it is, is seen when it is asked."""

GAINS = st.one_of(
    st.tuples(st.just(ClubOperation.TOP_UP), st.none() | AMOUNT, st.none() | LASTS, PRIORITY),
    st.tuples(st.just(ClubOperation.VOUCHER), AMOUNT, st.none() | LASTS, PRIORITY),
    st.tuples(st.just(ClubOperation.CREDIT_ADD), st.none(), st.none() | LASTS, st.none()),
    st.tuples(st.just(ClubOperation.PRIZE), AMOUNT, st.none() | LASTS, st.none()),
)
CLAIMS = (
    ClubOperation.DAILY_REWARD,
    ClubOperation.SIGNUP_CREDIT,
    ClubOperation.WEEKLY_BONUS,
    ClubOperation.MONTHLY_BONUS,
)
ONCE = st.tuples(st.sampled_from(CLAIMS), st.none(), st.none() | LASTS, st.none())
SPENDS = st.tuples(
    st.just(ClubOperation.PURCHASE), st.integers(-15, 0) | ALL, st.none(), st.none()
) | st.tuples(
    st.sampled_from([ClubOperation.CREDIT_SPEND, ClubOperation.PURCHASE, ClubOperation.VISIT]),
    st.none(),
    st.none(),
    st.none(),
)
PARTS = st.tuples(OWNER, st.one_of(GAINS, SPENDS, SPENDS, ONCE), METADATA)
POSTS = st.tuples(st.just("post"), PARTS)
GIFTS = st.tuples(st.just("post"), st.tuples(OWNER, GAINS, METADATA))
GROUPS = st.tuples(st.just("group"), st.lists(PARTS, min_size=1, max_size=4))
TRANSFERS = st.tuples(st.just("transfer"), OWNER, OWNER, LITTLE | ALL, METADATA)
HOLDS = st.tuples(
    st.just("hold"), OWNER, st.none() | LITTLE | ALL, st.none() | LASTS, st.booleans()
)
CAPTURES = st.tuples(st.just("capture"), WHICH, SOME, st.booleans(), FOREIGN)
RELEASES = st.tuples(st.just("release"), WHICH, FOREIGN)
NAMES = st.sampled_from(
    [None] * 6 + [ClubOperation.RETURN] * 4 + [ClubOperation.PURCHASE, *ClubOperation]
)
REVERSALS = st.tuples(st.just("reverse"), WHICH, SOME, st.booleans(), FOREIGN, NAMES)
CHANGES = st.one_of(
    st.none(),
    st.tuples(st.just("kind"), st.none()),
    st.tuples(st.just("metadata"), st.just({"b": 2})),
    st.tuples(st.just("amount"), AMOUNT),
    st.tuples(st.just("operation"), st.sampled_from(ClubOperation)),
    st.tuples(st.just("destination"), OWNER),
    st.tuples(st.just("final"), st.booleans()),
    st.tuples(st.just("expires_in"), LASTS),
    st.tuples(st.just("priority"), st.just(7)),
    st.tuples(st.just("parts"), st.none()),
    st.tuples(st.just("allow_debt"), st.booleans()),
)
AGAIN = st.tuples(st.just("again"), WHICH, CHANGES)
WISHES: st.SearchStrategy[Wish] = st.one_of(
    POSTS, GIFTS, GROUPS, TRANSFERS, HOLDS, CAPTURES, RELEASES, REVERSALS, REVERSALS, AGAIN
)
QUOTED = st.sampled_from([False, False, True])
STEPS = st.sampled_from(
    [30 * SECOND, MINUTE, HOUR, 5 * HOUR, DAY, 3 * DAY, 7 * DAY, 31 * DAY, 100 * DAY]
)

_books = count(1)
_cluster: Cluster | None = None

DUE = """
    select owner_id from {book}.accounts
    where due_on <= (select at from {clock}.present)
"""
# Every statement gives what is wrong: nothing, if the book is sound.
SOUND = (
    "select asset, sum(posted) from {book}.accounts group by asset having sum(posted) <> 0",
    """
    with moved (owner_id, asset, amount) as (
        select owner_id, asset, amount from {book}.entries
        union all
        select counterparty, asset, -amount from {book}.entries
    ), summed as (
        select owner_id, asset, sum(amount) as total from moved group by owner_id, asset
    )
    select owner_id, posted, total
    from {book}.accounts full join summed using (owner_id, asset)
    where posted is distinct from total
    """,
    """
    select owner_id, held, total
    from {book}.accounts
    left join (
        select owner_id, asset, sum(amount - captured) as total
        from {book}.holds where state = 'open' group by owner_id, asset
    ) as summed using (owner_id, asset)
    where held <> coalesce(total, 0)
    """,
    """
    select owner_id, posted, held, debt
    from {book}.accounts
    where debt <> coalesce(greatest(0, floor - posted + held), 0)
        or (floor is null) <> (left(owner_id, 1) = '@')
    """,
    # Of each grant: what entries took of it, what is left, and what holds reserve.
    """
    select id, amount, remaining, burned, reserved
    from {book}.grants
    cross join lateral (
        select coalesce(sum(amount), 0) as burned from {book}.burns where grant_id = id
    ) as taken
    cross join lateral (
        select coalesce(sum(size), 0) as reserved
        from {book}.holds
        cross join unnest(grant_ids, grant_amounts) as piece (number, size)
        where number = grants.id and state = 'open'
    ) as kept
    where amount <> remaining + burned + reserved
    """,
    """
    select owner_id, expiring, total
    from {book}.accounts
    left join (
        select owner_id, asset, sum(remaining + reserved) as total
        from {book}.grants
        cross join lateral (
            select coalesce(sum(size), 0) as reserved
            from {book}.holds
            cross join unnest(grant_ids, grant_amounts) as piece (number, size)
            where number = grants.id and state = 'open'
        ) as kept
        group by owner_id, asset
    ) as summed using (owner_id, asset)
    where expiring <> coalesce(total, 0)
    """,
    # Of each entry: how the balance changed, and what it gave and took of what expires.
    """
    select * from (
        select id, amount, balance_after - lag(balance_after, 1, 0::bigint) over history as gained,
            coalesce(expiring_after, 0)
                - lag(coalesce(expiring_after, 0), 1, 0::bigint) over history as changed,
            given - burned as expected, created_on - lag(created_on) over history as passed
        from {book}.entries
        cross join lateral (
            select coalesce(sum(amount), 0) as given from {book}.grants where entry_id = entries.id
        ) as grants
        cross join lateral (
            select coalesce(sum(amount), 0) as burned from {book}.burns where entry_id = entries.id
        ) as burns
        window history as (partition by owner_id, asset order by id)
    ) as running
    where gained <> amount or changed <> expected or passed < interval '0'
    """,
    # A spend burns no more than it took, an expiry just that.
    """
    select id, amount, burned
    from {book}.entries
    join (select entry_id, sum(amount) as burned from {book}.burns group by entry_id) as summed
        on entry_id = id
    where amount < 0 and burned > -amount
        or operation = 'EXPIRY' and burned <> -amount
        or amount > 0 and reverses is not null and burned < -amount
    """,
)


class Steps(RuleBasedStateMachine):
    @initialize(
        start=st.sampled_from(
            [
                datetime(2027, 1, 31, 23, 59, 30, tzinfo=UTC),
                datetime(2028, 2, 27, 18, tzinfo=UTC),
                datetime(2026, 12, 27, 12, tzinfo=UTC),
            ]
        ),
        gifts=st.lists(GIFTS, min_size=6, max_size=9),
        max_batch=st.sampled_from([1, 3, 5_000]),
    )
    def open(self, start: datetime, gifts: Sequence[Wish], max_batch: int) -> None:
        assert _cluster is not None
        self.schema = f"credits_{next(_books)}"
        self.clock = Clock(_cluster, start)
        self.model = Model(start)
        self.engine = make_engine(self.clock.url)
        self.nonces = map(str, count(1))
        self.asked: list[tuple[str, Any]] = []
        # One lane: another would decide what other owners ask in a batch in its own time.
        limits: Any = {"lanes": 1, "max_batch": max_batch, "schema": self.schema, "migrate": True}
        self.ledgers = {app.name: Ledger(app, self.clock.url, **limits) for app in (CLUB, KIOSK)}
        self.sql = psycopg.connect(self.clock.url, autocommit=True)
        for gift in gifts:
            self.one("club", gift)

    # From wishes to requests

    def part(self, wish: Wish) -> tuple[Any, ...]:
        owner, (operation, amount, lasts, priority), metadata = wish
        if isinstance(amount, str):
            amount = -self.amount(owner, amount)
        return operation, owner, amount, metadata, lasts, priority

    def amount(self, owner: str, wish: int | str) -> int:
        """What is wished for, which may be as much as there is."""
        if isinstance(wish, int):
            return wish
        return max(1, self.model.numbers(owner).available + (wish == "more"))

    def request(  # noqa: C901, PLR0911  # one short case for each kind of request
        self, name: str, wish: Wish
    ) -> Any:
        """Make a request of a wish; ``None`` if there is nothing yet that it could name."""
        nonce = next(self.nonces)
        match wish:
            case "post", part:
                operation, owner, *rest = self.part(part)
                return Posting(operation, owner, nonce, *rest)
            case "group", parts:
                return Group(nonce, [Part(*self.part(part)) for part in parts])
            case "transfer", source, destination, amount, metadata:
                return Transfer(
                    source=source,
                    destination=destination,
                    amount=self.amount(source, amount),
                    nonce=nonce,
                    metadata=metadata,
                )
            case "hold", owner, amount, lasts, until:
                operation = ClubOperation.PURCHASE
                if amount is not None:
                    amount = self.amount(owner, amount)
                if until and lasts is not None:
                    at = self.model.now + lasts
                    return PlaceHold(operation, owner, nonce, amount, expires_at=at)
                return PlaceHold(operation, owner, nonce, amount, expires_in=lasts)
            case "capture", which, amount, final, foreign:
                hold_id = self.hold_id(name, which, foreign)
                return hold_id and CaptureHold(hold_id, nonce, amount, final)
            case "release", which, foreign:
                hold_id = self.hold_id(name, which, foreign)
                return hold_id and ReleaseHold(hold_id, nonce)
            case "reverse", which, amount, allow_debt, foreign, operation:
                # Of another application's, or of what cannot be reversed, only now and then.
                lines = [
                    line
                    for line in self.model.lines
                    if foreign or (line.app == name and line.amount and not line.reverses)
                ]
                lines.sort(key=lambda line: (self.model.left(line) > 0, line.number))
                ids = [line.id for line in reversed(lines) if line.id]
                entry_id = ids[which % len(ids)] if ids else 0
                return entry_id and Reversal(
                    entry_id, nonce, amount, allow_debt, operation=operation
                )
            case "again", which, change:
                earlier = [request for app, request in reversed(self.asked) if app == name]
                return earlier and changed(earlier[which % len(earlier)], change)
        raise AssertionError(wish)

    def hold_id(self, name: str, which: int, foreign: bool) -> int:
        """Name a hold; the open ones, the newest first, come before those that have ended."""
        lines = self.model.lines
        holds = [hold for hold in self.model.holds if foreign or hold.app == name]
        holds = sorted(holds, key=lambda hold: (hold.state == "open", hold.number), reverse=True)
        ids = [lines[hold.number].id for hold in holds if lines[hold.number].id]
        return ids[which % len(ids)] if ids else 0

    def requests(self, name: str, wishes: Sequence[Wish]) -> list[Any]:
        requests = [self.request(name, wish) for wish in wishes]
        return [request for request in requests if request]

    # Asking both

    @rule(app=APP, wish=POSTS, quoted=QUOTED)
    def post(self, app: str, wish: Wish, *, quoted: bool) -> None:
        self.one(app, wish, quoted=quoted)

    @rule(app=APP, wish=GIFTS, quoted=QUOTED)
    def give(self, app: str, wish: Wish, *, quoted: bool) -> None:
        self.one(app, wish, quoted=quoted)

    @rule(app=APP, wish=GROUPS, quoted=QUOTED)
    def group(self, app: str, wish: Wish, *, quoted: bool) -> None:
        self.one(app, wish, quoted=quoted)

    @rule(app=APP, wish=TRANSFERS, quoted=QUOTED)
    def transfer(self, app: str, wish: Wish, *, quoted: bool) -> None:
        self.one(app, wish, quoted=quoted)

    @rule(app=APP, wish=HOLDS, quoted=QUOTED)
    def hold(self, app: str, wish: Wish, *, quoted: bool) -> None:
        self.one(app, wish, quoted=quoted)

    @rule(app=APP, wish=st.one_of(CAPTURES, CAPTURES, RELEASES), quoted=QUOTED)
    def end_a_hold(self, app: str, wish: Wish, *, quoted: bool) -> None:
        self.one(app, wish, quoted=quoted)

    @rule(app=APP, wish=REVERSALS, times=st.integers(1, 3), quoted=QUOTED)
    def reverse(self, app: str, wish: Wish, times: int, *, quoted: bool) -> None:
        for _ in range(times):
            self.one(app, wish, quoted=quoted)

    @rule(owner=OWNER, owed=LITTLE, parts=st.lists(LITTLE, max_size=3))
    def fall_into_debt(self, owner: str, owed: int, parts: list[int]) -> None:
        """Have a gain reversed that was spent, and get some of the spend back."""
        gains = [
            line.id
            for line in self.model.lines
            if line.owner == owner and line.amount > 0 and not line.reverses
        ]
        self.one("club", ("post", (owner, (ClubOperation.PURCHASE, "all", None, None), None)))
        spend = self.model.lines[-1].id
        if gains:
            self.ask("club", Reversal(gains[-1], next(self.nonces), owed, allow_debt=True))
        for part in parts:
            self.ask("club", Reversal(spend, next(self.nonces), part))

    @rule(
        owner=OWNER,
        gift=GIFTS,
        amount=LITTLE | ALL,
        lasts=LASTS,
        step=STEPS,
        capture=SOME | st.just(0),
        touched=st.booleans(),
    )
    def hold_and_wait(  # noqa: PLR0917  # Hypothesis gives all by name
        self,
        owner: str,
        gift: Wish,
        amount: int | str,
        lasts: timedelta,
        step: timedelta,
        capture: int | None,
        *,
        touched: bool,
    ) -> None:
        """Reserve what expires, and let one or both expire before anybody looks."""
        self.one("club", gift)
        self.one("club", ("hold", owner, amount, lasts, True))
        if capture != 0:
            self.one("club", ("capture", 0, capture, False, False))
        if touched:
            self.move(self.next_expiry() - self.model.now)
            self.same_holds(owner)
        self.move(step)

    @rule(
        owner=OWNER,
        operation=st.sampled_from(CLAIMS),
        steps=st.lists(st.sampled_from([5 * HOUR, DAY, 3 * DAY, 10 * DAY]), max_size=4),
    )
    def claim_again_and_again(self, owner: str, operation: Any, steps: list[timedelta]) -> None:
        wish = ("post", (owner, (operation, None, None, None), None))
        self.one("club", wish)
        for step in steps:
            self.move(step)
            self.one("club", wish)

    @rule(app=APP, wish=AGAIN, quoted=QUOTED)
    def repeat(self, app: str, wish: Wish, *, quoted: bool) -> None:
        self.one(app, wish, quoted=quoted)

    def one(self, app: str, wish: Wish, *, quoted: bool = False) -> None:
        request = self.request(app, wish)
        if request:
            self.ask(app, request, quoted=quoted)

    def ask(self, app: str, request: Any, *, quoted: bool = False) -> None:
        ledger = self.ledgers[app]
        if quoted:
            self.quote(ledger, request)
        expected = self.model.ask(ledger.application, request)
        self.agree(self.model, expected, outcome_of(ledger.post, request))
        if isinstance(expected, Yes):
            self.asked.append((app, request))

    def quote(self, ledger: Ledger[Any], request: Any) -> None:
        """A quote tells what would be, and changes nothing."""
        model = deepcopy(self.model)
        expected = model.ask(ledger.application, request)
        quote = outcome_of(ledger.quote, request)
        if isinstance(expected, No):
            compare_refusal(expected, quote)
            return
        assert not isinstance(quote, Refusal), quote
        assert quote.replayed == expected.replayed
        owner = model.lines[expected.lines[0]].owner
        assert numbers_of(quote.balance) == model.numbers(owner)
        line = model.lines[expected.lines[0]]
        if expected.replayed or not isinstance(request, Posting | PlaceHold | CaptureHold):
            return
        taken = line.taken if expected.hold is None else expected.hold.taken
        # A gain may burn what it gives itself, to pay a debt.
        if line.amount <= 0:
            assert [(burn.amount, burn.expires_on) for burn in quote.burns] == [
                (amount, model.lots[number].expires_on) for number, amount in taken.pieces
            ]

    @rule(
        app=APP,
        wishes=st.lists(WISHES, min_size=1, max_size=6),
        atomic=st.booleans(),
        twice=st.booleans(),
    )
    def post_batch(self, app: str, wishes: Sequence[Wish], *, atomic: bool, twice: bool) -> None:
        requests = self.requests(app, wishes)
        requests += requests[:1] if twice else []
        ledger = self.ledgers[app]
        expected = self.model.ask_all(ledger.application, requests, atomic=atomic)
        results = ledger.post_batch(requests, atomic=atomic)
        assert len(results) == len(expected)
        for one, result in zip(expected, results, strict=True):
            self.agree(self.model, one, result)
        answered = zip(requests, expected, strict=True)
        self.asked += [(app, request) for request, one in answered if isinstance(one, Yes)]

    @rule(
        wishes=st.lists(st.tuples(APP, WISHES), min_size=1, max_size=3),
        commit=st.booleans(),
    )
    def post_in_a_transaction(self, wishes: Sequence[tuple[str, Wish]], *, commit: bool) -> None:
        before, model = self.model, deepcopy(self.model)
        self.model = model
        asked = []
        with self.engine.connect() as connection:
            for app, wish in wishes:
                request = self.request(app, wish)
                if not request:
                    continue
                ledger = self.ledgers[app]
                expected = model.ask(ledger.application, request)
                result = outcome_of(ledger.post_in, connection, request)
                self.agree(model, expected, result)
                if isinstance(expected, Yes):
                    asked.append((app, request))
            if commit:
                connection.commit()
                self.asked += asked
            else:
                connection.rollback()
                self.model = before

    @rule(step=STEPS, owner=OWNER)
    def look_ahead_and_move(self, step: timedelta, owner: str) -> None:
        self.look_ahead(owner, step)
        self.move(step)

    def move(self, step: timedelta) -> None:
        self.clock.move(step)
        self.model.move(self.model.now + step)

    @rule(offset=st.sampled_from([-INSTANT, timedelta(), INSTANT]))
    def move_to_the_next_expiry(self, offset: timedelta) -> None:
        step = self.next_expiry() + offset - self.model.now
        if step >= timedelta():
            self.move(step)

    def next_expiry(self) -> datetime:
        return self.model.next_expiry() or self.model.now

    @rule(owner=OWNER, wish=st.sampled_from(["sweep", "grants", "holds"]))
    def book_what_has_expired(self, owner: str, wish: str) -> None:
        """A sweep does, and so does reading what an owner has."""
        due = self.due()
        if wish == "sweep":
            assert self.ledgers["club"].sweep() == len(due)
            due.clear()
        elif wish == "grants":
            self.same_grants(owner)
        else:
            self.same_holds(owner)
        assert self.due() == due - {owner}

    @rule(owner=OWNER, which=WHICH, offset=st.sampled_from([-INSTANT, timedelta(), INSTANT]))
    def look_back(self, owner: str, which: int, offset: timedelta) -> None:
        times = [at for at, _ in self.model.past.get(owner, [])] or [self.model.now]
        at = times[-1 - which % len(times)] + offset
        if at > self.model.now:
            self.look_ahead(owner, offset)
            return
        then = self.ledgers["club"].balance(owner, at=at)
        assert numbers_of(then) == self.model.at(owner, at)

    def look_ahead(self, owner: str, step: timedelta) -> None:
        future, at = deepcopy(self.model), self.model.now + step
        future.move(at)
        assert numbers_of(self.ledgers["kiosk"].balance(owner, at=at)) == future.numbers(owner)

    # Comparing

    def agree(self, model: Model, expected: Yes | No, result: Any) -> None:
        """The same answer; a new entry's id becomes known to the model."""
        if isinstance(expected, No):
            compare_refusal(expected, result)
            return
        assert not isinstance(result, Refusal), result
        assert result.replayed == expected.replayed
        lines = [model.lines[number] for number in expected.lines]
        if expected.hold is not None:
            assert isinstance(result, Held)
            (line,) = lines
            closed_by = result.hold.closed_by
            line.id = line.id or closed_by or result.hold.id
            assert line.id == (closed_by or result.hold.id)
            self.same_hold(model, expected.hold, result.hold)
            return
        assert isinstance(result, Posted)
        entries = [result.entry, *result.group]
        assert len(entries) == len(lines)
        for number, (line, entry) in enumerate(zip(lines, entries, strict=True)):
            line.id = line.id or entry.id
            assert line_of(entry) == replace(
                line,
                number=0,
                taken=Taken(),
                reversed=0,
                first=None if line.first is None else lines[0].id,
                reverses=None if line.reverses is None else model.lines[line.reverses].id,
                hold=None if line.hold is None else model.lines[line.hold].id,
                nonce=f"@{lines[0].id}.{number}" if number else line.nonce,
            )

    def same_hold(self, model: Model, expected: Reserve, hold: Hold) -> None:
        assert (
            hold.id,
            hold.app,
            hold.operation,
            hold.owner_id,
            hold.amount,
            hold.created_on,
            hold.expires_on,
            hold.captured,
            hold.state,
            hold.closed_on,
        ) == (
            model.lines[expected.number].id,
            expected.app,
            expected.operation,
            expected.owner,
            expected.amount,
            expected.placed_on,
            expected.expires_on,
            expected.captured,
            expected.state,
            expected.closed_on,
        )

    def same_grants(self, owner: str) -> None:
        lots = [lot for lot in self.model.lots_of(owner) if lot.free]
        assert [
            (
                g.entry_id,
                g.app,
                g.amount,
                g.remaining,
                g.priority,
                g.granted_on,
                g.expires_on,
                g.expired,
            )
            for g in self.ledgers["club"].grants(owner)
        ] == [
            (
                self.model.lines[lot.source].id,
                lot.app,
                lot.amount,
                lot.free,
                lot.priority,
                lot.given_on,
                lot.expires_on,
                lot.expired,
            )
            for lot in lots
        ]

    def same_holds(self, owner: str) -> None:
        expected = self.model.open_holds(owner)
        holds = self.ledgers["club"].holds(owner)
        assert len(holds) == len(expected)
        for one, hold in zip(expected, holds, strict=True):
            self.same_hold(self.model, one, hold)
            assert hold.remaining == one.taken.total
            assert [size for _, size in hold.grants] == [size for _, size in one.taken.pieces]
        for ended in self.model.holds:
            if ended.owner == owner and ended.state != "open":
                hold = self.ledgers[ended.app].hold(self.model.lines[ended.number].id)
                self.same_hold(self.model, ended, hold)
                assert hold.grants == ()

    def due(self) -> set[str]:
        """Of whom something has expired that may not be booked."""
        return {owner for (owner,) in self.rows(DUE)}

    def rows(self, text: Any) -> list[tuple[Any, ...]]:
        names = {"book": self.schema, "clock": self.clock.schema}
        query = sql.SQL(text).format(**{k: sql.Identifier(v) for k, v in names.items()})
        return self.sql.execute(query).fetchall()

    @invariant()
    def both_are_the_same(self) -> None:
        due = self.due()
        for owner in OWNERS:
            balance = self.ledgers["club"].balance(owner)
            assert numbers_of(balance) == self.model.numbers(owner)
            # To look at the others would book what is due.
            if owner not in due:
                self.same_grants(owner)
                self.same_holds(owner)

    @invariant()
    def the_book_is_sound(self) -> None:
        for text in SOUND:
            assert self.rows(text) == [], text

    def teardown(self) -> None:
        if not hasattr(self, "sql"):
            return
        self.ledgers["club"].sweep()
        for ledger in self.ledgers.values():
            ledger.close()
        try:
            if any(self.model.numbers(owner).debt for owner in OWNERS):
                # The check for every other book takes a balance below its floor for a mistake.
                report = verify(self.engine, book_tables(self.schema))
                assert report.agrees, report.disagreements
            else:
                assert_sound(self.clock.url, self.schema)
            written = self.rows(
                "select id from {book}.entries where operation <> 'EXPIRY' order by id"
            )
            assert sorted(line.id for line in self.model.lines) == [number for (number,) in written]
        finally:
            self.rows_none("drop schema {book} cascade")
            self.sql.close()
            self.engine.dispose()
            self.clock.close()

    def rows_none(self, text: Any) -> None:
        self.sql.execute(sql.SQL(text).format(book=sql.Identifier(self.schema)))


def outcome_of(ask: Any, *arguments: Any) -> Any:
    """Return what the ledger answers, a refusal too."""
    try:
        return ask(*arguments)
    except Refusal as refusal:
        return refusal


def compare_refusal(expected: No, result: Any) -> None:
    assert isinstance(result, Refusal), (expected, result)
    data = result.data()
    assert (result.code, {name: data.get(name) for name in expected.data}) == (
        expected.code,
        expected.data,
    ), result


def numbers_of(balance: Any) -> Numbers:
    return Numbers(balance.balance, balance.available, balance.held, balance.expiring, balance.debt)


def line_of(entry: Entry) -> Line:
    """An entry as the model's line, its references by the product's ids."""
    return Line(
        number=0,
        app=entry.app,
        operation=entry.operation,
        owner=entry.owner_id,
        amount=entry.amount,
        at=entry.created_on,
        balance=entry.balance_after,
        held=entry.held_after,
        expiring=entry.expiring_after,
        nonce=entry.nonce,
        metadata=entry.metadata,
        taken=Taken(),
        first=entry.group_id,
        reverses=entry.reverses,
        hold=entry.hold_id,
        expires_on=entry.expires_on,
        priority=entry.priority,
        id=entry.id,
    )


def changed(  # noqa: PLR0911  # one short case for each kind of change
    request: Any, change: tuple[str, Any] | None
) -> Any:
    """The request again, with another value for a field that it has."""
    match change:
        case "kind", _:
            # The same nonce of the same owner, for something else.
            owner = getattr(request, "owner_id", None) or getattr(request, "source", None)
            if owner is None:
                return request
            if isinstance(request, Posting):
                return PlaceHold(ClubOperation.PURCHASE, owner, request.nonce, 1)
            return Posting(ClubOperation.VISIT, owner, request.nonce)
        case "parts", _ if isinstance(request, Group):
            return Group(request.nonce, [*request.parts, *request.parts[:1]])
        case "amount", value if isinstance(request, Posting) and (request.amount or 0) < 0:
            return msgspec.structs.replace(request, amount=-value)
        case "expires_in", _ if getattr(request, "expires_at", None) is not None:
            return request
        case str(name), value if name in request.__struct_fields__ and name != "parts":
            return msgspec.structs.replace(request, **{name: value})
    return request


@pytest.mark.slow
def test_every_command_in_any_order_agrees_with_an_eager_ledger(cluster: Cluster) -> None:
    global _cluster  # noqa: PLW0603  # Hypothesis makes the machine, and hands nothing to it.
    _cluster = cluster
    run_state_machine_as_test(
        Steps,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.data_too_large,
                HealthCheck.filter_too_much,
            ],
            report_multiple_bugs=False,
        ),
    )


def test_each_part_of_a_spend_comes_back_once_though_it_pays_a_debt(
    clock: Clock, schema: str
) -> None:
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as ledger:
        first, second = (
            ledger.post(Posting(ClubOperation.VOUCHER, "ann", f"{days}", 5, expires_in=days * DAY))
            for days in (1, 2)
        )
        gift = ledger.post(Posting(ClubOperation.TOP_UP, "ann", "gift", 3))
        spent = ledger.post(Posting(ClubOperation.PURCHASE, "ann", "spent", -10))
        ledger.post(Posting(ClubOperation.PURCHASE, "ann", "of the gift", -3))
        ledger.post(Reversal(gift.entry.id, "taken back", allow_debt=True))
        ledger.post(Reversal(spent.entry.id, "back, and 3 pay the debt", 5))
        ledger.post(Reversal(spent.entry.id, "the rest", 5))
        left = [(grant.entry_id, grant.remaining) for grant in ledger.grants("ann")]
        assert left == [(first.entry.id, 5), (second.entry.id, 2)]
