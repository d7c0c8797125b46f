"""Group reading: the balances that are asked for are read together, in one statement.

A thread takes every question that is waiting, reads the accounts once and answers all. A question
that is asked after a posting was answered sees it.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future

from shared_ledger.book import AccountKey, Balance
from shared_ledger.errors import LedgerClosed, LedgerError, LedgerUnavailable
from shared_ledger.group import Queue, Waiting, answer
from shared_ledger.store import Store, StoreError

MAX_BATCH = 1_000

_Asker = Waiting[Balance] | Future[Balance]
_Question = tuple[AccountKey, _Asker]


class Reader:
    """The reader of one process; ``connect`` opens a connection to the book when one is needed."""

    def __init__(self, connect: Callable[[], Store]) -> None:
        self._process = os.getpid()
        self._connect = connect
        self._store: Store | None = None
        self._questions: Queue[_Question] = Queue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="shared-ledger-reader", daemon=True)
        self._thread.start()

    def submit(self, key: AccountKey) -> Future[Balance]:
        """Ask for a balance from a thread.

        Raises
        ------
        LedgerClosed
            If the reader is closed, or was opened by another process.
        """
        future: Future[Balance] = Future()
        self._put((key, future))
        return future

    def submit_async(self, key: AccountKey) -> asyncio.Future[Balance]:
        """Ask for a balance from a coroutine; raises as ``submit``."""
        waiting: Waiting[Balance] = Waiting()
        self._put((key, waiting))
        return waiting.future

    def close(self) -> None:
        """Answer what was asked, and close the connection; nothing in a forked child."""
        if os.getpid() != self._process:
            return
        with self._gate:
            if not self._closed:
                self._closed = True
                self._questions.end()
        self._thread.join()

    def _put(self, question: _Question) -> None:
        if os.getpid() != self._process:
            raise LedgerClosed(
                "the ledger was opened before this process was forked: open it after"
            )
        with self._gate:
            if self._closed:
                raise LedgerClosed
            self._questions.put(question)

    def _run(self) -> None:
        while questions := self._questions.take(MAX_BATCH):
            self._answer(questions)
        self._close_store()

    def _answer(self, questions: list[_Question]) -> None:
        balances: dict[AccountKey, Balance] = {}
        failure: LedgerError | None = None
        try:
            balances = self._read({key for key, _ in questions})
        except LedgerError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # A thread that died would leave its askers waiting.
            self._close_store()
            failure = LedgerUnavailable(f"the reader failed: {type(error).__name__}: {error}")
        coroutines: list[tuple[Waiting[Balance], Balance | LedgerError]] = []
        for key, asker in questions:
            if isinstance(asker, Waiting):
                coroutines.append((asker, failure or balances[key]))
            elif asker.set_running_or_notify_cancel():
                if failure is None:
                    asker.set_result(balances[key])
                else:
                    asker.set_exception(failure)
        answer(coroutines)

    def _read(self, keys: set[AccountKey]) -> dict[AccountKey, Balance]:
        """Read once more with a new connection if the old one is lost."""
        reused = self._store is not None
        try:
            return self._read_once(keys)
        except StoreError as error:
            self._close_store()
            if not reused:
                raise LedgerUnavailable(f"the balances cannot be read: {error}") from error
        return self._read(keys)

    def _read_once(self, keys: set[AccountKey]) -> dict[AccountKey, Balance]:
        if self._store is None:
            self._store = self._connect()
        return self._store.balances(keys)

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
