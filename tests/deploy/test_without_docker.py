"""What the guide says of running it without Docker: the unit of systemd, and nginx of Debian."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from deploy.compose import DEPLOY
from deploy.guide import block
from deploy.nginx import rendered
from deploy.programs import program
from instances import Instance, running
from lightning.process import free_port
from serving import SECRET_KEY
from shared_ledger.embedded import Cluster

pytestmark = pytest.mark.deploy

UNIT = DEPLOY / "systemd" / "shared-ledger@.service"
PROGRAMS = "/opt/shared-ledger/bin/"


def unit_here() -> str:
    """The unit, with the programs of this checkout."""
    return UNIT.read_text().replace(PROGRAMS, f"{Path(sys.executable).parent}/")


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path) -> None:
    (tmp_path / UNIT.name).write_text(unit_here())
    said = subprocess.run(
        [program("systemd-analyze", "systemd"), "verify", str(tmp_path / UNIT.name)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (said.returncode, said.stderr) == (0, "")


def test_an_instance_runs_as_its_unit_says(tmp_path: Path, cluster: Cluster, schema: str) -> None:
    text = unit_here()
    text = text.replace("%i", str(free_port()))
    (command,) = re.findall(r"(?m)^ExecStart=(.*)$", text)
    instance = Instance(
        tmp_path / "instance",
        cluster.url,
        schema,
        command=shlex.split(command),
        **dict(re.findall(r"(?m)^Environment=(\w+)=(.*)$", text)),
    )
    instance.migrate()
    with running(instance):
        # As in production only.
        assert "strict-transport-security" in httpx.get(f"{instance.url}/health").headers
    assert instance.exit_code == 0


def test_the_guides_settings_are_all_that_an_instance_needs(
    cluster: Cluster, schema: str, tmp_path: Path
) -> None:
    names = re.findall(r"(?m)^(\w+)=", block("env"))
    given = {"DATABASE_URL": cluster.url, "SECRET_KEY": SECRET_KEY, "REDIS_URL": ""}
    assert sorted(given) == sorted(names)
    done = subprocess.run(
        [sys.executable, "-m", "shared_ledger.cli", "migrate"],
        cwd=tmp_path,
        env={"ENVIRONMENT": "production", "SHARED_LEDGER_SCHEMA": schema, **given},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_debians_nginx_takes_the_configuration_that_the_guide_makes(tmp_path: Path) -> None:
    nginx = program("nginx", "nginx")
    program("envsubst", "gettext-base")
    if not Path("/etc/nginx/sites-available").is_dir():
        pytest.skip("nginx is not Debian's")
    here = tmp_path / "nginx"
    shutil.copytree("/etc/nginx", here, symlinks=True)
    logs = tmp_path / "log"
    logs.mkdir()

    def moved(text: str) -> str:
        text = text.replace("/etc/nginx", str(here)).replace("/var/log/nginx", str(logs))
        return text.replace("/run/nginx.pid", f"{tmp_path}/pid").replace(
            "/var/lib/nginx", str(logs)
        )

    (here / "nginx.conf").write_text(moved((here / "nginx.conf").read_text()))
    check = f"{nginx} -t -c {here}/nginx.conf"
    said = subprocess.run(
        ["sh", "-euc", moved(block("nginx")).replace("nginx -t\n", f"{check}\n")],
        cwd=DEPLOY.parent,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.returncode == 0, said.stderr
    made = (here / "conf.d" / "shared-ledger.conf").read_text()
    settings = dict(re.findall(r"(NGINX_\w+)=(\S+)", moved(block("nginx"))))
    ports = {
        f"{name}_{number}": f"127.0.0.1:800{number}"
        for name in ("LEDGER", "CONTENT", "ECOMMERCE", "CROWDFUNDING")
        for number in (1, 2)
    }
    assert made == rendered("service.conf.template", settings | ports)
