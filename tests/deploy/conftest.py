"""What the tests of `deploy/` have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from deploy.nginx import Nginx
from lightning.conftest import announce

__all__ = ["announce", "start_nginx"]

StartNginx = Callable[..., Nginx]


@pytest.fixture
def start_nginx(tmp_path: Path) -> Iterator[StartNginx]:
    """Starts one nginx, which ends with the test."""
    started: list[Nginx] = []

    def start(servers: dict[str, Sequence[str]] | Sequence[str], **settings: str) -> Nginx:
        folder = tmp_path / "nginx"
        folder.mkdir()
        nginx = Nginx(folder, servers, **settings)
        nginx.start()
        started.append(nginx)
        return nginx

    yield start
    for nginx in started:
        nginx.stop()
