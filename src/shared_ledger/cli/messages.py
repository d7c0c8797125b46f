"""The commands about messages between contexts: what could not be handled, and how far behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from uuid import UUID

import typer

from shared_ledger.cli.options import JsonOption, load_services
from shared_ledger.cli.output import print_json, print_line, print_table, second
from shared_ledger.errors import SchemaNotMigrated

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from shared_ledger.messages import DeadLetter, Lag, MessageTables

T = TypeVar("T")

_NOT_DONE = 1
_UNDEFINED_TABLE = "42P01"

app = typer.Typer()


def letter_id(text: str) -> UUID:
    """Read the id of a message."""
    try:
        return UUID(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an id as `list` shows them") from None


ContextOption = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", show_default=False, help="Only of this context."),
]
IdsArgument = Annotated[
    list[UUID] | None,
    typer.Argument(
        metavar="[ID]...", parser=letter_id, show_default=False, help="Which dead letters."
    ),
]


@app.callback(invoke_without_command=True)
def messages(context: typer.Context) -> None:
    """List, retry and drop messages that could not be handled, and make projections anew."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help().rstrip())


@app.command("list")
def list_messages(
    *,
    context: ContextOption = None,
    limit: Annotated[
        int, typer.Option(min=1, max=10_000, metavar="N", help="How many dead letters at most.")
    ] = 100,
    json: JsonOption = False,
) -> None:
    """List dead letters, and how far behind each context is."""
    letters, lags = _run(context, partial(_look, limit=limit))
    if json:
        print_json(
            {
                "dead_letters": [_document(name, letter) for name, letter in letters],
                "contexts": [_lag_document(name, lag) for name, lag in lags],
            }
        )
        return
    if not lags:
        print_line("No service that is configured has contexts with messages.")
        return
    if letters:
        print_table(
            [
                ("Context", "left"),
                ("Id", "left"),
                ("Type", "left"),
                ("Key", "left"),
                ("Attempts", "right"),
                ("Waiting", "right"),
                ("Received (UTC)", "left"),
                ("Error", "left"),
            ],
            [
                (
                    name,
                    letter.id,
                    letter.type,
                    letter.key,
                    letter.attempts,
                    letter.waiting,
                    second(letter.received_on),
                    letter.error,
                )
                for name, letter in letters
            ],
            spare=("Attempts", "Received (UTC)", "Waiting"),
        )
    else:
        print_line("There are no dead letters.")
    print_table(
        [
            ("Context", "left"),
            ("Unpublished", "right"),
            ("Oldest unpublished", "right"),
            ("Waiting", "right"),
            ("Dead", "right"),
            ("Oldest unhandled", "right"),
        ],
        [
            (
                name,
                lag.unpublished,
                _seconds(lag.oldest_unpublished_s),
                lag.new,
                lag.dead,
                _seconds(lag.oldest_unhandled_s),
            )
            for name, lag in lags
        ],
    )


@app.command()
def retry(
    ids: IdsArgument = None,
    *,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    context: ContextOption = None,
    json: JsonOption = False,
) -> None:
    """Have dead letters handled as if they had just come, and then what waits for them."""
    if every == bool(ids):
        raise typer.BadParameter("name dead letters, or say --all", param_hint="'ID'")
    if ids:
        retried = _run(context, partial(_change, what="retry", ids=ids))
    else:
        retried = _run(context, _retry_all)
    if json:
        print_json({"retried": retried})
    else:
        print_line(f"{_letters(retried)} will be handled again.")


@app.command()
def drop(
    ids: IdsArgument = None,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    context: ContextOption = None,
    json: JsonOption = False,
) -> None:
    """Decide that dead letters are never handled; what waits for them is, without them."""
    if not ids:
        raise typer.BadParameter("name dead letters", param_hint="'ID'")
    question = f"Is {_letters(ids)} never to be handled? That cannot be undone"
    if not yes and not typer.confirm(question, err=True):
        print_line("Nothing was dropped.")
        raise typer.Exit(_NOT_DONE)
    dropped = _run(context, partial(_change, what="drop", ids=ids))
    if json:
        print_json({"dropped": dropped})
    else:
        print_line(f"{_letters(dropped)} will never be handled.")


