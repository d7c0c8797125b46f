"""Run all measurements on a throw-away database, and show the figures."""

from __future__ import annotations

import json
import os
import platform
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from shared_ledger.bench.credits import BENCH, CreditMeasures, balance_at
from shared_ledger.bench.load import HOST
from shared_ledger.bench.measures import Measures
from shared_ledger.bench.server import PAIR_S
from shared_ledger.bench.work import HOT, opening, store_entries, tidy
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster, temporary_cluster
from shared_ledger.errors import LedgerError
from shared_ledger.ledger import Ledger
from shared_ledger.migrations import migrate
from shared_ledger.operations import SHARED
from shared_ledger.writer import SWITCH_INTERVAL_S

SCHEMA = "bench"
LIMIT_SCHEMA = "bench_limit"
ROUNDS = 3
BATCHES = 60
HTTP_SECONDS = 3.0
WATCH_PAIRS = 40
FEW_POSTS = 10_000
MANY_POSTS = 1_000_000
WARM_UP_SECONDS = 1.0
LOAD_GRACE_S = 30.0
_BATCH = "shared_ledger_batch_seconds"

Figures = dict[str, float]


def run(scale: float, entries: int, json_file: Path | None) -> int:
    """Measure, print a table, and write the figures to a file if one is named.

    Parameters
    ----------
    scale
        1 takes about two minutes.
    entries
        How many entries are stored before anything is measured.
    json_file
        Where the figures go, with the machine, the versions and the commit.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    console = Console()
    began = time.monotonic()
    with (
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
            transient=True,
        ) as progress,
        temporary_cluster() as cluster,
    ):
        engine = make_engine(cluster.url)
        for schema in (SCHEMA, LIMIT_SCHEMA):
            migrate(engine, schema, [SHARED])
        if entries:
            task = progress.add_task(f"storing {entries:,} entries", total=None)
            for schema in (SCHEMA, LIMIT_SCHEMA):
                store_entries(cluster.url, schema, entries)
            progress.remove_task(task)
        engine.dispose()
        samples: dict[str, list[float]] = {}

        def note(figures: Figures) -> None:
            for name, figure in figures.items():
                samples.setdefault(name, []).append(figure)

        _measure_library(cluster, scale, note, progress)
        _measure_service(cluster, scale, note, progress)
        database = cluster.version
    figures = {name: statistics.median(values) for name, values in samples.items()}
    report = {
        "figures": {name: round(figure, 2) for name, figure in figures.items()},
        "samples": {name: [round(v, 2) for v in values] for name, values in samples.items()},
        "entries_stored": entries,
        "scale": scale,
        "seconds": round(time.monotonic() - began, 1),
        **_surroundings(database),
    }
    console.print(_table(figures, samples))
    console.print(
        f"{report['cores']} cores, {report['processor']}, Python {report['python']}, "
        f"PostgreSQL {database}, {report['seconds']:.0f} s. Medians of {ROUNDS} rounds; every "
        "entry committed with fsync and synchronous_commit on.",
        highlight=False,
    )
    if json_file is not None:
        json_file.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def _measure_library(
    cluster: Cluster, scale: float, note: Callable[[Figures], None], progress: Progress
) -> None:
    with Ledger(SHARED, cluster.url, schema=SCHEMA) as ledger:
        for crowd in ("user", "left", "right"):
            ledger.post_batch(opening(crowd))
        tidy(cluster.url)
        plain = Measures(ledger, SCHEMA, LIMIT_SCHEMA, max(2, int(BATCHES * scale))).all()
        task = progress.add_task("", total=ROUNDS * len(plain))
        for _ in range(ROUNDS):
            for name, measure in plain.items():
                progress.update(task, description=name)
                note({name: measure()})
                progress.advance(task)
        progress.remove_task(task)
        note(balance_at(ledger, HOT))
    with Ledger(BENCH, cluster.url, schema=SCHEMA, migrate=True) as credits_ledger:
        measures = CreditMeasures(credits_ledger, max(2, int(BATCHES * scale)), ROUNDS)
        task = progress.add_task("preparing holds and grants", total=ROUNDS * 3)
        measures.prepare()
        tidy(cluster.url)
        for _ in range(ROUNDS):
            for name, measure in measures.all().items():
                progress.update(task, description=name)
                note({name: measure()})
                progress.advance(task)
        progress.remove_task(task)


def _measure_service(
    cluster: Cluster, scale: float, note: Callable[[Figures], None], progress: Progress
) -> None:
    kinds = {"http_bare": "bare", "http_posts": "post", "http_balance": "balance"}
    task = progress.add_task("http", total=len(kinds) * ROUNDS + 3)
    with service_on(cluster) as (port, _):
        load(port, "post", WARM_UP_SECONDS, "warm")
        for number in range(ROUNDS):
            for name, kind in kinds.items():
                progress.update(task, description=f"{name}_per_s")
                answer = load(port, kind, HTTP_SECONDS * scale, f"{name}-{number}")
                note({f"{name}_per_s": answer["per_s"]})
                if name == "http_posts":
                    note({"http_posts_p50_ms": answer["p50_ms"]})
                    note({"http_posts_p99_ms": answer["p99_ms"]})
                progress.advance(task)
        progress.update(task, description="metrics and logs")
        for figures in _watch(port, max(1, round(WATCH_PAIRS * scale))):
            note(figures)
        progress.advance(task)
        progress.update(task, description="stages of a post")
        note(_stages(port, HTTP_SECONDS * scale))
        progress.update(task, description="memory")
    with service_on(cluster) as (port, process):
        for name, posts in (
            ("memory_10k_posts_mib", FEW_POSTS),
            ("memory_1m_posts_mib", int(MANY_POSTS * min(scale, 1)) - FEW_POSTS),
        ):
            _ask(port, f"/burst?count={posts}")
            memory = _memory_mib(process.pid)
            if memory is not None:
                note({name: memory})
            progress.advance(task)
    progress.remove_task(task)


def _watch(port: int, pairs: int) -> Iterator[Figures]:
    """Measure posts with metrics and logs, and without them, in turn in the same process."""
    with ThreadPoolExecutor(1) as other:
        loaded = other.submit(load, port, "post", pairs * PAIR_S + WARM_UP_SECONDS, "watch")
        time.sleep(WARM_UP_SECONDS / 2)
        found: list[tuple[float, float]] = json.loads(_ask(port, f"/watch?pairs={pairs}"))
        loaded.result()
    for watched, unwatched in found:
        yield {
            "http_watched_posts_per_s": watched,
            "http_unwatched_posts_per_s": unwatched,
            "http_watched_share": watched / unwatched,
        }


def _stages(port: int, seconds: float) -> Figures:
    """Measure how long each stage of one post takes, when it is alone, in microseconds."""
    batches, batch_s = _batches(port)
    alone = load(port, "staged", seconds, "staged")
    more, more_s = _batches(port)
    took: Figures = json.loads(_get(port, "/stages"))
    # One request at a time is one batch for each.
    commit = 1e6 * (more_s - batch_s) / max(1, more - batches)
    took["commit"], took["queue"] = commit, max(0.0, took.pop("write") - commit)
    rest = 1e6 / alone["per_s"] - sum(took.values())
    del took["repeated"]
    return {f"stage_{name}_us": value for name, value in (took | {"http": rest}).items()}


def _batches(port: int) -> tuple[float, float]:
    """Return how many batches the service has written, and how long that took, in seconds."""
    found = dict(
        line.split() for line in _get(port, "/metrics").splitlines() if line.startswith(_BATCH)
    )
    return float(found[f"{_BATCH}_count"]), float(found[f"{_BATCH}_sum"])


def _ask(port: int, path: str) -> str:
    request = urllib.request.Request(f"http://{HOST}:{port}{path}", method="POST")
    with urllib.request.urlopen(request, timeout=600) as response:  # Ours, on the loopback.
        text: str = response.read().decode()
    return text


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=60) as response:
        text: str = response.read().decode()
    return text


@contextmanager
def service_on(cluster: Cluster) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """Serve the bench's book in a process of its own; give the port and the process."""
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "ENVIRONMENT": "development",
        "DATABASE_URL": cluster.url,
        "SHARED_LEDGER_SCHEMA": SCHEMA,
        "HOST": HOST,
        "PORT": str(port),
        "LOG_FORMAT": "json",
    }
    command = [sys.executable, "-m", "shared_ledger.bench.server"]
    # It has a line for each request, as in production; nobody wants to read them here.
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            if process.stdout is None or process.stdout.readline() != "ready\n":
                status = process.wait()
                log.seek(0)
                said = log.read().decode(errors="replace").strip()
                raise LedgerError(f"the service ended with status {status}: {said}")
            _wait_until_open(port)
            yield port, process
        finally:
            process.terminate()


