"""The unit of work: aggregates, messages and entries commit together or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import SHOP, ShopOperation, adjust, eventually, query
from contexts import (
    Note,
    Order,
    ShopLedger,
    ShopUnitOfWork,
    engine_on,
    make_tables,
    notes,
    orders,
    place_order,
)
from shared_ledger import Ledger, LedgerOverloaded, LedgerUnavailable, Posting
from shared_ledger.connections import make_async_engine
from shared_ledger.embedded import Cluster
from shared_ledger.messages import ConcurrentChange, InvalidMessage, retried


class Book:
    """What is in the database, seen from outside of all transactions."""

    def __init__(self, url: str, schema: str) -> None:
        self.url = url
        self.schema = schema

    def orders(self) -> list[tuple[str, str, int]]:
        text = f"select order_id, state, version from {self.schema}.shop_orders order by order_id"
        return query(self.url, text)

    def messages(self) -> list[tuple[str, str]]:
        return query(self.url, f"select type, key from {self.schema}.shop_outbox order by id")


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the contexts, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


@pytest.fixture
def book(cluster: Cluster, schema: str) -> Book:
    return Book(cluster.url, schema)


@pytest.fixture
def ledger_of_shop(cluster: Cluster, schema: str) -> Iterator[ShopLedger]:
    with Ledger(SHOP, cluster.url, schema=schema, migrate=True, lanes=1) as ledger:
        ledger.post(adjust("ada", "funds", 100))
        yield ledger


def order(order_id: str = "o1", customer: str = "ada") -> Order:
    return Order(entity_id=order_id, customer=customer, amount=3)


async def test_aggregate_and_its_messages_are_there_when_the_block_has_ended(
    tables: AsyncEngine, book: Book
) -> None:
    async with ShopUnitOfWork(tables) as uow:
        new = order()
        uow.orders.add(new)
        new.request_payment()
        uow.emit(Note(line="o1", number=1))
        assert book.orders() == []
        assert book.messages() == []
    assert book.orders() == [("o1", "placed", 1)]
    assert book.messages() == [("RequestPayment", "o1"), ("Note", "o1")]


async def test_exception_leaves_neither_rows_nor_messages_nor_entries(
    tables: AsyncEngine, book: Book, ledger_of_shop: ShopLedger
) -> None:
    with pytest.raises(ZeroDivisionError):  # noqa: PT012  # Its end raises.
        async with ShopUnitOfWork(tables) as uow:
            new = order()
            new.request_payment()
            uow.orders.add(new)
            uow.emit(Note(line="o1", number=1))
            await uow.connection.execute(sa.insert(notes).values(line="o1", number=1))
            posting = Posting(ShopOperation.PURCHASE, "ada", "n1", -3)
            assert (await ledger_of_shop.apost_in(uow.connection, posting)).entry.amount == -3
            1 / 0  # noqa: B018
    assert book.orders() == []
    assert book.messages() == []
    assert query(book.url, f"select * from {book.schema}.notes_written") == []
    assert ledger_of_shop.balance("ada").balance == 100


async def test_entry_row_and_message_commit_together(
    tables: AsyncEngine, book: Book, ledger_of_shop: ShopLedger
) -> None:
    async with ShopUnitOfWork(tables) as uow:
        uow.orders.add(order())
        uow.emit(Note(line="o1", number=1))
        posting = Posting(ShopOperation.PURCHASE, "ada", "n1", -3)
        await ledger_of_shop.apost_in(uow.connection, posting)
        assert ledger_of_shop.balance("ada").balance == 100
    assert book.orders() == [("o1", "placed", 1)]
    assert book.messages() == [("Note", "o1")]
    assert ledger_of_shop.balance("ada").balance == 97


async def test_cancelled_block_leaves_nothing(tables: AsyncEngine, book: Book) -> None:
    inside = asyncio.Event()

    async def place() -> None:
        async with ShopUnitOfWork(tables) as uow:
            uow.orders.add(order())
            uow.emit(Note(line="o1", number=1))
            inside.set()
            await asyncio.sleep(60)

    task = asyncio.create_task(place())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert book.orders() == []
    assert book.messages() == []


async def test_message_that_cannot_be_sent_takes_the_rows_with_it(
    tables: AsyncEngine, book: Book
) -> None:
    with pytest.raises(InvalidMessage, match=r"Note cannot be sent: .*number"):  # noqa: PT012
        async with ShopUnitOfWork(tables) as uow:
            uow.orders.add(order())
            uow.emit(Note(line="o1", number="one"))  # type: ignore[arg-type]  # what is tested
    assert book.orders() == []


async def test_what_was_found_and_not_changed_is_not_saved(tables: AsyncEngine, book: Book) -> None:
    await place_order(tables, "o1")
    async with ShopUnitOfWork(tables) as uow:
        assert await uow.orders.find("o1") == order()
        assert await uow.orders.find("o2") is None
    assert book.orders() == [("o1", "placed", 1)]


async def test_what_changed_is_saved_without_being_told(tables: AsyncEngine, book: Book) -> None:
    await place_order(tables, "o1")
    await place_order(tables, "o2")
    async with ShopUnitOfWork(tables) as uow:
        found = await uow.orders.find("o1")
        assert found is not None
        found.become("paid")
    assert book.orders() == [("o1", "paid", 2), ("o2", "placed", 1)]


async def test_aggregate_that_only_raised_something_is_saved_for_the_order_of_its_messages(
    tables: AsyncEngine, book: Book
) -> None:
    await place_order(tables, "o1")
    async with ShopUnitOfWork(tables) as uow:
        found = await uow.orders.find("o1")
        assert found is not None
        found.request_payment()
    assert book.orders() == [("o1", "placed", 2)]
    assert book.messages() == [("RequestPayment", "o1")] * 2


async def test_one_unit_of_work_finds_the_same_object_each_time(tables: AsyncEngine) -> None:
    await place_order(tables, "o1")
    async with ShopUnitOfWork(tables) as uow:
        found = await uow.orders.find("o1")
        assert found is not None
        found.become("paid")
        assert await uow.orders.find("o1") is found
        assert await uow.orders.find_where(orders.c.customer == "ada") is found
        uow.orders.add(order("o2"))
        assert await uow.orders.find("o2") is not None
        with pytest.raises(ValueError, match="known already"):
            uow.orders.add(order("o1"))


def test_aggregates_are_equal_by_identity() -> None:
    assert order("o1", "ada") == order("o1", "bob")
    assert order("o1") != order("o2")
    assert len({order("o1", "ada"), order("o1", "bob"), order("o2")}) == 2


async def test_messages_keep_the_order_in_which_they_were_raised_and_emitted(
    tables: AsyncEngine, book: Book
) -> None:
    async with ShopUnitOfWork(tables) as uow:
        new = order()
        uow.orders.add(new)
        uow.emit(Note(line="first", number=1))
        new.request_payment()
        uow.emit(Note(line="third", number=3))
        new.request_payment()
    assert [key for _, key in book.messages()] == ["first", "o1", "third", "o1"]


# --- changes at the same time ---


async def test_change_of_what_somebody_else_changed_is_refused(
    tables: AsyncEngine, book: Book
) -> None:
    await place_order(tables, "o1")
    with pytest.raises(ConcurrentChange, match="Order o1"):  # noqa: PT012  # Its end raises.
        async with ShopUnitOfWork(tables) as mine:
            found = await mine.orders.find("o1")
            async with ShopUnitOfWork(tables) as other:
                others = await other.orders.find("o1")
                assert found is not None
                assert others is not None
                others.become("refused")
            found.become("paid")
            mine.emit(Note(line="o1", number=1))
    assert book.orders() == [("o1", "refused", 2)]
    assert book.messages() == [("RequestPayment", "o1")]


async def test_second_of_two_new_ones_with_one_id_is_refused(
    tables: AsyncEngine, book: Book
) -> None:
    with pytest.raises(ConcurrentChange, match="Order o1"):  # noqa: PT012  # Its end raises.
        async with ShopUnitOfWork(tables) as mine:
            mine.orders.add(order("o1", "ada"))
            async with ShopUnitOfWork(tables) as other:
                other.orders.add(order("o1", "bob"))
    assert len(book.orders()) == 1


async def test_retried_commands_all_have_their_effect(tables: AsyncEngine, book: Book) -> None:
    await place_order(tables, "o1")
    met = 0

    async def change() -> None:
        async with ShopUnitOfWork(tables) as uow:
            found = await uow.orders.find("o1")
            assert found is not None
            nonlocal met
            met += 1
            await asyncio.sleep(0)
            found.become("paid")
            uow.emit(Note(line="o1", number=found.changes))

    await asyncio.gather(*(retried(change, tries=50) for _ in range(8)))
    assert book.orders() == [("o1", "paid", 9)]
    assert met > 8, "nobody met anybody: the test shows nothing"
    numbers = query(
        book.url,
        f"select payload->>'number' from {book.schema}.shop_outbox where type = 'Note' order by id",
    )
    assert [int(number) for (number,) in numbers] == list(range(1, 9))


async def test_retries_come_to_an_end() -> None:
    tried = 0

    async def never() -> None:
        nonlocal tried
        tried += 1
        raise ConcurrentChange("everything")

    with pytest.raises(ConcurrentChange):
        await retried(never, tries=3)
    assert tried == 3


async def test_other_errors_are_not_retried() -> None:
    tried = 0

    async def fails() -> None:
        nonlocal tried
        tried += 1
        raise LedgerUnavailable

    with pytest.raises(LedgerUnavailable):
        await retried(fails)
    assert tried == 1


async def test_deadlock_is_a_concurrent_change(tables: AsyncEngine, book: Book) -> None:
    await place_order(tables, "o1")
    await place_order(tables, "o2")
    refused = 0

    async def lock(first: str, second: str, meet: asyncio.Barrier) -> None:
        async with ShopUnitOfWork(tables) as uow:
            # Long enough that the deadlock is found, and not the time-out.
            await uow.connection.execute(sa.text("set local lock_timeout = '60s'"))
            for order_id in (first, second):
                chosen = sa.select(orders).where(orders.c.order_id == order_id).with_for_update()
                await uow.connection.execute(chosen)
                if order_id == first:
                    await meet.wait()

    async def counted(first: str, second: str, meet: asyncio.Barrier) -> None:
        nonlocal refused
        try:
            await lock(first, second, meet)
        except ConcurrentChange:
            refused += 1

    meet = asyncio.Barrier(2)
    await asyncio.gather(counted("o1", "o2", meet), counted("o2", "o1", meet))
    assert refused == 1


async def test_many_aggregates_are_saved_in_one_order(tables: AsyncEngine, book: Book) -> None:
    ids = [f"o{number}" for number in range(10)]
    for order_id in ids:
        await place_order(tables, order_id)

    async def change(chosen: list[str]) -> None:
        async with ShopUnitOfWork(tables) as uow:
            for order_id in chosen:
                found = await uow.orders.find(order_id)
                assert found is not None
                found.become("paid")

    # Whoever comes second is refused at a row that he read too early: a circle never forms, which
    # PostgreSQL would end without naming an order.
    for _ in range(5):
        done = await asyncio.gather(change(ids), change(ids[::-1]), return_exceptions=True)
        refused = [error for error in done if error is not None]
        assert all("Order o" in str(error) for error in refused), refused


# --- what the database says ---


async def test_constraint_of_the_contexts_own_is_left_to_it(
    tables: AsyncEngine, book: Book
) -> None:
    with pytest.raises(IntegrityError):
        async with ShopUnitOfWork(tables) as uow:
            uow.orders.add(Order(entity_id="o1", customer=None, amount=3))  # type: ignore[arg-type]
    assert book.orders() == []


async def test_lock_that_is_kept_too_long_is_unavailable(tables: AsyncEngine, book: Book) -> None:
    await place_order(tables, "o1")
    async with tables.begin() as other:
        await other.execute(sa.select(orders).with_for_update())
        with pytest.raises(LedgerUnavailable, match="lock timeout"):  # noqa: PT012
            async with ShopUnitOfWork(tables) as uow:
                found = await uow.orders.find("o1")
                assert found is not None
                found.become("paid")
    assert book.orders() == [("o1", "placed", 1)]


async def test_lost_connection_is_unavailable_and_the_next_works(
    tables: AsyncEngine, book: Book
) -> None:
    with pytest.raises(LedgerUnavailable):  # noqa: PT012  # Its end raises.
        async with ShopUnitOfWork(tables) as uow:
            pid = await uow.connection.scalar(sa.text("select pg_backend_pid()"))
            query(book.url, "select pg_terminate_backend(%s)", pid)
            uow.orders.add(order())
    eventually(lambda: book.orders() == [])
    await place_order(tables, "o1")
    assert len(book.orders()) == 1


async def test_database_that_cannot_be_reached_is_unavailable() -> None:
    engine = make_async_engine("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(LedgerUnavailable, match="cannot be reached"):
        async with ShopUnitOfWork(engine):
            pass
    await engine.dispose()


async def test_no_free_connection_is_overloaded(cluster: Cluster, schema: str) -> None:
    make_tables(cluster.url, schema)
    engine = make_async_engine(cluster.url, pool_size=1, wait_s=0.1)
    try:
        connections = [await engine.connect() for _ in range(11)]
        with pytest.raises(LedgerOverloaded):
            async with ShopUnitOfWork(engine):
                pass
        for connection in connections:
            await connection.close()
    finally:
        await engine.dispose()


async def test_unit_of_work_that_is_not_open_says_how_to_open_it(tables: AsyncEngine) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        _ = ShopUnitOfWork(tables).connection


async def test_part_of_the_callers_transaction_is_committed_by_the_caller(
    tables: AsyncEngine, book: Book
) -> None:
    async with tables.connect() as connection:
        for order_id in ("o1", "o2"):
            async with ShopUnitOfWork(connection) as uow:
                uow.orders.add(order(order_id))
                uow.emit(Note(line=order_id, number=1))
        await connection.rollback()
        assert book.orders() == []
        async with ShopUnitOfWork(connection) as uow:
            uow.orders.add(order("o3"))
        assert book.orders() == []
        await connection.commit()
    assert [order_id for order_id, _, _ in book.orders()] == ["o3"]
