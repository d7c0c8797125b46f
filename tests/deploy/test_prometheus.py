"""Prometheus' configuration, as its own tool finds it."""

from __future__ import annotations

import subprocess

import pytest

from deploy.compose import DEPLOY
from deploy.programs import program

pytestmark = pytest.mark.deploy


def test_prometheus_finds_nothing_wrong_with_its_configuration() -> None:
    command = [program("promtool", "prometheus"), "check", "config"]
    said = subprocess.run(
        [*command, str(DEPLOY / "prometheus" / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stdout + said.stderr