def _wait_until_open(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection((HOST, port)).close()
        except ConnectionRefusedError:
            time.sleep(0.01)
        else:
            return
    raise LedgerError("the service does not listen")


def load(port: int, kind: str, seconds: float, mark: str) -> Figures:
    """Ask the service for that long, from a process of its own, and return what it saw.

    What is asked is in the module ``load``; ``mark`` begins its nonces, and was never used before.
    """
    done = subprocess.run(
        [sys.executable, "-m", "shared_ledger.bench.load", str(port), kind, str(seconds), mark],
        stdout=subprocess.PIPE,
        check=True,
        timeout=seconds + LOAD_GRACE_S,
    )
    figures: Figures = json.loads(done.stdout)
    return figures


def _memory_mib(pid: int) -> float | None:
    """Return a process's resident memory where the system shows it as Linux does."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def _surroundings(database: str) -> dict[str, Any]:
    names = ("shared-ledger", "psycopg", "sqlalchemy", "fastapi", "uvicorn", "msgspec")
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {
        "measured_on": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "postgresql": database,
        "versions": {name: version(name) for name in names},
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _table(figures: Figures, samples: dict[str, list[float]]) -> Table:
    table = Table(box=SIMPLE)
    table.add_column("figure", no_wrap=True)
    table.add_column("median", justify="right")
    table.add_column("lowest", justify="right")
    table.add_column("highest", justify="right")
    table.add_column("against", justify="right")
    for name, figure in figures.items():
        limit = "http_bare_per_s" if name.startswith("http") else "copy_limit_per_s"
        share = f"{figure / figures[limit]:.2f} {limit.removesuffix('_per_s')}"
        digits = 0 if name.endswith("_per_s") else 2 if name.endswith("_share") else 1
        table.add_row(
            name,
            f"{figure:,.{digits}f}",
            f"{min(samples[name]):,.{digits}f}",
            f"{max(samples[name]):,.{digits}f}",
            share if name.endswith("_per_s") and name != limit else "",
        )
    return table
