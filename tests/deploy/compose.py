"""The containers of `deploy/compose.yaml`, on an engine of the tests' own."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.process import free_port

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
STANDINS_VARIABLE = "SHARED_LEDGER_STANDINS"
# Of these there are none, and what is tested does without them.
WITHOUT_STANDIN = ("grafana", "jaeger", "pgadmin")
OURS = "shared-ledger"
PROJECT = "shared-ledger-tested"
TAG = "tested"
# A network that no installation is likely to have.
NETWORK = "10.213.89"
TIMEOUT_S = 600
HEALTHY_TIMEOUT_S = 120


class NoContainers(Exception):
    """There can be none here; the message says why, in one line."""


class Failed(AssertionError):
    """A command has failed; the message is what it said last."""


def standins() -> Path:
    """The folder with the stand-ins of public images, which needs root.

    Raises
    ------
    NoContainers
        If there is none, or it cannot be used.
    """
    folder = Path(os.environ.get(STANDINS_VARIABLE) or TOP.parent / "shared" / "standins")
    if not (folder / "engine").is_file():
        raise NoContainers(f"no stand-ins of images in {folder} ({STANDINS_VARIABLE} names them)")
    if os.geteuid() != 0:
        raise NoContainers("a Docker engine of one's own needs root")
    return folder


@contextmanager
def engine(folder: Path) -> Iterator[dict[str, str]]:
    """Run a private engine while the block runs; what to add to the environment for it.

    One that runs already is used, and left running.
    """
    program = str(folder / "engine")
    ran_before = (
        subprocess.run([program, "status"], capture_output=True, check=False).returncode == 0
    )
    started = subprocess.run([program, "start"], capture_output=True, text=True, check=False)
    try:
        if started.returncode != 0:
            last = started.stderr.strip().splitlines()[-1:]
            raise NoContainers(f"no Docker engine can be started here: {''.join(last)}")
        exported = re.findall(r"(\w+)=(\S+)", started.stdout)
        yield dict(exported) | {"DOCKER_BUILDKIT": "0"}
    finally:
        if not ran_before:
            run([program, "stop"])


def run(
    command: Sequence[str | Path],
    *,
    environment: dict[str, str] | None = None,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """Run a command; what it printed.

    Raises
    ------
    Failed
        If it did not end well.
    """
    done = subprocess.run(
        [str(word) for word in command],
        env=os.environ | (environment or {}),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
    )
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{said}")
    return done.stdout


@dataclass(frozen=True)
class Container:
    """A container as the engine sees it."""

    id: str
    pid: int
    status: str
    health: str | None
    exit_code: int
    restarts: int
    started_at: str
    image: str


class Stack:
    """The project of compose.yaml, with secrets, ports and a network of its own."""

    def __init__(self, folder: Path, images: Path, environment: dict[str, str]) -> None:
        self._environment = dict(environment)
        self._images = images
        self._file = folder / "env"
        self.ports = {
            name: free_port()
            for name in (
                *("HTTP", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "NGINX_EXPORTER_PORT"),
                *("DEV_HTTP_PORT", "DEV_POSTGRES_PORT", "DEV_POSTGRES_TEST_PORT"),
            )
        }
        self.secrets = {
            name: secrets.token_hex(24)
            for name in re.findall(r"(?m)^(\w+)=$", (DEPLOY / ".env.example").read_text())
        }
        self.api_token = secrets.token_hex(24)
        settings = {
            **self.secrets,
            **{name: str(port) for name, port in self.ports.items()},
            "HTTP": f"127.0.0.1:{self.ports['HTTP']}",
            "NETWORK": NETWORK,
            "VERSION": TAG,
            "API_TOKEN": self.api_token,
            # One address asks as many here.
            "RATE_LIMIT_ANONYMOUS": "100000/minute",
            "NGINX_RATE": "100000r/s",
            "NGINX_BURST": "100000",
        }
        # What the environment says counts for more than the file: `make` has a VERSION, too.
        self._environment |= {
            name: value for name, value in settings.items() if name not in self.secrets
        }
        self._file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        self.url = f"http://127.0.0.1:{self.ports['HTTP']}"

    def port_url(self, name: str) -> str:
        """Where something else than nginx is published."""
        return f"http://127.0.0.1:{self.ports[name]}"

    def command(self, *profiles: str, env_file: Path | None = None) -> list[str]:
        """The words that ``docker compose`` begins with here."""
        chosen = [word for profile in profiles for word in ("--profile", profile)]
        settings = ["--env-file", str(env_file or self._file)]
        return [
            *("docker", "compose", "-p", PROJECT, *settings),
            *("-f", str(DEPLOY / "compose.yaml"), *chosen),
        ]

    def compose(self, *words: str, profiles: Sequence[str] = ("prod",)) -> str:
        """Run ``docker compose``; what it printed."""
        return run([*self.command(*profiles), *words], environment=self._environment)

    def with_backups(self, *words: str, folder: str | None = None) -> str:
        """Run ``docker compose`` with the file that adds backups; what it printed."""
        added = ["-f", str(DEPLOY / "compose.backup.yaml"), "--profile", "prod"]
        backup = {"BACKUP": folder} if folder else {}
        return run([*self.command(), *added, *words], environment=self._environment | backup)

    def config_without(self, secret: str) -> str:
        """Run ``docker compose config`` where a secret is not set."""
        lines = self._file.read_text().splitlines(keepends=True)
        without = self._file.with_name(f"without {secret}")
        without.write_text("".join(line for line in lines if not line.startswith(f"{secret}=")))
        command = self.command("prod", env_file=without)
        return run([*command, "config", "-q"], environment=self._environment)

    def docker(self, *words: str) -> str:
        """Run ``docker``; what it printed."""
        return run(["docker", *words], environment=self._environment)

    def shell(self, commands: str) -> str:
        """Run commands of a guide; what they printed."""
        return run(["sh", "-euc", commands], environment=self._environment)

    def within(self, service: str, *words: str) -> str:
        """Run a command in a service's container; what it printed."""
        return self.compose("exec", "-T", service, *words)

    def services(self, *profiles: str) -> list[str]:
        """Their names."""
        return self.compose("config", "--services", profiles=profiles).split()

    def images(self, *profiles: str) -> set[str]:
        """What they are made of."""
        return set(self.compose("config", "--images", profiles=profiles).split())

    def container(self, service: str) -> Container:
        """A service's container."""
        (found,) = self.compose("ps", "-a", "-q", service, profiles=("*",)).split()
        said: dict[str, Any] = json.loads(self.docker("inspect", found))[0]
        state = said["State"]
        return Container(
            id=found,
            pid=state["Pid"],
            status=state["Status"],
            health=state["Health"]["Status"] if "Health" in state else None,
            exit_code=state["ExitCode"],
            restarts=said["RestartCount"],
            started_at=state["StartedAt"],
            image=said["Config"]["Image"],
        )

    def wait_healthy(self, service: str, *, after: Container | None = None) -> None:
        """Wait until a service's container is healthy, and another start of it than ``after``."""
        give_up_at = time.monotonic() + HEALTHY_TIMEOUT_S
        while True:
            found = self.container(service)
            if found.health == "healthy" and (
                after is None or found.started_at != after.started_at
            ):
                return
            assert time.monotonic() < give_up_at, f"{service} does not become healthy: {found}"
            time.sleep(0.5)

    def make_images(self) -> None:
        """Build the stand-ins of public images that are not there yet, and then our own."""
        bases = {
            name
            for file in DEPLOY.glob("*Dockerfile")
            for name in re.findall(r"(?m)^FROM (\S+:\S+)", file.read_text())
        }
        public = {image for image in self.images("*") | bases if not image.startswith(OURS)}
        chosen = sorted(one for one in public if not any(name in one for name in WITHOUT_STANDIN))
        run([self._images / "build", *chosen], environment=self._environment)
        self.compose("build", "migrate")

    def logs(self) -> str:
        """What all containers have said last."""
        return self.compose("logs", "--no-color", "--tail", "40", profiles=("*",))

    def down(self) -> None:
        """Remove all that was made, but for images, which are the next run's."""
        self.compose("down", "-v", "--remove-orphans", "-t", "20", profiles=("*",))
        self.docker("image", "prune", "-f", "--filter", "until=24h")
