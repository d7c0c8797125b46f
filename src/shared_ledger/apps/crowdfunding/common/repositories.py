"""A repository of aggregates whose fields are the columns of their table, name for name."""

from __future__ import annotations

from typing import Any, ClassVar

import sqlalchemy as sa

from shared_ledger.messages import TableRepository
from shared_ledger.messages.aggregate import AggregateT


class FieldRepository(TableRepository[AggregateT]):
    """Finds and saves aggregates of the class ``aggregate``; the key's column is ``entity_id``."""

    aggregate: ClassVar[type[Any]]

    def row_of(self, aggregate: AggregateT) -> dict[str, Any]:
        """Return an aggregate's columns."""
        kept = {self._id.name, "version"}
        return {
            c.name: getattr(aggregate, c.name) for c in self.table.columns if c.name not in kept
        }

    def aggregate_of(self, row: sa.RowMapping) -> AggregateT:
        """Return a row's aggregate."""
        fields = {name: value for name, value in row.items() if name != "version"}
        found: AggregateT = self.aggregate(entity_id=fields.pop(self._id.name), **fields)
        return found
