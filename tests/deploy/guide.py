"""The blocks of guides that tests run."""

from __future__ import annotations

import documentation


def block(name: str, *, page: str = documentation.USUAL) -> str:
    """The commands after a comment of that name."""
    return documentation.block(f"docs/{page}", name)
