"""Programs of the machine that tests run, or do without."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

# Where Debian puts servers, the newest PostgreSQL first, and an ordinary user's PATH does not look.
_SERVERS = [
    "/usr/sbin",
    "/usr/local/sbin",
    *sorted(Path("/usr/lib/postgresql").glob("*/bin"))[::-1],
]
PLACES = os.pathsep.join([os.environ.get("PATH", os.defpath), *map(str, _SERVERS)])


def program(name: str, package: str) -> str:
    """Its path; without it the test is skipped, or fails where it must not be."""
    found = shutil.which(name, path=PLACES)
    if found is not None:
        return found
    sentence = f"there is no {name} (apt-get install {package})"
    if f"SHARED_LEDGER_REQUIRE_{package.upper().replace('-', '_')}" in os.environ:
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)
