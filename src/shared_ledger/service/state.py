"""What all requests of one application share, found as fast as any attribute."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import State


class SharedState(State):
    """Starlette's state, which keeps its attributes as other objects do.

    Starlette's own raises and catches an error at each look before it finds what is there: several
    times for every request.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Keep something."""
        object.__setattr__(self, name, value)
