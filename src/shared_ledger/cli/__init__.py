"""The command ``shared-ledger``.

Each command imports what it needs when it runs, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import Annotated

import typer

from shared_ledger.cli import (
    books,
    doctor,
    expiring,
    holding,
    importing,
    keys,
    messages,
    moving,
    new_app,
    posting,
    serving,
    statement,
    users,
)
from shared_ledger.cli.group import OneLineErrors

__all__ = ["app", "main"]

# What a shell adds to a signal's number when it reports that the signal ended a program.
SIGNALLED = 128

_ENDINGS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]

app = typer.Typer(
    name="shared-ledger",
    cls=OneLineErrors,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from shared_ledger import __version__

        typer.echo(f"shared-ledger {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def shared_ledger(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001  # its callback has answered it
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """One credits ledger for all of a team's applications.

    Settings are read from the environment and a file .env.

    DATABASE_URL names a PostgreSQL; without it an embedded one keeps its files in ./data.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help().rstrip())


_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Move credits": {
        "post": posting.post,
        "transfer": moving.transfer,
        "reverse": moving.reverse,
        "hold": holding.hold,
        "capture": holding.capture,
        "release": holding.release,
        "import": importing.import_file,
    },
    "Look at an owner": {
        "balance": posting.balance,
        "history": posting.history,
        "statement": statement.statement,
        "holds": holding.holds,
        "grants": expiring.grants,
    },
    "Run the book": {
        "serve": serving.serve,
        "migrate": books.migrate,
        "sweep": expiring.sweep,
        "verify": books.verify,
        "doctor": doctor.doctor,
        "bench": serving.bench,
    },
    "Build on it": {
        "new-app": new_app.new_app,
    },
}

for _panel, _commands in _COMMANDS.items():
    for _name, _command in _commands.items():
        app.command(_name, rich_help_panel=_panel)(_command)

app.add_typer(messages.app, name="messages", rich_help_panel="Run the book")
app.add_typer(keys.app, name="key", rich_help_panel="Say who may call")
app.add_typer(users.app, name="user", rich_help_panel="Say who may call")


def main() -> None:
    """Run the command line."""
    # As an interrupt does: close what is open, the embedded database above all, then end.
    for number in _ENDINGS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _terminated)
    # Not Python's own handler, in whose place asyncio would put one that waits for the event loop.
    signal.signal(signal.SIGINT, _interrupted)
    app()


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _terminated(number: int, _frame: FrameType | None) -> None:
    # Once: what closes the ledger must not be interrupted by a second one.
    for ending in _ENDINGS:
        signal.signal(ending, signal.SIG_IGN)
    sys.exit(SIGNALLED + number)
