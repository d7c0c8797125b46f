"""The documentation is whole: a site can be made of it, and nothing in it leads nowhere."""

from __future__ import annotations

import ast
import os
import re
import runpy
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer

from documentation import (
    GONE_THROUGH,
    NOT_RUN,
    PAGES,
    SHOWN,
    TOP,
    asked_for,
    blocks,
    outside_blocks,
    read,
)
from shared_ledger.cli import app

each_page = pytest.mark.parametrize("page", PAGES)

# A link to the target, or the address of a name that is used elsewhere on the page.
LINK = re.compile(r"\]\(\s*([^()\s]+)[^()]*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
HEADING = re.compile(r"^#{1,6} +(.+)$", re.MULTILINE)
# Where the files of somebody's machine are, and where no reader's are.
OF_A_MACHINE = re.compile(r"(?<![\w./])/(home|root|tmp|work|Users)/")


def test_the_reference_is_what_the_docstrings_say() -> None:
    made = runpy.run_path(str(TOP / "docs" / "make_reference.py"))["reference"]()
    assert read("docs/reference.md") == made, "run python docs/make_reference.py"


# --- links ---


def links(page: str) -> list[str]:
    """Where the links and the pictures of a page lead."""
    text = CODE.sub("code", outside_blocks(page))
    return [there or named for there, named in LINK.findall(text)]


def anchors(page: str) -> set[str]:
    """What links may name on a page, as GitHub makes it of its headings."""
    seen: Counter[str] = Counter()
    found = set()
    for heading in HEADING.findall(outside_blocks(page)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


@each_page
def test_every_link_leads_to_something_that_is_there(page: str) -> None:
    folder = (TOP / page).parent
    for target in links(page):
        if re.match(r"https?:", target):
            continue
        path, _, heading = target.partition("#")
        assert not path.startswith("/"), target
        there = (folder / path).resolve() if path else TOP / page
        assert there.is_relative_to(TOP), target
        assert there.exists(), target
        if heading:
            assert heading in anchors(str(there.relative_to(TOP))), target


@each_page
def test_no_page_names_a_place_on_somebodys_machine(page: str) -> None:
    assert [line for line in read(page).splitlines() if OF_A_MACHINE.search(line)] == []


def test_each_picture_is_small_and_shown() -> None:
    shown = {(TOP / page).parent / target for page in PAGES for target in links(page)}
    pictures = list((TOP / "docs" / "pictures").iterdir())
    assert len(pictures) > 1
    for picture in pictures:
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert picture.stat().st_size < 200_000, picture
        assert picture in shown, picture


def test_links_are_found_wherever_they_stand() -> None:
    assert len(links("README.md")) > 20
    assert "docs/access.md#limits" in links("README.md")
    assert "is-it-alive-can-it-answer" in anchors("docs/access.md")


# --- what the blocks are for ---


@each_page
def test_every_block_has_a_language_and_is_seen(page: str) -> None:
    fences = re.findall(r"^[ >]*(?:```|~~~)", read(page), re.MULTILINE)
    assert len(fences) == 2 * len(blocks(page)), "a block does not end, or cannot be found"
    assert all(block.kind for block in blocks(page))


@each_page
def test_every_block_is_run_or_says_why_not(page: str) -> None:
    if GONE_THROUGH in read(page):
        assert page in {page for page, _ in asked_for("steps")}
        return
    for block in blocks(page):
        if block.mark.startswith(NOT_RUN):
            assert len(block.mark) > len(NOT_RUN)
        elif block.kind != SHOWN or block.mark:
            assert block.mark, f"nothing says who runs this:\n{block.text}"
            assert (page, block.mark) in asked_for("block"), (
                f"nobody runs this; see tests/documentation.py:\n{block.text}"
            )


@each_page
def test_no_two_blocks_of_a_page_have_one_name(page: str) -> None:
    names = [block.mark for block in blocks(page) if not block.mark.startswith(NOT_RUN)]
    assert [name for name, times in Counter(filter(None, names)).items() if times > 1] == []


def test_a_block_that_nobody_runs_is_found() -> None:
    assert ("docs/access.md", "health") in asked_for("block")
    assert ("docs/access.md", "program") not in asked_for("block")


# --- sentences of the program ---


def sentences() -> list[str]:
    """Every text in the sources, with … for what is filled in."""
    found = []
    for file in (TOP / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                ]
                found.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(re.sub("%[sd]", "…", node.value))
    return found


def quoted() -> list[str]:
    """The sentences that the page says the program says."""
    text = read("docs/troubleshooting.md")
    rows = re.findall(r"^\| (?:\d{3} \| )?([^|]*`[^|]*) \|", text, re.MULTILINE)
    return [code for row in rows for _, code in CODE.findall(row)]


def test_what_the_program_is_said_to_say_stands_in_its_sources() -> None:
    known = sentences()
    assert len(quoted()) > 40
    for sentence in quoted():
        pattern = re.compile(".*".join(map(re.escape, sentence.split("…"))), re.DOTALL)
        assert any(pattern.search(each) for each in known), sentence


# --- commands in the middle of a sentence ---


def of_this_program() -> Iterator[tuple[str, list[str]]]:
    """The calls of ``shared-ledger`` in the pages' sentences, with what follows its name."""
    for page in PAGES:
        for _, code in CODE.findall(outside_blocks(page)):
            words = code.split()
            if words and words[0] == "shared-ledger" and len(words) > 1:
                yield page, words[1:]


def test_every_command_that_is_named_exists_with_its_options() -> None:
    found = list(of_this_program())
    assert len(found) > 20
    for page, words in found:
        command: Any = typer.main.get_command(app)
        for word in words:
            if hasattr(command, "commands") and not word.startswith("-"):
                assert word in command.commands, (page, words)
                command = command.commands[word]
            elif word.startswith("--"):
                options = {name for each in command.params for name in each.opts}
                # What `bench` is told, it hands on.
                known = {"--entries", "--json"} if command.name == "bench" else options
                assert word in {*known, "--help"}, (page, words)


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.MULTILINE))
    named = {
        word
        for page in PAGES
        for _, code in CODE.findall(outside_blocks(page))
        for word in re.sub(r'"[^"]*"', "", code).split()[1:]
        if code.split()[0] == "make" and re.fullmatch(r"[a-z-]+", word)
    }
    assert {"run", "test", "up-prod"} <= named <= targets


