"""Does a second process behind nginx bring a second process' worth of postings?

As root: ``PYTHONPATH=tests python -m deploy.two_behind_nginx [ROUNDS SECONDS SHARE]``. Each process
of the service is given that share of a core, so that PostgreSQL, nginx and the load have what they
need beside two of them also on a small machine. With 0 there is no limit: two processes share what
there is.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.nginx import Nginx
from shared_ledger.bench import main as bench
from shared_ledger.connections import make_engine
from shared_ledger.embedded import temporary_cluster
from shared_ledger.migrations import migrate
from shared_ledger.operations import SHARED

GROUPS = Path("/sys/fs/cgroup")
PERIOD_US = 10_000


@contextmanager
def limited(pid: int, share: float) -> Iterator[None]:
    """Give a process so much of a core, and no more, while the block runs."""
    first = (GROUPS / "cpu").is_dir()
    group = GROUPS / ("cpu" if first else "") / f"shared-ledger-{pid}"
    group.mkdir()
    quota_us = int(share * PERIOD_US)
    if first:
        (group / "cpu.cfs_period_us").write_text(f"{PERIOD_US}")
        (group / "cpu.cfs_quota_us").write_text(f"{quota_us}")
    else:
        (group / "cpu.max").write_text(f"{quota_us} {PERIOD_US}")
    (group / "cgroup.procs").write_text(f"{pid}")
    try:
        yield
    finally:
        (group.parent / "cgroup.procs").write_text(f"{pid}")
        group.rmdir()


def busy_s() -> float:
    """How long the machine's cores have worked, all together."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split(maxsplit=8)[1:8]
    )
    return (user + nice + system + irq + softirq) / 100


def main(rounds: int = 8, seconds: float = 3, share: float = 0.3) -> None:
    """Measure one and two in turn, and print what they reach."""
    with ExitStack() as stack:
        cluster = stack.enter_context(temporary_cluster())
        engine = make_engine(cluster.url)
        migrate(engine, bench.SCHEMA, [SHARED])
        engine.dispose()
        ports: list[str] = []
        for _ in range(2):
            port, process = stack.enter_context(bench.service_on(cluster))
            ports.append(f"127.0.0.1:{port}")
            if share:
                stack.enter_context(limited(process.pid, share))
        proxies: list[Nginx] = []
        for instances in ([ports[0], ports[0]], ports):
            folder = Path(tempfile.mkdtemp(prefix="shared-ledger-nginx-"))
            folder.chmod(0o755)
            nginx = Nginx(folder, instances)
            nginx.start()
            stack.callback(nginx.stop)
            proxies.append(nginx)
            bench.load(nginx.port, "post", 1, f"warm-{len(proxies)}")
        rates: list[list[float]] = [[], []]
        for number in range(rounds):
            for index, nginx in enumerate(proxies):
                began, before = time.monotonic(), busy_s()
                rate = bench.load(nginx.port, "post", seconds, f"{number}-{index}")["per_s"]
                rates[index].append(rate)
                busy = (busy_s() - before) / (time.monotonic() - began)
                print(f"{index + 1}: {rate:,.0f}/s, {busy:.2f} cores busy")  # noqa: T201
        one, two = rates
        times = [second / first for first, second in zip(one, two, strict=True)]
        print(  # noqa: T201
            f"one {statistics.median(one):,.0f}/s, two {statistics.median(two):,.0f}/s: "
            f"{statistics.median(times):.2f} times ({min(times):.2f} to {max(times):.2f})"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *map(float, sys.argv[2:]))
