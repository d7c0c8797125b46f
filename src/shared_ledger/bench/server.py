"""The service as it is served, and more routes to measure it by.

``python -m shared_ledger.bench.server`` takes its settings from the environment. ``POST /bare``
parses the same body and answers, with nothing in between; ``POST /burst?count=N`` posts N credits
inside the process, from 1,000 coroutines; ``POST /staged`` and ``GET /stages`` are in ``stages``.
``POST /watch?pairs=N`` ends that requests are counted and logged, and begins it again, N times, and
tells how many a second there were meanwhile, of others: processes differ by more than that costs.
"""

from __future__ import annotations

import asyncio
import threading
import time

from fastapi import Request
from starlette.responses import Response

from shared_ledger.bench.measures import CALLERS
from shared_ledger.bench.stages import Stages
from shared_ledger.bench.work import Work
from shared_ledger.operations import SHARED
from shared_ledger.service.answers import Json
from shared_ledger.service.app import create_app
from shared_ledger.service.direct import DirectRoute, read_body
from shared_ledger.service.observed import TOGETHER_S
from shared_ledger.service.observers import observers_of
from shared_ledger.service.routes import decode_body, encode, ledger_of
from shared_ledger.service.server import run
from shared_ledger.settings import load_settings

SETTLE_S = TOGETHER_S + 0.02
"""After that nothing is written of what was noted before."""
WINDOW_S = 0.2
BEGIN_S = 30.0
"""How long requests may be late."""
PAIR_S = 2 * (SETTLE_S + WINDOW_S)


async def bare(request: Request) -> Response:
    """Parse a posting and answer with it."""
    body = decode_body(await read_body(request))
    return Json(encode(body), 201)


async def burst(request: Request) -> Response:
    """Post credits from many coroutines."""
    ledger = ledger_of(request)
    count = int(request.query_params["count"])
    work = Work(f"burst-{id(request)}-{count}")
    numbers = iter(range(count))

    async def caller() -> None:
        for _ in numbers:
            await ledger.apost(work.one())

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    return Response(status_code=204)


class Watch:
    """Whether requests are counted and logged."""

    def __init__(self) -> None:
        self._on = True
        self._requests = 0
        self._came = asyncio.Event()
        self._loop = threading.get_ident()

    def __call__(self) -> bool:
        """Tell it; asked for each request, and by other threads for each batch."""
        if threading.get_ident() == self._loop:
            self._requests += 1
            self._came.set()
        return self._on

    async def alternate(self, request: Request) -> Response:
        """Answer with pairs of rates: with it and without it, each first as often as the other."""
        pairs: list[tuple[float, float]] = []
        await self._next_request()
        for number in range(int(request.query_params["pairs"])):
            rates: dict[bool, float] = {}
            for on in (False, True) if number % 2 else (True, False):
                self._on = on
                await asyncio.sleep(SETTLE_S)
                before, began = self._requests, time.perf_counter()
                await asyncio.sleep(WINDOW_S)
                if self._requests == before:
                    await self._next_request()
                rates[on] = (self._requests - before) / (time.perf_counter() - began)
            pairs.append((rates[True], rates[False]))
        self._on = True
        return Json(encode(pairs))

    async def _next_request(self) -> None:
        """Wait for one: on a busy machine whoever asks may be late."""
        self._came.clear()
        async with asyncio.timeout(BEGIN_S):
            await self._came.wait()


def main() -> None:
    """Serve until told to stop."""
    settings = load_settings()
    stages = Stages()
    watch = Watch()
    app = create_app(
        SHARED,
        settings,
        on_ready=lambda _: print("ready", flush=True),  # noqa: T201
        observers=observers_of(settings),
        watched=watch,
        more_routes=[
            DirectRoute("/bare", bare, methods=["POST"]),
            DirectRoute("/burst", burst, methods=["POST"]),
            DirectRoute("/watch", watch.alternate, methods=["POST"]),
            DirectRoute("/staged", stages.post, methods=["POST"]),
            DirectRoute("/stages", stages.show, methods=["GET"]),
        ],
    )
    run(app, settings)


if __name__ == "__main__":
    main()
