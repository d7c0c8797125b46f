"""Each context of a service in a process of its own, with a NATS server between them."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from shared_ledger.cli.output import print_facts
from shared_ledger.errors import ConfigurationError

if TYPE_CHECKING:
    from shared_ledger.service import Service
    from shared_ledger.settings import Settings

NATS = "nats-server"
LOOK_EVERY_S = 0.2
AGAIN_AFTER_S = 1.0
END_WITHIN_S = 30


def run_separately(service: Service, settings: Settings) -> int:
    """Run the contexts of a service until Ctrl-C; a process that ends is started again.

    The first listens on the configured port, the others on those that follow. Messages go over
    the NATS of ``NATS_URL``, or over one that is started here.

    Raises
    ------
    ConfigurationError
        If the service has no contexts, or there is no NATS.
    """
    if not service.contexts:
        raise ConfigurationError(f"{service.application.name} has no contexts to run separately")
    url = os.environ.get("NATS_URL")
    processes = []
    with ExitStack() as leaving:
        if not url:
            url, command = _nats(settings.shared_ledger_data / "nats")
            processes.append(_Process(NATS, command, os.environ))
        environment = {**os.environ, "NATS_URL": url, "HOST": settings.host}
        addresses: list[tuple[str, object]] = []
        for port, context in enumerate(service.contexts, settings.port):
            command = [sys.executable, "-m", "shared_ledger.cli", "serve"]
            command += [service.application.name, "--context", context]
            command += ["--port", str(port), "--json"]
            processes.append(_Process(context, command, environment))
            addresses.append((context, f"http://{settings.host}:{port}"))
        # In turn, from the last: what they talk over ends after them.
        for process in processes:
            leaving.callback(process.end)
        print_facts(
            f"{service.title} starts in {len(addresses)} processes; Ctrl-C ends them", addresses
        )
        ended = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: ended.set())
        while not ended.wait(LOOK_EVERY_S):
            for process in processes:
                process.look()
    return 0


class _Process:
    """A process that is started again when it ends."""

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._name = name
        self._command = list(command)
        self._environment = dict(environment)
        self._again_on: float | None = None
        self._process = self._start()

    def look(self) -> None:
        """Start it again, a moment after it has ended."""
        if self._process.poll() is None:
            return
        now = time.monotonic()
        if self._again_on is None:
            self._again_on = now + AGAIN_AFTER_S
            sys.stderr.write(f"{self._name} has ended ({self._process.returncode})\n")
        elif now >= self._again_on:
            self._again_on = None
            self._process = self._start()

    def end(self) -> None:
        """End it, in order if it does not take too long."""
        self._process.terminate()
        try:
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C is told to all of them by us, once.
        return subprocess.Popen(  # noqa: S603  # Our own commands.
            self._command,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if self._name == NATS else None,
            start_new_session=True,
        )


def _nats(folder: Path) -> tuple[str, list[str]]:
    """Return where a NATS of our own is to be, and how it is started."""
    program = shutil.which(NATS)
    if program is None:
        raise ConfigurationError(
            f"there is no {NATS} here (apt-get install {NATS}): install it, or set NATS_URL"
        )
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = [program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
    return f"nats://127.0.0.1:{port}", command
