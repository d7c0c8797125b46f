"""What the tests arrange with: an application with every kind of rule, postings, plain SQL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from socket import create_server
from typing import Any

import psycopg
from hypothesis import settings
from psycopg import sql

from shared_ledger import (
    SHARED,
    Application,
    BaseLedgerOperation,
    Ledger,
    Outcome,
    PlaceHold,
    Posted,
    Posting,
    Refusal,
    Rule,
    SharedOperation,
)
from shared_ledger.connections import make_engine
from shared_ledger.operations import INT64_MAX, INT64_MIN
from shared_ledger.schema import book_tables
from shared_ledger.verify import verify

# No deadline: the machine may be busy. The same examples each time where a failure would be a
# nuisance to whoever did not cause it.
settings.register_profile("tests", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("tests")


class ShopOperation(BaseLedgerOperation):
    """The shared operations, and one of each other kind."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    PURCHASE = "PURCHASE"
    REFUND_ITEM = "REFUND_ITEM"
    CONTENT_ACCESS = "CONTENT_ACCESS"
    ADJUSTMENT = "ADJUSTMENT"
    LOYALTY_POINT = "LOYALTY_POINT"


SHOP: Application[ShopOperation] = Application(
    "shop",
    ShopOperation,
    rules={
        ShopOperation.PURCHASE: Rule.variable(minimum=-1_000, maximum=-1),
        ShopOperation.REFUND_ITEM: Rule.variable(minimum=1, maximum=1_000, counterparty="@spent"),
        ShopOperation.CONTENT_ACCESS: Rule.fixed(0),
        ShopOperation.ADJUSTMENT: Rule.variable(minimum=INT64_MIN + 1, maximum=INT64_MAX),
        ShopOperation.LOYALTY_POINT: Rule.fixed(1, asset="points"),
    },
)


class ClubOperation(BaseLedgerOperation):
    """The shared operations, and those whose credits expire, have a budget or come once."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    GIFT = "GIFT"
    BONUS = "BONUS"
    PURCHASE = "PURCHASE"
    WEEKLY = "WEEKLY"
    MONTHLY = "MONTHLY"
    PROMOTION = "PROMOTION"
    DAILY_PROMOTION = "DAILY_PROMOTION"


CLUB: Application[ClubOperation] = Application(
    "club",
    ClubOperation,
    rules={
        ClubOperation.GIFT: Rule.variable(minimum=1, maximum=1_000_000),
        ClubOperation.BONUS: Rule.variable(
            minimum=1, maximum=1_000_000, expires_in=timedelta(days=30), priority=10
        ),
        ClubOperation.PURCHASE: Rule.variable(minimum=-1_000_000, maximum=-1),
        ClubOperation.WEEKLY: Rule.fixed(2, once="week"),
        ClubOperation.MONTHLY: Rule.fixed(5, once="month"),
        ClubOperation.PROMOTION: Rule.variable(minimum=1, maximum=100, budget=100),
        ClubOperation.DAILY_PROMOTION: Rule.variable(minimum=1, maximum=100, daily_budget=50),
    },
)


def spend(
    owner_id: str,
    nonce: str,
    *,
    amount: int | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Posting[SharedOperation]:
    """One credit less."""
    return Posting(SharedOperation.CREDIT_SPEND, owner_id, nonce, amount, metadata)


def add(owner_id: str, nonce: str, **more: Any) -> Posting[SharedOperation]:
    """Ten credits more."""
    return Posting(SharedOperation.CREDIT_ADD, owner_id, nonce, **more)


def sign_up(owner_id: str, nonce: str = "welcome") -> Posting[SharedOperation]:
    """Three credits, once ever."""
    return Posting(SharedOperation.SIGNUP_CREDIT, owner_id, nonce)


def adjust(owner_id: str, nonce: str, amount: int) -> Posting[ShopOperation]:
    """Any amount."""
    return Posting(ShopOperation.ADJUSTMENT, owner_id, nonce, amount)


def gift(owner_id: str, nonce: str, amount: int) -> Posting[ClubOperation]:
    """Credits for ever."""
    return Posting(ClubOperation.GIFT, owner_id, nonce, amount)


def bonus(
    owner_id: str,
    nonce: str,
    amount: int,
    *,
    expires_in: timedelta | None = None,
    priority: int | None = None,
) -> Posting[ClubOperation]:
    """Credits that expire: after 30 days, with priority 10, if nothing else is said."""
    return Posting(
        ClubOperation.BONUS, owner_id, nonce, amount, expires_in=expires_in, priority=priority
    )


def buy(owner_id: str, nonce: str, amount: int) -> Posting[ClubOperation]:
    """So many credits less."""
    return Posting(ClubOperation.PURCHASE, owner_id, nonce, -amount)


def reserve(
    owner_id: str, nonce: str, amount: int, *, expires_in: timedelta | None = None
) -> PlaceHold[ClubOperation]:
    """Hold so many credits."""
    return PlaceHold(ClubOperation.PURCHASE, owner_id, nonce, amount, expires_in=expires_in)


def fund(url: str, schema: str, owner_id: str, amount: int) -> None:
    """Give the owner this amount, by an operation that allows any."""
    with Ledger(SHOP, url, schema=schema, migrate=True, lanes=1) as shop:
        shop.post(adjust(owner_id, f"funded with {amount}", amount))


def posted(outcome: Outcome) -> Posted:
    """The outcome, which is a yes."""
    assert isinstance(outcome, Posted), outcome
    return outcome


def refused(outcome: Outcome) -> Refusal:
    """The outcome, which is a no."""
    assert isinstance(outcome, Refusal), outcome
    return outcome


def query(url: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Run one statement on a connection of its own; return its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql.SQL(text), parameters or None)
        return cursor.fetchall() if cursor.description else []


def balances(url: str, schema: str) -> dict[tuple[str, str], int]:
    """What every account has, system accounts too."""
    rows = query(url, f"select owner_id, asset, posted from {schema}.accounts")
    return {(owner_id, asset): amount for owner_id, asset, amount in rows}


def nonces(url: str, schema: str, owner_id: str) -> list[str]:
    """The nonces of the owner's entries, in the order of events."""
    rows = query(
        url, f"select nonce from {schema}.entries where owner_id = %s order by id", owner_id
    )
    return [nonce for (nonce,) in rows]


