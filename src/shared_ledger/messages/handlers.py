"""How a context says what it does with which message.

::

    @handles(RequestTransfer)
    async def transfer(message: RequestTransfer, uow: AccountingUnitOfWork) -> None:
        ...

    ACCOUNTING = Context(
        name="accounting",
        tables=tables,
        unit_of_work=AccountingUnitOfWork,
        handlers=[transfer, open_account],
    )

A handler is a function of a message and a unit of work, which is committed for it together with the
mark that the message is handled. It may be called again with the same message after a failure, of
which nothing has remained in the database; what it does elsewhere has to stand being done twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from shared_ledger.errors import ConfigurationError
from shared_ledger.messages.message import Catalogue, Message
from shared_ledger.messages.tables import MessageTables
from shared_ledger.messages.unit_of_work import Source, UnitOfWorkT

MessageT = TypeVar("MessageT", bound=Message)


@dataclass(frozen=True, slots=True)
class Handler(Generic[MessageT, UnitOfWorkT]):
    """What a context does with the messages of one type; called as the function that it was."""

    kind: type[MessageT]
    function: Callable[[MessageT, UnitOfWorkT], Awaitable[None]]

    async def __call__(self, message: MessageT, uow: UnitOfWorkT) -> None:
        """Call the function."""
        await self.function(message, uow)


def handles(
    kind: type[MessageT],
) -> Callable[[Callable[[MessageT, UnitOfWorkT], Awaitable[None]]], Handler[MessageT, UnitOfWorkT]]:
    """Make a function the handler of one type of messages."""

    def made(
        function: Callable[[MessageT, UnitOfWorkT], Awaitable[None]],
    ) -> Handler[MessageT, UnitOfWorkT]:
        return Handler(kind, function)

    return made


@dataclass(frozen=True, kw_only=True)
class Context(Generic[UnitOfWorkT]):
    """A bounded context, as its messages see it.

    ``name`` is what transports and metrics call it. ``unit_of_work`` makes one over an engine or a
    connection, on the same database as ``tables``.

    Raises
    ------
    ConfigurationError
        If two handlers are for one type, or two types have one name.
    """

    name: str
    tables: MessageTables
    unit_of_work: Callable[[Source], UnitOfWorkT]
    handlers: Sequence[Handler[Any, UnitOfWorkT]]
    catalogue: Catalogue = field(init=False, repr=False)
    _by_kind: dict[type[Message], Handler[Any, UnitOfWorkT]] = field(
        init=False, repr=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        for handler in self.handlers:
            if self._by_kind.setdefault(handler.kind, handler) is not handler:
                raise ConfigurationError(f"{self.name} has two handlers of {handler.kind.__name__}")
        object.__setattr__(self, "catalogue", Catalogue(self._by_kind))

    @property
    def kinds(self) -> Collection[type[Message]]:
        """The messages that it wants."""
        return self._by_kind.keys()

    async def handle(self, message: Message, uow: UnitOfWorkT) -> None:
        """Have a message of one of its kinds handled."""
        await self._by_kind[type(message)](message, uow)
