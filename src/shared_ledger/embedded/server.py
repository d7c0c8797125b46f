"""The server of one data directory: made, started, adopted and stopped."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from shared_ledger.embedded.account import Account, gist
from shared_ledger.errors import EmbeddedUnavailable

_log = logging.getLogger("shared_ledger.embedded")

_SOCKET = ".s.PGSQL.5432"
_SOCKET_PATH_BYTES = 107 if sys.platform == "linux" else 103
_SSL_REQUEST = bytes.fromhex("00000008 04d2162f")  # the shortest question of the protocol
_NO_SUCH_PID = b"2147483647"  # above every system's limit

_START_SECONDS = 300  # recovery after a crash replays up to max_wal_size
_STOP_SECONDS = 60
_MOST_CRASHES = 3  # of a server that is starting, which by itself would try for ever
_ORPHAN_SECONDS = 10  # how long the backends of a killed postmaster may take to notice

# Trust is enough: only who may enter the socket's folder can ask. The log has a file for each day
# of the week, begun anew after a week, and so does not grow for ever.
_INITDB = """
    --username=postgres --auth-local=trust --auth-host=reject --no-instructions
    --encoding=UTF8 --locale=C --locale-provider=builtin --builtin-locale=C.UTF-8
    --set=listen_addresses= --set=unix_socket_permissions=0700 --set=max_connections=100
    --set=shared_buffers=256MB --set=max_wal_size=2GB --set=timezone=UTC --set=log_timezone=UTC
    --set=logging_collector=on --set=log_filename=%a.log --set=log_rotation_size=0
    --set=log_truncate_on_rotation=on
