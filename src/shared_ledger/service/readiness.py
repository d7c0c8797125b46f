"""Whether requests should be sent here: what ``/health/ready`` answers to a load balancer.

``/health`` says that the process lives and need not be started anew; this, that it can answer. It
asks nobody for credentials, so it looks at the database no more than once in ``FRESH_S``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from threading import Event
from typing import Any

import sqlalchemy.exc
from starlette.responses import Response

from shared_ledger import migrations
from shared_ledger.access.counts import Counts
from shared_ledger.connections import make_engine
from shared_ledger.errors import LedgerUnavailable, SchemaNotMigrated, SchemaTooNew
from shared_ledger.ledger import Ledger
from shared_ledger.service.answers import answer
from shared_ledger.service.problems import RETRY_AFTER_S, problem
from shared_ledger.service.service import Service

TIMEOUT_S = 1.0
FRESH_S = 1.0

UNREACHABLE = "the database cannot be reached"

_log = logging.getLogger("shared_ledger.service")


@dataclass(frozen=True, slots=True)
class Found:
    """What was found; ``wrong`` names the part that keeps this process from answering."""

    wrong: str | None = None
    detail: str = ""
    reason: str = ""
    """More of it, for the log."""
    facts: Mapping[str, Any] = field(default_factory=dict)


class Readiness:
    """Looks whether all is there that this process needs.

    Parameters
    ----------
    served
        The services, each with its ledger.
    leaving
        Set when the process is about to end.
    """

    def __init__(
        self,
        schema: str,
        served: Mapping[Service, Ledger[Any]],
        counts: Counts,
        leaving: Event,
    ) -> None:
        self._schema = schema
        self._served = served
        self._counts = counts
        self._leaving = leaving
        # A connection and a thread of its own: what others keep busy is not broken.
        self._engine = make_engine(next(iter(served.values())).url, pool_size=1)
        self._thread = ThreadPoolExecutor(1, "shared-ledger-readiness")
        self._asked: asyncio.Future[Found] | None = None
        self._look: asyncio.Task[Found] | None = None
        self._last = Found()
        self._fresh_until = 0.0

    async def answer(self) -> Response:
        """Answer 200 with what is there, or 503 with what is wrong."""
        found = await self.present()
        if found.wrong is None:
            return answer({"status": "ready", **found.facts})
        return problem(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "not_ready",
            found.detail,
            headers={"Retry-After": str(RETRY_AFTER_S)},
            part=found.wrong,
            **found.facts,
        )

    def close(self) -> None:
        """Wait for the database's answer if it was asked, and let go of it."""
        self._thread.shutdown()
        self._engine.dispose()

    async def present(self) -> Found:
        """Return what is found now, or was a moment ago."""
        if self._leaving.is_set():
            return Found("shutdown", "this process is about to end")
        if any(ledger.closed for ledger in self._served.values()):
            return Found("ledger", "the ledger is closed")
        if time.monotonic() < self._fresh_until:
            return self._last
        # One look serves all who wait for it, and goes on if one of them leaves.
        if self._look is None or self._look.done():
            self._look = asyncio.create_task(self._look_around())
        return await asyncio.shield(self._look)

    async def _look_around(self) -> Found:
        if self._asked is None or self._asked.done():
            loop = asyncio.get_running_loop()
            self._asked = loop.run_in_executor(self._thread, self._ask_database)
        # Not cancelled if it takes longer: a thread cannot be, and a second one would wait too.
        answered, _ = await asyncio.wait({self._asked}, timeout=TIMEOUT_S)
        if answered:
            found = self._asked.result()
        else:
            found = _no_database(f"no answer within {TIMEOUT_S:.0f} s")
        if (redis := await self._counts.check()) is not None:
            # Without it this process is slower, and as right as before.
            found = replace(found, facts={**found.facts, "cache": "ok" if redis else "down"})
        self._tell_change(found)
        self._last, self._fresh_until = found, time.monotonic() + FRESH_S
        return found

    def _tell_change(self, found: Found) -> None:
        if found.wrong is not None and found.wrong != self._last.wrong:
            _log.warning("not ready: %s", found.reason or found.detail)
        elif found.wrong is None and self._last.wrong is not None:
            _log.warning("ready again")

    def _ask_database(self) -> Found:
        revisions: dict[str, str] = {}
        try:
            with self._engine.connect() as connection:
                for service in self._served:
                    application = service.application
                    revisions["book"] = migrations.check(connection, self._schema, application)
                    if service.migrations is not None:
                        revisions[application.name] = migrations.check_application(
                            connection, self._schema, application.name, service.migrations
                        )
        except (SchemaNotMigrated, SchemaTooNew) as error:
            return Found("migrations", str(error), facts={"database": "ok"})
        except (LedgerUnavailable, sqlalchemy.exc.DBAPIError) as error:
            return _no_database(" ".join(str(error).split()))
        return Found(facts={"database": "ok", "migrations": revisions})


def _no_database(reason: str) -> Found:
    return Found("database", UNREACHABLE, reason, facts={"database": "down"})
