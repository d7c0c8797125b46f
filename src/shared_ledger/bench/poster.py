"""A process that posts batches: ``python -m shared_ledger.bench.poster URL SCHEMA CROWD MARK N``.

It says ``ready``, waits for a line, posts N batches and prints its rate in entries per second.
"""

from __future__ import annotations

import sys
import time

from shared_ledger.bench.work import BATCH, Work
from shared_ledger.ledger import Ledger
from shared_ledger.operations import SHARED
from shared_ledger.writer import SWITCH_INTERVAL_S


def main(url: str, schema: str, crowd: str, mark: str, batches: int) -> None:
    """Post when told to, and print the rate."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    work = Work(mark, crowd=crowd, seed=hash(mark))
    with Ledger(SHARED, url, schema=schema) as ledger:
        ledger.post_batch(work.batch())
        prepared = [work.batch() for _ in range(batches)]
        print("ready", flush=True)  # noqa: T201
        sys.stdin.readline()
        began = time.perf_counter()
        for postings in prepared:
            ledger.post_batch(postings)
        print(batches * BATCH / (time.perf_counter() - began), flush=True)  # noqa: T201


if __name__ == "__main__":
    url, schema, crowd, mark, batches = sys.argv[1:]
    main(url, schema, crowd, mark, int(batches))
