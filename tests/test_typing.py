"""The types reach the caller: correct use is accepted, and each mistake is an error in its line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "typing"
ROOT = HERE.parent.parent
ACCEPTED = sorted((HERE / "accepted").glob("*.py"))
REJECTED = sorted((HERE / "rejected").glob("*.py"))

pytestmark = pytest.mark.slow

Lines = set[tuple[str, int]]


def mypy(files: Iterable[Path]) -> Lines:
    """The lines in which mypy finds an error, by name of the file."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--no-pretty", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = re.findall(r"^(.+?):(\d+): error: ", done.stdout, re.MULTILINE)
    return {(Path(name).name, int(line)) for name, line in found}


def pyright(files: Iterable[Path]) -> Lines:
    """The lines in which basedpyright finds an error, by name of the file."""
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson", *files],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {
        (Path(each["file"]).name, each["range"]["start"]["line"] + 1)
        for each in found
        if each["severity"] == "error"
    }


def marked(files: Iterable[Path]) -> Lines:
    return {
        (file.name, number)
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if line.endswith("  # expect-error")
    }


def test_mypy_accepts_correct_use() -> None:
    assert len(ACCEPTED) == 4
    assert mypy(ACCEPTED) == set()


def test_pyright_accepts_correct_use() -> None:
    assert pyright(file for file in ACCEPTED if file.stem != "composed_mypy") == set()


def test_mypy_finds_each_mistake() -> None:
    assert len(marked(REJECTED)) > 15
    assert mypy(REJECTED) == marked(REJECTED)


def test_pyright_finds_each_mistake() -> None:
    assert pyright(REJECTED) == marked(REJECTED)