# --- the site ---


class Fetched(HTMLParser):
    """What a browser fetches to show a page, and where links lead that are none of the text."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        wanted = {"src", "srcset", "data"} | ({"href"} if tag == "link" else set())
        self.addresses += [value for name, value in attrs if name in wanted and value]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, made as `make docs` makes it."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=TOP,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


def test_every_page_is_in_the_site(site: Path) -> None:
    outside = {"README.md": "index", "ARCHITECTURE.md": "architecture", "CHANGELOG.md": "changelog"}
    for page in PAGES:
        place = outside.get(page, page.removeprefix("docs/").removesuffix(".md"))
        html = (site / f"{place}.html").read_text()
        title = HEADING.findall(outside_blocks(page))[0]
        assert title.split(":")[0] in html
        # A fence that was not understood stands there as it was written.
        assert "```" not in html


def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for file in site.rglob("*.html"):
        fetched = Fetched()
        fetched.feed(file.read_text())
        assert fetched.addresses
        assert [address for address in fetched.addresses if "//" in address] == []
    for file in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//", file.read_text()) == []


def shown(text: str) -> str:
    """A part of docs/access.md, as the site has it."""
    made = runpy.run_path(str(TOP / "docs" / "make_site.py"))
    found: str = made["as_in_site"](text, source="docs/access.md", place="access.md")
    return found


def test_a_link_to_a_file_of_the_repository_names_it_in_the_site() -> None:
    assert shown("[`RIGHTS`](../src/a.py)") == "`RIGHTS` (`src/a.py`)"
    assert shown("[`src/a.py`](../src/a.py)") == "`src/a.py`"
    assert shown("[the README](../README.md#start)") == "[the README](index.md#start)"
    assert shown("[up](decisions/)").startswith("[up](decisions/0001-")
    assert shown("[limits](#limits)") == "[limits](#limits)"
    assert shown("```sh\n[a](../b)\n```") == "```sh\n[a](../b)\n```"


def test_what_a_block_is_of_stands_above_it_in_the_site() -> None:
    assert shown("<!-- it -->\n```python a.py +\n```") == '```python title="a.py, at its end"\n```'


def test_what_belongs_to_a_point_of_a_list_does_so_in_the_site() -> None:
    assert shown("1. One\n   more.\n\n   ```sh\n   ls\n   ```\n\nAfter.") == (
        "1. One\n    more.\n\n    ```sh\n    ls\n    ```\n\nAfter."
    )
