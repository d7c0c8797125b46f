"""Whoever calls, once it is known who that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["user", "service", "administrator"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A user, an administrator, or a service with a key.

    Attributes
    ----------
    name
        A user's name, which is his account's ``owner_id`` too; of a service the id of its key.
    application, operations
        What a key is for; ``None`` is every one.
    daily_budget
        The most that a key may give to owners on one UTC day, in whole units; ``None`` is no limit.
    """

    kind: Kind
    name: str
    application: str | None = None
    operations: frozenset[str] | None = None
    daily_budget: int | None = None
