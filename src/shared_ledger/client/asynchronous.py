"""The client for coroutines."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, Self, overload

import httpx

from shared_ledger.book import (
    Balance,
    CaptureHold,
    Entry,
    Grant,
    Group,
    Held,
    Hold,
    Outcome,
    Page,
    PlaceHold,
    Posted,
    Posting,
    Quote,
    ReleaseHold,
    Request,
    Reversal,
    Statement,
    Transfer,
)
from shared_ledger.client import calls
from shared_ledger.client.attempts import (
    DEADLINE_S,
    RETRIES,
    TIMEOUT_S,
    Answer,
    Attempts,
    Lost,
    Patience,
)
from shared_ledger.client.batches import Batch
from shared_ledger.client.calls import AnswerT, Call
from shared_ledger.client.connection import CONNECTIONS, LIMITS, checked_url, headers, lost
from shared_ledger.client.sync import PAGE
from shared_ledger.errors import LedgerClosed
from shared_ledger.operations import CREDITS, Application, OperationT


class AsyncLedgerClient(Generic[OperationT]):
    """``LedgerClient`` for coroutines: the same methods, to be awaited.

    Open one per event loop and share it. A cancelled call may still be recorded.

    Parameters
    ----------
    url, application, token, timeout_s, retries, deadline_s
        As of ``LedgerClient``.

    Raises
    ------
    ConfigurationError
        As ``LedgerClient``.
    """

    def __init__(
        self,
        url: str,
        application: Application[OperationT],
        *,
        token: str,
        timeout_s: float = TIMEOUT_S,
        retries: int = RETRIES,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self.url = checked_url(url)
        self.application = application
        self._patience = Patience(timeout_s=timeout_s, retries=retries, deadline_s=deadline_s)
        self._http = httpx.AsyncClient(headers=headers(token), limits=LIMITS)
        # So that a thousand coroutines wait here, and not where each step looks at all that wait.
        self._turns = asyncio.Semaphore(CONNECTIONS)

    @overload
    async def post(self, request: PlaceHold[OperationT] | ReleaseHold) -> Held: ...
    @overload
    async def post(
        self,
        request: Posting[OperationT] | Group[OperationT] | Transfer | CaptureHold | Reversal,
    ) -> Posted: ...
    async def post(self, request: Request[OperationT]) -> Any:
        """``LedgerClient.post`` for coroutines."""
        return await self._answer(calls.post_call(self.application, request))

    async def post_batch(
        self, requests: Sequence[Posting[OperationT]], *, atomic: bool = False
    ) -> list[Outcome]:
        """``LedgerClient.post_batch`` for coroutines."""
        batch = Batch(self.application, requests, atomic=atomic)
        for call in batch.calls():
            batch.take(await self._answer(call))
        return batch.outcomes()

    async def quote(self, posting: Posting[OperationT]) -> Quote:
        """``LedgerClient.quote`` for coroutines."""
        return await self._answer(calls.quote_call(self.application, posting))

    async def balance(
        self, owner_id: str, *, asset: str = CREDITS, at: datetime | None = None
    ) -> Balance:
        """``LedgerClient.balance`` for coroutines."""
        return await self._answer(calls.balance_call(owner_id, asset, at))

    async def history(
        self,
        owner_id: str,
        *,
        asset: str = CREDITS,
        limit: int = 50,
        cursor: int | None = None,
        at: datetime | None = None,
    ) -> Page:
        """``LedgerClient.history`` for coroutines."""
        return await self._answer(calls.history_call(owner_id, asset, limit, cursor, at))

    async def entries(
        self, owner_id: str, *, asset: str = CREDITS, at: datetime | None = None
    ) -> AsyncIterator[Entry]:
        """``LedgerClient.entries`` for coroutines."""
        cursor: int | None = None
        while True:
            page = await self.history(owner_id, asset=asset, limit=PAGE, cursor=cursor, at=at)
            for entry in page.entries:
                yield entry
            cursor = page.cursor
            if cursor is None:
                return

    async def hold(self, hold_id: int) -> Hold:
        """``LedgerClient.hold`` for coroutines."""
        return await self._answer(calls.hold_call(hold_id))

    async def holds(self, owner_id: str, *, asset: str = CREDITS) -> list[Hold]:
        """``LedgerClient.holds`` for coroutines."""
        return await self._answer(calls.holds_call(owner_id, asset))

    async def grants(self, owner_id: str, *, asset: str = CREDITS) -> list[Grant]:
        """``LedgerClient.grants`` for coroutines."""
        return await self._answer(calls.grants_call(owner_id, asset))

    async def statement(
        self, owner_id: str, start: datetime, end: datetime, *, asset: str = CREDITS
    ) -> Statement:
        """``LedgerClient.statement`` for coroutines."""
        return await self._answer(calls.statement_call(owner_id, start, end, asset))

    async def aclose(self) -> None:
        """``LedgerClient.close`` for coroutines."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self.application!r})"

    async def _answer(self, call: Call[AnswerT]) -> AnswerT:
        attempts = Attempts(self.url, self._patience)
        while True:
            outcome = await self._attempt(call, attempts.timeout_s)
            pause_s = attempts.pause_s(outcome)
            if pause_s is None:
                return attempts.result(call, outcome)
            await asyncio.sleep(pause_s)

    async def _attempt(self, call: Call[Any], timeout_s: float) -> Answer | Lost:
        if self._http.is_closed:
            raise LedgerClosed
        try:
            async with asyncio.timeout(timeout_s), self._turns:
                response = await self._http.request(
                    call.method,
                    self.url + call.path,
                    params=call.parameters or None,
                    content=call.body,
                    headers=calls.CONTENT if call.body else None,
                    timeout=timeout_s,
                )
            return Answer(
                response.status_code, response.headers.get("retry-after"), response.content
            )
        except TimeoutError:
            return Lost("its answer took too long", sent=True)
        # What it holds must not be the context of what is raised: the request, with the token.
        except httpx.HTTPError as error:
            return lost(error)
