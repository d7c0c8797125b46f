"""The commands about messages: dead letters, and how far behind the contexts are."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from typer.testing import CliRunner, Result

from builders import SHOP, query
from contexts import (
    NOTES_TABLES,
    SHOP_TABLES,
    Note,
    engine_on,
    make_tables,
    notes_context,
    send,
    states,
    work_off,
    written,
)
from shared_ledger.cli import app
from shared_ledger.embedded import Cluster
from shared_ledger.messages import Retries, UnitOfWork
from shared_ledger.service import Service

Run = Callable[..., Result]

SERVICE = Service(
    application=SHOP,
    title="The shop",
    description="It sells.",
    message_tables=[SHOP_TABLES, NOTES_TABLES],
)
SILENT = Service(application=SHOP, title="Another", description="It says nothing.")


@pytest.fixture
def run(cluster: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command over the shop's service, in this process."""
    for name in os.environ:
        if re.fullmatch("DATABASE_URL|DB_.*|SHARED_LEDGER_.*|COLUMNS", name):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DATABASE_URL", cluster.url)
    monkeypatch.setenv("SHARED_LEDGER_SCHEMA", schema)
    monkeypatch.setenv("SHARED_LEDGER_SERVICES", f"{__name__}:SERVICE")

    def invoke(*arguments: str, answer: str | None = None) -> Result:
        return CliRunner().invoke(app, ["messages", *arguments], input=answer)

    return invoke