# What is wrong with holds, grants, burns, reversals and budgets: asked in other words than verify.
_QUESTIONS = (
    """
    select owner_id, 'held' from accounts as a
    where left(owner_id, 1) <> '@' and held <> (
        select coalesce(sum(amount - captured), 0) from holds as h
        where (h.owner_id, h.asset, state) = (a.owner_id, a.asset, 'open')
    )
    """,
    """
    select owner_id, 'expiring' from accounts as a
    where left(owner_id, 1) <> '@' and expiring <> (
        select coalesce(sum(remaining), 0) from grants as g
        where (g.owner_id, g.asset) = (a.owner_id, a.asset)
    ) + (
        select coalesce(sum(piece), 0) from holds as h, unnest(grant_amounts) as piece
        where (h.owner_id, h.asset) = (a.owner_id, a.asset)
    )
    """,
    """
    select owner_id, 'last entry' from accounts as a
    join lateral (
        select * from entries as e where (e.owner_id, e.asset) = (a.owner_id, a.asset)
        order by id desc limit 1
    ) as last using (owner_id, asset)
    where (held, expiring) <> (coalesce(held_after, 0), coalesce(expiring_after, 0))
    """,
    """
    select owner_id, 'due' from accounts as a
    join (
        select owner_id, asset, expires_on from grants where remaining > 0
        union all
        select owner_id, asset, expires_on from holds where state = 'open'
    ) as ending using (owner_id, asset)
    where due_on is null or due_on > expires_on
    """,
    """
    select id, 'grant' from grants as g
    where amount <> remaining
        + (select coalesce(sum(b.amount), 0) from burns as b where grant_id = g.id)
        + (
            select coalesce(sum(piece), 0)
            from holds as h, unnest(grant_ids, grant_amounts) as reserved (number, piece)
            where number = g.id
        )
        or expired <> (
            select coalesce(sum(b.amount), 0) from burns as b join entries as e on e.id = entry_id
            where grant_id = g.id and operation = 'EXPIRY'
        )
        or not exists (
            select from entries as e
            where (e.id, e.owner_id, e.asset) = (g.entry_id, g.owner_id, g.asset)
                and e.amount >= g.amount
        )
    """,
    """
    select b.entry_id, 'burn' from burns as b
    left join grants as g on g.id = grant_id
    left join entries as e
        on (e.id, e.owner_id, e.asset) = (b.entry_id, g.owner_id, g.asset)
    group by b.entry_id, e.id, e.amount, e.operation
    having e.id is null or abs(sum(b.amount)) > abs(e.amount)
        or (e.operation = 'EXPIRY' and sum(b.amount) <> -e.amount)
    """,
    """
    select h.id, 'hold' from holds as h
    where captured <> (
        select coalesce(-sum(e.amount), 0) from entries as e where hold_id = h.id
    )
        or not exists (
            select from entries as e
            where (e.id, e.hold_id, e.owner_id, e.asset, e.nonce, e.amount)
                = (h.id, h.id, h.owner_id, h.asset, h.nonce, 0)
        )
        or (state = 'open') <> (captured < amount and closed_on is null)
        or (state <> 'open' and grant_ids <> '{}')
    """,
    """
    select e.id, 'reversal' from entries as e join entries as r on r.reverses = e.id
    group by e.id, e.owner_id, e.asset, e.amount
    having abs(sum(r.amount)) > abs(e.amount) or sign(sum(r.amount)) <> -sign(e.amount)
        or bool_or((r.owner_id, r.asset) <> (e.owner_id, e.asset))
    """,
    """
    select group_id, 'transfer' from entries where counterparty = '@transfers'
    group by group_id having sum(amount) <> 0 or count(*) <> 2
    """,
    """
    select app, operation, period, spent from budgets as b
    where spent <> (
        select coalesce(sum(amount), 0) from entries as e
        where (e.app, e.operation::text) = (b.app, b.operation) and id > after_id and amount > 0
            and reverses is null
            and b.period in ('ever', (created_on at time zone 'UTC')::date::text)
    )
    """,
    """
    select id, 'effective' from (
        select id, created_on, coalesce(effective_on, created_on) as at,
            lag(coalesce(effective_on, created_on))
                over (partition by owner_id, asset order by id) as before
        from entries
    ) as entry
    where at < before or at > created_on
    """,
)