@app.command()
def rebuild(*, context: ContextOption = None, json: JsonOption = False) -> None:
    """Make projections anew from the messages that their contexts have had.

    While that runs, what was there before is shown, and new messages wait.
    """
    from shared_ledger.settings import load_settings

    projections = {
        name: remake
        for service in load_services(load_settings())
        for name, remake in service.projections.items()
    }
    if context is not None and context not in projections:
        known = ", ".join(projections) or "none"
        raise typer.BadParameter(
            f"{context!r} has no projections: {known} has", param_hint="'--context'"
        )
    rebuilt = {
        name: _run(name, partial(_rebuild, remake=remake))
        for name, remake in projections.items()
        if context in (None, name)
    }
    if json:
        print_json({"rebuilt": rebuilt})
        return
    for name, messages_read in rebuilt.items():
        print_line(f"{name} was made anew from {messages_read:,} messages.")
    if not rebuilt:
        print_line("No service that is configured has projections.")


Contexts = Sequence["MessageTables"]


async def _rebuild(
    connection: AsyncConnection,
    _: Contexts,
    *,
    remake: Callable[[AsyncConnection], Awaitable[int]],
) -> int:
    return await remake(connection)


async def _look(
    connection: AsyncConnection, contexts: Contexts, *, limit: int
) -> tuple[list[tuple[str, DeadLetter]], list[tuple[str, Lag]]]:
    """Return the oldest dead letters, and the lags, by context."""
    from shared_ledger.messages import dead_letters, lag_of

    letters = [
        (tables.prefix, letter)
        for tables in contexts
        for letter in await dead_letters.find(connection, tables, limit=limit)
    ]
    letters.sort(key=lambda found: found[1].received_on)
    lags = [(tables.prefix, await lag_of(connection, tables)) for tables in contexts]
    return letters[:limit], lags


async def _change(
    connection: AsyncConnection, contexts: Contexts, *, what: str, ids: Sequence[UUID]
) -> list[UUID]:
    """Retry or drop all of them, or none if one is not there."""
    from shared_ledger.messages import DeadLetterNotFound, dead_letters

    change = {"retry": dead_letters.retry, "drop": dead_letters.drop}[what]
    # One that is named twice is meant once.
    for message_id in dict.fromkeys(ids):
        for tables in contexts:
            try:
                await change(connection, tables, message_id)
                break
            except DeadLetterNotFound:
                continue
        else:
            raise DeadLetterNotFound(message_id)
    return list(dict.fromkeys(ids))


async def _retry_all(connection: AsyncConnection, contexts: Contexts) -> list[UUID]:
    from shared_ledger.messages import dead_letters

    return [
        message_id
        for tables in contexts
        for message_id in await dead_letters.retry_all(connection, tables)
    ]


def _run(context: str | None, work: Callable[[AsyncConnection, Contexts], Awaitable[T]]) -> T:
    """Do work in one transaction over the contexts of all services, or over the one that is named.

    Raises
    ------
    SchemaNotMigrated
        If a context's tables are not there.
    """
    from shared_ledger.connections import Database
    from shared_ledger.settings import load_settings

    settings = load_settings()
    tables = {
        each.prefix: each for service in load_services(settings) for each in service.message_tables
    }
    if context is not None and context not in tables:
        known = ", ".join(tables) or "none"
        raise typer.BadParameter(
            f"there is no context {context!r}: there is {known}", param_hint="'--context'"
        )
    chosen = [each for name, each in tables.items() if context in (None, name)]
    with Database(settings.url, data=settings.shared_ledger_data) as database:
        return asyncio.run(_in(database.url, settings.shared_ledger_schema, chosen, work))


async def _in(
    url: str,
    schema: str,
    contexts: Contexts,
    work: Callable[[AsyncConnection, Contexts], Awaitable[T]],
) -> T:
    from sqlalchemy.exc import ProgrammingError

    from shared_ledger.connections import make_async_engine

    engine = make_async_engine(url, pool_size=1)
    beside_book = engine.execution_options(schema_translate_map={None: schema})
    try:
        async with beside_book.begin() as connection:
            return await work(connection, contexts)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) == _UNDEFINED_TABLE:
            raise SchemaNotMigrated from None
        raise
    finally:
        await engine.dispose()


def _document(context: str, letter: DeadLetter) -> dict[str, Any]:
    return {
        "context": context,
        "id": letter.id,
        "type": letter.type,
        "version": letter.version,
        "key": letter.key,
        "payload": letter.payload,
        "attempts": letter.attempts,
        "waiting": letter.waiting,
        "received_on": letter.received_on,
        "error": letter.error,
    }


def _lag_document(context: str, lag: Lag) -> dict[str, Any]:
    return {
        "context": context,
        "unpublished": lag.unpublished,
        "oldest_unpublished_s": lag.oldest_unpublished_s,
        "waiting": lag.new,
        "dead": lag.dead,
        "oldest_unhandled_s": lag.oldest_unhandled_s,
    }


def _letters(ids: Sequence[UUID]) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{len(ids)} dead letters"


def _seconds(age: float) -> str:
    return f"{age:.0f} s"
