"""The command ``shared-ledger``.

Each command imports what it needs when it runs, so that help and mistakes are answered at once.
"""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import Annotated

import typer

from shared_ledger.cli import books, doctor, importing, posting, serving
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


app.command("serve")(serving.serve)
app.command("migrate")(books.migrate)
app.command("post")(posting.post)
app.command("balance")(posting.balance)
app.command("history")(posting.history)
app.command("import")(importing.import_file)
app.command("verify")(books.verify)
app.command("doctor")(doctor.doctor)
app.command("bench")(serving.bench)


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
