"""A real Redis for tests, which they may kill, stop and start again."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
import redis

START_TIMEOUT_S = 10
INSTALL = "redis-server is not installed: `apt-get install redis-server` or `brew install redis`"


class RedisServer:
    """A Redis of our own on a free port, which keeps nothing on disk unless it is told to save.

    It has the same port and folder after each ``start``. A context manager, running inside.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))
        self._port = _free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def start(self) -> None:
        """Start it, and wait until it answers; it reads the file that ``save`` left, if any."""
        options = {
            "port": str(self._port),
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "dir": str(self._folder),
        }
        arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen([program(), *arguments], stdout=subprocess.DEVNULL)
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, "redis-server ended at once"
            assert time.monotonic() < give_up_at, "redis-server does not answer"
            time.sleep(0.01)

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Stop it with SIGSTOP: connections are accepted, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused one go on."""
        self._signal(signal.SIGCONT)

    def save(self) -> None:
        """Write what it holds to disk; the next ``start`` begins with it."""
        with self.connect() as client:
            client.save()

    def flush(self) -> None:
        """Forget everything, on disk too."""
        for file in self._folder.iterdir():
            file.unlink()
        with self.connect() as client:
            client.flushall()

    def connect(self) -> redis.Redis:
        """Return a client, to be closed by whoever asked for it."""
        return redis.Redis.from_url(self.url, decode_responses=False)

    @property
    def running(self) -> bool:
        """Whether the process lives, paused or not."""
        return self._process is not None

    def close(self) -> None:
        """End it, and remove its folder."""
        self.kill()
        shutil.rmtree(self._folder)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answers(self) -> bool:
        try:
            with self.connect() as client:
                client.ping()
        except redis.RedisError:  # Refused, or it is still loading.
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it is not running"
        os.kill(self._process.pid, number)


def program() -> str:
    """The program's path; without it the test is skipped, or fails where it must not be."""
    found = shutil.which("redis-server")
    if found is not None:
        return found
    if os.environ.get("CI") or os.environ.get("SHARED_LEDGER_REQUIRE_REDIS"):
        pytest.fail(INSTALL, pytrace=False)
    pytest.skip(INSTALL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
