"""Reading the book: pages of history, and what cannot be asked for."""

from __future__ import annotations

from typing import Any

import pytest

from shared_ledger import InvalidPosting, Ledger, Posting, SharedOperation


def test_pages_give_every_entry_once_newest_first(ledger: Ledger[SharedOperation]) -> None:
    ledger.post_batch([Posting(SharedOperation.CREDIT_ADD, "ada", f"n{n}") for n in range(23)])
    nonces: list[str] = []
    cursor: int | None = None
    while True:
        page = ledger.history("ada", limit=5, cursor=cursor)
        nonces += [entry.nonce for entry in page.entries]
        cursor = page.cursor
        if cursor is None:
            break
    assert nonces == [f"n{n}" for n in range(22, -1, -1)]


def test_a_page_that_is_just_full_is_the_last(ledger: Ledger[SharedOperation]) -> None:
    ledger.post_batch([Posting(SharedOperation.CREDIT_ADD, "ada", f"n{n}") for n in range(5)])
    assert ledger.history("ada", limit=5).cursor is None


async def test_coroutines_read_the_same(ledger: Ledger[SharedOperation]) -> None:
    await ledger.apost(Posting(SharedOperation.CREDIT_ADD, "ada", "n"))
    assert await ledger.ahistory("ada") == ledger.history("ada")
    assert await ledger.abalance("ada") == ledger.balance("ada")


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ({"owner_id": ""}, "owner_id"),
        ({"owner_id": "@issued"}, "owner_id"),
        ({"owner_id": "ada", "asset": "a\x00"}, "asset"),
        ({"owner_id": "ada", "asset": "\ud800"}, "asset"),
    ],
)
def test_what_cannot_be_is_said_so(
    ledger: Ledger[SharedOperation], question: dict[str, Any], field: str
) -> None:
    for ask in (ledger.balance, ledger.history):
        with pytest.raises(InvalidPosting) as caught:
            ask(**question)
        assert caught.value.field == field


@pytest.mark.parametrize(
    ("question", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 1_001}, "limit"),
        ({"limit": True}, "limit"),
        ({"cursor": 2**63}, "cursor"),
        ({"cursor": -1}, "cursor"),
        ({"cursor": "1"}, "cursor"),
    ],
)
def test_a_page_that_cannot_be_is_said_so(
    ledger: Ledger[SharedOperation], question: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidPosting) as caught:
        ledger.history("ada", **question)
    assert caught.value.field == field
