"""A Redis that may go away and come back.

A call that fails ends its use for the whole process; from then on calls return at once, and a
thread tries it once in ``RETRY_S``. What could not be told to Redis meanwhile is told first.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Sequence
from typing import Any

from shared_ledger.book import AccountKey
from shared_ledger.cache.connection import Command, Connection, Lost, Unusable

RETRY_S = 1.0
MAX_IDLE = 8
MAX_OWED = 50_000
"""Of how many accounts at most a process remembers that it could not tell Redis of them."""

_log = logging.getLogger("shared_ledger.cache")


class Link:
    """The connections of one process to one Redis, for any number of threads.

    Parameters
    ----------
    connect
        Opens a connection.
    settle
        Called with a connection before Redis is used, at first and again after a failure, and with
        the accounts of the calls that failed in between: writes to Redis, and raises ``Unusable``.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        settle: Callable[[Connection, Collection[AccountKey]], None],
    ) -> None:
        self._connect = connect
        self._settle = settle
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._idle: list[Connection] = []
        self._owed: set[AccountKey] = set()
        self._usable = False
        self._run_id = ""
        self._mender: threading.Thread | None = None
        self.failures = 0
        """How many calls failed, in all."""
        self.era = 0
        """Another number after each failure."""
        try:
            self._restore()
        except Unusable as error:
            self._fail(error, ())

    def call(
        self,
        commands: Callable[[Connection], Sequence[Command]],
        owed: Collection[AccountKey] = (),
    ) -> list[Any] | None:
        """Run the commands and return their replies; ``None`` if Redis cannot be used.

        ``commands`` makes them for a connection, and may be called twice: the same command may
        also reach Redis twice, or, after a failure, late. ``owed`` are the accounts that Redis must
        be told of, if not now.
        """
        with self._lock:
            if not self._usable:
                self._owe(owed)
                return None
            era = self.era
            connection = self._idle.pop() if self._idle else None
        try:
            connection, replies = self._run(connection, commands)
        except Unusable as error:
            self._fail(error, owed)
            return None
        with self._lock:
            keep = era == self.era and not self._closed.is_set() and len(self._idle) < MAX_IDLE
            if keep:
                self._idle.append(connection)
        if not keep:
            connection.close()
        return replies

    def close(self) -> None:
        """Close the connections; a later call opens one for itself."""
        with self._lock:
            self._closed.set()
            mender = self._mender
        if mender is not None:
            mender.join()
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _run(
        self,
        connection: Connection | None,
        commands: Callable[[Connection], Sequence[Command]],
    ) -> tuple[Connection, list[Any]]:
        if connection is not None:
            try:
                return connection, connection.run(commands(connection))
            except Lost:
                # Redis, or something in between, may close what was not used for long.
                pass
        connection = self._connect()
        if connection.run_id != self._run_id:
            connection.close()
            raise Unusable("it was started again, or is another one")
        return connection, connection.run(commands(connection))

    def _owe(self, keys: Collection[AccountKey]) -> None:
        # Of what does not fit any more, values live for their time at most, as is promised.
        if len(self._owed) < MAX_OWED:
            self._owed.update(keys)

    def _fail(self, error: Unusable, owed: Collection[AccountKey]) -> None:
        with self._lock:
            self.failures += 1
            self.era += 1
            self._owe(owed)
            self._usable = False
            idle, self._idle = self._idle, []
            news = self._mender is None and not self._closed.is_set()
            if news:
                self._mender = threading.Thread(
                    target=self._mend, name="shared-ledger-cache", daemon=True
                )
                self._mender.start()
        for connection in idle:
            connection.close()
        if news:
            _log.warning("Redis is not used, all balances are read from PostgreSQL: %s", error)

    def _mend(self) -> None:
        while not self._closed.wait(RETRY_S):
            try:
                self._restore()
            except Unusable:
                # As was said when it went away.
                continue
            _log.warning("Redis is used again")
            return

    def _restore(self) -> None:
        """Connect, tell what is owed, and let Redis be used.

        Raises
        ------
        Unusable
            If it cannot be used yet.
        """
        connection = self._connect()
        while True:
            with self._lock:
                owed, self._owed = self._owed, set()
            try:
                self._settle(connection, owed)
            except Unusable:
                with self._lock:
                    self._owed |= owed
                raise
            with self._lock:
                # What was owed meanwhile is told as well before any reader is let in.
                if not self._owed:
                    self._run_id = connection.run_id
                    self._idle = [connection]
                    self._usable = True
                    self._mender = None
                    return
