"""Logs of the service: a line for each thing that happens, on standard error.

Everything is logged by the standard ``logging``; here it is decided what becomes of that, as JSON
or for people. Each line names the request that was served meanwhile. Of a request itself there is
one line, which goes a shorter way, because there are many.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO, cast

import msgspec
import structlog
from structlog.types import EventDict, Processor

from shared_ledger.service.asked import Asked, asked_now
from shared_ledger.settings import Settings, levels_of

REQUESTS = "shared_ledger.requests"
"""The part whose lines are those of requests."""

# What they say below a warning is about themselves, and may show what they were sent.
_OTHERS = (
    *("alembic", "asyncio", "httpcore", "httpx"),
    *("nats", "opentelemetry", "sqlalchemy", "urllib3"),
)
# Looked up in half the time in which a number is made into text.
_DIGITS = tuple(f"{number:03d}" for number in range(1_000))
_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.asgi")
_ACCESS = "uvicorn.access"


class Kind:
    """What is alike of many requests, and is made into text once."""

    __slots__ = ("caller", "method", "route", "status", "text")

    def __init__(self, method: str, route: str, status: int, caller: str) -> None:
        self.method = method
        self.route = route
        self.status = status
        self.caller = caller
        alike = {
            "level": "info",
            "logger": REQUESTS,
            "event": "request",
            "method": method,
            "route": route,
            "status": status,
            "caller": caller,
        }
        # Between the milliseconds of the time and the duration.
        self.text = f'Z",{msgspec.json.encode(alike).decode()[1:-1]},"duration_ms":'


Line = Callable[[Kind, float, float, Asked], str]
"""Makes a line of a request: when it ended, in seconds since 1970, and how long it took."""


class RequestLog:
    """Writes the lines of requests when it is told to, and before any other line.

    Attributes
    ----------
    line
        Makes the line of a request.
    waiting
        Lines to be written: who serves requests appends them.
    """

    def __init__(self, stream: TextIO, line: Line) -> None:
        self.line = line
        self.waiting: deque[str] = deque()
        self._stream = stream
        # The same thread may come again: what the garbage collector finds may be logged, too.
        self._writing = threading.RLock()

    def flush(self, last: str = "") -> None:
        """Write what there is now, and one more line after that; may be called by any thread."""
        with self._writing:
            lines: list[str] = []
            # Not as long as there are some: the last one may be taken between look and grasp.
            with suppress(IndexError):
                while True:
                    lines.append(self.waiting.popleft())
            lines.append(last)
            self._stream.write("".join(lines))
            self._stream.flush()


def configure(settings: Settings, stream: TextIO | None = None) -> RequestLog | None:
    """Let everything that is logged in this process go to a stream, as the settings say.

    Returns what writes the lines of requests, or ``None`` if they are not to be written.
    """
    # Only a program with windows has none.
    stream = stream or cast("TextIO", sys.stderr)
    line: Line
    ending: list[Processor]
    if _format(settings) == "json":
        render = structlog.processors.JSONRenderer(ensure_ascii=False)
        ending = [structlog.processors.format_exc_info, _completed, render]
        line = _JsonLine()
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            # Not rich's: it shows what variables hold.
            exception_formatter=structlog.dev.plain_traceback,
            pad_event_to=0,
        )
        ending = [_completed, console]
        line = _ConsoleLine(console)
    requests = RequestLog(stream, line)
    handler = _Handler(requests)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
            ],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ending],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    _quieten(levels_of(settings.log_levels))
    if not logging.getLogger(REQUESTS).isEnabledFor(logging.INFO):
        return None
    return requests


def _format(settings: Settings) -> str:
    return settings.log_format or ("json" if settings.environment == "production" else "console")


def _quieten(levels: dict[str, str]) -> None:
    """Set the levels of the parts."""
    least = max(logging.WARNING, logging.getLogger().level)
    for name in _OTHERS:
        logging.getLogger(name).setLevel(least)
    for name in (*_UVICORN, _ACCESS):
        # It has handlers and levels of its own if it was started by its own command.
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = name != _ACCESS
        logger.setLevel(logging.NOTSET)
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level.upper())


def _completed(_: object, __: str, event: EventDict) -> EventDict:
    """Say when it was and in which request, and put what every line has first."""
    event.pop("color_message", None)  # uvicorn's, for terminals
    first = {
        "timestamp": _time(time.time()),
        "level": event.pop("level"),
        "logger": event.pop("logger"),
        "event": event.pop("event"),
    }
    asked = asked_now()
    if asked is not None:
        event["request_id"] = asked.request_id
        if asked.trace_id is not None:
            event["trace_id"] = asked.trace_id
    return {**first, **event}


def _time(now: float) -> str:
    return (
        datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    )


class _Handler(logging.Handler):
    """Writes what was logged at once, after the lines of requests that came before."""

    def __init__(self, requests: RequestLog) -> None:
        super().__init__()
        self._requests = requests

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            self._requests.flush(self.format(record) + "\n")
        except Exception:  # noqa: BLE001  # As every handler: whoever logs must not fail for it.
            self.handleError(record)

    def flush(self) -> None:
        """Write the lines that wait; called when the program ends."""
        self._requests.flush()


class _JsonLine:
    """Makes lines of JSON: what is alike of many is made once."""

    def __init__(self) -> None:
        self._second = (-1, "")
        # Each is looked at, and exchanged, at once, so that no thread finds halves of two.
        self._last: tuple[int, Kind | None, str] = (-1, None, "")

    def __call__(self, kind: Kind, now: float, seconds: float, asked: Asked) -> str:
        """Return the line of a request."""
        now_ms = int(1_000 * now)
        moment, last, start = self._last
        # Many end in one millisecond.
        if now_ms != moment or kind is not last:
            start = f"{self._began(now_ms // 1_000)}{_DIGITS[now_ms % 1_000]}{kind.text}"
            self._last = now_ms, kind, start
        duration_us = int(1e6 * seconds)
        end = '"}\n' if asked.trace_id is None else f'","trace_id":"{asked.trace_id}"}}\n'
        return (
            f"{start}{duration_us // 1_000}.{_DIGITS[duration_us % 1_000]},"
            f'"request_id":"{asked.request_id}{end}'
        )

    def _began(self, second: int) -> str:
        found, text = self._second
        if found != second:
            text = f'{{"timestamp":"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.'
            self._second = second, text
        return text


class _ConsoleLine:
    """Makes lines for people."""

    def __init__(self, render: structlog.dev.ConsoleRenderer) -> None:
        self._render = render

    def __call__(self, kind: Kind, now: float, seconds: float, asked: Asked) -> str:
        """Return the line of a request."""
        event: EventDict = {
            "timestamp": _time(now),
            "level": "info",
            "event": f"{kind.method} {kind.route} {kind.status}",
            "duration_ms": round(1_000 * seconds, 3),
            "caller": kind.caller,
            "request_id": asked.request_id,
        }
        if asked.trace_id is not None:
            event["trace_id"] = asked.trace_id
        return f"{self._render(None, '', event)}\n"