"""


@dataclass(frozen=True)
class Server:
    """The server of one data directory.

    All but `find` and `kill` need the start.lock of ``home``.
    """

    account: Account
    programs: Path
    version: str
    home: Path
    data: Path

    def initialise(self) -> None:
        """Make the data directory unless it is there."""
        for leftover in self.data.parent.glob("postgresql.new-*"):
            # An initdb whose opener was killed may still be at it; then the next one clears up.
            shutil.rmtree(leftover, ignore_errors=True)
        marker = self.data / "PG_VERSION"
        if marker.is_file():
            if (major := marker.read_text().strip()) != self.version.partition(".")[0]:
                raise EmbeddedUnavailable(
                    f"{self.data} was made by PostgreSQL {major}, and this is {self.version}: "
                    f"dump it with version {major} and load it into a new folder"
                )
            return
        if self.data.exists() and any(self.data.iterdir()):
            raise EmbeddedUnavailable(
                f"{self.data} is neither empty nor PostgreSQL's: use another folder"
            )
        new = Path(tempfile.mkdtemp(prefix="postgresql.new-", dir=self.data.parent))
        try:
            os.chown(new, self.account.uid, self.account.gid)
            self.account.run(
                self.programs / "initdb", *_INITDB.split(), data=new, seconds=_START_SECONDS
            )
            new.rename(self.data)  # only when whole: a torn one must never be taken for a ledger
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise
        descriptor = os.open(self.data.parent, os.O_RDONLY)
        os.fsync(descriptor)  # the new name; initdb has made sure of the files
        os.close(descriptor)

    def start(self) -> str:
        """Start the server, or adopt the one that runs; return its URL once it takes queries."""
        begun = time.monotonic()
        while True:
            found = self.find()
            if found and found.ready and _answers(found.sockets):
                host = quote(os.fsencode(found.sockets), safe="")
                return f"postgresql://postgres@/postgres?host={host}&port=5432"
            if found and found.ready and not (found.sockets / _SOCKET).exists():
                self.stop("fast")  # its folder was moved or its socket swept away: of no use
            elif found is None and (refusal := self._launch()):
                orphans = "pre-existing shared memory block" in refusal
                if not orphans or time.monotonic() > begun + _ORPHAN_SECONDS:
                    raise EmbeddedUnavailable(f"PostgreSQL in {self.data} did not start: {refusal}")
            elif found and self._said().count("; reinitializing") >= _MOST_CRASHES:
                self.stop("immediate")
                refusal = gist(self._said())
                raise EmbeddedUnavailable(f"PostgreSQL in {self.data} keeps crashing: {refusal}")
            elif time.monotonic() > begun + _START_SECONDS:
                raise EmbeddedUnavailable(
                    f"PostgreSQL in {self.data} is still recovering: try again later"
                )
            time.sleep(0.02)

    def _launch(self) -> str:
        """Start the server; return why it did not start, or an empty string."""
        sockets = self._sockets()
        self._bury(sockets)
        (self.data / "server.log").unlink(missing_ok=True)
        # pg_ctl hands all to a shell. Its own arguments it puts between double quotes, in which $
        # and ` have a meaning, so the folders are given to the server, quoted properly, and not -D.
        options = shlex.join(["-D", str(self.data), "-k", f'"{sockets}"'])
        command = ["start", "-s", "-w", "-t", "10", "-l", "server.log", "-o", options]
        try:
            self.account.run(self.programs / "pg_ctl", *command, cwd=self.data, data=self.data)
        except EmbeddedUnavailable as problem:
            if self.find() is None:
                return gist(self._said()) or str(problem)
        _log.info("started PostgreSQL %s in %s", self.version, self.data)
        return ""

    def _said(self) -> str:
        """What the server wrote since its last start."""
        logs = sorted(self.data.glob("log/*.log"), key=lambda log: log.stat().st_mtime)
        # The first lines go to a file of their own, until the collector writes the day's.
        for path in (self.data / "server.log", *logs[-1:]):
            with suppress(FileNotFoundError), path.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 100_000))
                said = log.read().decode(errors="replace").rpartition("starting PostgreSQL")[2]
                if path in logs or "FATAL" in said:
                    return said
        return ""

    def _bury(self, sockets: Path) -> None:
        """Let PostgreSQL see that the server which left its files here is dead.

        It looks only whether the pid is in use, as it may be by another process. The rest of
        postmaster.pid stays, by which PostgreSQL finds backends that outlived their postmaster.
        """
        for name in (_SOCKET, f"{_SOCKET}.lock"):
            (sockets / name).unlink(missing_ok=True)
        pidfile = self.data / "postmaster.pid"
        with suppress(FileNotFoundError):
            descriptor = os.open(pidfile, os.O_RDWR | os.O_NOFOLLOW)
            with open(descriptor, "r+b") as file:  # noqa: PTH123  # a descriptor, not a path
                pid, _, rest = file.read().partition(b"\n")
                file.seek(0)
                file.write(_NO_SUCH_PID + b"\n" + rest)
                file.truncate()
            if not re.fullmatch(rb"-?\d+", pid):
                pidfile.unlink()  # torn by a power cut; PostgreSQL would refuse it for ever

    def stop(self, mode: str) -> None:
        """Stop the server if it runs."""
        if found := self.find():
            command = f"stop -s -w -t {_STOP_SECONDS} -m {mode}".split()
            self.account.run(
                self.programs / "pg_ctl", *command, data=self.data, seconds=_STOP_SECONDS + 10
            )
            with suppress(OSError):
                found.sockets.rmdir()  # which fails if it is the data directory
            _log.info("stopped PostgreSQL %s in %s", self.version, self.data)

    def kill(self) -> None:
        """SIGKILL the server and its children."""
        if found := self.find():
            os.kill(found.pid, signal.SIGSTOP)  # so that it starts no child behind our back
            doomed = {pid for pid, parent, _ in _processes() if parent == found.pid} | {found.pid}
            for pid in doomed:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            while any(pid in doomed and state not in "ZX" for pid, _, state in _processes()):
                time.sleep(0.005)

    def find(self) -> _Postmaster | None:
        """Return the server that runs on the data, ready or not."""
        try:
            lines = os.fsdecode((self.data / "postmaster.pid").read_bytes()).split("\n") + [""] * 8
        except FileNotFoundError:
            return None
        if not re.fullmatch(r"-?\d+", lines[0]):
            return None
        found = _Postmaster(abs(int(lines[0])), Path(lines[4]), lines[7].strip() == "ready")
        # In another container its pid means nothing here, but its socket does.
        if self._owns(found.pid) or (lines[1] == str(self.data) and _answers(found.sockets)):
            return found
        return None

    def _owns(self, pid: int) -> bool:
        """Whether the process is a PostgreSQL server of the data directory."""
        if sys.platform != "linux":
            with suppress(EmbeddedUnavailable):  # there is no such process
                line = self.account.run("ps", "-ww", "-o", "command=", "-p", str(pid))
                return "postgres" in line and str(self.data) in line
            return False
        process = Path(f"/proc/{pid}")
        with suppress(OSError):
            name = os.fsdecode((process / "cmdline").read_bytes().partition(b"\0")[0])
            if Path(name).name == "postgres":
                try:
                    return (process / "cwd").samefile(self.data)
                except PermissionError:  # root of a container, unlike the server's own user
                    same = 'test "$1" -ef "$2"'
                    return self.account.can("/bin/sh", "-c", same, "sh", process / "cwd", self.data)
        return False

    def _sockets(self) -> Path:
        """The socket's folder: the data, or a private one in /tmp if libpq could not use that."""
        path = str(self.data / _SOCKET)
        # A comma separates hosts, and a quotation mark would end the folder's name.
        usable = path.isprintable() and not set(',"') & set(path)
        if usable and len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return self.data
        key = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
        folder = Path(f"/tmp/shared-ledger-{self.account.uid}-{key}")  # noqa: S108  # verified below
        with suppress(FileExistsError):
            folder.mkdir(0o700)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            if os.fstat(descriptor).st_uid == os.geteuid():
                os.fchown(descriptor, self.account.uid, self.account.gid)
            found = os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if found.st_uid != self.account.uid or found.st_mode & 0o077:
            raise EmbeddedUnavailable(f"{folder} belongs to somebody else or is open: remove it")
        return folder


class _Postmaster(NamedTuple):
    pid: int
    sockets: Path
    ready: bool


def _answers(sockets: Path) -> bool:
    """Whether a live server listens in the folder."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5.0)
        try:
            probe.connect(os.fspath(sockets / _SOCKET))
            # Being connected is not enough: a server that is being killed still takes the call.
            probe.sendall(_SSL_REQUEST)
            return probe.recv(1) != b""
        except (TimeoutError, BlockingIOError):
            return True  # too busy to answer
        except OSError:
            return False


def _processes() -> Iterator[tuple[int, int, str]]:
    """Every process, where there is a /proc: its pid, its parent's pid, the letter of its state."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            yield int(path.parent.name), int(parent), state
