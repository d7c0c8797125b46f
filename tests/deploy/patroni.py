"""PostgreSQL under Patroni, and the etcd that decides which node is the primary."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import httpx
import psutil  # type: ignore[import-untyped]

from builders import eventually
from deploy.compose import DEPLOY
from deploy.guide import block
from deploy.postgres import PASSWORD, kill_tree, postgresql, run_shell
from deploy.programs import program
from lightning.process import Process, free_port
from shared_ledger.embedded.account import Account

SETTINGS = DEPLOY / "patroni"
START_TIMEOUT_S = 60
PASSWORDS = {
    name: f"of {name.lower()}"
    for name in re.findall(r"(?m)^(\w+)_PASSWORD=$", (SETTINGS / "node.env.example").read_text())
}
# Nobody here has anything to wait for.
TIMES = {
    "ttl: 30": "ttl: 6",
    "loop_wait: 10": "loop_wait: 1",
    "retry_timeout: 10": "retry_timeout: 2",
}


class Etcd(Process):
    """One etcd, which is its own majority."""

    def __init__(self, folder: Path, account: Account) -> None:
        client, peer = free_port(), free_port()
        self.place = f"127.0.0.1:{client}"
        environment = _filled(
            "etcd.env.example",
            {
                "/var/lib/etcd/ledger": str(folder / "etcd"),
                r"ETCD_INITIAL_CLUSTER=.*": "ETCD_INITIAL_CLUSTER=db1=http://db1:2380",
                r"(0\.0\.0\.0|db1):2379": self.place,
                r"(0\.0\.0\.0|db1):2380": f"127.0.0.1:{peer}",
            },
        )
        command = as_account(account, [program("etcd", "etcd-server")])
        super().__init__(command, log=folder / "etcd.log", cwd=folder, environment=environment)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        super().start()
        self.wait_until("healthy", self._is_healthy, timeout_s=START_TIMEOUT_S)

    def _is_healthy(self) -> bool:
        try:
            return httpx.get(f"http://{self.place}/health").is_success
        except httpx.TransportError:
            return False


class Node(Process):
    """Patroni and its PostgreSQL, which is made a replica if there is a primary."""

    def __init__(self, folder: Path, name: str, etcd: Etcd, account: Account) -> None:
        self.name = name
        self.port = free_port()
        self._data = folder / name
        self._api = f"127.0.0.1:{free_port()}"
        place = f"127.0.0.1:{self.port}"
        self._configuration = folder / f"{name}.yml"
        self._configuration.write_text(
            _replaced(
                (SETTINGS / "config.yml").read_text(),
                {
                    **TIMES,
                    "/var/lib/postgresql/15/ledger": str(self._data),
                    "/var/lib/postgresql/15-ledger.pgpass": str(folder / f"{name}.pgpass"),
                    "/usr/lib/postgresql/15/bin": str(postgresql()),
                    "/var/run/postgresql": str(folder),
                    r"0\.0\.0\.0:8008": self._api,
                    r"0\.0\.0\.0:5432": place,
                },
            )
        )
        environment = _filled(
            "node.env.example",
            {
                r"db1:2379.*": etcd.place,
                "db1:8008": self._api,
                "db1:5432": place,
                "=db1": f"={name}",
                **{f"{who}_PASSWORD=": f"{who}_PASSWORD={said}" for who, said in PASSWORDS.items()},
            },
        )
        self._settings = folder / f"{name}.env"
        self._settings.write_text("".join(f"{key}='{said}'\n" for key, said in environment.items()))
        command = as_account(account, [program("patroni", "patroni"), str(self._configuration)])
        super().__init__(command, log=folder / f"{name}.log", cwd=folder, environment=environment)

    def state(self) -> Mapping[str, Any]:
        """What Patroni says of its node; nothing if it does not answer."""
        try:
            said: Mapping[str, Any] = httpx.get(f"http://{self._api}/patroni").json()
        except httpx.TransportError:
            return {}
        return said

    @property
    def is_primary(self) -> bool:
        """Whether it takes postings."""
        return self.state().get("role") in ("master", "primary") and self._runs()

    @property
    def is_synchronous(self) -> bool:
        """Whether it is the replica that has what was committed."""
        return bool(self.state().get("sync_standby")) and self._runs()

    def run(self, commands: str) -> str:
        """Run commands of the guide as its administrator; what they printed."""
        commands = commands.replace("/etc/patroni_env.conf", str(self._settings))
        commands = commands.replace("/etc/patroni/config.yml", str(self._configuration))
        return run_shell(commands, {}, cwd=self._settings.parent)

    def kill(self) -> None:
        """SIGKILL Patroni and PostgreSQL, as a power cut would."""
        super().kill()
        if (postmaster := self._postmaster()) is not None:
            kill_tree(postmaster)

    def stop(self) -> None:
        """Ask Patroni to end, which ends PostgreSQL first."""
        super().stop()
        self.kill()

    def _runs(self) -> bool:
        return bool(self.state().get("state") == "running")

    def _postmaster(self) -> psutil.Process | None:
        try:
            found = psutil.Process(int((self._data / "postmaster.pid").read_text().split("\n")[0]))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return found if found.name().startswith("postgres") else None


class Nodes:
    """Two nodes and their etcd; a context manager, running inside."""

    def __init__(self, folder: Path, account: Account) -> None:
        os.chown(folder, account.uid, account.gid)
        self._etcd = Etcd(folder, account)
        self.nodes = [Node(folder, name, self._etcd, account) for name in ("db1", "db2")]

    @property
    def url(self) -> str:
        """What the guide tells the service: the same, whichever is the primary."""
        (url,) = re.findall(r"'(.*)'", block("url", page="high-availability.md"))
        # The first primary comes last: whoever takes the first that answers gets a replica.
        places = ",".join(f"127.0.0.1:{node.port}" for node in reversed(self.nodes))
        said: str = url.replace("…", PASSWORD).replace("db1:5432,db2:5432,db3:5432", places)
        return said

    def wait_whole(self) -> tuple[Node, Node]:
        """Wait until one is the primary and the other has what it commits; both in this order."""
        found: list[Node] = []

        def is_whole() -> bool:
            first, second = self.nodes
            found[:] = [first, second] if first.is_primary else [second, first]
            return found[0].is_primary and found[1].is_synchronous

        eventually(is_whole, within_s=START_TIMEOUT_S)
        return found[0], found[1]

    def __enter__(self) -> Self:
        try:
            self._etcd.start()
            first, second = self.nodes
            first.start()
            eventually(lambda: first.is_primary, within_s=START_TIMEOUT_S)
            second.start()
            self.wait_whole()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        for node in self.nodes:
            node.stop()
        self._etcd.stop()


def as_account(account: Account, command: Sequence[str]) -> list[str]:
    """The command that runs another as an account; it has the same process id."""
    if not account.another:
        return list(command)
    who = ["--reuid", str(account.uid), "--regid", str(account.gid), "--clear-groups"]
    return [program("setpriv", "util-linux"), *who, *command]


def _filled(example: str, replacing: Mapping[str, str]) -> dict[str, str]:
    """The variables of a node's environment."""
    text = _replaced((SETTINGS / example).read_text(), replacing)
    return dict(re.findall(r"(?m)^(\w+)=(.*)$", text))


def _replaced(text: str, replacing: Mapping[str, str]) -> str:
    for pattern, here in replacing.items():
        text, count = re.subn(pattern, here, text)
        assert count, f"nothing is {pattern}"
    return text
