"""What the application's routes take, and what they answer with."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from shared_ledger.service.fields import (
    Body,
    Id,
    Line,
    Nonce,
    OwnerId,
    Shown,
    Time,
    Written,
)

Number = Annotated[Id, Field(examples=[1])]
Title = Annotated[Line, Field(examples=["The first"])]


class RecordBody(Body):
    """What is wanted, and for whom: a service says that, a user asks for himself."""

    title: Title
    nonce: Nonce
    owner_id: OwnerId | None = None


class RecordShown(Shown):
    """What there is, and the entry that paid for it."""

    id: Number
    owner_id: OwnerId
    title: Title
    entry_id: Number
    created_on: Time
    cancelled_on: Annotated[Time | None, Field(examples=[None])]


class RecordCreated(RecordShown, Written):
    """What there is now."""
