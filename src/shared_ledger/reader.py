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
from typing import TYPE_CHECKING, Literal

from shared_ledger.book import AccountKey, Balance, Entry, Hold
from shared_ledger.errors import LedgerClosed, LedgerError, LedgerUnavailable
from shared_ledger.group import Queue, Waiting, answer
from shared_ledger.store import Store, StoreError

if TYPE_CHECKING:
    from shared_ledger.cache.balances import Cache

MAX_BATCH = 1_000

Question = (
    tuple[Literal["balance"], AccountKey] | tuple[Literal["holds", "entries"], tuple[int, ...]]
)
"""What is asked for: the balance of an account, or holds, or entries."""

Answer = Balance | dict[int, Hold] | dict[int, list[Entry]]
"""A balance, or the holds or entries there are by their ids; of a transfer both entries."""

_Asker = Waiting[Answer] | Future[Answer]


class Reader:
    """The reader of one process; ``connect`` opens a connection to the book when one is needed.

    Balances that the ``cache`` has are not read.
    """

    def __init__(self, connect: Callable[[], Store], cache: Cache | None = None) -> None:
        self._process = os.getpid()
        self._connect = connect
        self._cache = cache
        self._store: Store | None = None
        self._questions: Queue[tuple[Question, _Asker]] = Queue()
        self._gate = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="shared-ledger-reader", daemon=True)
        self._thread.start()

    def submit(self, question: Question) -> Future[Answer]:
        """Ask from a thread.

        Raises
        ------
        LedgerClosed
            If the reader is closed, or was opened by another process.
        """
        future: Future[Answer] = Future()
        self._put((question, future))
        return future

    def submit_async(self, question: Question) -> asyncio.Future[Answer]:
        """Ask from a coroutine; raises as ``submit``."""
        waiting: Waiting[Answer] = Waiting()
        self._put((question, waiting))
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

    def _put(self, question: tuple[Question, _Asker]) -> None:
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

    def _answer(self, questions: list[tuple[Question, _Asker]]) -> None:
        answers: dict[Question, Answer] = {}
        failure: LedgerError | None = None
        try:
            answers = self._read({question for question, _ in questions})
        except LedgerError as error:
            failure = error
        except Exception as error:  # noqa: BLE001  # A thread that died would leave its askers waiting.
            self._close_store()
            failure = LedgerUnavailable(f"the reader failed: {type(error).__name__}: {error}")
        coroutines: list[tuple[Waiting[Answer], Answer | LedgerError]] = []
        for question, asker in questions:
            if isinstance(asker, Waiting):
                coroutines.append((asker, failure or answers[question]))
            elif asker.set_running_or_notify_cancel():
                if failure is None:
                    asker.set_result(answers[question])
                else:
                    asker.set_exception(failure)
        answer(coroutines)

    def _read(self, questions: set[Question]) -> dict[Question, Answer]:
        """Read once more with a new connection if the old one is lost."""
        reused = self._store is not None
        try:
            return self._read_once(questions)
        except StoreError as error:
            self._close_store()
            if not reused:
                raise LedgerUnavailable(f"the book cannot be read: {error}") from error
        return self._read(questions)

    def _read_once(self, questions: set[Question]) -> dict[Question, Answer]:
        keys = {question[1] for question in questions if question[0] == "balance"}
        answers: dict[Question, Answer] = {}
        if keys:
            answers |= {("balance", key): found for key, found in self._balances(keys).items()}
        for question in questions:
            if question[0] == "holds":
                answers[question] = self._connected().holds(question[1])
            elif question[0] == "entries":
                answers[question] = self._connected().entries(question[1])
        return answers

    def _balances(self, keys: set[AccountKey]) -> dict[AccountKey, Balance]:
        if self._cache is None:
            return {key: found.balance for key, found in self._connected().balances(keys).items()}
        balances, token = self._cache.take(keys)
        missing = keys - balances.keys()
        if missing:
            found = self._connected().balances(missing)
            self._cache.put(token, {key: found[key] for key in missing})
            balances |= {key: found[key].balance for key in missing}
        return balances

    def _connected(self) -> Store:
        if self._store is None:
            self._store = self._connect()
        return self._store

    def _close_store(self) -> None:
        if self._store is not None:
            self._store.close()
            self._store = None
