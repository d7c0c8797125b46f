"""Made-up contexts for tests of messages: a shop whose orders a till takes the payment of; notes.

The shop asks the till for a payment, the till posts to the ledger and answers, and the order is
paid or refused. Notes only write down what they are told, in the order in which they are.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from builders import ShopOperation, query
from shared_ledger import InsufficientCredits, Ledger, Posting
from shared_ledger.connections import make_async_engine, make_engine
from shared_ledger.messages import (
    Aggregate,
    Command,
    Context,
    Event,
    Inbox,
    InProcess,
    Relay,
    Source,
    TableRepository,
    TransactionalOutbox,
    Transport,
    UnitOfWork,
    Worker,
    handles,
    message_tables,
    retried,
)
from shared_ledger.messages.jetstream import JetStream

ShopLedger = Ledger[ShopOperation]
OnNote = Callable[["Note", UnitOfWork], Awaitable[None]]

HERE = Path(__file__).parent


# --- what they tell each other ---


class RequestPayment(Command, key="order_id"):
    order_id: str
    customer: str
    amount: int


class PaymentMade(Event, key="order_id"):
    order_id: str


class PaymentRefused(Event, key="order_id"):
    order_id: str
    reason: str


class Note(Event, key="line"):
    line: str
    number: int


# --- the shop ---

metadata = sa.MetaData()

orders = sa.Table(
    "shop_orders",
    metadata,
    sa.Column("order_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("customer", sa.Text, nullable=False),
    sa.Column("amount", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("changes", sa.BigInteger, nullable=False),
)
SHOP_TABLES = message_tables(metadata, "shop")


class Order(Aggregate):
    customer: str
    amount: int
    state: str = "placed"
    changes: int = 0

    def request_payment(self) -> None:
        self.raise_event(
            RequestPayment(order_id=self.entity_id, customer=self.customer, amount=self.amount)
        )

    def become(self, state: str) -> None:
        self.state = state
        self.changes += 1


class Orders(TableRepository[Order]):
    table = orders

    def row_of(self, aggregate: Order) -> dict[str, Any]:
        return {
            "customer": aggregate.customer,
            "amount": aggregate.amount,
            "state": aggregate.state,
            "changes": aggregate.changes,
        }

    def aggregate_of(self, row: sa.RowMapping) -> Order:
        return Order(
            entity_id=row["order_id"],
            customer=row["customer"],
            amount=row["amount"],
            state=row["state"],
            changes=row["changes"],
        )


class ShopUnitOfWork(UnitOfWork):
    def __init__(self, source: Source) -> None:
        super().__init__(source, TransactionalOutbox(SHOP_TABLES))
        self.orders = Orders(self)


@handles(PaymentMade)
async def payment_made(message: PaymentMade, uow: ShopUnitOfWork) -> None:
    order = await uow.orders.find(message.order_id)
    assert order is not None
    order.become("paid")


@handles(PaymentRefused)
async def payment_refused(message: PaymentRefused, uow: ShopUnitOfWork) -> None:
    order = await uow.orders.find(message.order_id)
    assert order is not None
    order.become("refused")


SHOP_CONTEXT = Context(
    name="shop",
    tables=SHOP_TABLES,
    unit_of_work=ShopUnitOfWork,
    handlers=[payment_made, payment_refused],
)


# --- the till ---

payments = sa.Table(
    "till_payments",
    metadata,
    sa.Column("payment_id", sa.Text, primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("entry_id", sa.BigInteger),
)
TILL_TABLES = message_tables(metadata, "till")


class Payment(Aggregate):
    entry_id: int | None


class Payments(TableRepository[Payment]):
    table = payments

    def row_of(self, aggregate: Payment) -> dict[str, Any]:
        return {"entry_id": aggregate.entry_id}

    def aggregate_of(self, row: sa.RowMapping) -> Payment:
        return Payment(entity_id=row["payment_id"], entry_id=row["entry_id"])


class TillUnitOfWork(UnitOfWork):
    def __init__(self, source: Source, ledger: ShopLedger) -> None:
        super().__init__(source, TransactionalOutbox(TILL_TABLES))
        self.payments = Payments(self)
        self.ledger = ledger


@handles(RequestPayment)
async def request_payment(message: RequestPayment, uow: TillUnitOfWork) -> None:
    posting = Posting(ShopOperation.PURCHASE, message.customer, message.order_id, -message.amount)
    try:
        posted = await uow.ledger.apost_in(uow.connection, posting)
    except InsufficientCredits as refused:
        uow.payments.add(Payment(entity_id=message.order_id, entry_id=None))
        uow.emit(PaymentRefused(order_id=message.order_id, reason=refused.code))
    else:
        # Effect, mark and entry are one transaction, so nobody has posted it before.
        assert not posted.replayed
        uow.payments.add(Payment(entity_id=message.order_id, entry_id=posted.entry.id))
        uow.emit(PaymentMade(order_id=message.order_id))


def till_context(ledger: ShopLedger) -> Context[TillUnitOfWork]:
    return Context(
        name="till",
        tables=TILL_TABLES,
        unit_of_work=lambda source: TillUnitOfWork(source, ledger),
        handlers=[request_payment],
    )


# --- notes ---

notes = sa.Table(
    "notes_written",
    metadata,
    sa.Column("position", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("line", sa.Text, nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
)
NOTES_TABLES = message_tables(metadata, "notes")


class NotesUnitOfWork(UnitOfWork):
    def __init__(self, source: Source) -> None:
        super().__init__(source, TransactionalOutbox(NOTES_TABLES))


async def nothing_more(_: Note, __: UnitOfWork) -> None:
    return


def notes_context(on_note: OnNote = nothing_more) -> Context[NotesUnitOfWork]:
    """Writes notes down; ``on_note`` is called after each, in its transaction."""

    @handles(Note)
    async def write_down(message: Note, uow: NotesUnitOfWork) -> None:
        row = {"line": message.line, "number": message.number}
        await uow.connection.execute(sa.insert(notes).values(row))
        await on_note(message, uow)

    return Context(
        name="notes",
        tables=NOTES_TABLES,
        unit_of_work=NotesUnitOfWork,
        handlers=[write_down],
    )


# --- what a test does with them ---


def make_tables(url: str, schema: str) -> None:
    """Make the tables of all, where a book is or will be."""
    engine = make_engine(url).execution_options(schema_translate_map={None: schema})
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(schema, if_not_exists=True))
        metadata.create_all(connection)
    engine.dispose()


@asynccontextmanager
async def engine_on(url: str, schema: str, *, pool_size: int = 20) -> AsyncIterator[AsyncEngine]:
    """An engine for coroutines, whose tables are in the schema."""
    engine = make_async_engine(url, pool_size=pool_size)
    try:
        yield engine.execution_options(schema_translate_map={None: schema})
    finally:
        await engine.dispose()


@asynccontextmanager
async def transport_over(
    nats_url: str | None, inboxes: Sequence[Inbox], schema: str
) -> AsyncIterator[Transport]:
    """What carries messages to these inboxes: NATS, or without a URL this process."""
    if not nats_url:
        yield InProcess(inboxes)
        return
    contexts = [inbox.context for inbox in inboxes]
    async with JetStream(nats_url, contexts, stream=schema) as transport:
        yield transport


@contextmanager
def program(text: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A program in Python that runs until it is killed, at the end of the block at the latest."""
    running = subprocess.Popen(
        [sys.executable, "-c", text, *map(str, arguments)], cwd=HERE, stdout=subprocess.PIPE
    )
    try:
        yield running
        assert running.poll() is None, "it ended by itself"
    finally:
        running.kill()
        running.communicate()


