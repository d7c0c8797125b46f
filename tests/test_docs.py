"""What the documentation shows works as it stands."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent


def python(code: str, data: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**environment, "SHARED_LEDGER_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_reference_is_what_the_docstrings_say() -> None:
    made = runpy.run_path(str(TOP / "docs" / "make_reference.py"))["reference"]()
    assert (TOP / "docs" / "reference.md").read_text() == made, "run python docs/make_reference.py"


def test_the_readme_example_prints_what_its_comments_say(data: Path) -> None:
    readme = (TOP / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    assert python(code[1], data).splitlines() == [
        "ada has 2 credits available, 4 required",
        "2",
    ]


def test_the_guide_to_credits_prints_what_its_comments_say(data: Path) -> None:
    guide = (TOP / "docs" / "credits.md").read_text()
    code = re.search(r"```python\n(.*?)```", guide, re.DOTALL)
    assert code is not None
    said = re.findall(r"print\(.*\)  # (.*)", code[1])
    assert python(code[1], data).splitlines() == said
    assert len(said) == 4  # of the four prints


@pytest.mark.parametrize("name", ["two_applications.py"])
def test_the_example_runs(name: str, data: Path) -> None:
    shown = python((TOP / "examples" / name).read_text(), data)
    assert "refused: ada has 1 credits available, 5 required" in shown
    assert "replayed: True" in shown
