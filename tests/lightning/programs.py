"""The programs that the tests start: made once, and kept outside the checkout."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).parent
# The services of LND that are not in it unless they are asked for.
LND_TAGS = "signrpc walletrpc chainrpc invoicesrpc peersrpc"
LNBITS_PYTHONS = ("python3.12", "python3.11")
MAKE_TIMEOUT_S = 3600


class CannotBeMade(Exception):
    """A program cannot be had on this machine; the message says why, in one line.

    ``output`` is all that was said by whatever failed.
    """

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


class NoPythonForIt(CannotBeMade):
    """LNbits does not run on any Python that is here, which is no fault of the machine's."""


def lightning_programs(announce: Callable[[str], None]) -> Path:
    """Return the folder with ``btcd`` and ``lnd``, which are built if they have to be.

    ``announce`` is told of what takes minutes, before it begins.
    """

    def make(folder: Path) -> None:
        go = shutil.which("go")
        if go is None:
            raise CannotBeMade("LND and btcd cannot be built: go is not on the PATH")
        announce("building LND and btcd, once; this takes minutes")
        flags = ["-trimpath", "-ldflags=-s -w", f"-tags={LND_TAGS}"]
        _run(
            "LND and btcd cannot be built",
            [go, "build", *flags, "-o", f"{folder}/", "tool"],
            CGO_ENABLED="0",
        )

    return _kept("lightning", ("go.mod", "go.sum"), make)


def lnbits_python(announce: Callable[[str], None]) -> Path:
    """Return the Python of a virtual environment with LNbits, installed if it has to be."""

    def make(folder: Path) -> None:
        python = _python_for_lnbits()
        announce("installing LNbits, once; this takes a minute")
        _run("LNbits cannot be installed", [python, "-m", "venv", folder])
        install = ["-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
        # The lock names everything. Left to look itself, pip would not know its `pydantic[email]`.
        locked = ["--no-deps", "--require-hashes", "-r", "lnbits.lock"]
        _run("LNbits cannot be installed", [folder / "bin/python", *install, *locked])

    return _kept("lnbits", ("lnbits.lock",), make) / "bin/python"


def _kept(name: str, pins: Iterable[str], make: Callable[[Path], None]) -> Path:
    """Return the cache's folder for what these files pin, made whole if it is not."""
    pinned = hashlib.sha256(b"".join((HERE / pin).read_bytes() for pin in pins)).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "shared-ledger"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{name}-{pinned[:16]}"
    # Of two runs at once, one makes it while the other waits.
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = folder / "done"
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


def _python_for_lnbits() -> str:
    """Return a Python that LNbits runs on, and that can make virtual environments."""
    if sys.version_info < (3, 13):
        return sys.executable
    for name in LNBITS_PYTHONS:
        found = shutil.which(name)
        if found is None:
            continue
        # What has that name may be no more than a shim, or lack what environments are made with.
        tried = subprocess.run([found, "-c", "import ensurepip"], capture_output=True, check=False)
        if tried.returncode == 0:
            return found
    raise NoPythonForIt("LNbits runs on Python 3.11 and 3.12, and neither is on the PATH")


def _run(failure: str, command: Sequence[str | Path], **environment: str) -> None:
    done = subprocess.run(
        [str(word) for word in command],
        cwd=HERE,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=MAKE_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        last = done.stdout.strip().rpartition("\n")[2]
        raise CannotBeMade(f"{failure}: {last}", done.stdout)
