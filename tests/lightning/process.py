"""A program that a test starts: it writes to a log, and ends by its own process id."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

STOP_TIMEOUT_S = 30
POLL_S = 0.1


class Process:
    """A program in a folder of its own, which is its home too; ``log`` is all that it says."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        cwd: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.log = log
        self._command = [str(word) for word in command]
        self._cwd = cwd or log.parent
        # Nothing may be read from, or written to, the home of whoever runs the tests.
        self._environment = {
            "HOME": str(log.parent),
            "PATH": os.environ["PATH"],
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it says is added to its log."""
        assert self._process is None, f"{self._command[0]} is running already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._cwd,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def stop(self) -> None:
        """Ask it to end, and see to it that it does."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def wait_until(self, fact: str, check: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until ``check`` is true, for as long as the program lives."""
        give_up_at = time.monotonic() + timeout_s
        while not check():
            assert self._process is not None, f"{self._command[0]} is not running"
            assert self._process.poll() is None, f"{self._command[0]} ended; see {self.log}"
            assert time.monotonic() < give_up_at, f"not {fact} in {timeout_s} s; see {self.log}"
            time.sleep(POLL_S)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on just now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
