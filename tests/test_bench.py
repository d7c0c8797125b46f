"""The bench runs, and says what it measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = {
    "copy_limit_per_s",
    "batch_uniform_per_s",
    "batch_5000_per_s",
    "batch_hot_per_s",
    "concurrent_per_s",
    "two_processes_per_s",
    "two_processes_shared_per_s",
    "insufficient_mix_per_s",
    "replay_per_s",
    "http_bare_per_s",
    "http_posts_per_s",
    "http_watched_posts_per_s",
    "http_unwatched_posts_per_s",
    "http_watched_share",
    "http_posts_p50_ms",
    "http_posts_p99_ms",
    "http_balance_per_s",
}


@pytest.mark.slow
def test_bench_measures_every_figure_on_a_book_with_entries(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "shared_ledger.cli", "bench", "--json", str(file)]
    done = subprocess.run(
        [*command, "--scale", "0.03", "--entries", "30000"],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    assert report["figures"].keys() >= FIGURES
    assert all(figure > 0 for figure in report["figures"].values())
    assert {"commit", "cores", "processor", "python", "postgresql", "versions"} <= report.keys()
    for name in FIGURES:
        assert name[:20] in done.stdout
