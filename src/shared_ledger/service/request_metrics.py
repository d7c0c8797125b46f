"""How many requests were answered, and how fast."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class RequestMetrics(Collector):
    """Counts requests on one event loop, which alone needs no lock: it is done for every request.

    The series are as many as there are methods, routes and statuses that they answer.
    """

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, int], Series] = {}

    def series(self, method: str, route: str, status: int) -> Series:
        """Return where such requests are counted; ``route`` is the path's pattern, not the path."""
        return self._series.setdefault((method, route, status), Series(BUCKETS_S))

    def collect(self) -> Iterable[Metric]:
        """Give the metrics as they are now."""
        requests = CounterMetricFamily(
            "shared_ledger_http_requests",
            "HTTP requests answered.",
            labels=["method", "route", "status"],
        )
        times: dict[tuple[str, str], Series] = {}
        for (method, route, status), series in self._series.items():
            requests.add_metric([method, route, str(status)], sum(series.counts))
            times.setdefault((method, route), Series(BUCKETS_S)).add(series)
        yield requests
        histogram = HistogramMetricFamily(
            "shared_ledger_http_request_seconds",
            "Time to answer an HTTP request.",
            labels=["method", "route"],
        )
        for labels, series in times.items():
            histogram.add_metric(list(labels), series.buckets(), series.sum)
        yield histogram


class Series:
    """How many values are up to each bound, and beyond all of them; for one thread at a time."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def count(self, value: float) -> None:
        """Count one more."""
        self.sum += value
        self.counts[bisect_left(self.bounds, value)] += 1

    def add(self, other: Series) -> None:
        """Count what another with the same bounds has counted."""
        self.sum += other.sum
        self.counts = [
            ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)
        ]

    def buckets(self) -> list[tuple[str, float]]:
        """Return how many are up to each bound, as a histogram has it."""
        bounds = [*map(floatToGoString, self.bounds), "+Inf"]
        return list(zip(bounds, accumulate(self.counts), strict=True))
