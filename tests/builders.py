"""What the tests arrange with: an application with every kind of rule, postings, plain SQL."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
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
        "where posted - held < floor or (floor is null) <> (left(owner_id, 1) = '@')",
    )
    assert overspent == []
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
    "SHARED", "SHOP", "ShopOperation", "add", "adjust", "assert_sound", "balances", "eventually",
    "fund", "locked_account", "nonces", "posted", "query", "refused", "sign_up", "spend",
]  # fmt: skip
