"""The client for threads."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
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
from shared_ledger.client.connection import LIMITS, checked_url, headers, lost
from shared_ledger.errors import LedgerClosed
from shared_ledger.operations import CREDITS, Application, OperationT

PAGE = 500
"""How many entries ``entries`` fetches at once."""


class LedgerClient(Generic[OperationT]):
    """One application's access to a book over HTTP: what ``Ledger`` is without a database.

    Open one per process and share it: its methods may be called from any thread.

    Parameters
    ----------
    url
        Where the service is, with the path under which it serves the ledger's routes.
    application
        Whose operations are posted; the service's own.
    token
        The service's key.
    timeout_s, retries, deadline_s
        How long one attempt waits for the service, how many more may follow it, and how long a call
        takes with all its attempts and pauses. A batch in several parts has these for each.

    Raises
    ------
    ConfigurationError
        If one of these cannot be used; a method raises it if the service does not accept the token.
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
        self._http = httpx.Client(headers=headers(token), limits=LIMITS)

    @overload
    def post(self, request: PlaceHold[OperationT] | ReleaseHold) -> Held: ...
    @overload
    def post(
        self,
        request: Posting[OperationT] | Group[OperationT] | Transfer | CaptureHold | Reversal,
    ) -> Posted: ...
    def post(self, request: Request[OperationT]) -> Any:
        """Post one request and return its entry, or its hold, when it is committed.

        Posting the same again returns the first result, marked as replayed; so does a post that had
        to be sent twice.

        Raises
        ------
        Refusal
            ``InvalidPosting``, ``InsufficientCredits``, ``NonceReused``, ``HoldExpired`` …:
            nothing was recorded.
        LedgerOverloaded
            The service has too much to do: nothing was recorded.
        LedgerUnavailable
            The service cannot be reached: whether it was recorded is not known, and posting again
            with the same nonce is safe.
        """
        return self._answer(calls.post_call(self.application, request))

    def post_batch(
        self, requests: Sequence[Posting[OperationT]], *, atomic: bool = False
    ) -> list[Outcome]:
        """Post many postings and return an outcome for each, in order.

        A refusal is a value in the answer, and does not hurt its neighbours; if the batch is
        ``atomic``, then nothing of it is written, and the others are ``BatchRefused``. Postings of
        one owner are applied in the order given. More than 1,000 are sent in parts.

        Raises
        ------
        InvalidPosting
            If an atomic batch has more than 1,000 postings, or more than 1 MiB.
        LedgerOverloaded, LedgerUnavailable
            As ``post``; some may have been recorded, or with the latter all if atomic.
        """
        batch = Batch(self.application, requests, atomic=atomic)
        for call in batch.calls():
            batch.take(self._answer(call))
        return batch.outcomes()

    def quote(self, posting: Posting[OperationT]) -> Quote:
        """Tell what a posting would do now; nothing is written. Raises as ``post``."""
        return self._answer(calls.quote_call(self.application, posting))

    def balance(
        self, owner_id: str, *, asset: str = CREDITS, at: datetime | None = None
    ) -> Balance:
        """Return what an owner has; zero if the book has never heard of him.

        With ``at`` what he had then, or will have then if nothing happens but expiry.

        Raises
        ------
        InvalidPosting
            If ``owner_id`` cannot be an owner's, ``asset`` an asset's name, or ``at`` a time.
        LedgerUnavailable
            If the service cannot be reached.
        """
        return self._answer(calls.balance_call(owner_id, asset, at))

    def history(
        self,
        owner_id: str,
        *,
        asset: str = CREDITS,
        limit: int = 50,
        cursor: int | None = None,
        at: datetime | None = None,
    ) -> Page:
        """Return a page of an owner's entries, newest first, of all applications.

        ``limit`` is 1 to 1,000 entries; ``cursor`` is the one that the page before gave; with
        ``at`` those that had taken effect by then. Raises as ``balance``.
        """
        return self._answer(calls.history_call(owner_id, asset, limit, cursor, at))

    def entries(
        self, owner_id: str, *, asset: str = CREDITS, at: datetime | None = None
    ) -> Iterator[Entry]:
        """Give all of an owner's entries, newest first, a page at a time as they are needed.

        What is posted after the first is fetched is not among them. Raises as ``balance``, when the
        next page is fetched.
        """
        cursor: int | None = None
        while True:
            page = self.history(owner_id, asset=asset, limit=PAGE, cursor=cursor, at=at)
            yield from page.entries
            cursor = page.cursor
            if cursor is None:
                return

    def hold(self, hold_id: int) -> Hold:
        """Return a hold of this application, as it is now.

        Raises
        ------
        HoldNotFound
            If this application has no such hold.
        LedgerUnavailable
            If the service cannot be reached.
        """
        return self._answer(calls.hold_call(hold_id))

    def holds(self, owner_id: str, *, asset: str = CREDITS) -> list[Hold]:
        """Return an owner's open holds of all applications, what expires first before others.

        At most 1,000. Raises as ``balance``.
        """
        return self._answer(calls.holds_call(owner_id, asset))

    def grants(self, owner_id: str, *, asset: str = CREDITS) -> list[Grant]:
        """Return an owner's credits that expire, in the order they are spent.

        At most 1,000. Raises as ``balance``.
        """
        return self._answer(calls.grants_call(owner_id, asset))

    def statement(
        self, owner_id: str, start: datetime, end: datetime, *, asset: str = CREDITS
    ) -> Statement:
        """Return an owner's entries from ``start`` up to but not at ``end``, and their sums.

        Raises
        ------
        InvalidPosting
            If a field cannot be used, or there are more than 100,000 entries.
        LedgerUnavailable
            If the service cannot be reached.
        """
        return self._answer(calls.statement_call(owner_id, start, end, asset))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r}, {self.application!r})"

    def _answer(self, call: Call[AnswerT]) -> AnswerT:
        attempts = Attempts(self.url, self._patience)
        while True:
            outcome = self._attempt(call, attempts.timeout_s)
            pause_s = attempts.pause_s(outcome)
            if pause_s is None:
                return attempts.result(call, outcome)
            time.sleep(pause_s)

    def _attempt(self, call: Call[Any], timeout_s: float) -> Answer | Lost:
        if self._http.is_closed:
            raise LedgerClosed
        until = time.monotonic() + timeout_s
        try:
            with self._http.stream(
                call.method,
                self.url + call.path,
                params=call.parameters or None,
                content=call.body,
                headers=calls.CONTENT if call.body else None,
                timeout=timeout_s,
            ) as response:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    # The library's own limit is for each part: a trickle would never end.
                    if time.monotonic() > until:
                        return Lost("its answer took too long", sent=True)
                return Answer(
                    response.status_code, response.headers.get("retry-after"), bytes(body)
                )
        # What it holds must not be the context of what is raised: the request, with the token.
        except httpx.HTTPError as error:
            return lost(error)
