"""The content application's routes, and who may call them."""

from __future__ import annotations

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Response

from shared_ledger import Posting
from shared_ledger.apps.content import content
from shared_ledger.apps.content.bodies import (
    Accessed,
    Content,
    Contents,
    Created,
    DailyClaim,
    NewContent,
    Summary,
    Whose,
)
from shared_ledger.apps.content.operations import ContentOperation
from shared_ledger.service import EVERYBODY, POST, READ, Call, RightsTable, called
from shared_ledger.service.answers import answer_entry
from shared_ledger.service.documentation import ENTRY_WRITTEN, written_once
from shared_ledger.service.fields import Id, own_nonce

RIGHTS: RightsTable = {
    ("POST", "/signup"): POST.posting("SIGNUP_CREDIT"),
    ("POST", "/daily-reward"): POST.posting("DAILY_REWARD"),
    ("GET", "/content"): EVERYBODY,
    ("POST", "/content"): POST.posting("CONTENT_CREATION"),
    ("GET", "/content/{content_id}"): READ,
    ("POST", "/content/{content_id}/access"): POST.posting("CONTENT_ACCESS"),
}

OWN = Whose()
TODAY = DailyClaim()
"""What is meant where a body may be left out."""

ContentCall = Annotated[Call[ContentOperation], Depends(called)]

rewards = APIRouter(tags=["rewards"])
publishing = APIRouter(tags=["content"])


@rewards.post("/signup", status_code=201, response_class=Response, responses=ENTRY_WRITTEN)
async def sign_up(call: ContentCall, body: Whose = OWN) -> Response:
    """Give an owner his first credits, once."""
    owner_id = call.owner(body.owner_id)
    return answer_entry(
        await call.post(Posting(ContentOperation.SIGNUP_CREDIT, owner_id, own_nonce("signup", 1)))
    )


@rewards.post("/daily-reward", status_code=201, response_class=Response, responses=ENTRY_WRITTEN)
async def claim_daily_reward(call: ContentCall, body: DailyClaim = TODAY) -> Response:
    """Give an owner the reward of the day (UTC), once."""
    owner_id = call.owner(body.owner_id)
    nonce = own_nonce("daily", body.nonce or uuid4())
    return answer_entry(await call.post(Posting(ContentOperation.DAILY_REWARD, owner_id, nonce)))


@publishing.get("/content")
def list_content(
    call: ContentCall,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[Id | None, Query()] = None,
) -> Contents:
    """Show what was created last, newest first."""
    with call.begin() as connection:
        found, more = content.newest(connection, limit=limit, before=cursor)
    return Contents(
        contents=[Summary.of(item) for item in found], cursor=found[-1].id if more else None
    )


@publishing.post("/content", status_code=201, responses=written_once(Created))
def create_content(body: NewContent, call: ContentCall) -> Created:
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
    return call.written(Created.of(item, replayed=replayed))


@publishing.get("/content/{content_id}")
def show_content(content_id: Id, call: ContentCall) -> Content:
    """Show content; its text to its creator and to those who have paid for it.

    Services and administrators see all of it.
    """
    with call.begin() as connection:
        item = content.find(connection, content_id)
        readable = call.sees_all() or content.may_read(connection, item, call.caller.name)
    return Content.of(item, body=item.body if readable else None)


@publishing.post("/content/{content_id}/access", status_code=201, responses=written_once(Accessed))
def access_content(content_id: Id, call: ContentCall, body: Whose = OWN) -> Accessed:
    """Get access to content for its price, charged once for ever; again answers 200.

    Four fifths of the price are the creator's, who reads what is his own for nothing.
    """
    reader = call.owner(body.owner_id)
    with call.begin() as connection:
        item, charged, replayed = content.access(connection, call.ledger, content_id, reader=reader)
    return call.written(Accessed.of(item, charged=charged, replayed=replayed))
