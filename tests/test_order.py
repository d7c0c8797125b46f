"""In which order postings take effect."""

from __future__ import annotations

import asyncio

from shared_ledger import Ledger, Posted, Posting, SharedOperation

OWNERS = 5
ROUNDS = 12


def earned_and_spent(owner_id: str, number: int) -> list[Posting[SharedOperation]]:
    """Ten credits and ten spends of one: in any other order a spend is refused."""
    earned = Posting(SharedOperation.CREDIT_ADD, owner_id, f"add-{number}")
    spent = [
        Posting(SharedOperation.CREDIT_SPEND, owner_id, f"spend-{number}-{n}") for n in range(10)
    ]
    return [earned, *spent]


async def test_batches_submitted_without_waiting_keep_the_order_of_each_owner(
    ledger: Ledger[SharedOperation],
) -> None:
    postings = [
        posting
        for number in range(ROUNDS)
        for owner in range(OWNERS)
        for posting in earned_and_spent(f"owner-{owner}", number)
    ]
    sizes = [1, 300, 2, 7, 250, 3]
    batches: list[list[Posting[SharedOperation]]] = []
    while postings:
        size = sizes[len(batches) % len(sizes)]
        batches.append(postings[:size])
        postings = postings[size:]
    answers = await asyncio.gather(*(ledger.apost_batch(batch) for batch in batches))
    assert all(isinstance(outcome, Posted) for outcomes in answers for outcome in outcomes)


def test_a_batch_is_applied_in_its_order(ledger: Ledger[SharedOperation]) -> None:
    outcomes = ledger.post_batch(earned_and_spent("ada", 1))
    assert [o.entry.balance_after for o in outcomes if isinstance(o, Posted)] == [
        *range(10, -1, -1)
    ]


def test_ids_and_times_of_an_account_grow_in_the_order_of_events(
    ledger: Ledger[SharedOperation],
) -> None:
    for number in range(5):
        ledger.post_batch(earned_and_spent("ada", number))
    entries = ledger.history("ada", limit=100).entries[::-1]
    assert [e.id for e in entries] == sorted(e.id for e in entries)
    assert [e.created_on for e in entries] == sorted(e.created_on for e in entries)
