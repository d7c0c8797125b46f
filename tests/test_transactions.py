"""Posting in the caller's own transaction: his rows and the entry commit together or not at all."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from builders import (
    CLUB,
    SHOP,
    ClubOperation,
    ShopOperation,
    add,
    adjust,
    assert_sound,
    balances,
    bonus,
    buy,
    eventually,
    gift,
    nonces,
    query,
    reserve,
    sign_up,
    spend,
)
from conftest import Clock
from shared_ledger import (
    AlreadyClaimed,
    CaptureHold,
    Group,
    Held,
    HoldClosed,
    InsufficientCredits,
    InvalidPosting,
    Ledger,
    NonceReused,
    Part,
    Posted,
    Posting,
    ReleaseHold,
    Request,
    Reversal,
    SharedOperation,
    Transfer,
)
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster
from shared_ledger.operations import INT64_MAX

SharedLedger = Ledger[SharedOperation]


class Base(DeclarativeBase):
    """The caller's own tables."""


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


@pytest.fixture(autouse=True)
def orders(engine: Engine) -> Iterator[None]:
    """An empty table of the caller's own."""
    Base.metadata.create_all(engine)
    yield
    with engine.begin() as connection:
        connection.execute(sa.delete(Order))


@pytest.fixture
async def async_engine(cluster: Cluster) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(cluster.url.replace("postgresql://", "postgresql+psycopg://"))
    yield engine
    await engine.dispose()


def orders_of(engine: Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.scalars(sa.select(Order.id).order_by(Order.id)))


# --- together or not at all, with each of SQLAlchemy's four ---


@pytest.mark.parametrize("commits", [True, False])
def test_connection_commits_both_or_neither(
    ledger: SharedLedger, engine: Engine, *, commits: bool
) -> None:
    with engine.connect() as connection:
        connection.execute(sa.insert(Order).values(id=1))
        posted = ledger.post_in(connection, add("user1", "n1"))
        assert posted.entry.balance_after == 10
        if commits:
            connection.commit()
        else:
            connection.rollback()
    assert orders_of(engine) == ([1] if commits else [])
    assert ledger.history("user1").entries == ([posted.entry] if commits else [])
    assert ledger.balance("user1").balance == (10 if commits else 0)


@pytest.mark.parametrize("commits", [True, False])
def test_session_commits_both_or_neither(
    ledger: SharedLedger, engine: Engine, *, commits: bool
) -> None:
    with Session(engine) as session:
        session.add(Order(id=1))
        posted = ledger.post_in(session, add("user1", "n1"))
        if commits:
            session.commit()
        else:
            session.rollback()
    assert orders_of(engine) == ([1] if commits else [])
    assert ledger.history("user1").entries == ([posted.entry] if commits else [])


@pytest.mark.parametrize("commits", [True, False])
async def test_async_connection_commits_both_or_neither(
    ledger: SharedLedger, engine: Engine, async_engine: AsyncEngine, *, commits: bool
) -> None:
    async with async_engine.connect() as connection:
        await connection.execute(sa.insert(Order).values(id=1))
        posted = await ledger.apost_in(connection, add("user1", "n1", metadata={"a": [1]}))
        if commits:
            await connection.commit()
        else:
            await connection.rollback()
    assert orders_of(engine) == ([1] if commits else [])
    assert (await ledger.ahistory("user1")).entries == ([posted.entry] if commits else [])


@pytest.mark.parametrize("commits", [True, False])
async def test_async_session_commits_both_or_neither(
    ledger: SharedLedger, engine: Engine, async_engine: AsyncEngine, *, commits: bool
) -> None:
    async with AsyncSession(async_engine) as session:
        session.add(Order(id=1))
        posted = await ledger.apost_in(session, add("user1", "n1"))
        if commits:
            await session.commit()
        else:
            await session.rollback()
    assert orders_of(engine) == ([1] if commits else [])
    assert (await ledger.ahistory("user1")).entries == ([posted.entry] if commits else [])


def test_failure_of_the_callers_row_takes_the_entry_with_it(
    ledger: SharedLedger, engine: Engine
) -> None:
    with Session(engine) as session:
        session.add(Order(id=1))
        session.commit()
    with Session(engine) as session:
        ledger.post_in(session, add("user1", "n1"))
        session.add(Order(id=1))
        with pytest.raises(sa.exc.IntegrityError):
            session.commit()
    assert ledger.balance("user1").balance == 0
    assert not ledger.post(add("user1", "n1")).replayed


