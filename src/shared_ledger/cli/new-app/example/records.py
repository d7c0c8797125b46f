"""What can be done: create one, find it, cancel it.

Each function takes the transaction that it is part of: rows and entries commit together.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from http import HTTPStatus

import sqlalchemy as sa
from shared_ledger import Ledger, NonceReused, Posting, Reversal
from shared_ledger.service import ServiceRefusal
from shared_ledger.service.fields import check_same, own_nonce
from sqlalchemy.engine import Connection

from .operations import RecordOperation
from .tables import items

RecordLedger = Ledger[RecordOperation]


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an owner has paid for; ``cancelled_on`` is when he got his credits back."""

    id: int
    owner_id: str
    title: str
    entry_id: int
    created_on: datetime
    cancelled_on: datetime | None


class RecordNotFound(ServiceRefusal):
    """There is none with this id, or it is another's."""

    status = HTTPStatus.NOT_FOUND
    code = "record_not_found"

    def __init__(self, record_id: int) -> None:
        self.record_id = record_id

    def __str__(self) -> str:
        return f"there is no record {self.record_id}"


def create(
    connection: Connection,
    ledger: RecordLedger,
    *,
    owner_id: str,
    title: str,
    nonce: str,
) -> tuple[Record, bool]:
    """Charge the owner and store it; tell whether that had been done before.

    Raises
    ------
    Refusal
        ``InsufficientCredits`` …, or ``NonceReused`` if the nonce came with another title.
    """
    posting = Posting(
        RecordOperation.RECORD,
        owner_id,
        own_nonce("record", nonce),
    )
    posted = ledger.post_in(connection, posting)
    entry = posted.entry
    if posted.replayed:
        paid = sa.select(items).where(items.c.entry_id == entry.id)
        found = connection.execute(paid).mappings().one_or_none()
        if found is None:
            # A service has posted the entry alone.
            raise NonceReused(
                owner_id,
                nonce,
                field="kind",
                recorded="posting",
                given="record",
            )
        first = Record(**found)
        given = {"title": title}
        check_same(owner_id, nonce, recorded=asdict(first), given=given)
        return first, True
    row = {
        "owner_id": owner_id,
        "title": title,
        "entry_id": entry.id,
        "created_on": entry.created_on,
    }
    inserted = sa.insert(items).values(row).returning(items)
    return Record(**connection.execute(inserted).mappings().one()), False


def find(
    connection: Connection,
    record_id: int,
    *,
    owner_id: str | None,
) -> Record:
    """Return one of this owner, or of anybody if ``owner_id`` is ``None``.

    Raises
    ------
    RecordNotFound
        If there is none.
    """
    chosen = sa.select(items).where(items.c.id == record_id)
    if owner_id is not None:
        chosen = chosen.where(items.c.owner_id == owner_id)
    row = connection.execute(chosen).mappings().one_or_none()
    if row is None:
        raise RecordNotFound(record_id)
    return Record(**row)


def cancel(
    connection: Connection,
    ledger: RecordLedger,
    record_id: int,
    *,
    owner_id: str | None,
) -> Record:
    """Give the owner his credits back; a second time, nothing more. Raises as ``find``."""
    found = find(connection, record_id, owner_id=owner_id)
    undoing = own_nonce("cancel", record_id)
    entry = ledger.post_in(connection, Reversal(found.entry_id, undoing)).entry
    updated = (
        sa.update(items)
        .where(items.c.id == record_id)
        .values(cancelled_on=entry.created_on)
        .returning(items)
    )
    return Record(**connection.execute(updated).mappings().one())
