"""The content application's routes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field

from shared_ledger import Posting
from shared_ledger.apps.content import content
from shared_ledger.apps.content.operations import MAX_PRICE, ContentOperation
from shared_ledger.service import EVERYBODY, POST, Call, RightsTable, called
from shared_ledger.service.answers import answer_entry
from shared_ledger.service.documentation import ENTRY_WRITTEN
from shared_ledger.service.fields import Body, Id, Line, Nonce, OwnerId, Shown, Text, own_nonce

ContentCall = Annotated[Call[ContentOperation], Depends(called)]

RIGHTS: RightsTable = {
    ("POST", "/signup"): POST.posting("SIGNUP_CREDIT"),
    ("POST", "/daily-reward"): POST.posting("DAILY_REWARD"),
    ("GET", "/content"): EVERYBODY,
    ("POST", "/content"): POST.posting("CONTENT_CREATION"),
    ("GET", "/content/{content_id}"): EVERYBODY,
    ("POST", "/content/{content_id}/access"): POST.posting("CONTENT_ACCESS"),
}

rewards = APIRouter(tags=["rewards"])
router = APIRouter(tags=["content"])


class Claim(Body):
    """Whose reward it is: a service says that, a user has his own."""

    owner_id: OwnerId | None = None


class DailyClaim(Claim):
    """With a nonce the same answer can be had again."""

    nonce: Nonce | None = None


class NewContent(Body):
    """What is to be stored, and what a reader pays for it, once."""

    title: Line
    body: Text
    price: Annotated[int, Field(ge=0, le=MAX_PRICE)] = 0
    nonce: Nonce
    owner_id: OwnerId | None = None


class Reader(Body):
    """Who wants to read: a service says that, a user reads himself."""

    owner_id: OwnerId | None = None


class Summary(Shown):
    """What everybody sees of content."""

    id: int
    creator: str
    title: str
    price: int
    created_on: datetime


class Contents(Shown):
    """A page of content; ``cursor`` fetches the next one, and is null in the last."""

    contents: list[Summary]
    cursor: int | None


class Content(Summary):
    """Content; ``body`` is null for those who have no access to it."""

    body: str | None


class Created(Content):
    """Content that was stored, and the entry that paid for it."""

    entry_id: int
    replayed: bool


class Accessed(Content):
    """Content that may be read, and what was charged for it, now or before."""

    charged: int
    replayed: bool


@rewards.post("/signup", status_code=201, response_class=Response, responses=ENTRY_WRITTEN)
async def sign_up(call: ContentCall, body: Claim | None = None) -> Response:
    """Give an owner his first credits, once."""
    owner_id = call.owner(body.owner_id if body else None)
    return answer_entry(
        await call.post(Posting(ContentOperation.SIGNUP_CREDIT, owner_id, own_nonce("signup", 1)))
    )


@rewards.post("/daily-reward", status_code=201, response_class=Response, responses=ENTRY_WRITTEN)
async def claim_daily_reward(call: ContentCall, body: DailyClaim | None = None) -> Response:
    """Give an owner the reward of the day (UTC), once."""
    body = body or DailyClaim()
    nonce = own_nonce("daily", body.nonce or uuid4())
    return answer_entry(
        await call.post(Posting(ContentOperation.DAILY_REWARD, call.owner(body.owner_id), nonce))
    )


@router.get("/content")
def list_content(
    call: ContentCall,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[Id | None, Query()] = None,
) -> Contents:
    """Show what was created last, newest first."""
    with call.begin() as connection:
        found = content.newest(connection, limit=limit, before=cursor)
    return Contents(
        contents=[Summary(**_shown(item)) for item in found],
        cursor=found[-1].id if len(found) == limit else None,
    )


@router.post("/content", status_code=201, responses={200: {"model": Created}})
def create_content(body: NewContent, call: ContentCall, response: Response) -> Created:
    """Store content, for 5 credits. The same nonce and body again answer 200 with the first."""
    with call.begin() as connection:
        item, replayed = content.create(
            connection,
            call.ledger,
            creator=call.owner(body.owner_id),
            title=body.title,
            body=body.body,
            price=body.price,
            nonce=body.nonce,
        )
    if replayed:
        response.status_code = 200
    return Created(**_shown(item), body=item.body, entry_id=item.entry_id, replayed=replayed)


@router.get("/content/{content_id}")
def show_content(content_id: Id, call: ContentCall) -> Content:
    """Show content; its text to its creator, to those who have access to it, and to services."""
    with call.begin() as connection:
        item = content.find(connection, content_id)
        readable = call.is_service or content.may_read(connection, item, call.caller.name)
    return Content(**_shown(item), body=item.body if readable else None)


@router.post("/content/{content_id}/access", status_code=201, responses={200: {"model": Accessed}})
def access_content(
    content_id: Id, call: ContentCall, response: Response, body: Reader | None = None
) -> Accessed:
    """Get access to content for its price, charged once for ever; again answers 200.

    Four fifths of the price are the creator's.
    """
    with call.begin() as connection:
        item, charged, replayed = content.access(
            connection,
            call.ledger,
            content_id,
            reader=call.owner(body.owner_id if body else None),
        )
    if replayed:
        response.status_code = 200
    return Accessed(**_shown(item), body=item.body, charged=charged, replayed=replayed)


def _shown(item: content.Item) -> dict[str, Any]:
    return {name: getattr(item, name) for name in Summary.model_fields}
