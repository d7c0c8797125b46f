"""The blocks of guides that tests run."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def block(name: str, *, page: str = "production.md", kind: str = "sh") -> str:
    """The commands after a comment of that name."""
    text = (DOCS / page).read_text()
    (found,) = re.findall(rf"<!-- {name} -->\n *```{kind}\n(.*?) *```", text, re.DOTALL)
    # In a list they are indented.
    return textwrap.dedent(found)