async def place_order(
    engine: AsyncEngine, order_id: str, *, customer: str = "ada", amount: int = 3
) -> None:
    """Place an order if that was not done before, as a client that repeats its request does."""

    async def place() -> None:
        async with ShopUnitOfWork(engine) as uow:
            if await uow.orders.find(order_id) is None:
                order = Order(entity_id=order_id, customer=customer, amount=amount)
                order.request_payment()
                uow.orders.add(order)

    await retried(place)


async def send(engine: AsyncEngine, *messages: Note) -> None:
    """Have the shop tell something to the notes."""
    async with ShopUnitOfWork(engine) as uow:
        uow.emit(*messages)


async def work_off(engine: AsyncEngine, contexts: Sequence[Context[Any]], **more: Any) -> None:
    """Publish and handle, step by step, until nothing is left to do now."""
    inboxes = [Inbox(engine, context) for context in contexts]
    transport = InProcess(inboxes)
    # The shop only sends, if it is not one of the contexts.
    tables = {SHOP_TABLES, *(context.tables for context in contexts)}
    relays = [Relay(engine, each, transport) for each in tables]
    workers = [Worker(inbox, **more) for inbox in inboxes]
    steps = [*(relay.publish for relay in relays), *(worker.handle_next for worker in workers)]
    while any([await step() for step in steps]):
        pass


def written(url: str, schema: str, line: str | None = None) -> list[int]:
    """The numbers of the notes, all or of a line, in the order in which they were written."""
    rows = query(
        url,
        f"select number from {schema}.notes_written "
        "where coalesce(line = %s, true) order by position",
        line,
    )
    return [number for (number,) in rows]


def states(url: str, schema: str, prefix: str) -> dict[str, int]:
    """How many messages of a context's inbox are in which state."""
    rows = query(url, f"select state, count(*) from {schema}.{prefix}_inbox group by state")
    return dict(rows)
