"""What is done with a request that has ended: it is counted, timed, and logged in one line."""

from __future__ import annotations

from starlette.types import Scope

from shared_ledger.service.asked import Asked
from shared_ledger.service.logs import Kind, RequestLog
from shared_ledger.service.request_metrics import RequestMetrics, Series

METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
"""Those that are told apart: a client may send any word."""

ANONYMOUS = "anonymous"

_Key = tuple[str, str, str | None, int, str]
"""What requests of one kind have in common: made of what is there, and of nothing new."""


class ObservedRequests:
    """Counts requests, and has their lines written if there is a log."""

    def __init__(self, metrics: RequestMetrics, log: RequestLog | None) -> None:
        self._metrics = metrics
        self._log = log
        self._kinds: dict[_Key, tuple[Kind, Series]] = {}

    def ended(self, scope: Scope, asked: Asked, seconds: float) -> None:
        """Note a request that took so long; called for each, when it was answered or given up."""
        route = scope.get("route")
        key = (
            scope["method"],
            scope.get("root_path", ""),
            None if route is None else route.path,
            asked.status,
            scope.get("caller", ANONYMOUS),
        )
        kind, series = self._kinds.get(key) or self._new(scope, key)
        series.count(seconds)
        if self._log is not None:
            self._log.write(kind, seconds, asked)

    def _new(self, scope: Scope, key: _Key) -> tuple[Kind, Series]:
        method, _, _, status, caller = key
        if method not in METHODS:
            method = "other"
        route = route_of(scope)
        kind = Kind(method, route, status, caller), self._metrics.series(method, route, status)
        if method in METHODS:
            self._kinds[key] = kind
        return kind


def route_of(scope: Scope) -> str:
    """Return the pattern of the path of the route that served a request, never the path itself."""
    route = scope.get("route")
    # A path that no route knows has none, and must not become a label of its own.
    return "unknown" if route is None else scope.get("root_path", "") + route.path