def test_savepoint_of_the_caller_takes_the_entry_back(ledger: SharedLedger, engine: Engine) -> None:
    with engine.begin() as connection:
        ledger.post_in(connection, add("user1", "kept"))
        with connection.begin_nested() as savepoint:
            ledger.post_in(connection, add("user1", "taken back"))
            savepoint.rollback()
        ledger.post_in(connection, spend("user1", "kept too"))
    assert [entry.nonce for entry in ledger.history("user1").entries] == ["kept too", "kept"]
    assert ledger.balance("user1").balance == 9


def test_several_entries_of_several_owners_commit_together(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    with engine.begin() as connection:
        for number in range(5):
            for owner_id in ("ann", "bob"):
                ledger.post_in(connection, add(owner_id, str(number)))
        assert query(cluster.url, f"select count(*) from {schema}.entries") == [(0,)]
    assert balances(cluster.url, schema) == {
        ("ann", "credits"): 50,
        ("bob", "credits"): 50,
        ("@issued", "credits"): -100,
    }
    assert_sound(cluster.url, schema)


# --- refusals ---


def test_refusal_leaves_the_transaction_usable_and_records_nothing(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(Order).values(id=1))
        with pytest.raises(InsufficientCredits):
            ledger.post_in(connection, spend("user1", "n1"))
        connection.execute(sa.insert(Order).values(id=2))
    assert orders_of(engine) == [1, 2]
    assert balances(cluster.url, schema) == {}
    assert nonces(cluster.url, schema, "user1") == []


def test_refusal_of_an_existing_owner_changes_nothing(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    ledger.post(sign_up("user1"))
    before = query(cluster.url, f"select * from {schema}.accounts order by owner_id")
    with engine.begin() as connection, pytest.raises(AlreadyClaimed):
        ledger.post_in(connection, sign_up("user1", "n2"))
    assert query(cluster.url, f"select * from {schema}.accounts order by owner_id") == before


def test_invalid_posting_does_not_touch_the_transaction(
    ledger: SharedLedger, engine: Engine
) -> None:
    with engine.connect() as connection:
        with pytest.raises(InvalidPosting):
            ledger.post_in(connection, add("@issued", "n1"))
        assert not connection.in_transaction()


async def test_refusal_in_a_coroutine_leaves_the_session_usable(
    ledger: SharedLedger, engine: Engine, async_engine: AsyncEngine
) -> None:
    async with AsyncSession(async_engine) as session:
        with pytest.raises(InsufficientCredits):
            await ledger.apost_in(session, spend("user1", "n1"))
        session.add(Order(id=1))
        await session.commit()
    assert orders_of(engine) == [1]


# --- repetitions ---


def test_repetition_is_recognised_inside_a_transaction_and_across(
    ledger: SharedLedger, engine: Engine
) -> None:
    with engine.begin() as connection:
        first = ledger.post_in(connection, add("user1", "n1", metadata={"a": 1e300}))
        again = ledger.post_in(connection, add("user1", "n1", metadata={"a": 1e300}))
        assert again == Posted(first.entry, replayed=True)
    with engine.begin() as connection:
        again = ledger.post_in(connection, add("user1", "n1", metadata={"a": 1e300}))
        assert again == Posted(first.entry, replayed=True)
    assert ledger.post(add("user1", "n1", metadata={"a": 1e300})) == again
    assert ledger.balance("user1").balance == 10


def test_entry_of_the_writer_is_recognised_in_a_transaction(
    ledger: SharedLedger, engine: Engine
) -> None:
    ledger.post(sign_up("user1"))
    spends = [ledger.post(spend("user1", str(number))) for number in range(3)]
    with engine.begin() as connection:
        for posted in spends:
            again = ledger.post_in(connection, spend("user1", posted.entry.nonce))
            assert again == Posted(posted.entry, replayed=True)
        with pytest.raises(NonceReused):
            ledger.post_in(connection, spend("user1", "welcome"))


def test_claims_are_shared_with_the_writer(ledger: SharedLedger, engine: Engine) -> None:
    with engine.begin() as connection:
        ledger.post_in(connection, sign_up("ann", "n1"))
    with pytest.raises(AlreadyClaimed):
        ledger.post(sign_up("ann", "n2"))
    ledger.post(sign_up("bob", "n1"))
    with engine.begin() as connection, pytest.raises(AlreadyClaimed):
        ledger.post_in(connection, sign_up("bob", "n2"))


def test_both_ways_write_the_same_rows(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    metadata = {"a": [1.5, "\\N", None]}
    postings: list[Callable[[str], Posting[SharedOperation]]] = [
        lambda owner_id: sign_up(owner_id, "n1"),
        lambda owner_id: add(owner_id, "n2"),
        lambda owner_id: add(owner_id, "n3", metadata=metadata),
        lambda owner_id: spend(owner_id, "n4"),
    ]
    for posting_of in postings:
        ledger.post(posting_of("ann"))
        with engine.begin() as connection:
            ledger.post_in(connection, posting_of("bob"))
    columns = "nonce, operation::text, amount, balance_after, counterparty, metadata::text, period"
    rows = {
        owner_id: query(
            cluster.url,
            f"select {columns} from {schema}.entries where owner_id = %s order by id",
            owner_id,
        )
        for owner_id in ("ann", "bob")
    }
    assert rows["ann"] == rows["bob"]
    # SQL's null, and not the null of JSON.
    assert rows["bob"][0][5] is None
    assert_sound(cluster.url, schema)


def test_edges_of_the_range_are_the_same(cluster: Cluster, schema: str, engine: Engine) -> None:
    with Ledger(SHOP, cluster.url, schema=schema, migrate=True) as shop, engine.begin() as mine:
        assert shop.post_in(mine, adjust("user1", "n1", INT64_MAX)).entry.amount == INT64_MAX
        refused = adjust("user1", "n2", 1)
        with pytest.raises(Exception, match="leaves the range of a 64-bit integer"):
            shop.post_in(mine, refused)
        assert shop.post_in(mine, Posting(ShopOperation.LOYALTY_POINT, "user1", "n3")).entry.id
    assert_sound(cluster.url, schema)


# --- every kind of request ---


def one_of_each_kind(club: Ledger[ClubOperation], owner_id: str) -> list[Request[ClubOperation]]:
    """One request of each kind about an owner, who has something of everything."""
    club.post_batch([gift(owner_id, "funds", 50), bonus(owner_id, "bonus", 5)])
    first, second, third = (
        club.post(reserve(owner_id, f"hold {number}", 4)).hold.id for number in range(3)
    )
    spent = club.post(buy(owner_id, "spent", 4)).entry.id
    given = club.post(bonus(owner_id, "given", 6)).entry.id
    moved = Transfer(source=owner_id, destination=f"{owner_id}'s", amount=2, nonce="moved")
    gain, loss = ClubOperation.GIFT, ClubOperation.PURCHASE
    return [
        gift(owner_id, "n1", 5),
        bonus(owner_id, "n2", 5),
        Posting(ClubOperation.PROMOTION, owner_id, "n3", 7),
        Posting(ClubOperation.WEEKLY, owner_id, "n4", metadata={"a": 1}),
        buy(owner_id, "n5", 3),
        Group("n6", [Part(gain, f"{owner_id}'s", 5), Part(loss, owner_id, -9)]),
        Transfer(source=owner_id, destination=f"{owner_id}'s other", amount=8, nonce="n7"),
        reserve(owner_id, "n8", 8),
        CaptureHold(first, "n9", 3, final=False, metadata={"a": [1]}),
        CaptureHold(second, "n10", 3),
        ReleaseHold(third, "n11"),
        Reversal(spent, "n12", metadata={}),
        Reversal(given, "n13", 2),
        Reversal(club.post(moved).group[0].id, "n14"),
    ]


def replays(club: Ledger[ClubOperation], request: Request[ClubOperation]) -> bool:
    (outcome,) = club.post_batch([request])
    return isinstance(outcome, Posted | Held) and outcome.replayed


def all_of(url: str, schema: str) -> list[Any]:
    """Everything in the book."""
    tables = ["accounts", "entries", "holds", "grants", "burns", "budgets"]
    return [query(url, f"select * from {schema}.{name} order by 1, 2, 3") for name in tables]


@pytest.mark.parametrize("kind", [Connection, Session])
def test_every_kind_of_request_commits_or_leaves_nothing(
    cluster: Cluster, schema: str, engine: Engine, kind: Callable[..., Any]
) -> None:
    with Ledger(CLUB, cluster.url, schema=schema, migrate=True) as club:
        requests = one_of_each_kind(club, "ann")
        before = all_of(cluster.url, schema)
        for request in requests:
            with kind(engine) as mine:
                mine.execute(sa.insert(Order).values(id=1))
                assert not club.post_in(mine, request).replayed
                mine.rollback()
            assert all_of(cluster.url, schema) == before, request
        with kind(engine) as mine:
            mine.execute(sa.insert(Order).values(id=1))
            done = [club.post_in(mine, request) for request in requests]
            again = [club.post_in(mine, request) for request in requests]
            mine.commit()
        assert not any(one.replayed for one in done)
        assert all(one.replayed for one in again)
        assert orders_of(engine) == [1]
        assert all(replays(club, request) for request in requests)
    assert_sound(cluster.url, schema)


async def test_every_kind_of_request_commits_or_leaves_nothing_in_a_coroutine(
    cluster: Cluster, schema: str, engine: Engine, async_engine: AsyncEngine
) -> None:
    with Ledger(CLUB, cluster.url, schema=schema, migrate=True) as club:
        requests: list[Any] = list(one_of_each_kind(club, "ann"))
        before = all_of(cluster.url, schema)
        for request in requests:
            async with AsyncSession(async_engine) as session:
                session.add(Order(id=1))
                assert not (await club.apost_in(session, request)).replayed
                await session.rollback()
            assert all_of(cluster.url, schema) == before, request
        async with async_engine.begin() as connection:
            await connection.execute(sa.insert(Order).values(id=1))
            for request in requests:
                assert not (await club.apost_in(connection, request)).replayed
        assert orders_of(engine) == [1]
        assert all(replays(club, request) for request in requests)
    assert_sound(cluster.url, schema)


def test_both_ways_write_the_same_rows_for_every_kind_of_request(
    cluster: Cluster, schema: str, clock: Clock
) -> None:
    engine = make_engine(clock.url)
    with Ledger(CLUB, clock.url, schema=schema, migrate=True) as club:
        for request in one_of_each_kind(club, "ann"):
            club.post_batch([request])
        for request in one_of_each_kind(club, "bob"):
            with engine.begin() as connection:
                club.post_in(connection, request)
    engine.dispose()

    def of(owner_id: str, columns: str, table: str) -> list[Any]:
        return query(
            cluster.url,
            f"select replace(owner_id, %s, '?'), {columns} from {schema}.{table} "
            "where starts_with(owner_id, %s) order by id",
            owner_id,
            owner_id,
        )

    for table, columns in {
        "entries": "operation::text, counterparty, amount, balance_after, held_after, period, "
        "expiring_after, metadata::text, priority, expires_on - created_on, effective_on, "
        "group_id is null, hold_id is null, reverses is null, left(nonce, 1) = '@'",
        "holds": "amount, captured, state, closed_by is null, expires_on - created_on, "
        "cardinality(grant_ids), grant_amounts",
        "grants": "amount, remaining, expired, priority, expires_on - granted_on",
    }.items():
        assert of("ann", columns, table) == of("bob", columns, table)
    accounts = f"select posted, held, expiring, debt, floor from {schema}.accounts "
    whose = "where starts_with(owner_id, %s) order by owner_id"
    assert query(cluster.url, accounts + whose, "ann") == query(
        cluster.url, accounts + whose, "bob"
    )
    assert_sound(cluster.url, schema)


def test_refused_transfer_opens_no_account_in_the_transaction(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(Order).values(id=1))
        with pytest.raises(InsufficientCredits):
            ledger.post_in(
                connection, Transfer(source="ann", destination="bob", amount=1, nonce="t")
            )
    assert orders_of(engine) == [1]
    assert balances(cluster.url, schema) == {}


def test_hold_that_a_transaction_captures_is_waited_for(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    with (
        Ledger(CLUB, cluster.url, schema=schema, migrate=True) as club,
        ThreadPoolExecutor(1) as pool,
    ):
        club.post(gift("ann", "funds", 10))
        hold = club.post(reserve("ann", "h", 10)).hold
        with engine.begin() as connection:
            club.post_in(connection, CaptureHold(hold.id, "mine"))
            other = pool.submit(club.post, ReleaseHold(hold.id, "the writer's"))
            eventually(lambda: waits(cluster.url))
        with pytest.raises(HoldClosed):
            other.result()
    assert_sound(cluster.url, schema)


# --- at once ---


def waits(url: str) -> bool:
    return bool(query(url, "select 1 from pg_locks where not granted"))


def test_second_transaction_on_a_new_account_waits_for_the_first(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    def second() -> Posted:
        with engine.begin() as connection:
            return ledger.post_in(connection, add("user1", "second"))

    with ThreadPoolExecutor(1) as pool:
        with engine.begin() as connection:
            first = ledger.post_in(connection, add("user1", "first"))
            other = pool.submit(second)
            eventually(lambda: waits(cluster.url))
        assert other.result().entry.balance_after == 20
        assert other.result().entry.id > first.entry.id
    assert_sound(cluster.url, schema)


def test_second_transaction_opens_the_account_if_the_first_gives_up(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    def second() -> Posted:
        with engine.begin() as connection:
            return ledger.post_in(connection, add("user1", "n1"))

    with ThreadPoolExecutor(1) as pool:
        with engine.connect() as connection:
            ledger.post_in(connection, add("user1", "n1"))
            other = pool.submit(second)
            eventually(lambda: waits(cluster.url))
            connection.rollback()
        assert other.result().entry.balance_after == 10
        assert not other.result().replayed
    assert_sound(cluster.url, schema)


@pytest.mark.parametrize("known", [True, False])
def test_writer_waits_for_a_transaction_and_recognises_its_nonce(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str, *, known: bool
) -> None:
    if known:
        ledger.post(sign_up("user1"))
    with ThreadPoolExecutor(2) as pool:
        with engine.begin() as connection:
            first = ledger.post_in(connection, add("user1", "n1"))
            same = pool.submit(ledger.post, add("user1", "n1"))
            eventually(lambda: waits(cluster.url))
        assert same.result() == Posted(first.entry, replayed=True)
    assert_sound(cluster.url, schema)


def test_last_credit_is_spent_once_by_the_writer_and_a_transaction(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    ledger.post(sign_up("user1"))
    done: list[str] = []

    def in_transactions() -> None:
        for number in range(10):
            with engine.begin() as connection:
                try:
                    ledger.post_in(connection, spend("user1", f"mine {number}"))
                    done.append("mine")
                except InsufficientCredits:
                    pass

    def by_the_writer() -> None:
        for number in range(10):
            try:
                ledger.post(spend("user1", f"writer {number}"))
                done.append("writer")
            except InsufficientCredits:
                pass

    threads = [threading.Thread(target=target) for target in (in_transactions, by_the_writer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 3
    assert ledger.balance("user1").balance == 0
    assert_sound(cluster.url, schema)


def test_writer_survives_a_deadlock_with_a_transaction(
    ledger: SharedLedger, engine: Engine, cluster: Cluster, schema: str
) -> None:
    ledger.post_batch([add("ann", "n1"), add("bob", "n1")])
    with ThreadPoolExecutor(1) as pool:
        with engine.connect() as connection:
            # Holds ann and @issued, and then wants bob, whom the writer holds until it has @issued.
            ledger.post_in(connection, add("ann", "mine"))
            other = pool.submit(ledger.post, add("bob", "the writer's"))
            eventually(lambda: waits(cluster.url))
            try:
                ledger.post_in(connection, add("bob", "mine"))
                connection.commit()
            except sa.exc.OperationalError as error:
                assert "deadlock detected" in str(error)  # noqa: PT017  # either may be the victim
                connection.rollback()
        assert not other.result().replayed
    assert_sound(cluster.url, schema)


async def test_many_coroutines_post_in_their_own_transactions(
    ledger: SharedLedger, async_engine: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    async def one(number: int) -> None:
        async with async_engine.begin() as connection:
            assert isinstance(connection, AsyncConnection)
            await ledger.apost_in(connection, add(f"user{number % 3}", f"in {number}"))

    await asyncio.gather(
        *(one(number) for number in range(15)),
        *(ledger.apost(add(f"user{number % 3}", f"by {number}")) for number in range(15)),
    )
    assert query(cluster.url, f"select count(*) from {schema}.entries") == [(30,)]
    assert_sound(cluster.url, schema)
