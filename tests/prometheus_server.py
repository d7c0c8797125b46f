"""Prometheus and its tools for tests: those of Debian's packages, on this machine's loopback."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

START_TIMEOUT_S = 30


def program(name: str, package: str = "prometheus", required: str = "PROMETHEUS") -> str:
    """A program's path; without it the test is skipped, or fails where it must not be."""
    found = shutil.which(name)
    if found is not None:
        return found
    sentence = f"{name} is missing: `apt-get install {package}`"
    if os.environ.get("CI") or os.environ.get(f"SHARED_LEDGER_REQUIRE_{required}"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


def promtool(*arguments: str | Path, given: str | None = None) -> str:
    """Run promtool; what it says if it finds nothing wrong."""
    done = _run([program("promtool"), *map(str, arguments)], given)
    # Some of what it does not like it only says.
    assert done.stderr == "", done.stderr
    return done.stdout


def amtool(*arguments: str | Path) -> str:
    """Run the tool of the Alertmanager; what it says if it finds nothing wrong."""
    tool = program("amtool", "prometheus-alertmanager", "ALERTMANAGER")
    return _run([tool, *map(str, arguments)]).stdout


def _run(command: Sequence[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, input=given, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


class Series(NamedTuple):
    """One result of a query."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """A Prometheus that asks some addresses twice in a second."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=30)

    def query(self, text: str) -> list[Series]:
        """Ask it something now."""
        answer = self._client.get("/api/v1/query", params={"query": text})
        assert answer.status_code == 200, f"{text}: {answer.text}"
        found: Any = answer.json()["data"]["result"]
        return [Series(each["metric"], float(each["value"][1])) for each in found]

    def rules(self) -> list[dict[str, Any]]:
        """The rules of alerts that it has, with what became of each."""
        groups = self._client.get("/api/v1/rules").json()["data"]["groups"]
        return [rule for group in groups for rule in group["rules"]]

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._client.close()


@contextmanager
def running(
    folder: Path, jobs: Mapping[str, Sequence[str]], *, rules: Sequence[Path] = ()
) -> Iterator[Prometheus]:
    """Run a Prometheus that asks these addresses, by job, while the block runs."""
    configuration = {
        "global": {"scrape_interval": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(file) for file in rules],
        "scrape_configs": [
            {
                "job_name": job,
                "scrape_interval": "500ms",
                "static_configs": [{"targets": list(addresses)}],
            }
            for job, addresses in jobs.items()
        ],
    }
    # Its language is YAML, of which JSON is a part.
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
        )
    prometheus = Prometheus(f"http://{address}")
    try:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not prometheus.is_ready():
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            assert time.monotonic() < give_up_at, "prometheus does not answer"
            time.sleep(0.05)
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait()
