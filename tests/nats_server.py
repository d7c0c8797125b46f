"""A real NATS for tests, which they may kill, stop and start again."""

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

START_TIMEOUT_S = 10
INSTALL = "nats-server is missing: `apt-get install nats-server` or `brew install nats-server`"
# Where Debian puts it, and an ordinary user's PATH does not look.
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])


class NatsServer:
    """A NATS with JetStream on a free port of this machine, with a folder of its own.

    It has the same port and folder after each ``start``. A context manager, running inside.
    ``options`` are further ones of the program's.
    """

    def __init__(self, *options: str, jetstream: bool = True) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="nats-"))
        self._options = [*options, "-js", "-sd", str(self._folder)] if jetstream else [*options]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = _free_port()
        self.url = f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it with what it had stored, and wait until it answers."""
        address = ["-a", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            [program(), *address, *self._options], stderr=subprocess.DEVNULL
        )
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self._answers():
            assert self._process.poll() is None, "nats-server ended at once"
            assert time.monotonic() < give_up_at, "nats-server does not answer"
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
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                # It says who it is only when it can do what it was started for.
                return connection.recv(4).startswith(b"INFO")
        except OSError:
            return False

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "it is not running"
        os.kill(self._process.pid, number)


def program() -> str:
    """The program's path; without it the test is skipped, or fails where it must not be."""
    found = shutil.which("nats-server", path=PLACES)
    if found is not None:
        return found
    if os.environ.get("CI") or os.environ.get("SHARED_LEDGER_REQUIRE_NATS"):
        pytest.fail(INSTALL, pytrace=False)
    pytest.skip(INSTALL)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
