"""What the library does in a second, measured from its public calls."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import count
from typing import Any

from shared_ledger.bench.work import BATCH, Postings, Work
from shared_ledger.book import Posted
from shared_ledger.changes import Book
from shared_ledger.copying import copy_statement, copy_text
from shared_ledger.decide import Decision
from shared_ledger.errors import LedgerError
from shared_ledger.ledger import Ledger
from shared_ledger.operations import SHARED, SharedOperation
from shared_ledger.requests import command_of
from shared_ledger.store import connect

CALLERS = 1_000
LARGE_BATCH = 5_000


class Measures:
    """Measurements on one open ledger; each returns a rate per second.

    ``batches`` is how many batches of 1,000 a measurement takes.
    """

    def __init__(
        self, ledger: Ledger[SharedOperation], schema: str, limit_schema: str, batches: int
    ) -> None:
        self._ledger = ledger
        self._schema = schema
        self._limit_schema = limit_schema
        self._batches = batches
        self._rounds = count()

    def all(self) -> dict[str, Callable[[], float]]:
        """Return the measurements by the names of their figures."""
        return {
            "copy_limit_per_s": self.copy_limit,
            "batch_uniform_per_s": self.batch_uniform,
            "batch_5000_per_s": self.batch_5000,
            "batch_hot_per_s": self.batch_hot,
            "concurrent_per_s": self.concurrent,
            "two_processes_per_s": lambda: self.two_processes("left", "right"),
            "two_processes_shared_per_s": lambda: self.two_processes("user", "user"),
            "insufficient_mix_per_s": self.insufficient_mix,
            "replay_per_s": self.replay,
        }

    def copy_limit(self) -> float:
        """COPY of the same rows into the same table, and nothing else: the limit of this way."""
        work = self._work()
        connection = connect(self._ledger.url)
        cursor = connection.cursor()
        fetched = cursor.execute(
            f"select coalesce(max(id), 0) from {self._limit_schema}.entries".encode()
        ).fetchone()
        first = 1 if fetched is None else fetched[0] + 1
        blocks: list[bytes] = []
        for number in range(self._batches):
            decision = Decision(Book(datetime.now(UTC), count(first + number * BATCH)))
            decision.take([command_of(SHARED, posting) for posting in work.batch()])
            blocks.append(copy_text(decision.changes.entries))
        statement = copy_statement(self._limit_schema)

        def copy(block: bytes) -> None:
            with cursor.copy(statement) as target:
                target.write(block)

        rate = _rate(copy, blocks, BATCH)
        connection.close()
        return rate

    def batch_uniform(self) -> float:
        """``post_batch`` of 1,000 to 10,000 accounts."""
        work = self._work()
        return self._post([work.batch() for _ in range(self._batches)])

    def batch_5000(self) -> float:
        """``post_batch`` of 5,000 to 10,000 accounts."""
        work = self._work()
        count_ = max(1, self._batches * BATCH // LARGE_BATCH)
        return self._post([work.batch(LARGE_BATCH) for _ in range(count_)])

    def batch_hot(self) -> float:
        """``post_batch`` of 1,000 to one account."""
        work = self._work()
        return self._post([work.batch(accounts=1) for _ in range(self._batches)])

    def insufficient_mix(self) -> float:
        """``post_batch`` of 1,000 of which a tenth is refused."""
        work = self._work()
        return self._post([work.mixed() for _ in range(self._batches)], refused=BATCH // 10)

    def replay(self) -> float:
        """``post_batch`` of 1,000 that have all been posted before."""
        postings = self._work().batch()
        self._ledger.post_batch(postings)
        return self._post([postings] * self._batches, replayed=True)

    def concurrent(self) -> float:
        """1,000 coroutines that post one at a time."""
        work = self._work()
        total = self._batches * BATCH
        numbers = iter(range(total))

        async def caller() -> None:
            for _ in numbers:
                await self._ledger.apost(work.one())

        async def run() -> None:
            await asyncio.gather(*(caller() for _ in range(CALLERS)))

        began = time.perf_counter()
        asyncio.run(run())
        return total / (time.perf_counter() - began)

    def two_processes(self, *crowds: str) -> float:
        """Two processes that post batches of 1,000 at once; the sum of their rates."""
        posters = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "shared_ledger.bench.poster",
                    self._ledger.url,
                    self._schema,
                    crowd,
                    f"{self._mark()}-{number}",
                    str(self._batches),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for number, crowd in enumerate(crowds)
        ]
        for poster in posters:
            _line(poster)
        for poster in posters:
            if poster.stdin is not None:
                poster.stdin.write("go\n")
                poster.stdin.flush()
        rates = [float(_line(poster)) for poster in posters]
        for poster in posters:
            poster.communicate()
        return sum(rates)

    def _post(self, batches: list[Postings], *, refused: int = 0, replayed: bool = False) -> float:
        def post(postings: Postings) -> None:
            outcomes = self._ledger.post_batch(postings)
            written = sum(type(o) is Posted and o.replayed == replayed for o in outcomes)
            if written != len(postings) - refused:
                raise LedgerError(f"{written} of {len(postings)} postings were written")

        return _rate(post, batches, len(batches[0]))

    def _mark(self) -> str:
        return f"{time.time_ns():x}-{next(self._rounds)}"

    def _work(self) -> Work:
        return Work(self._mark())


def _rate(do: Callable[[Any], None], batches: Sequence[Any], size: int) -> float:
    began = time.perf_counter()
    for batch in batches:
        do(batch)
    return len(batches) * size / (time.perf_counter() - began)


def _line(process: subprocess.Popen[str]) -> str:
    line = process.stdout.readline() if process.stdout is not None else ""
    if not line:
        raise LedgerError(f"a posting process ended with status {process.wait()}")
    return line
