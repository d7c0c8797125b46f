"""Every kind of request: what it takes, and what its result is."""

from datetime import UTC, datetime, timedelta
from typing import assert_type

from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncSession

from shared_ledger import (
    Balance,
    CaptureHold,
    Grant,
    Group,
    Held,
    Hold,
    Ledger,
    Outcome,
    Part,
    PlaceHold,
    Posted,
    Posting,
    Quote,
    Refusal,
    ReleaseHold,
    Request,
    Result,
    Reversal,
    Rule,
    SharedOperation,
    Statement,
    Transfer,
)

Shared = Ledger[SharedOperation]
HOUR = timedelta(hours=1)
NEW_YEAR = datetime(2027, 1, 1, tzinfo=UTC)

POSTING = Posting(SharedOperation.CREDIT_ADD, "user1", "n1", expires_in=HOUR, priority=1)
PLACE = PlaceHold(SharedOperation.CREDIT_SPEND, "user1", "n2", 1, expires_at=NEW_YEAR)
GROUP = Group("n3", [Part(SharedOperation.CREDIT_ADD, "user1", 10, {"a": 1}, HOUR)])
TRANSFER = Transfer(source="user1", destination="user2", amount=5, nonce="n4")
RULE = Rule.fixed(1, once="week", expires_in=HOUR, priority=2, budget=100, daily_budget=10)
DEFAULT = Rule.variable(minimum=-10, maximum=0, default=-1)


def post(ledger: Shared) -> int:
    """A hold is answered by itself, all else by its entry."""
    assert_type(ledger.post(POSTING), Posted)
    assert_type(ledger.post(GROUP), Posted)
    assert_type(ledger.post(TRANSFER), Posted)
    placed = ledger.post(PLACE)
    assert_type(placed, Held)
    assert_type(placed.hold, Hold)
    captured = ledger.post(CaptureHold(placed.hold.id, "n5", 1, final=False))
    assert_type(captured, Posted)
    assert_type(ledger.post(ReleaseHold(placed.hold.id, "n6")), Held)
    assert_type(ledger.post(Reversal(captured.entry.id, "n7", 1, allow_debt=True)), Posted)
    named = Reversal(captured.entry.id, "n8", operation=SharedOperation.CREDIT_ADD)
    assert_type(ledger.post(named), Posted)
    return captured.entry.id


async def apost(ledger: Shared, session: AsyncSession) -> None:
    """The same in coroutines."""
    assert_type(await ledger.apost(POSTING), Posted)
    assert_type(await ledger.apost(PLACE), Held)
    assert_type(await ledger.apost(Reversal(1, "n7")), Posted)
    assert_type(await ledger.apost_in(session, TRANSFER), Posted)
    assert_type(await ledger.apost_in(session, ReleaseHold(1, "n6")), Held)
    assert_type(await ledger.aquote(GROUP), Quote)


def post_in(ledger: Shared, connection: Connection) -> None:
    """The same in the caller's transaction."""
    assert_type(ledger.post_in(connection, POSTING), Posted)
    assert_type(ledger.post_in(connection, PLACE), Held)


def post_many(ledger: Shared) -> list[int]:
    """Batches of postings give outcomes, and mixed ones results."""
    assert_type(ledger.post_batch([POSTING]), list[Outcome])
    plain = Reversal(1, "n7")
    named = Reversal(1, "n8", operation=SharedOperation.CREDIT_ADD)
    requests: list[Request[SharedOperation]] = [POSTING, PLACE, GROUP, TRANSFER, plain, named]
    results = ledger.post_batch(requests, atomic=True)
    assert_type(results, list[Result])
    return [
        result.hold.id if isinstance(result, Held) else result.entry.id
        for result in results
        if not isinstance(result, Refusal)
    ]


def read(ledger: Shared) -> None:
    """What was posted can be read, now and at a time."""
    assert_type(ledger.balance("user1", at=NEW_YEAR), Balance)
    assert_type(ledger.hold(1), Hold)
    assert_type(ledger.holds("user1"), list[Hold])
    assert_type(ledger.grants("user1"), list[Grant])
    assert_type(ledger.statement("user1", NEW_YEAR, NEW_YEAR + HOUR), Statement)
    assert_type(ledger.quote(PLACE), Quote)
    assert_type(ledger.sweep(limit=10), int)
