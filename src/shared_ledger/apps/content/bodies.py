"""What is sent to the content application's routes, and what they answer."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from shared_ledger.apps.content.operations import MAX_PRICE
from shared_ledger.service.fields import (
    Body,
    Id,
    Line,
    Nonce,
    OwnerId,
    Shown,
    Text,
    Time,
    Written,
)

Title = Annotated[Line, Field(examples=["Bread without kneading"])]
Words = Annotated[Text, Field(examples=["Mix flour, water, salt and a little yeast. Wait a day."])]
Price = Annotated[
    int, Field(ge=0, le=MAX_PRICE, description="What a reader pays, once.", examples=[10])
]


class Whose(Body):
    """Whose account it is about: a service says that, a user has his own."""

    owner_id: OwnerId | None = None


class DailyClaim(Whose):
    """With a nonce the same answer can be had again."""

    nonce: Nonce | None = None


class NewContent(Whose):
    """What is to be stored, and what a reader pays for it, once."""

    title: Title
    body: Words
    price: Price = 0
    nonce: Nonce


class Summary(Shown):
    """What everybody sees of content."""

    id: Annotated[Id, Field(examples=[1])]
    creator: OwnerId
    title: Title
    price: Price
    created_on: Time


class Contents(Shown):
    """A page of content; ``cursor`` fetches the next one, and is null in the last."""

    contents: list[Summary]
    cursor: Annotated[Id | None, Field(examples=[1])]


class Content(Summary):
    """Content; ``body`` is null for those who have no access to it."""

    body: Words | None


class Created(Written, Content):
    """Content that was stored, and the entry that paid for it."""

    entry_id: Annotated[Id, Field(examples=[3])]


class Accessed(Written, Content):
    """Content that may be read, and what was charged for it, now or before."""

    charged: Annotated[int, Field(examples=[10])]
