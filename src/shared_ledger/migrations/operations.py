"""Alembic directives for operations, and the hook that writes them in ``--autogenerate``.

``op.add_ledger_operations("bookings", ["BOOKING"])`` adds the labels to the book's enum and lets
the application post them; no row is rewritten, at any size. ``op.remove_ledger_operations`` takes
the permission back, and refuses to when entries use it. The label itself stays in the enum:
PostgreSQL cannot drop one without rewriting the table, and an unused label does no harm.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic.autogenerate import comparators, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, Operations
from alembic.operations.ops import UpgradeOps

from shared_ledger.errors import MigrationRefused
from shared_ledger.migrations import add_operations, known_operations
from shared_ledger.operations import Application
from shared_ledger.schema import book_tables


def register_operations_hook() -> None:
    """Make the directives and the hook known to Alembic; importing this module has done it."""


@Operations.register_operation("add_ledger_operations")
class AddLedgerOperations(MigrateOperation):
    """Let an application post these operations."""

    def __init__(self, app: str, operations: list[str]) -> None:
        self.app = app
        self.operations = operations

    @classmethod
    def add_ledger_operations(cls, operations: Operations, app: str, names: list[str]) -> None:
        """Let an application post these operations."""
        operations.invoke(cls(app, names))

    def reverse(self) -> RemoveLedgerOperations:
        """Return the directive that undoes this one."""
        return RemoveLedgerOperations(self.app, self.operations)

    def to_diff_tuple(self) -> tuple[str, str, list[str]]:
        """Return what ``alembic check`` prints."""
        return "add_ledger_operations", self.app, self.operations


@Operations.register_operation("remove_ledger_operations")
class RemoveLedgerOperations(MigrateOperation):
    """Take these operations back from an application, if no entry uses them."""

    def __init__(self, app: str, operations: list[str]) -> None:
        self.app = app
        self.operations = operations

    @classmethod
    def remove_ledger_operations(cls, operations: Operations, app: str, names: list[str]) -> None:
        """Take these operations back from an application.

        Raises
        ------
        MigrationRefused
            If entries use one of them.
        """
        operations.invoke(cls(app, names))

    def reverse(self) -> AddLedgerOperations:
        """Return the directive that undoes this one."""
        return AddLedgerOperations(self.app, self.operations)

    def to_diff_tuple(self) -> tuple[str, str, list[str]]:
        """Return what ``alembic check`` prints."""
        return "remove_ledger_operations", self.app, self.operations


@Operations.implementation_for(AddLedgerOperations)
def _add(operations: Operations, directive: AddLedgerOperations) -> None:
    schema = operations.get_context().opts["book_schema"]
    add_operations(operations.get_bind(), schema, directive.app, directive.operations)


@Operations.implementation_for(RemoveLedgerOperations)
def _remove(operations: Operations, directive: RemoveLedgerOperations) -> None:
    schema = operations.get_context().opts["book_schema"]
    tables = book_tables(schema)
    connection = operations.get_bind()
    # Nobody may post one of them between the look and the removal.
    connection.execute(sa.text(f"lock table {tables.entries.fullname} in share mode"))
    used = [
        operation
        for operation in directive.operations
        if connection.scalar(
            sa.text(
                f"select exists (select from {tables.entries.fullname} "
                f"where app = :app and operation::text = :operation)"
            ),
            {"app": directive.app, "operation": operation},
        )
    ]
    if used:
        raise MigrationRefused(
            f"the downgrade would lose entries: {directive.app} has posted {', '.join(used)}. "
            "Entries are never deleted; keep this revision"
        )
    connection.execute(
        tables.operations.delete().where(
            tables.operations.c.app == directive.app,
            tables.operations.c.operation.in_(directive.operations),
        )
    )


@renderers.dispatch_for(AddLedgerOperations)
def _render_add(_: AutogenContext, directive: AddLedgerOperations) -> str:
    return f"op.add_ledger_operations({_quoted(directive.app)}, {_quoted(directive.operations)})"


@renderers.dispatch_for(RemoveLedgerOperations)
def _render_remove(_: AutogenContext, directive: RemoveLedgerOperations) -> str:
    return f"op.remove_ledger_operations({_quoted(directive.app)}, {_quoted(directive.operations)})"


def _quoted(names: str | list[str]) -> str:
    # With the quotes that formatters want; the names themselves need no escapes.
    return json.dumps(names)


@comparators.dispatch_for("schema")
def _compare(context: AutogenContext, upgrade: UpgradeOps, _: Any) -> None:
    """Find the operations of the application that the book does not know yet."""
    application: Application[Any] | None = context.opts.get("application")
    if application is None or context.connection is None:
        return
    known = known_operations(context.connection, context.opts["book_schema"], application.name)
    missing = [operation for operation in application.rules if operation not in known]
    if missing:
        # First in the migration, so that what follows may rely on it.
        upgrade.ops.insert(0, AddLedgerOperations(application.name, missing))
