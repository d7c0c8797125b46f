"""What is done with requests that have ended: they are counted, timed, and logged in a line each.

The lines are written together with those of requests that end shortly after.
"""

from __future__ import annotations

import asyncio
import time

from starlette.types import Scope

from shared_ledger.service.asked import Asked
from shared_ledger.service.logs import Kind, RequestLog
from shared_ledger.service.request_metrics import RequestMetrics, Series

TOGETHER_S = 0.1
"""How long a line waits for others."""

METHODS = frozenset(("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"))
"""Those that are told apart: a client may send any word."""

ANONYMOUS = "anonymous"
UNKNOWN = "unknown"

_Key = tuple[str, str, str | None, int, str]
"""Method, the part of the path before the route's, the route's, status and caller."""


class ObservedRequests:
    """Counts requests on one event loop, and has their lines written if there is a log."""

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
        kind, series = self._kinds.get(key) or self._new(key)
        series.count(seconds)
        log = self._log
        if log is None:
            return
        if not log.waiting:
            asyncio.get_running_loop().call_later(TOGETHER_S, log.flush)
        log.waiting.append(log.line(kind, time.time(), seconds, asked))

    def _new(self, key: _Key) -> tuple[Kind, Series]:
        method, root, path, status, caller = key
        if method not in METHODS:
            method = "other"
        route = _pattern(root, path)
        kind = Kind(method, route, status, caller), self._metrics.series(method, route, status)
        if method in METHODS:
            self._kinds[key] = kind
        return kind


def route_of(scope: Scope) -> str:
    """Return the pattern of the path of the route that served a request, never the path itself."""
    route = scope.get("route")
    return _pattern(scope.get("root_path", ""), None if route is None else route.path)


def _pattern(root: str, path: str | None) -> str:
    # A path that no route knows has none, and must not become a label of its own.
    return UNKNOWN if path is None else root + path
