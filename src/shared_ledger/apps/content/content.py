"""What can be done with content: create it, find it, and get access to it.

Each takes the transaction it is part of: rows and entries commit together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from http import HTTPStatus

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection

from shared_ledger import BalanceOutOfRange, Group, Ledger, NonceReused, Part, Posting
from shared_ledger.apps.content.operations import ContentOperation
from shared_ledger.apps.content.tables import accesses, items
from shared_ledger.service import ServiceRefusal
from shared_ledger.service.fields import check_same, own_nonce

PLATFORM_PERCENT = 20

ContentLedger = Ledger[ContentOperation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A piece of content. ``price`` is what a reader pays, once, in credits."""

    id: int
    creator: str
    title: str
    body: str
    price: int
    entry_id: int
    created_on: datetime


class ContentNotFound(ServiceRefusal):
    """There is no such content."""

    status = HTTPStatus.NOT_FOUND
    code = "content_not_found"

    def __init__(self, content_id: int) -> None:
        self.content_id = content_id

    def __str__(self) -> str:
        return f"there is no content {self.content_id}"


class CreatorCannotBePaid(ServiceRefusal):
    """The creator's account cannot hold more: nobody can pay for what he created."""

    code = "creator_cannot_be_paid"

    def __init__(self, content_id: int) -> None:
        self.content_id = content_id

    def __str__(self) -> str:
        return f"the creator of content {self.content_id} cannot be paid: his account is full"


def create(
    connection: Connection,
    ledger: ContentLedger,
    *,
    creator: str,
    title: str,
    body: str,
    price: int,
    nonce: str,
) -> tuple[Item, bool]:
    """Charge the creator and store the content; tell whether that had been done before.

    Raises
    ------
    Refusal
        ``InsufficientCredits`` …, or ``NonceReused`` if the nonce made other content.
    """
    posting = Posting(ContentOperation.CONTENT_CREATION, creator, own_nonce("content", nonce))
    posted = ledger.post_in(connection, posting)
    entry = posted.entry
    given = {"title": title, "body": body, "price": price}
    if posted.replayed:
        paid = sa.select(items).where(items.c.entry_id == entry.id)
        row = connection.execute(paid).mappings().one_or_none()
        if row is None:
            # A service has posted the entry alone.
            raise NonceReused(creator, nonce, field="kind", recorded="posting", given="content")
        first = Item(**row)
        check_same(creator, nonce, recorded=asdict(first), given=given)
        return first, True
    made = {"creator": creator, "entry_id": entry.id, "created_on": entry.created_on, **given}
    row = connection.execute(sa.insert(items).values(made).returning(items)).mappings().one()
    return Item(**row), False


def find(connection: Connection, content_id: int) -> Item:
    """Return a piece of content; raise ``ContentNotFound`` if there is none."""
    chosen = sa.select(items).where(items.c.id == content_id)
    row = connection.execute(chosen).mappings().one_or_none()
    if row is None:
        raise ContentNotFound(content_id)
    return Item(**row)


def newest(connection: Connection, *, limit: int, before: int | None) -> tuple[list[Item], bool]:
    """Return what was created last, and whether there is more.

    ``before`` is the id that the page before ended with.
    """
    chosen = sa.select(items).order_by(items.c.id.desc()).limit(limit + 1)
    if before is not None:
        chosen = chosen.where(items.c.id < before)
    found = [Item(**row) for row in connection.execute(chosen).mappings()]
    return found[:limit], len(found) > limit


def may_read(connection: Connection, item: Item, reader: str) -> bool:
    """Tell whether somebody created the content or has paid for it."""
    if reader == item.creator:
        return True
    return bool(
        connection.scalar(
            sa.select(
                sa.exists().where(accesses.c.content_id == item.id, accesses.c.reader == reader)
            )
        )
    )


def access(
    connection: Connection, ledger: ContentLedger, content_id: int, *, reader: str
) -> tuple[Item, int, bool]:
    """Charge a reader for content, once for ever, and pay its creator his share.

    Returns the content, what was charged for it in all, and whether that had been done before. A
    creator reads what is his own for nothing.

    Raises
    ------
    ContentNotFound
        If there is none.
    InsufficientCredits
        If the reader cannot pay.
    CreatorCannotBePaid
        If the creator's account is full.
    """
    item = find(connection, content_id)
    if reader == item.creator:
        return item, 0, True
    if may_read(connection, item, reader):
        return item, item.price, True
    parts = [Part(ContentOperation.CONTENT_ACCESS, reader, -item.price)]
    if share := creators_share(item.price):
        parts.append(Part(ContentOperation.CONTENT_EARNING, item.creator, share))
    try:
        posted = ledger.post_in(connection, Group(own_nonce("access", item.id), parts))
    except BalanceOutOfRange as refusal:
        # What the creator has is no reader's affair.
        if refusal.owner_id != reader:
            raise CreatorCannotBePaid(item.id) from None
        raise
    entry = posted.entry
    # Somebody else may have done it since we looked, under the same nonce.
    connection.execute(
        insert(accesses)
        .values(content_id=item.id, reader=reader, entry_id=entry.id, created_on=entry.created_on)
        .on_conflict_do_nothing()
    )
    return item, item.price, posted.replayed


def creators_share(price: int) -> int:
    """Return what of a price is the creator's; a part of a credit is his, too."""
    return price - price * PLATFORM_PERCENT // 100
