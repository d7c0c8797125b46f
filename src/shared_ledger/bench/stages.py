"""Where the time of a ``POST /ledger`` goes: ``POST /staged`` does the same with a clock.

Asked one request at a time, so that none waits for another: a request's own overhead is left.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from typing import Any

from fastapi import Request
from starlette.responses import Response

from shared_ledger.book import Posting
from shared_ledger.service.answers import answer_entry, encode, ledger_of
from shared_ledger.service.auth import caller_of
from shared_ledger.service.authorisation import check_posting, permitted
from shared_ledger.service.bodies import decode_body, decoded, posting_of
from shared_ledger.service.direct import read_body
from shared_ledger.service.rates import rates_of
from shared_ledger.service.routes import router

STAGES = ("authenticate", "limit", "parse", "authorise", "write", "answer", "repeated")
REMEMBERED = 10_000

_LEDGER = next(route for route in router.routes if getattr(route, "path", "") == "/ledger")


class Stages:
    """How long each stage of the last requests took, in microseconds."""

    def __init__(self) -> None:
        self._took: dict[str, deque[float]] = {name: deque(maxlen=REMEMBERED) for name in STAGES}

    async def post(self, request: Request) -> Response:
        """Post one operation as ``POST /ledger`` does, and note how long each stage takes.

        Who calls and how often is asked twice here, once to be timed alone; the second time is
        ``repeated``.
        """
        # As the table of rights and the limits know it.
        request.scope["route"] = _LEDGER
        clock = time.perf_counter
        began = clock()
        caller = await caller_of(request)
        authenticated = clock()
        if counted := rates_of(request).count(request, caller.kind, caller.name):
            await counted
        limited = clock()
        permit = await permitted(request)
        known = clock()
        body = decoded(decode_body, await read_body(request))
        ledger = ledger_of(request)
        posting: Posting[Any] = posting_of(ledger.application, body)
        parsed = clock()
        check_posting(request, permit, posting)
        checked = clock()
        posted = await ledger.apost(posting)
        written = clock()
        response = answer_entry(posted)
        answered = clock()
        for name, seconds in (
            ("authenticate", authenticated - began),
            ("limit", limited - authenticated),
            ("repeated", known - limited),
            ("parse", parsed - known),
            ("authorise", checked - parsed),
            ("write", written - checked),
            ("answer", answered - written),
        ):
            self._took[name].append(1e6 * seconds)
        return response

    async def show(self, _: Request) -> Response:
        """Show how long each stage took on average, in microseconds."""
        return Response(
            encode({name: statistics.fmean(took) for name, took in self._took.items() if took}),
            media_type="application/json",
        )
