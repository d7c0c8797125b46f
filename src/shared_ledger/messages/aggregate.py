"""What a context's model is made of; it knows no database."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, TypeVar, dataclass_transform

from shared_ledger.messages.message import Message


@dataclass_transform(eq_default=False, kw_only_default=True, field_specifiers=(field,))
@dataclass(eq=False, kw_only=True)
class Aggregate:
    """Something with an identity, whose parts change together and keep its invariants.

    Its fields are declared in the class body, as those of a dataclass, and are given by keyword::

        class Order(Aggregate):
            customer: str
            amount: int
            state: str = "placed"

            def pay(self) -> None:
                self.state = "paid"
                self.raise_event(OrderPaid(order_id=self.entity_id))
    """

    entity_id: str
    _raised: list[Message] = field(default_factory=list, init=False, repr=False)

    def __init_subclass__(cls) -> None:
        """Make the class a dataclass that keeps equality by identity."""
        super().__init_subclass__()
        dataclass(eq=False, kw_only=True)(cls)

    def raise_event(self, message: Message) -> None:
        """Say that something has happened; the unit of work emits it if all is saved."""
        self._raised.append(message)

    def take_raised(self) -> list[Message]:
        """Return what was raised since the last time, in order."""
        raised, self._raised = self._raised, []
        return raised

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.entity_id == self.entity_id

    def __hash__(self) -> int:
        return hash((type(self), self.entity_id))


AggregateT = TypeVar("AggregateT", bound=Aggregate)


class Repository(Protocol[AggregateT]):
    """Where a context's aggregates are found; what was found or added is saved with all else."""

    async def find(self, entity_id: str) -> AggregateT | None:
        """Return an aggregate, the same object each time within one unit of work."""
        ...

    def add(self, aggregate: AggregateT) -> None:
        """Let a new aggregate be saved."""
        ...
