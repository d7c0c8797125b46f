"""Waiting for what becomes true some time after it was asked for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from shared_ledger.apps.crowdfunding.lightning.port import (
    LightningNode,
    NodeUnavailable,
    Payment,
    Settlement,
)

Answer = TypeVar("Answer")
TIMEOUT_S = 60
POLL_S = 0.1


def final(payment: Payment | None) -> bool:
    """Whether it is known what has become of a payment."""
    return payment is not None and payment.state != "in_flight"


async def until(ask: Callable[[], Awaitable[Answer]], wanted: Callable[[Answer], bool]) -> Answer:
    """Ask again and again, and return the first answer that is wanted."""
    give_up_at = time.monotonic() + TIMEOUT_S
    while not wanted(answer := await ask()):
        assert time.monotonic() < give_up_at, f"after {TIMEOUT_S} s it is still {answer}"
        await asyncio.sleep(POLL_S)
    return answer


async def first_answer(ask: Callable[[], Awaitable[Answer]]) -> Answer:
    """Ask a node that is starting again and again, and return what it answers first."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                return await ask()
            except NodeUnavailable:
                await asyncio.sleep(0.01)


async def settlements(node: LightningNode, cursor: str | None, *, last: str) -> list[Settlement]:
    """Listen until the settlement of ``last``, a payment hash, and return all that was heard."""
    heard: list[Settlement] = []
    stream = node.settlements(cursor)
    async with asyncio.timeout(TIMEOUT_S):
        async for settlement in stream:
            heard.append(settlement)
            if settlement.payment_hash == last:
                break
    return heard


async def next_settlement(node: LightningNode, cursor: str | None) -> Settlement:
    """Listen until anything is settled."""
    async for settlement in node.settlements(cursor):
        return settlement
    raise AssertionError("settlements never end")
