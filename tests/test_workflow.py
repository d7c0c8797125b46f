"""What runs on every push is the gate, on each Python that the package says it is for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

TOP = Path(__file__).parent.parent
PYTHONS = re.compile(r"Programming Language :: Python :: (3\.\d+)")


def test_the_workflow_runs_the_gate_on_every_python() -> None:
    (job,) = yaml.safe_load((TOP / ".github/workflows/ci.yml").read_text())["jobs"].values()
    classifiers = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [found[1] for found in map(PYTHONS.fullmatch, classifiers) if found]
    assert job["strategy"]["matrix"]["python"] == pythons
    commands = [step["run"] for step in job["steps"] if "run" in step]
    assert commands == ["sudo .ci/install", ".ci/run"]


def test_the_gate_calls_targets_that_the_makefile_has() -> None:
    gate = (TOP / ".ci/run").read_text()
    targets = re.findall(r"^make ([\w./-]+)", gate, re.MULTILINE)
    assert {"check", "test-lightning", "test-deploy", "test"} <= set(targets)
    makefile = (TOP / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    for program in re.findall(r"^\.ci/(\w+)$", gate, re.MULTILINE):
        assert (TOP / ".ci" / program).stat().st_mode & 0o111, program
