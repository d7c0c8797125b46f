"""The handle of a private PostgreSQL, and the lock by which the last handle stops it."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from shared_ledger.embedded.account import server_account
from shared_ledger.embedded.folders import (
    STORE,
    locked,
    make,
    one_kind_of_error,
    open_lock,
    settle,
)
from shared_ledger.embedded.programs import programs_for, version_of
from shared_ledger.embedded.server import Server
from shared_ledger.errors import EmbeddedUnavailable

if sys.platform != "win32":  # where server_account says that it is not supported
    import fcntl

# pyright: reportPossiblyUnboundVariable=false

_log = logging.getLogger("shared_ledger.embedded")


class Cluster:
    """A handle of a running private PostgreSQL, made by `open_cluster`; a context manager.

    The server runs for as long as any handle in any process is open.
    """

    data: Path
    """The data directory, with links resolved."""
    url: str
    """What to connect to: a libpq URI of the role `postgres`, who may do everything."""
    version: str
    """PostgreSQL's version, such as ``18.4``."""

    def __init__(self, server: Server, users: int) -> None:
        self._server = server
        self._users = [users]  # a list, because its pop() lets one thread alone close the handle
        self._pid = os.getpid()
        self.data = server.data
        self.version = server.version
        self.url = server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the handle up, and stop the server if it was the last one; a second time, nothing.

        A forked child only forgets its parent's handle. Never raises: what kept the server from
        stopping is logged, and the next `open_cluster` adopts it.
        """
        try:
            users = self._users.pop()
        except IndexError:
            return
        try:
            if os.getpid() == self._pid:
                self._release(users)
        except (OSError, EmbeddedUnavailable) as problem:
            _log.warning("PostgreSQL in %s was not stopped: %s", self.data, problem)
        finally:
            os.close(users)

    def _release(self, users: int) -> None:
        home = self._server.home
        with locked(home / "start.lock"):
            if not os.path.samestat(os.fstat(users), (home / "users.lock").stat()):
                raise EmbeddedUnavailable("its folder was moved, and another is in its place")
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._server.stop("fast")
            fcntl.flock(users, fcntl.LOCK_UN)  # a forked child would keep it beyond close

    def ensure_running(self) -> None:
        """Start the server again if it has died. Raises `EmbeddedUnavailable` if that fails."""
        if not self._users:
            raise EmbeddedUnavailable(f"the handle of {self.data} is closed: open the folder again")
        with one_kind_of_error(), locked(self._server.home / "start.lock"):
            self.url = self._server.start()

    def kill(self) -> None:
        """SIGKILL the server and its children, as a power cut would; for tests of recovery."""
        self._server.kill()


def open_cluster(folder: Path) -> Cluster:
    """Return a handle of the folder's PostgreSQL, made if there is none, started if it is down.

    Raises `EmbeddedUnavailable`, with one line that says what to do, if that is not possible.
    """
    with one_kind_of_error():
        account = server_account()
        programs = programs_for(account)
        version = version_of(programs, account)
        folder = folder.resolve()
        if "\n" in str(folder):  # PostgreSQL's own files have a path per line
            raise EmbeddedUnavailable(f"{str(folder)!r} has a line break: use another folder")
        make(folder)
        with locked(folder / "start.lock"):
            data = settle(folder, account)
        # The locks stay with the data: a copy of the link must not have locks of its own.
        home = data.parent if data.parent.parent == STORE else folder
        server = Server(account, programs, version, home, data)
        with locked(home / "start.lock"):
            server.initialise()
            users = open_lock(home / "users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                return Cluster(server, users)
            except BaseException:
                os.close(users)
                raise


@contextmanager
def temporary_cluster(parent: Path | None = None) -> Iterator[Cluster]:
    """Run a throw-away PostgreSQL in a new folder in ``parent`` (default: the temporary folder).

    It is as durable as a lasting one, so that measurements hold. It is deleted after the block even
    if another process still uses it. Raises `EmbeddedUnavailable`.
    """
    folder = (parent or Path(tempfile.gettempdir())) / f"shared-ledger-{os.urandom(8).hex()}"
    try:
        with open_cluster(folder) as cluster:
            try:
                yield cluster
            finally:
                cluster._server.stop("immediate")  # noqa: SLF001  # of this module
    finally:
        home = Path(os.path.realpath(folder / "postgresql")).parent
        for path in (home, folder):
            shutil.rmtree(path, ignore_errors=True)
