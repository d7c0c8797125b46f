"""A request as its log lines, its batch and its trace know it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import count
from secrets import token_hex
from typing import NamedTuple

import msgspec
from starlette.types import Scope

from shared_ledger.origin import ORIGIN

HEADER = b"x-request-id"
"""Where a request's id comes from, if somebody before us gave it one, and where it is answered."""

_process: str
_numbers: count[int]

_SAFE = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Written(NamedTuple):
    """When something of a request was put into the queue and written, in ns since 1970."""

    queued_ns: int
    begun_ns: int
    ended_ns: int
    commands: int
    """How many were written together."""


class Asked(msgspec.Struct, eq=False):
    """One request that is being served.

    Attributes
    ----------
    request_id
        Its name: what the caller, or a proxy, said in ``X-Request-ID``, or a new one.
    status
        What it was answered: noted by whoever adds headers to the answer.
    trace_id
        The trace that it is a part of, in hexadecimal digits, if there is one.
    written
        The batches in which it was written; ``None`` if nobody wants to know.
    """

    request_id: str
    status: int = 500
    trace_id: str | None = None
    written: list[Written] | None = None


def asked_of(scope: Scope) -> Asked:
    """Return what is noted of a request over HTTP: who asks first begins it."""
    asked: Asked | None = scope.get("asked")
    if asked is None:
        asked = scope["asked"] = Asked(request_id_of(scope["headers"]))
    return asked


def asked_now() -> Asked | None:
    """Return the request that is served here, if one is."""
    found = ORIGIN.get()
    return found if isinstance(found, Asked) else None


def request_id_of(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """Return the id that a request came with, or a new one if it has none that is safe to log."""
    for name, value in headers:
        if name == HEADER and _SAFE.fullmatch(value):
            return value.decode("ascii")
    return f"{_process}{next(_numbers):08x}"


def _begin() -> None:
    """Begin the ids of this process: its own name, and a number."""
    global _process, _numbers  # A forked process is another one.
    _process, _numbers = token_hex(4), count(1)


_begin()
os.register_at_fork(after_in_child=_begin)
