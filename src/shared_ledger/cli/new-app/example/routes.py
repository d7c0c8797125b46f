"""The application's routes, and who may call them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends
from shared_ledger.service import POST, READ, Call, RightsTable, called
from shared_ledger.service.documentation import written_once
from shared_ledger.service.fields import Id

from . import records
from .bodies import RecordBody, RecordCreated, RecordShown
from .operations import RecordOperation

ALL = "/example"
ONE = ALL + "/{record_id}"

RIGHTS: RightsTable = {
    ("POST", ALL): POST.posting("RECORD"),
    ("GET", ONE): READ,
    ("POST", ONE + "/cancel"): POST.posting("RECORD"),
}

RecordCall = Annotated[Call[RecordOperation], Depends(called)]

router = APIRouter(tags=["example"])


@router.post(ALL, status_code=201, responses=written_once(RecordCreated))
def create_record(
    body: RecordBody,
    call: RecordCall,
) -> RecordCreated:
    """Store it, for 4 credits. The same nonce and body again answer 200 with the first."""
    with call.begin() as connection:
        made, replayed = records.create(
            connection,
            call.ledger,
            owner_id=call.owner(body.owner_id),
            title=body.title,
            nonce=body.nonce,
        )
    return call.written(RecordCreated.of(made, replayed=replayed))


@router.get(ONE)
def show_record(
    record_id: Id,
    call: RecordCall,
) -> RecordShown:
    """Show one; to a user, his own."""
    with call.begin() as connection:
        found = records.find(
            connection,
            record_id,
            owner_id=_whose(call),
        )
    return RecordShown.of(found)


@router.post(ONE + "/cancel")
def cancel_record(
    record_id: Id,
    call: RecordCall,
) -> RecordShown:
    """Cancel one, and give its credits back; again changes nothing."""
    with call.begin() as connection:
        cancelled = records.cancel(
            connection,
            call.ledger,
            record_id,
            owner_id=_whose(call),
        )
    return RecordShown.of(cancelled)


def _whose(call: RecordCall) -> str | None:
    """Return whose it must be for the caller to have it; ``None`` is anybody's."""
    return None if call.sees_all() else call.caller.name
