"""The commands about users: the first administrator is made here and nowhere else."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from shared_ledger.cli.keys import open_access
from shared_ledger.cli.options import ApplicationOption, JsonOption
from shared_ledger.cli.output import print_json, print_line
from shared_ledger.errors import ConfigurationError

app = typer.Typer()


@app.callback(invoke_without_command=True)
def user(context: typer.Context) -> None:
    """Make administrators."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help().rstrip())


@app.command("create-admin")
def create_admin(
    username: Annotated[str, typer.Argument(metavar="NAME", help="The name to log in with.")],
    *,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Make an administrator; the password is asked for, or is the first line of standard input."""
    from shared_ledger.access.users import check_password, check_username

    try:
        from shared_ledger.access.passwords import hash_password
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{error.name} is not installed: pip install 'shared-ledger[service]'"
        ) from None
    hashed = hash_password(check_password(_password(check_username(username))))
    with open_access(application) as (store, _):
        made = store.add_user(username, hashed, is_admin=True)
    if json:
        print_json(made)
    else:
        print_line(f"{made.username} is an administrator.")


def _password(username: str) -> str:
    """Ask for a password, twice; from a program, take one line."""
    if sys.stdin.isatty():
        password: str = typer.prompt(
            f"Password of {username}", hide_input=True, confirmation_prompt=True, err=True
        )
        return password
    return sys.stdin.readline().removesuffix("\n").removesuffix("\r")
