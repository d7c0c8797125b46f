"""The account that runs PostgreSQL: the caller's or, as it refuses root, a system user's."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from shared_ledger.errors import EmbeddedUnavailable

if sys.platform != "win32":  # where server_account says that it is not supported
    import pwd

# pyright: reportPossiblyUnboundVariable=false

SYSTEM_USER = "shared-ledger"

# Fixed, so that neither PGPORT nor any other variable of the caller changes what is started.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


class Account(NamedTuple):
    """Who runs PostgreSQL: the caller or, if he is root, ``another``."""

    uid: int
    gid: int
    another: bool

    def run(
        self, *command: Path | str, cwd: Path | str = "/", data: Path | str = "", seconds: int = 60
    ) -> str:
        """Return what the command wrote. Raises `EmbeddedUnavailable` if it failed."""
        try:
            done = subprocess.run(
                command,
                cwd=cwd,
                env={**_ENVIRONMENT, "PGDATA": str(data)},
                user=self.uid if self.another else None,
                group=self.gid if self.another else None,
                extra_groups=[] if self.another else None,
                start_new_session=True,  # the terminal's Ctrl-C is not for them
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                timeout=seconds,
                check=False,
            )
        except OSError as problem:
            who = f" as the user {SYSTEM_USER}" if self.another else ""
            raise EmbeddedUnavailable(
                f"{command[0]} cannot be run{who}: {problem.strerror}; "
                "run this as an ordinary user who may, or set DATABASE_URL"
            ) from problem
        except subprocess.TimeoutExpired:
            raise EmbeddedUnavailable(f"{command[0]} took longer than {seconds} s") from None
        if done.returncode:
            raise EmbeddedUnavailable(f"{Path(command[0]).name} failed: {gist(done.stdout)}")
        return done.stdout

    def can(self, *command: Path | str) -> bool:
        """Whether the command succeeds."""
        with suppress(EmbeddedUnavailable):
            self.run(*command)
            return True
        return False


def server_account() -> Account:
    """Who is to run PostgreSQL: the caller, or for root the system user, made if missing."""
    if sys.platform == "win32":
        raise EmbeddedUnavailable(
            "the embedded PostgreSQL is not supported on Windows: set DATABASE_URL"
        )
    caller = Account(os.geteuid(), os.getegid(), another=False)
    if caller.uid != 0:
        return caller
    problem = ""
    try:
        pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        options = "--system --no-create-home --user-group --shell /usr/sbin/nologin"
        try:
            caller.run("useradd", *options.split(), SYSTEM_USER)
        except EmbeddedUnavailable as failure:
            problem = str(failure)
    try:  # even after a failure, for another process may have been faster
        user = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        raise EmbeddedUnavailable(
            f"PostgreSQL does not run as root, and its user {SYSTEM_USER} could not be made "
            f"({problem}): make it, run this as an ordinary user, or set DATABASE_URL"
        ) from None
    account = Account(user.pw_uid, user.pw_gid, another=True)
    account.run("true")  # root of a container may not be allowed to change its user
    return account


def user_name(uid: int) -> str:
    """The user's name, or the number of one who has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def gist(output: str) -> str:
    """The last lines that say what went wrong, as one."""
    lines = [re.sub(r"^\d.*?\[\d+\] ", "", line.strip()) for line in output.splitlines()][-20:]
    telling = [line for line in lines if re.search("error:|FATAL|PANIC|HINT|invalid value", line)]
    return "; ".join(list(dict.fromkeys(telling or lines))[-3:])
