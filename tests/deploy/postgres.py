"""PostgreSQL as an administrator has it: on a port, with its programs in his shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from deploy.compose import DEPLOY
from deploy.programs import program
from lightning.process import free_port
from shared_ledger.embedded.account import Account, server_account

TIMEOUT_S = 120
PASSWORD = "the-roles-own-password"
_INITDB = "--username=postgres --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8"


class Postgres:
    """One server with the roles of `deploy/postgres`, in a folder that its account can enter.

    It has the same port and folder whatever is restored into it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "main"
        self.port = free_port()
        self.url = self.url_of("ledger")
        self._account = server_account()
        self.programs = postgresql()
        os.chown(folder, self._account.uid, self._account.gid)

    def make(self) -> None:
        """Make it as the image does, and start it."""
        self.shell(f"initdb {_INITDB}")
        with (self.data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\n"
                f"port = {self.port}\n"
                f"unix_socket_directories = '{self.folder}'\n"
            )
        self.start()
        # A copy: the account need not be able to enter the checkout.
        shutil.copy(DEPLOY / "postgres" / "10-roles.sh", self.folder)
        passwords = {"LEDGER_DB_PASSWORD": PASSWORD, "EXPORTER_DB_PASSWORD": PASSWORD}
        self.shell("bash 10-roles.sh", **passwords)

    def start(self) -> None:
        """Start it; it may be read only, and still be recovering."""
        self.shell(f"pg_ctl start -s -w -t {TIMEOUT_S} -l {self.folder}/log")

    def stop(self) -> None:
        """Stop it if it runs."""
        if self._postmaster() is not None:
            self.shell("pg_ctl stop -s -w -m immediate")

    def kill(self) -> None:
        """SIGKILL the server and its children, as a power cut would."""
        postmaster = self._postmaster()
        assert postmaster is not None, "it is not running"
        kill_tree(postmaster)

    def shell(self, commands: str, **environment: str) -> str:
        """Run commands as the account that PostgreSQL has; what they printed.

        Raises as ``run_shell``.
        """
        surroundings = {
            "PATH": f"{self.programs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "PGDATA": str(self.data),
            "PGHOST": str(self.folder),
            "PGPORT": str(self.port),
            "PGUSER": "postgres",
            **environment,
        }
        return run_shell(commands, surroundings, cwd=self.folder, account=self._account)

    def url_of(self, database: str) -> str:
        """What the service connects to."""
        return f"postgresql://ledger:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def _postmaster(self) -> psutil.Process | None:
        try:
            found = psutil.Process(int((self.data / "postmaster.pid").read_text().split("\n")[0]))
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None
        return found if found.name().startswith("postgres") else None


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that PostgreSQL's account can enter, root's tests included; it ends with the block.

    Its name is short: that of a socket in it has a hundred characters at most.
    """
    folder = Path(tempfile.mkdtemp(prefix="ledger-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def postgresql() -> Path:
    """The folder of PostgreSQL's programs; without it the test is skipped, or fails."""
    return Path(program("pg_ctl", "postgresql")).resolve().parent


def run_shell(
    commands: str,
    environment: Mapping[str, str],
    *,
    cwd: Path,
    account: Account | None = None,
) -> str:
    """Run commands, as another account if one is given; what they printed.

    Raises
    ------
    AssertionError
        If one of them fails, with what was printed.
    """
    another = account is not None and account.another
    done = subprocess.run(
        ["sh", "-euc", commands],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **environment},
        user=account.uid if account and another else None,
        group=account.gid if account and another else None,
        extra_groups=[] if another else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )
    assert done.returncode == 0, f"{commands}\nended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def kill_tree(process: psutil.Process) -> None:
    """SIGKILL a process and its children, which it cannot start anew meanwhile."""
    process.suspend()
    doomed = [*process.children(recursive=True), process]
    for one in doomed:
        # What a child has started may end by itself before it.
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(doomed)
