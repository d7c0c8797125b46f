"""Debian's nginx with the configuration of `deploy/nginx`, on free ports of the loopback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx

from builders import eventually
from deploy.programs import program
from lightning.process import Process, free_port

SOURCE = Path(__file__).parents[2] / "deploy" / "nginx"
UPSTREAMS = ("LEDGER", "CONTENT", "ECOMMERCE", "CROWDFUNDING")
START_TIMEOUT_S = 10
PLENTY = {"NGINX_RATE": "100000r/s", "NGINX_BURST": "100000", "NGINX_CONNECTIONS": "1000"}


class Nginx(Process):
    """One nginx; ``servers`` has two places (host and port) for each upstream, or for all."""

    def __init__(
        self, folder: Path, servers: dict[str, Sequence[str]] | Sequence[str], **settings: str
    ) -> None:
        self.port = free_port()
        self.status_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.folder = folder
        variables = {
            "NGINX_LISTEN": f"127.0.0.1:{self.port}",
            "NGINX_STATUS_LISTEN": f"127.0.0.1:{self.status_port}",
            "NGINX_LOG": "/dev/stdout",
            "NGINX_TEMPORARY": str(folder),
            "NGINX_REAL_IP_FROM": "unix:",
            **PLENTY,
            **settings,
        }
        for name in UPSTREAMS:
            pair = servers[name] if isinstance(servers, dict) else servers
            variables |= {f"{name}_1": pair[0], f"{name}_2": pair[1]}
        _render(folder, variables)
        self._words = [program("nginx", "nginx"), "-p", str(folder), "-c", "nginx.conf"]
        # The workers of root's nginx would be another user, who cannot enter the folder.
        self._globals = f"pid {folder}/pid; user root;"
        super().__init__([*self._words, "-g", f"daemon off; {self._globals}"], log=folder / "log")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        super().start()
        self.wait_until("answering", self._answers, timeout_s=START_TIMEOUT_S)

    def checked(self) -> subprocess.CompletedProcess[str]:
        """What ``nginx -t`` says."""
        return subprocess.run(
            [*self._words, "-t", "-g", self._globals], capture_output=True, text=True, check=False
        )

    def requests(self, number: int) -> list[dict[str, Any]]:
        """What its log says of so many requests, in order, as soon as it says that."""

        def lines() -> list[str]:
            return [line for line in self.log.read_text().splitlines() if line.startswith("{")]

        # It writes after it has answered.
        eventually(lambda: len(lines()) >= number)
        assert len(lines()) == number
        return [json.loads(line) for line in lines()]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.status_port}/stub_status").is_success
        except httpx.TransportError:
            return False


def rendered(template: str, variables: dict[str, str]) -> str:
    """A template as the image's entrypoint fills it in, with `envsubst`."""
    text = (SOURCE / "templates" / template).read_text()
    return re.sub(r"\$\{(\w+)\}", lambda found: variables.get(found[1], found[0]), text)


def _render(folder: Path, variables: dict[str, str]) -> None:
    shutil.copy(SOURCE / "nginx.conf", folder)
    (folder / "conf.d").mkdir()
    for template in (SOURCE / "templates").glob("*.template"):
        (folder / "conf.d" / template.stem).write_text(rendered(template.name, variables))