def assert_sound(url: str, schema: str) -> None:
    """Prove the book by plain SQL, and by its own verification: all sums and balances are right."""
    unbalanced = query(
        url,
        f"select asset, sum(posted) from {schema}.accounts group by asset having sum(posted) <> 0",
    )
    assert unbalanced == []
    differing = query(
        url,
        f"""
        with moved (owner_id, asset, amount) as (
            select owner_id, asset, amount from {schema}.entries
            union all
            select counterparty, asset, -amount from {schema}.entries
        ), summed as (
            select owner_id, asset, sum(amount) as total from moved group by owner_id, asset
        )
        select owner_id, asset, posted, total
        from {schema}.accounts full join summed using (owner_id, asset)
        where posted is distinct from total
        """,
    )
    assert differing == []
    broken = query(
        url,
        f"""
        select * from (
            select id, balance_after, created_on,
                sum(amount) over history as total,
                lag(created_on) over history as before
            from {schema}.entries
            window history as (partition by owner_id, asset order by id)
        ) as running
        where balance_after <> total or created_on < before
        """,
    )
    assert broken == []
    overspent = query(
        url,
        f"select owner_id, posted from {schema}.accounts "
        "where debt <> greatest(0, floor - (posted - held)) "
        "or (floor is null) <> (left(owner_id, 1) = '@')",
    )
    assert overspent == []
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql.SQL("set search_path to {}").format(sql.Identifier(schema)))
        for question in _QUESTIONS:
            assert connection.execute(sql.SQL(question)).fetchall() == [], question
    engine = make_engine(url)
    report = verify(engine, book_tables(schema))
    engine.dispose()
    assert report.agrees, report.disagreements


def eventually(fact: Callable[[], object], *, within_s: float = 30) -> None:
    """Wait until the fact holds."""
    deadline = time.monotonic() + within_s
    while not fact():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


def free_ports(number: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    while True:
        with ExitStack() as opened:
            first: int = opened.enter_context(create_server(("127.0.0.1", 0))).getsockname()[1]
            try:
                for port in range(first + 1, first + number):
                    opened.enter_context(create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):
                continue
            return first


@contextmanager
def locked_account(url: str, schema: str, owner_id: str) -> Any:
    """Keep an account locked by another transaction."""
    with psycopg.connect(url) as connection:
        connection.execute(
            sql.SQL("select from {}.accounts where owner_id = %s for update").format(
                sql.Identifier(schema)
            ),
            (owner_id,),
        )
        yield
        connection.rollback()


__all__ = [
    "CLUB", "SHARED", "SHOP", "ClubOperation", "ShopOperation", "add", "adjust", "assert_sound",
    "balances", "bonus", "buy", "eventually", "fund", "gift", "locked_account", "nonces", "posted",
    "query", "refused", "reserve", "sign_up", "spend",
]  # fmt: skip
