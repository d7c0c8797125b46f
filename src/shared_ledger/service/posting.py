"""The routes that post more than one entry, take one back, or only ask what would happen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from shared_ledger.access.refusals import AccessRefusal
from shared_ledger.book import Outcome, Posted, Posting, Reversal, Transfer
from shared_ledger.errors import BatchRefused, InvalidPosting, NonceReused, Refusal
from shared_ledger.operations import Application
from shared_ledger.requests import command_of
from shared_ledger.service import budgets
from shared_ledger.service import documentation as docs
from shared_ledger.service.answers import (
    answer,
    answer_entries,
    answer_results,
    encode,
    ledger_of,
    with_fields,
)
from shared_ledger.service.auth import gate_of
from shared_ledger.service.authorisation import (
    Permit,
    check_group,
    check_posting,
    check_reversal,
    check_transfer,
    permitted,
)
from shared_ledger.service.bodies import (
    MAX_BATCH,
    MAX_BATCH_BYTES,
    BatchBody,
    decode_batch,
    decode_body,
    decode_group,
    decode_reverse,
    decode_transfer,
    decoded,
    group_of,
    posting_of,
    read_json,
)
from shared_ledger.service.direct import DirectRoute
from shared_ledger.service.parameters import number
from shared_ledger.service.problems import described, problem_of

_AnyRefusal = Refusal | AccessRefusal

router = APIRouter(route_class=DirectRoute, tags=["ledger"])


async def post_batch(request: Request) -> Response:
    """Post up to 1,000 operations in order, each with its own nonce.

    Each result is the entry, with `status` 201 or 200 and `replayed`, or a problem with its own
    `status`: one that is refused does not hurt the others. With `atomic` nothing is posted if one
    is refused, and the answer is the problem of the first, whose `position` (from 0) says which.
    """
    permit = await permitted(request)
    body = await read_json(request, decode_batch, MAX_BATCH_BYTES)
    if len(body.entries) > MAX_BATCH:
        raise InvalidPosting("entries", f"are at most {MAX_BATCH}, not {len(body.entries)}")
    ledger = ledger_of(request)
    asked = _asked(request, permit, body)
    postings = [posting for posting in asked if isinstance(posting, Posting)]
    gate = gate_of(request)
    if not body.atomic:
        outcomes = iter(await budgets.post_batch(ledger, gate, permit.caller, postings))
        return answer_results(
            [_result(next(outcomes) if isinstance(one, Posting) else one) for one in asked]
        )
    if len(postings) < len(asked):
        return _refuse_all([_checked(ledger.application, one) for one in asked])
    together = await budgets.post_batch(ledger, gate, permit.caller, postings, atomic=True)
    if not all(isinstance(outcome, Posted) for outcome in together):
        return _refuse_all(together)
    return answer_results([_result(outcome) for outcome in together])


def _asked(request: Request, permit: Permit, body: BatchBody) -> list[Posting[Any] | _AnyRefusal]:
    """Return a batch's postings, and a refusal in the place of each that is none, or not his."""
    application = ledger_of(request).application
    asked: list[Posting[Any] | _AnyRefusal] = []
    for raw in body.entries:
        try:
            posting = posting_of(application, decoded(decode_body, raw))
            check_posting(request, permit, posting)
            asked.append(posting)
        except (Refusal, AccessRefusal) as refusal:
            asked.append(refusal)
    return asked


def _checked(application: Application[Any], one: Posting[Any] | _AnyRefusal) -> _AnyRefusal | None:
    """Tell whether a posting would be refused whatever the book holds."""
    if not isinstance(one, Posting):
        return one
    try:
        command_of(application, one)
    except InvalidPosting as refusal:
        return refusal
    return None


def _refuse_all(outcomes: Sequence[Outcome | AccessRefusal | None]) -> Response:
    """Answer with the first refusal that is not another's consequence."""
    position, refusal = next(
        (position, outcome)
        for position, outcome in enumerate(outcomes)
        if isinstance(outcome, _AnyRefusal) and not isinstance(outcome, BatchRefused)
    )
    return problem_of(refusal, position=position)


