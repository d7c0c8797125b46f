"""A repository over one table, as most contexts need it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, Generic

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from shared_ledger.messages.aggregate import AggregateT
from shared_ledger.messages.errors import ConcurrentChange
from shared_ledger.messages.message import Message
from shared_ledger.messages.unit_of_work import UnitOfWork


@dataclass(slots=True)
class _Tracked(Generic[AggregateT]):
    aggregate: AggregateT
    version: int | None
    """In the database, when it was found; ``None`` of a new one."""
    row: Mapping[str, Any] | None
    raised: bool = False


class TableRepository(ABC, Generic[AggregateT]):
    """Finds and saves aggregates of which each is a row of ``table``.

    The table's primary key is one column, the aggregate's ``entity_id``, and its column
    ``version`` (bigint, not null) counts the changes: a row that somebody else changed in the
    meantime is not overwritten.
    """

    table: ClassVar[sa.Table]

    def __init__(self, uow: UnitOfWork) -> None:
        self._uow = uow
        self._tracked: dict[str, _Tracked[AggregateT]] = {}
        (self._id,) = self.table.primary_key.columns
        uow.track(self)

    @abstractmethod
    def row_of(self, aggregate: AggregateT) -> dict[str, Any]:
        """Return the columns of an aggregate, all but the key and the version."""

    @abstractmethod
    def aggregate_of(self, row: sa.RowMapping) -> AggregateT:
        """Return the aggregate of a row."""

    async def find(self, entity_id: str) -> AggregateT | None:
        """Return an aggregate, the same object each time within one unit of work."""
        found = self._tracked.get(entity_id)
        return found.aggregate if found else await self.find_where(self._id == entity_id)

    async def find_where(self, *conditions: sa.ColumnElement[bool]) -> AggregateT | None:
        """Return the one aggregate whose row, as it is stored, meets the conditions."""
        chosen = sa.select(self.table).where(*conditions)
        row = (await self._uow.connection.execute(chosen)).mappings().one_or_none()
        if row is None:
            return None
        known = self._tracked.get(row[self._id])
        if known is not None:
            return known.aggregate
        aggregate = self.aggregate_of(row)
        self._tracked[aggregate.entity_id] = _Tracked(
            aggregate, row["version"], deepcopy(self.row_of(aggregate))
        )
        return aggregate

    def add(self, aggregate: AggregateT) -> None:
        """Let a new aggregate be saved.

        If there is one with its id by then, saving raises ``ConcurrentChange``.
        """
        if aggregate.entity_id in self._tracked:
            raise ValueError(f"{aggregate!r} is known already: change the one that was found")
        self._tracked[aggregate.entity_id] = _Tracked(aggregate, None, None)

    @property
    def place(self) -> str:
        """The table's name."""
        return self.table.name

    async def save(self) -> None:
        """Save what changed, in the order of ids."""
        for _, tracked in sorted(self._tracked.items()):
            row = self.row_of(tracked.aggregate)
            # What only raised something is saved as well: its row's lock keeps its messages in
            # order.
            if tracked.version is None or tracked.raised or row != tracked.row:
                await self._save(tracked, row)

    def take_raised(self) -> list[Message]:
        """Return what its aggregates raised since the last time."""
        messages: list[Message] = []
        for tracked in self._tracked.values():
            raised = tracked.aggregate.take_raised()
            tracked.raised |= bool(raised)
            messages += raised
        return messages

    async def _save(self, tracked: _Tracked[AggregateT], row: Mapping[str, Any]) -> None:
        entity_id = tracked.aggregate.entity_id
        statement: sa.Insert | sa.Update
        if tracked.version is None:
            statement = (
                insert(self.table)
                .values({self._id.name: entity_id, "version": 1, **row})
                .on_conflict_do_nothing(index_elements=[self._id])
            )
        else:
            statement = (
                sa.update(self.table)
                .where(self._id == entity_id, self.table.c.version == tracked.version)
                .values(version=tracked.version + 1, **row)
            )
        saved = await self._uow.connection.execute(statement.returning(self._id))
        if saved.first() is None:
            raise ConcurrentChange(f"{type(tracked.aggregate).__name__} {entity_id}")
