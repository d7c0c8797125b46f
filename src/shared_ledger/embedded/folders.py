"""The folders: where the data live, and how folders are made and locked.

None is changed that was there before.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared_ledger.embedded.account import SYSTEM_USER, Account, user_name
from shared_ledger.errors import EmbeddedUnavailable

if sys.platform != "win32":  # where server_account says that it is not supported
    import fcntl

# pyright: reportPossiblyUnboundVariable=false

STORE = Path("/var/lib/shared-ledger")
"""Root's own folder, for the data and the programs that the system user could not reach."""


def settle(folder: Path, account: Account) -> Path:
    """Return where the folder's data are or are to be. Needs the folder's start.lock."""
    link = folder / "postgresql"
    data = Path(os.path.realpath(link))
    if not data.parent.is_dir():
        raise EmbeddedUnavailable(
            f"{link} links to {data}, which is gone: "
            "bring it back, or remove the link to begin with an empty database"
        )
    if data.exists() and (owner := data.stat().st_uid) != account.uid and any(data.iterdir()):
        user = user_name(owner)
        remedies = {SYSTEM_USER: "run this as root", "root": f"give it to {SYSTEM_USER} (chown)"}
        raise EmbeddedUnavailable(
            f"{data} belongs to the user {user}, not to {user_name(account.uid)}: "
            f"{remedies.get(user, f'run this as {user}')}, or use another folder"
        )
    if not account.another or account.can("/bin/sh", "-c", 'cd "$1"', "sh", data.parent):
        return data
    if data.exists():
        raise EmbeddedUnavailable(
            f"the user {SYSTEM_USER} can no longer enter {data.parent}: "
            "let others pass through the folders above it (chmod o+x)"
        )
    # The name may be taken by the data of a folder that was moved or deleted. Those are left alone:
    # one ledger must never appear in another's folder.
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', folder.name)[:40]}-{key}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    home = next(STORE / name for name in names if not (STORE / name).exists())
    make_public(STORE)
    make_public(home)
    link.symlink_to(home / "postgresql")
    return home / "postgresql"


def make(folder: Path) -> None:
    """Make the folder and those above it, unless they are there."""
    # Root's must let the system user pass; the data in it are private in any case.
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            with suppress(FileExistsError):
                path.mkdir(mode)
                path.chmod(mode)  # whatever the umask


def make_public(folder: Path) -> None:
    """Make a folder that everybody may enter and root alone may change."""
    with suppress(FileExistsError):
        folder.mkdir(0o755)
        folder.chmod(0o755)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise EmbeddedUnavailable(f"{folder} must be a folder that root alone may change")


def open_lock(path: Path) -> int:
    """Return a descriptor of the lock's file, made if there is none; nothing is locked yet."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        owner = user_name((path if path.exists() else path.parent).stat().st_uid)
        raise EmbeddedUnavailable(
            f"{path.parent} is the user {owner}'s: use another folder, or run this as {owner}"
        ) from None


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock, which nobody else has then, not even another thread."""
    descriptor = open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def one_kind_of_error() -> Iterator[None]:
    """Turn what the system refuses into `EmbeddedUnavailable`, the one error that callers know."""
    try:
        yield
    except OSError as problem:
        raise EmbeddedUnavailable(
            f"the embedded PostgreSQL cannot run: {problem}; mend that or set DATABASE_URL"
        ) from problem
