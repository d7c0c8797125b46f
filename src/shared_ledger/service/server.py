"""Run the service until it is told to stop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import uvicorn

from shared_ledger.ledger import Ledger
from shared_ledger.operations import Application
from shared_ledger.service.app import create_app
from shared_ledger.settings import Settings

# The threads that write wait for the interpreter up to this long at each turn. The default of 5 ms
# is several times what a whole batch takes; shorter than this costs more than it gains.
SWITCH_INTERVAL_S = 0.001
GRACE_S = 10


def serve(
    application: Application[Any],
    settings: Settings,
    *,
    on_ready: Callable[[Ledger[Any]], None] = lambda _: None,
) -> None:
    """Serve on the settings' host and port; SIGINT and SIGTERM end it, and answer what was taken.

    Raises
    ------
    LedgerError
        If the ledger cannot be opened.
    """
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    config = uvicorn.Config(
        create_app(application, settings, on_ready=on_ready),
        host=settings.host,
        port=settings.port,
        loop="uvloop",
        http="httptools",
        lifespan="on",
        access_log=False,
        log_level="warning",
        timeout_graceful_shutdown=GRACE_S,
    )
    uvicorn.Server(config).run()
