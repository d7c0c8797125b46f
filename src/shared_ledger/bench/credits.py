"""What holds, transfers, credits that expire and past balances cost."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from itertools import count
from typing import Any

import sqlalchemy as sa

from shared_ledger.bench.work import ACCOUNTS, BATCH
from shared_ledger.book import CaptureHold, Held, PlaceHold, Posted, Posting, Transfer
from shared_ledger.connections import make_engine
from shared_ledger.errors import LedgerError
from shared_ledger.ledger import Ledger
from shared_ledger.operations import Application, BaseLedgerOperation, Rule

CALLERS = 2
"""While one waits for its batch, the other prepares the next."""

GRANT = 10
LOOKS = 400
LIFETIME = timedelta(days=365)


class BenchOperation(BaseLedgerOperation):
    """The shared operations, and two of any amount."""

    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    BENCH_GIFT = "BENCH_GIFT"
    BENCH_PURCHASE = "BENCH_PURCHASE"


BENCH = Application(
    "bench",
    BenchOperation,
    rules={
        BenchOperation.BENCH_GIFT: Rule.variable(minimum=1, maximum=1_000_000),
        BenchOperation.BENCH_PURCHASE: Rule.variable(minimum=-1_000_000, maximum=-1),
    },
)


class CreditMeasures:
    """Measurements on one open ledger: two threads post batches of 1,000 to 10,000 accounts."""

    def __init__(self, ledger: Ledger[BenchOperation], batches: int, rounds: int) -> None:
        self._ledger = ledger
        self._batches = max(1, batches // 3)
        self._rounds = rounds
        self._nonces = (f"credits-{number}" for number in count())
        self._turns = count()
        self._random = random.Random(1)  # noqa: S311  # Chosen owners, not secrets.

    def prepare(self) -> None:
        """Give every owner enough, and grants of 10 of which the first is half spent."""
        spends = self._rounds * self._batches * BATCH
        owners = range(ACCOUNTS)
        for crowd, amount in (("holder", spends), ("mover", spends)):
            self._post(
                Posting(BenchOperation.BENCH_GIFT, f"{crowd}-{n}", next(self._nonces), amount)
                for n in owners
            )
        for _ in range(2 + spends // ACCOUNTS):
            self._post(
                Posting(
                    BenchOperation.BENCH_GIFT,
                    f"saver-{n}",
                    next(self._nonces),
                    GRANT,
                    expires_in=LIFETIME,
                )
                for n in owners
            )
        self._post(
            Posting(BenchOperation.BENCH_PURCHASE, f"saver-{n}", next(self._nonces), -GRANT // 2)
            for n in owners
        )

    def all(self) -> dict[str, Callable[[], float]]:
        """Return the measurements by the names of their figures."""
        return {
            "holds_per_s": self.holds,
            "transfer_per_s": self.transfers,
            "grant_spend_per_s": self.grant_spends,
        }

    def holds(self) -> float:
        """Place and capture; one is a pair."""
        batches = [
            [
                PlaceHold(
                    BenchOperation.BENCH_PURCHASE, self._owner("holder"), next(self._nonces), 1
                )
                for _ in range(BATCH)
            ]
            for _ in range(self._batches)
        ]

        def place_and_capture(batch: Sequence[Any]) -> None:
            held = _all(Held, self._ledger.post_batch(batch))
            captures = [CaptureHold(one.hold.id, next(self._nonces)) for one in held]
            _all(Posted, self._ledger.post_batch(captures))

        return self._rate(place_and_capture, batches)

    def transfers(self) -> float:
        """Transfers of one credit between two of the owners."""
        batches = [[self._transfer() for _ in range(BATCH)] for _ in range(self._batches)]
        return self._rate(self._post, batches)

    def grant_spends(self) -> float:
        """Spends that take half of one grant and half of the next; an owner's one after another."""
        owners = iter(self._savers())
        batches = [
            [
                Posting(BenchOperation.BENCH_PURCHASE, next(owners), next(self._nonces), -GRANT)
                for _ in range(BATCH)
            ]
            for _ in range(self._batches)
        ]
        return self._rate(self._post, batches)

    def _savers(self) -> Sequence[str]:
        """Every owner as often as any other, over all rounds, in random order."""
        numbers = [next(self._turns) % ACCOUNTS for _ in range(self._batches * BATCH)]
        self._random.shuffle(numbers)
        return [f"saver-{number}" for number in numbers]

    def _transfer(self) -> Transfer:
        source, destination = self._random.sample(range(ACCOUNTS), 2)
        return Transfer(
            source=f"mover-{source}",
            destination=f"mover-{destination}",
            amount=1,
            nonce=next(self._nonces),
        )

    def _owner(self, crowd: str) -> str:
        return f"{crowd}-{self._random.randrange(ACCOUNTS)}"

    def _post(self, postings: Any) -> None:
        _all(Posted, self._ledger.post_batch(list(postings)))

    def _rate(self, do: Callable[[Any], None], batches: Sequence[Any]) -> float:
        """Return how many a second the callers get done, who take a batch each in turn."""
        began = time.perf_counter()
        with ThreadPoolExecutor(CALLERS) as callers:
            for done in callers.map(do, batches):
                assert done is None  # noqa: S101  # raises what a caller raised
        return len(batches) * BATCH / (time.perf_counter() - began)


def balance_at(ledger: Ledger[Any], owner_id: str) -> dict[str, float]:
    """Measure how long a balance at a random past time takes, in milliseconds."""
    entries = ledger.tables.entries
    engine = make_engine(ledger.url)
    with engine.connect() as connection:
        first, last = connection.execute(
            sa.select(sa.func.min(entries.c.created_on), sa.func.max(entries.c.created_on)).where(
                entries.c.owner_id == owner_id
            )
        ).one()
    engine.dispose()
    chance = random.Random(1)  # noqa: S311  # Chosen times, not secrets.
    took: list[float] = []
    for _ in range(LOOKS):
        at = first + (last - first) * chance.random()
        began = time.perf_counter()
        ledger.balance(owner_id, at=at)
        took.append((time.perf_counter() - began) * 1000)
    percentiles = statistics.quantiles(took, n=100)
    return {"balance_at_p50_ms": percentiles[49], "balance_at_p99_ms": percentiles[98]}


def _all(kind: type[Any], results: Sequence[Any]) -> Sequence[Any]:
    """Return the results if all are yes."""
    for result in results:
        if not isinstance(result, kind):
            raise LedgerError(f"not everything was written: {result}")
    return results