def _result(outcome: Outcome | AccessRefusal) -> bytes:
    if not isinstance(outcome, Posted):
        return encode(described(outcome))
    if outcome.replayed:
        return with_fields(outcome.entry, b'"status":200,"replayed":true')
    return with_fields(outcome.entry, b'"status":201,"replayed":false')


async def post_group(request: Request) -> Response:
    """Post up to 100 entries that happen together or not at all, under the first owner's nonce.

    They are applied in order, so that one may spend what another gave before it.
    """
    permit = await permitted(request)
    body = await read_json(request, decode_group, MAX_BATCH_BYTES)
    ledger = ledger_of(request)
    try:
        group = group_of(ledger.application, body)
        check_group(request, permit, group)
        posted: Posted = await budgets.post(ledger, gate_of(request), permit.caller, group)
    except (InvalidPosting, NonceReused) as refusal:
        # The ledger's word for them is another.
        if refusal.field.startswith("parts"):
            refusal.field = "entries" + refusal.field.removeprefix("parts")
        raise
    return answer_entries(posted)


async def post_transfer(request: Request) -> Response:
    """Move credits from one owner to another; those that expire keep their expiry."""
    permit = await permitted(request)
    body = await read_json(request, decode_transfer)
    check_transfer(permit, body.source, body.nonce)
    transfer = Transfer(
        source=body.source,
        destination=body.destination,
        amount=body.amount,
        nonce=body.nonce,
        asset=body.asset,
        metadata=body.metadata,
    )
    return answer_entries(await ledger_of(request).apost(transfer))


async def reverse_entry(request: Request) -> Response:
    """Take an entry back, all that is left of it or `amount`; a transfer on both sides.

    A spend goes back to the credits that paid for it. A gain that was spent already is refused, or
    with `allow_debt` taken into a negative balance.
    """
    permit = await permitted(request)
    entry_id = number("entry_id", request.path_params["entry_id"])
    body = await read_json(request, decode_reverse)
    await check_reversal(request, permit, entry_id)
    reversal = Reversal(entry_id, body.nonce, body.amount, body.allow_debt, body.metadata)
    return answer_entries(await ledger_of(request).apost(reversal))


async def quote_entry(request: Request) -> Response:
    """Tell what `POST /ledger` would do with this body now; nothing is written.

    Ids of entries that are not written are counted from 1.
    """
    permit = await permitted(request)
    body = await read_json(request, decode_body)
    ledger = ledger_of(request)
    posting = posting_of(ledger.application, body)
    check_posting(request, permit, posting)
    return answer(await ledger.aquote(posting))


router.add_api_route(
    "/ledger/batch",
    post_batch,
    methods=["POST"],
    summary="Post many operations",
    operation_id="post_batch",
    response_class=Response,
    openapi_extra=docs.BATCH,
)
router.add_api_route(
    "/ledger/groups",
    post_group,
    methods=["POST"],
    summary="Post entries that happen together",
    operation_id="post_group",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.GROUP,
)
router.add_api_route(
    "/ledger/transfers",
    post_transfer,
    methods=["POST"],
    summary="Transfer credits between owners",
    operation_id="post_transfer",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.TRANSFER,
)
router.add_api_route(
    "/ledger/entries/{entry_id}/reverse",
    reverse_entry,
    methods=["POST"],
    summary="Take an entry back",
    operation_id="reverse_entry",
    status_code=201,
    response_class=Response,
    openapi_extra=docs.REVERSE,
)
router.add_api_route(
    "/ledger/quote",
    quote_entry,
    methods=["POST"],
    summary="Ask what a posting would do",
    operation_id="quote_entry",
    response_class=Response,
    openapi_extra=docs.QUOTE,
)
