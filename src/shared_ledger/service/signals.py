"""Knowing of a signal before the server says so.

A server tells an application that it ends when all is answered; an answer that goes on for ever has
to end before that.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def calling_at_signals(leave: Callable[[], None]) -> Iterator[None]:
    """Call ``leave`` when a signal ends the process, before the server does what it does then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number: int, frame: FrameType | None) -> None:
        # Not from within a signal: whatever it interrupts may hold the lock that this needs.
        loop.call_soon_threadsafe(leave)
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in before.items():
        # What ends the process without a word goes on to do so.
        if callable(handler):
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is end:
                signal.signal(number, handler)
