"""The documentation as tests read it: its pages, and the blocks of them that are run.

A fenced block is of a language, and what becomes of it stands in a comment just above it:

- ``<!-- name -->``: a test runs it, or compares it with what it saw. The test gets it by
  ``block("docs/page.md", "name")``; page and name stand in its file as they are.
- ``<!-- not run: reason -->``: no test does.

Blocks of ``text`` need none: they show what is answered. A page that a test goes through from its
beginning to its end says so once, ``<!-- every block is run -->``, and the test gets it by
``steps("docs/page.md")``.
"""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import NamedTuple

TOP = Path(__file__).parent.parent
PAGES = sorted(
    str(file.relative_to(TOP)) for file in (*TOP.glob("*.md"), *(TOP / "docs").rglob("*.md"))
)
"""The paths of all pages, from the top of the repository."""

GONE_THROUGH = "every block is run"
NOT_RUN = "not run: "
SHOWN = "text"
USUAL = "production.md"
"""The page of which ``deploy.guide.block`` gives blocks unless it is told another."""

_FENCED = re.compile(
    r"^(?: *<!-- (?P<mark>[^\n]+) -->\n)?"
    r"(?P<indent> *)```(?P<kind>\w*)(?: +(?P<about>[^\n]+))?\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    """A fenced block: the comment above it, its language, what it is about, and its text."""

    mark: str
    kind: str
    about: str
    text: str


def read(page: str) -> str:
    """A page, as it is written."""
    return (TOP / page).read_text()


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    found = []
    for each in _FENCED.finditer(read(page)):
        # In a point of a list it is indented as a whole.
        text = re.sub(rf"^{each['indent']}", "", each["text"], flags=re.MULTILINE)
        found.append(Block(each["mark"] or "", each["kind"], each["about"] or "", text))
    return found


def block(page: str, name: str) -> str:
    """The text of the block under a name."""
    (found,) = [block.text for block in blocks(page) if block.mark == name]
    return found


def steps(page: str) -> list[Block]:
    """The blocks of a page that a test goes through, in order."""
    assert f"<!-- {GONE_THROUGH} -->\n" in read(page)
    return [block for block in blocks(page) if not block.mark.startswith(NOT_RUN)]


def outside_blocks(page: str) -> str:
    """A page without its fenced blocks."""
    return _FENCED.sub("", read(page))


@cache
def asked_for(function: str) -> frozenset[tuple[str, str]]:
    """Pages, and names that may be of blocks, in the files of tests that get blocks this way."""
    found = set()
    for file in (TOP / "tests").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(file.read_text())))
        imported = {
            (node.module, name.name)
            for node in nodes
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }
        said = {str(node.value) for node in nodes if isinstance(node, ast.Constant)}
        if ("documentation", function) in imported:
            pages = said.intersection(PAGES)
        elif ("deploy.guide", function) in imported:
            pages = {page for page in PAGES if page.removeprefix("docs/") in {*said, USUAL}}
        else:
            continue
        found |= set(product(pages, said))
    return frozenset(found)


def run(commands: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run commands as a reader's shell does, up to the first that fails; what they say."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**environment, "PATH": path, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
