"""Which methods a path takes: what an answer 405 must say (RFC 9110, 15.5.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from starlette.routing import compile_path


def allowed(routes: Iterable[tuple[str, str]], path: str) -> tuple[str, ...]:
    """Return the methods that a path takes; ``routes`` are methods and patterns of paths.

    All that match count: an owner may be called as a part of another path.
    """
    methods = {method for method, pattern in routes if _expression(pattern).fullmatch(path)}
    if "GET" in methods:
        methods.add("HEAD")
    return tuple(sorted(methods))


@cache
def _expression(pattern: str) -> re.Pattern[str]:
    return compile_path(pattern)[0]
