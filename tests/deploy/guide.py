"""The blocks of docs/production.md that tests run."""

from __future__ import annotations

import re
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "production.md"


def block(name: str) -> str:
    """The commands after a comment of that name."""
    (found,) = re.findall(rf"<!-- {name} -->\n```sh\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    return str(found)
