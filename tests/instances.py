"""An instance of the service in a process of its own, as production runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from lightning.process import Process, free_port
from serving import OPERATOR, SECRET_KEY

START_TIMEOUT_S = 60


class Instance(Process):
    """``shared-ledger serve`` on a port of its own, which it keeps when it is started again."""

    def __init__(
        self,
        folder: Path,
        url: str,
        schema: str,
        *,
        command: Sequence[str] = (sys.executable, "-m", "shared_ledger.cli", "serve"),
        **environment: str,
    ) -> None:
        folder.mkdir()
        self.exit_code: int | None = None
        self.port = int(environment.setdefault("PORT", str(free_port())))
        self.url = f"http://127.0.0.1:{self.port}"
        super().__init__(
            command,
            log=folder / "log",
            environment={
                "DATABASE_URL": url,
                "SHARED_LEDGER_SCHEMA": schema,
                "ENVIRONMENT": "production",
                "SECRET_KEY": SECRET_KEY,
                "API_TOKEN": OPERATOR["x-token"],
                **_coverage(),
                **environment,
            },
        )

    def migrate(self) -> None:
        """Make its book, and the tables of its applications."""
        subprocess.run(
            [sys.executable, "-m", "shared_ledger.cli", "migrate"],
            cwd=self.log.parent,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            check=True,
        )

    def wait_ready(self) -> None:
        """Wait until it can answer, after it was started."""
        self.wait_until("ready", self._is_ready, timeout_s=START_TIMEOUT_S)

    def stop(self) -> None:
        """Tell it to end, and wait until it has."""
        process = self._process
        super().stop()
        self.exit_code = None if process is None else process.returncode

    def _is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health/ready").status_code == 200
        except httpx.TransportError:
            return False


@contextmanager
def running(*instances: Instance) -> Iterator[None]:
    """Run them while the block runs."""
    try:
        for instance in instances:
            instance.start()
        for instance in instances:
            instance.wait_ready()
        yield
    finally:
        for instance in instances:
            instance.stop()


def _coverage() -> Mapping[str, str]:
    """What a program of ours needs to be measured, if that is done."""
    return {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
