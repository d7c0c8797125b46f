"""The commands about the keys of services: make, list, rotate and revoke them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared_ledger.cli.options import ApplicationOption, JsonOption, open_ledger
from shared_ledger.cli.output import print_facts, print_json, print_line, print_table, second
from shared_ledger.cli.values import duration

if TYPE_CHECKING:
    from shared_ledger.access.keys import ApiKey
    from shared_ledger.access.store import AccessStore
    from shared_ledger.operations import Application

# Who made a key, when it was made here: no user's name begins so.
MADE_HERE = "@command-line"

app = typer.Typer()

KeyArgument = Annotated[str, typer.Argument(metavar="KEY_ID", help="Which key.")]


@app.callback(invoke_without_command=True)
def key(context: typer.Context) -> None:
    """Make, list, rotate and revoke the keys of services."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help().rstrip())


@contextmanager
def open_access(application: str | None) -> Iterator[tuple[AccessStore, Application[Any]]]:
    """Open the users and keys of the configured book."""
    from shared_ledger.access.store import AccessStore

    with (
        open_ledger(application) as ledger,
        AccessStore(ledger.url, ledger.tables) as store,
    ):
        yield store, ledger.application


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What you call the service.")],
    *,
    operation: Annotated[
        list[str] | None,
        typer.Option(
            metavar="OPERATION",
            show_default=False,
            help="May be given again. Without it, every operation.",
        ),
    ] = None,
    daily_budget: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            show_default=False,
            help="The most that it may give to owners on one UTC day.",
        ),
    ] = None,
    every_application: Annotated[
        bool, typer.Option("--every-application", help="For the services of all applications.")
    ] = False,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Make a key for a service; its secret is shown once."""
    from shared_ledger.access.keys import NewKey, check_new

    with open_access(application) as (store, owner):
        asked = NewKey(
            name=name,
            application=None if every_application else owner.name,
            operations=tuple(operation) if operation else None,
            daily_budget=daily_budget,
        )
        made, secret = store.add_key(check_new(asked, owner), MADE_HERE)
    _show_secret(made, secret, json=json)


@app.command("list")
def list_keys(application: ApplicationOption = None, json: JsonOption = False) -> None:
    """List all keys, the revoked ones too."""
    with open_access(application) as (store, _):
        keys = store.keys()
    if json:
        print_json({"keys": keys})
        return
    if not keys:
        print_line("There are no keys.")
        return
    print_table(
        [
            ("Key", "left"),
            ("Name", "left"),
            ("App", "left"),
            ("Operations", "left"),
            ("Budget", "right"),
            ("Today", "right"),
            ("State", "left"),
            ("Created (UTC)", "left"),
            ("By", "left"),
        ],
        [
            (
                one.id,
                one.name,
                one.application or "every one",
                _operations(one),
                one.daily_budget,
                None if one.daily_budget is None else one.issued_today,
                "in use" if one.revoked_on is None else f"revoked {second(one.revoked_on)}",
                second(one.created_on),
                one.created_by,
            )
            for one in keys
        ],
        spare=("By", "Created (UTC)"),
    )


@app.command()
def rotate(
    key_id: KeyArgument,
    *,
    grace: Annotated[
        timedelta | None,
        typer.Option(
            metavar="DURATION",
            parser=duration,
            show_default=False,
            help="How long the old secret still opens, such as 1h; by default it does not.",
        ),
    ] = None,
    application: ApplicationOption = None,
    json: JsonOption = False,
) -> None:
    """Give a key a new secret, which is shown once."""
    from shared_ledger.access.keys import check_grace

    grace_s = check_grace(0 if grace is None else int(grace.total_seconds()))
    with open_access(application) as (store, _):
        rotated, secret = store.rotate_key(key_id, grace_s)
    _show_secret(rotated, secret, json=json)


@app.command()
def revoke(
    key_id: KeyArgument, *, application: ApplicationOption = None, json: JsonOption = False
) -> None:
    """End a key for good; services refuse it within 5 seconds."""
    with open_access(application) as (store, _):
        revoked = store.revoke_key(key_id)
    if json:
        print_json(revoked)
    else:
        print_line(f"Revoked {revoked.id} ({revoked.name}).")


def _show_secret(record: ApiKey, secret: str, *, json: bool) -> None:
    if json:
        import msgspec

        print_json({**msgspec.structs.asdict(record), "key": secret})
        return
    facts: list[tuple[str, object]] = [
        ("x-token", secret),
        ("application", record.application or "every one"),
        ("operations", _operations(record)),
    ]
    if record.daily_budget is not None:
        facts.append(("daily budget", record.daily_budget))
    if record.previous_until is not None:
        facts.append(("old secret until", f"{second(record.previous_until)} UTC"))
    print_facts(f"Key {record.id} ({record.name}); it is shown this once", facts)


def _operations(record: ApiKey) -> str:
    return "every one" if record.operations is None else ", ".join(record.operations)
