"""Who watches a service beside its metrics: the log of its requests, and its traces."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.types import ASGIApp

from shared_ledger.errors import ConfigurationError
from shared_ledger.service.asked import Asked
from shared_ledger.service.logs import RequestLog, configure
from shared_ledger.settings import Settings
from shared_ledger.writer import BatchReport

if TYPE_CHECKING:
    from shared_ledger.service.traces import Traces

_log = logging.getLogger("shared_ledger.service")


@dataclass(frozen=True, slots=True)
class Observers:
    """Those of one service; ``None`` is none."""

    requests: RequestLog | None = None
    traces: Traces | None = None

    def around(self, app: ASGIApp) -> ASGIApp:
        """Return the application with its requests traced, if they are."""
        return app if self.traces is None else self.traces.around(app)

    async def close(self) -> None:
        """Write and send what was not yet."""
        if self.requests is not None:
            self.requests.flush()
        if self.traces is not None:
            await self.traces.close()

    def batch(self, report: BatchReport) -> None:
        """Note in which batch requests were written: in the log, if it is that fine, and traces."""
        if _log.isEnabledFor(logging.DEBUG):
            origins = [job.origin for job in report.jobs]
            shown = {
                "commands": len(report.commands),
                "duration_ms": round(1_000 * report.seconds, 3),
                "request_ids": [each.request_id for each in origins if isinstance(each, Asked)],
            }
            _log.debug("batch written", extra=shown)
        if self.traces is not None:
            self.traces.batch(report)


def observers_of(settings: Settings) -> Observers:
    """Let this process log, and trace, as the settings say.

    Raises
    ------
    ConfigurationError
        If traces are to go somewhere, and what sends them is not installed.
    """
    requests = configure(settings)
    if not settings.otel_exporter_otlp_endpoint:
        return Observers(requests)
    try:
        from shared_ledger.service.traces import open_traces
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"OTEL_EXPORTER_OTLP_ENDPOINT: {error.name} is not installed: "
            "pip install 'shared-ledger[traces]'"
        ) from None
    return Observers(requests, open_traces(settings))
