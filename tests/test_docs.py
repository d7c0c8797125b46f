"""What the documentation shows works as it stands."""

from __future__ import annotations

import json
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


def test_what_is_said_of_satoshi_spark_is_what_its_service_answers(
    data: Path, tmp_path: Path
) -> None:
    page = (TOP / "docs" / "satoshi-spark.md").read_text()
    _, commands, *_ = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
    with subprocess.Popen(
        [sys.executable, "-m", "shared_ledger.cli", "serve", "--port", "0", "--json"],
        env={**environment, "SHARED_LEDGER_DATA": str(data)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    ) as service:
        try:
            assert service.stdout is not None
            url = json.loads(service.stdout.readline())["url"]
            assert "http://localhost:8000/api" in commands
            done = subprocess.run(
                ["sh", "-eu", "-c", commands.replace("http://localhost:8000", url)],
                env=os.environ | {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"},
                capture_output=True,
                text=True,
                check=True,
                timeout=60,
            )
        finally:
            service.terminate()
    reader, said = json.JSONDecoder(), done.stdout
    answers = []
    while said:
        answer, end = reader.raw_decode(said)
        answers.append(answer)
        said = said[end:]
    *registered, paid, donation, campaign, dashboard = answers
    assert [user["username"] for user in registered] == ["ada", "bob"]
    assert paid["received"] == 2_000
    assert (donation["state"], donation["amount"]) == ("registered", 1_500)
    assert (campaign["total_raised"], campaign["goal"]) == (1_500, 5_000)
    assert dashboard["account_id"] == "bob"
    assert dashboard["balance"] in (500, 2_000)  # a moment after it has changed