@pytest.fixture
async def tables(cluster: Cluster, schema: str) -> AsyncIterator[AsyncEngine]:
    """An engine on the tables of the contexts, which are empty."""
    make_tables(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        yield engine


@pytest.fixture
async def letters(tables: AsyncEngine, cluster: Cluster, schema: str) -> list[str]:
    """The ids of dead letters, of the lines a, b and c; behind that of a, one more waits."""

    async def fail(_: Note, __: UnitOfWork) -> None:
        raise RuntimeError("[red]no[/red]")

    await send(tables, *(Note(line=line, number=0) for line in "abc"), Note(line="a", number=1))
    await work_off(tables, [notes_context(fail)], retries=Retries(attempts=1))
    text = f"select message_id from {schema}.notes_inbox where state = 'dead' order by key"
    return [str(message_id) for (message_id,) in query(cluster.url, text)]


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def failed(result: Result, status: int) -> str:
    """The one line of an error."""
    assert result.exit_code == status, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").strip()


# --- list ---


def test_list_shows_dead_letters_and_how_far_behind_contexts_are(
    run: Run, letters: list[str]
) -> None:
    result = run("list")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    first = next(line for line in lines if letters[0] in line)
    assert first.split()[:6] == ["notes", letters[0], "Note", "a", "1", "1"]
    # What comes from outside is shown, not obeyed.
    assert "RuntimeError: [red]no[/red]" in first
    assert all(any(letter in line for line in lines) for letter in letters)
    behind = [line.split() for line in lines[lines.index("") + 1 :]]
    assert ["shop", "0", "0", "s", "0", "0", "0", "s"] in behind
    (notes,) = (words for words in behind if words and words[0] == "notes" and len(words) == 8)
    assert (notes[1], notes[4], notes[5]) == ("0", "1", "3")


def test_list_is_one_document_for_programs(run: Run, letters: list[str]) -> None:
    found = document(run("list", "--json"))
    assert [letter["id"] for letter in found["dead_letters"]] == letters
    letter = found["dead_letters"][0]
    assert letter.pop("received_on").endswith("Z")
    assert letter.pop("error").startswith("RuntimeError: [red]no[/red] (test_cli_messages.py:")
    assert letter == {
        "context": "notes",
        "id": letters[0],
        "type": "Note",
        "version": 1,
        "key": "a",
        "payload": {"line": "a", "number": 0},
        "attempts": 1,
        "waiting": 1,
    }
    shop, notes = found["contexts"]
    assert (shop["context"], shop["unpublished"], shop["dead"]) == ("shop", 0, 0)
    assert (notes["context"], notes["waiting"], notes["dead"]) == ("notes", 1, 3)
    assert 0 < notes["oldest_unhandled_s"] < 300


def test_list_is_of_one_context_and_up_to_a_limit(run: Run, letters: list[str]) -> None:
    found = document(run("list", "--context", "shop", "--json"))
    assert found["dead_letters"] == []
    assert [context["context"] for context in found["contexts"]] == ["shop"]
    found = document(run("list", "--limit", "2", "--json"))
    assert [letter["id"] for letter in found["dead_letters"]] == letters[:2]


def test_nothing_to_list_is_said(
    run: Run, tables: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("list").stdout.startswith("There are no dead letters.\n")
    monkeypatch.setenv("SHARED_LEDGER_SERVICES", f"{__name__}:SILENT")
    assert run("list").stdout == "No service that is configured has contexts with messages.\n"


def test_list_of_a_book_that_is_not_migrated_says_so(run: Run) -> None:
    assert "run `shared-ledger migrate`" in failed(run("list"), 1)


# --- retry ---


async def test_retried_letters_are_handled_and_then_what_waits_for_them(
    run: Run, letters: list[str], tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    result = await asyncio.to_thread(run, "retry", letters[0])
    assert (result.exit_code, result.stdout) == (0, f"{letters[0]} will be handled again.\n")
    await work_off(tables, [notes_context()])
    assert written(cluster.url, schema) == [0, 1]
    assert states(cluster.url, schema, "notes") == {"handled": 2, "dead": 2}


def test_several_letters_are_retried_or_none(
    run: Run, letters: list[str], cluster: Cluster, schema: str
) -> None:
    nobody = str(UUID(int=7))
    assert failed(run("retry", letters[0], nobody), 1) == f"there is no dead letter {nobody}"
    assert states(cluster.url, schema, "notes") == {"new": 1, "dead": 3}
    twice = [letters[0], letters[1], letters[0]]
    assert document(run("retry", *twice, "--json")) == {"retried": letters[:2]}
    assert states(cluster.url, schema, "notes") == {"new": 3, "dead": 1}


def test_all_letters_are_retried(
    run: Run, letters: list[str], cluster: Cluster, schema: str
) -> None:
    assert document(run("retry", "--all", "--context", "shop", "--json")) == {"retried": []}
    assert run("retry", "--all").stdout == "3 dead letters will be handled again.\n"
    assert states(cluster.url, schema, "notes") == {"new": 4}


# --- drop ---


async def test_dropped_letter_is_never_handled_and_lets_others_pass(
    run: Run, letters: list[str], tables: AsyncEngine, cluster: Cluster, schema: str
) -> None:
    result = await asyncio.to_thread(run, "drop", letters[0], "--yes")
    assert (result.exit_code, result.stdout) == (0, f"{letters[0]} will never be handled.\n")
    await work_off(tables, [notes_context()])
    assert written(cluster.url, schema) == [1]
    result = await asyncio.to_thread(run, "drop", *letters[1:], "--yes", "--json")
    assert document(result) == {"dropped": letters[1:]}
    assert states(cluster.url, schema, "notes") == {"handled": 1, "dropped": 3}


def test_drop_asks_first(run: Run, letters: list[str], cluster: Cluster, schema: str) -> None:
    result = run("drop", letters[0], answer="n\n")
    assert result.exit_code == 1
    assert result.stdout.endswith("\nNothing was dropped.\n")
    assert f"Is {letters[0]} never to be handled?" in result.stderr
    assert run("drop", letters[0], answer="").exit_code == 130
    assert states(cluster.url, schema, "notes") == {"new": 1, "dead": 3}
    assert run("drop", letters[0], answer="y\n").exit_code == 0
    assert states(cluster.url, schema, "notes") == {"new": 1, "dead": 2, "dropped": 1}


# --- mistakes ---


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["retry"], "name dead letters, or say --all"),
        (["retry", str(UUID(int=7)), "--all"], "name dead letters, or say --all"),
        (["retry", "seven"], "'seven' is not an id as"),
        (["drop"], "name dead letters"),
        (["drop", "--all"], "No such option: --all"),
        (["list", "--limit", "0"], "'--limit'"),
        (["list", "--context", "till"], "there is no context 'till': there is shop, notes"),
    ],
)
def test_mistake_is_one_line_and_status_2(run: Run, arguments: list[str], sentence: str) -> None:
    assert sentence in failed(run(*arguments), 2)


def test_help_names_the_commands(run: Run) -> None:
    result = run()
    assert all(name in result.stdout for name in ("list", "retry", "drop"))


# --- rebuild ---


def test_contexts_without_projections_have_nothing_to_rebuild(
    run: Run, tables: AsyncEngine
) -> None:
    result = run("rebuild")
    assert (result.exit_code, result.stdout.strip()) == (
        0,
        "No service that is configured has projections.",
    )
    assert "'notes' has no projections: none has" in failed(run("rebuild", "--context", "notes"), 2)
