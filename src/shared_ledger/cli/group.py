"""How every command ends: an exit status and, if it failed, one line that says why.

The status is 0 for success, 1 for a refusal or a failure, 2 for what the caller has to mend: the
command's own words or the configuration; 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from shared_ledger.cli.output import print_error
from shared_ledger.errors import ConfigurationError, LedgerError

FAILURE = 1
USAGE = 2
INTERRUPTED = 130

_NEGATIVE = re.compile(r"-[0-9].*")

# Typer has a copy of click in it, or uses click, by its version. Either has this public name.
_UsageError = typer.BadParameter.__mro__[1]


class OneLineErrors(TyperGroup):
    """The commands, with every error on one line of its own."""

    def main(self, *args: Any, **options: Any) -> NoReturn:
        """Run the command line and exit."""
        try:
            status = super().main(*args, **{**options, "standalone_mode": False})
            sys.stdout.flush()
        except (KeyboardInterrupt, typer.Abort):
            status = INTERRUPTED
        except BrokenPipeError:
            # Nobody reads the output any more (`| head`): say nothing.
            status = FAILURE
        except Exception as error:  # Whatever it is, the user gets one line.
            if sys.flags.dev_mode:
                raise
            status, sentence = _explain(error)
            print_error(sentence)
        _let_go_of_output()
        sys.exit(status if isinstance(status, int) else 0)


def _let_go_of_output() -> None:
    """Forget what cannot be written: Python would try again when it ends, and fail for it."""
    try:
        sys.stdout.flush()
    except OSError:
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123  # a descriptor is wanted
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _explain(error: Exception) -> tuple[int, str]:
    """Return the exit status and the sentence for an error."""
    if isinstance(error, LedgerError):
        return USAGE if isinstance(error, ConfigurationError) else FAILURE, str(error)
    if isinstance(error, _UsageError):
        return USAGE, _usage(error)
    return FAILURE, _failure(error)


def _usage(error: Any) -> str:
    sentence = str(error.format_message()).strip().rstrip(".")
    if _NEGATIVE.fullmatch(getattr(error, "option_name", "")):
        sentence = f"{sentence} (no argument is a negative number)"
    return sentence if error.ctx is None else f"{sentence}; see {error.ctx.command_path} --help"


def _failure(error: Exception) -> str:
    if isinstance(error, OSError):
        reason = error.strerror or str(error)
        return f"{reason}: {error.filename}" if error.filename else reason
    if isinstance(error, ModuleNotFoundError) and error.name in _SERVICE_MODULES:
        return f"{error.name} is not installed: pip install 'shared-ledger[service]'"
    from sqlalchemy.exc import DBAPIError

    if isinstance(error, DBAPIError):
        return f"the database says: {str(error.orig).partition(chr(10))[0]}"
    return f"unexpected {type(error).__name__}: {error} (PYTHONDEVMODE=1 shows where)"


_SERVICE_MODULES = frozenset(
    {
        "argon2",
        "fastapi",
        "httptools",
        "jwt",
        "prometheus_client",
        "pwdlib",
        "starlette",
        "structlog",
        "uvicorn",
        "uvloop",
    }
)
