"""What a key gives to owners is taken from its budget of the day before it is posted.

It is given back when nothing was posted, or had been before. Between the two a crash, or an answer
that was lost, may count too much, never too little.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from shared_ledger.access.callers import Caller
from shared_ledger.access.gate import Gate
from shared_ledger.access.refusals import AccessRefusal, KeyBudgetSpent
from shared_ledger.access.store import Reservation
from shared_ledger.book import Group, Outcome, Posted, Posting
from shared_ledger.commands import Command, GroupCommand
from shared_ledger.errors import LedgerError, LedgerOverloaded, NonceReused, Refusal
from shared_ledger.ledger import Ledger
from shared_ledger.operations import Application
from shared_ledger.requests import command_of, command_of_request

# How often a batch looks again what is left, while other processes take of it.
_LOOKS = 3

_log = logging.getLogger("shared_ledger.service")


async def post(
    ledger: Ledger[Any], gate: Gate, caller: Caller, request: Posting[Any] | Group[Any]
) -> Posted:
    """Post within a key's budget.

    Raises
    ------
    KeyBudgetSpent
        If the budget does not allow it, and it had not been posted before.
    """
    posted: Posted
    amount = 0 if caller.daily_budget is None else issued(ledger.application, request)
    if amount == 0:
        posted = await ledger.apost(request)
        return posted
    reservation: Reservation | None
    try:
        reservation = await gate.run(gate.store.reserve, caller.name, amount)
    except KeyBudgetSpent:
        # What was posted before gives nothing now: whoever asks again gets the same answer.
        if not (await ledger.aquote(request)).replayed:
            raise
        reservation = None
    try:
        posted = await ledger.apost(request)
    except (Refusal, LedgerOverloaded):
        await _give_back(gate, reservation, amount)
        raise
    if posted.replayed:
        await _give_back(gate, reservation, amount)
    return posted


async def post_batch(
    ledger: Ledger[Any],
    gate: Gate,
    caller: Caller,
    postings: Sequence[Posting[Any]],
    *,
    atomic: bool = False,
) -> list[Outcome | AccessRefusal]:
    """Post a batch within a key's budget; what does not fit in it is refused in its place.

    Raises
    ------
    KeyBudgetSpent
        If an atomic batch does not fit.
    """
    amounts: list[int] = []
    if caller.daily_budget is not None:
        amounts = [_issued_or_nothing(ledger.application, posting) for posting in postings]
    total = sum(amounts)
    if total == 0:
        return [*await ledger.apost_batch(postings, atomic=atomic)]
    refused: dict[int, AccessRefusal] = {}
    reservation: Reservation | None
    try:
        reservation = await gate.run(gate.store.reserve, caller.name, total)
    except KeyBudgetSpent as spent:
        await asyncio.to_thread(_leave_out_replays, ledger, postings, amounts)
        if atomic:
            reservation = None
            if any(amounts):
                reservation = await gate.run(gate.store.reserve, caller.name, sum(amounts))
        else:
            reservation = await _reserve_some(gate, caller, amounts, spent, refused)
    kept = [posting for place, posting in enumerate(postings) if place not in refused]
    try:
        written = iter(await ledger.apost_batch(kept, atomic=atomic))
    except LedgerOverloaded:
        await _give_back(gate, reservation, reservation.amount if reservation else 0)
        raise
    outcomes: list[Outcome | AccessRefusal] = [
        refused[place] if place in refused else next(written) for place in range(len(postings))
    ]
    nothing_given = sum(
        amount
        for place, (amount, outcome) in enumerate(zip(amounts, outcomes, strict=True))
        if place not in refused and not (isinstance(outcome, Posted) and not outcome.replayed)
    )
    await _give_back(gate, reservation, nothing_given)
    return outcomes


def issued(application: Application[Any], request: Posting[Any] | Group[Any]) -> int:
    """Return what a request gives to owners, of whatever asset; what it takes does not count.

    Raises
    ------
    InvalidPosting
        As posting it would.
    """
    if isinstance(request, Posting):
        return max(0, command_of(application, request).amount)
    command = command_of_request(application, request, {}, {})
    members: tuple[Command, ...] = command.members if isinstance(command, GroupCommand) else ()
    return sum(max(0, member.amount) for member in members)


def _issued_or_nothing(application: Application[Any], posting: Posting[Any]) -> int:
    try:
        return issued(application, posting)
    except Refusal:
        return 0


def _leave_out_replays(
    ledger: Ledger[Any], postings: Sequence[Posting[Any]], amounts: list[int]
) -> None:
    """Set the amounts to zero of what was posted before: for ever it gives nothing more."""
    for place, posting in enumerate(postings):
        if amounts[place]:
            try:
                replayed = ledger.quote(posting).replayed
            except NonceReused:
                replayed = True
            except Refusal:
                # Refused now is not refused for ever.
                replayed = False
            if replayed:
                amounts[place] = 0


async def _reserve_some(
    gate: Gate,
    caller: Caller,
    amounts: Sequence[int],
    spent: KeyBudgetSpent,
    refused: dict[int, AccessRefusal],
) -> Reservation | None:
    """Reserve what fits, in order, and note what does not."""
    for look in range(_LOOKS + 1):
        refused.clear()
        # At the last look nothing is taken: the others are quicker.
        left = spent.left if look < _LOOKS else 0
        for place, amount in enumerate(amounts):
            if amount > left:
                refused[place] = KeyBudgetSpent(
                    day=spent.day, budget=spent.budget, left=left, required=amount
                )
            else:
                left -= amount
        total = sum(amount for place, amount in enumerate(amounts) if place not in refused)
        if total == 0:
            break
        try:
            return await gate.run(gate.store.reserve, caller.name, total)
        except KeyBudgetSpent as again:
            spent = again
    return None


async def _give_back(gate: Gate, reservation: Reservation | None, amount: int) -> None:
    if reservation is None or amount == 0:
        return
    try:
        await gate.run(gate.store.give_back, reservation, amount)
    except LedgerError as error:
        # The posting's own answer matters more.
        _log.warning("%d of a key's budget were not given back: %s", amount, error)
