"""The private PostgreSQL: starts, shares, survives and leaves everybody's folders alone."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import psycopg
import pytest

from shared_ledger.embedded import Cluster, open_cluster, program, programs, temporary_cluster
from shared_ledger.embedded.account import server_account
from shared_ledger.errors import EmbeddedUnavailable

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="not supported on Windows")

ROOT = os.geteuid() == 0
as_root = pytest.mark.skipif(not ROOT, reason="only root runs PostgreSQL as another user")
SOURCE = Path(programs.__file__).parents[2]
NOBODY = 65534

# Opens the folder, says so with the postmaster's pid, closes at the end of its input.
USER = """
import pathlib, sys
from shared_ledger.embedded import open_cluster
with open_cluster(pathlib.Path(sys.argv[1])) as cluster:
    print((cluster.data / "postmaster.pid").read_text().split()[0], flush=True)
    sys.stdin.read()
"""


def new_base() -> Iterator[Path]:
    """A folder that PostgreSQL's user can enter, unlike pytest's; nothing is left of it."""
    path = Path(tempfile.mkdtemp(prefix="test-embedded-", dir="/tmp")).resolve()
    path.chmod(0o755)
    yield path
    for data in path.rglob("postgresql"):
        server = postmaster(data) if data.exists() else None
        if server:
            for process in [server, *server.children()]:
                process.kill()
        if data.is_symlink() and data.resolve().is_relative_to("/var/lib/shared-ledger"):
            shutil.rmtree(data.resolve().parent, ignore_errors=True)
    shutil.rmtree(path)


base = pytest.fixture(new_base)
session_base = pytest.fixture(new_base, scope="session")


@pytest.fixture(scope="session")
def example(session_base: Path) -> Path:
    """A folder with a stopped server, whose table t has the row 7."""
    with open_cluster(session_base / "example") as cluster:
        query(cluster, "create table t as select 7 as n")
    return session_base / "example"


@pytest.fixture(scope="session")
def private_ledger(session_base: Path) -> Path:
    """The same in a folder that PostgreSQL's user cannot enter, if root made it."""
    folder = session_base / "private" / "my ledger"
    folder.parent.mkdir(0o700)
    with open_cluster(folder) as cluster:
        query(cluster, "create table t as select 7 as n")
    return folder


@pytest.fixture
def ledger(example: Path) -> Iterator[Path]:
    """The example, for tests that leave it as it was; making one takes longer than most of them."""
    yield example
    if postmaster(example / "postgresql"):
        open_cluster(example).close()


@pytest.fixture
def ledger_copy(base: Path, example: Path) -> Path:
    subprocess.run(["cp", "-a", example, base / "ledger"], check=True)
    return base / "ledger"


def link_wheel(target: Path) -> Path:
    """A second installation of the wheel, without the time it takes to copy one."""
    wheel = programs._wheel()
    for part in programs._parts(wheel):
        there = target / part.relative_to(wheel.parent)
        there.parent.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["cp", "-al", part, there], capture_output=True, check=False).returncode:
            subprocess.run(["cp", "-a", "-T", part, there], check=True)
    return target / wheel.name


def postmaster(data: Path) -> psutil.Process | None:
    """The live server of the data directory."""
    try:
        process = psutil.Process(int((data / "postmaster.pid").read_text().split()[0]))
        if process.name() == "postgres" and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (FileNotFoundError, psutil.NoSuchProcess):
        pass
    return None


def query(cluster: Cluster, sql: str) -> object:
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        cursor = connection.execute(sql.encode())
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else None


def eventually(fact: Callable[[], object]) -> bool:
    deadline = time.monotonic() + 20
    while not fact():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def user(folder: Path) -> subprocess.Popen[str]:
    """Another process that uses the folder, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", USER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])},
    )


def said(process: subprocess.Popen[str]) -> int:
    assert process.stdout
    return int(process.stdout.readline())


def test_rows_are_there_again_after_a_stop(ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        assert query(cluster, "select n from t") == 7
    assert postmaster(cluster.data) is None


def test_settings_are_durable_private_and_in_utc(ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        assert {
            name: query(cluster, f"show {name}")
            for name in (
                "fsync", "synchronous_commit", "full_page_writes", "data_checksums",
                "listen_addresses", "timezone", "server_encoding", "server_version",
            )
        } == {
            "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on",
            "data_checksums": "on", "listen_addresses": "", "timezone": "UTC",
            "server_encoding": "UTF8", "server_version": cluster.version,
        }  # fmt: skip
        assert query(cluster, "select datlocale from pg_database where datname = 'postgres'") == (
            "C.UTF-8"
        )
        assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700


def test_last_of_two_handles_stops_the_server(ledger: Path) -> None:
    first, second = open_cluster(ledger), open_cluster(ledger)
    first.close()
    first.close()
    assert query(second, "select 1") == 1
    second.close()
    assert postmaster(second.data) is None


def test_another_process_keeps_the_server(ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        other = user(ledger)
        pid = said(other)
    server = postmaster(cluster.data)
    assert server
    assert server.pid == pid
    other.communicate()
    assert other.returncode == 0
    assert postmaster(cluster.data) is None


def test_simultaneous_first_starts_share_one_server(base: Path) -> None:
    others = [user(base / "ledger") for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        handles = list(pool.map(open_cluster, [base / "ledger"] * 3))
    pids = {said(other) for other in others}
    assert len(pids) == 1
    for handle in handles:
        handle.close()
    for other in others:
        other.communicate()
    assert postmaster(handles[0].data) is None


def test_forked_child_has_no_say(ledger: Path) -> None:
    cluster = open_cluster(ledger)
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.close(writing)
        os.read(reading, 1)
        cluster.close()
        os._exit(0)
    os.close(reading)
    cluster.close()
    assert postmaster(cluster.data) is None
    with open_cluster(ledger) as again:
        os.close(writing)
        os.waitpid(child, 0)
        assert query(again, "select 1") == 1


def test_committed_rows_survive_a_power_cut(ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        cluster.kill()
        assert postmaster(cluster.data) is None
        cluster.ensure_running()
        assert query(cluster, "select n from t") == 7
        cluster.kill()
    with open_cluster(ledger) as cluster:
        assert query(cluster, "select n from t") == 7


def test_backends_that_outlive_their_postmaster_are_waited_for(ledger: Path) -> None:
    def keep_busy(url: str) -> None:
        with (
            suppress(psycopg.OperationalError),
            psycopg.connect(url, autocommit=True) as connection,
        ):
            busy.set()
            connection.execute(
                "do $$ begin while clock_timestamp() < now() + '1.5 s' loop end loop; end $$"
            )

    busy = threading.Event()
    with open_cluster(ledger) as cluster, ThreadPoolExecutor(1) as pool:
        pool.submit(keep_busy, cluster.url)
        busy.wait()
        server = postmaster(cluster.data)
        assert server
        backend = next(
            c for c in server.children() if "postgres postgres [local]" in c.cmdline()[0]
        )
        assert eventually(lambda: backend.cpu_times().user > 0.1)
        server.kill()
        cluster.ensure_running()
        assert not backend.is_running() or backend.status() == psutil.STATUS_ZOMBIE
        assert query(cluster, "select n from t") == 7


def test_server_of_a_killed_process_is_adopted(ledger: Path) -> None:
    other = user(ledger)
    pid = said(other)
    other.kill()
    other.communicate()
    with open_cluster(ledger) as cluster:
        server = postmaster(cluster.data)
        assert server
        assert server.pid == pid
    assert postmaster(cluster.data) is None


def test_pid_file_naming_a_foreign_process_is_stale(ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        cluster.kill()
        # Of the server's own user, or PostgreSQL itself would see that it is none.
        owner = cluster.data.stat().st_uid
        stranger = subprocess.Popen(["sleep", "60"], user=owner if ROOT else None)
        try:
            for name in ("postmaster.pid", ".s.PGSQL.5432.lock"):
                _, rest = (cluster.data / name).read_text().split("\n", 1)
                (cluster.data / name).write_text(f"{stranger.pid}\n{rest}")
            cluster.ensure_running()
            assert query(cluster, "select 1") == 1
            cluster.close()
            assert stranger.poll() is None
        finally:
            stranger.kill()
            stranger.wait()


def test_torn_pid_file_is_stale(ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        cluster.kill()
        (cluster.data / "postmaster.pid").write_text("")
        cluster.ensure_running()
        assert query(cluster, "select 1") == 1


def test_interrupted_making_is_begun_anew(base: Path) -> None:
    other = user(base)
    assert eventually(lambda: list(base.glob("postgresql.new-*/PG_VERSION")))
    other.kill()
    other.communicate()
    assert not (base / "postgresql").exists()
    with open_cluster(base) as cluster:
        assert query(cluster, "select 1") == 1

        def cleared() -> bool:
            open_cluster(base).close()
            return not list(base.glob("postgresql.new-*"))

        assert eventually(cleared)


@pytest.mark.parametrize("name", ["long" * 40, "o'dd $HOME `id` ü", "a, line\u2028"])
def test_folder_may_have_any_name(base: Path, ledger: Path, name: str) -> None:
    ledger.rename(base / name)
    try:
        with open_cluster(base / name) as cluster:
            other = user(base / name)
            said(other)
        assert query(cluster, "select n from t") == 7
        other.communicate()
        assert not postmaster(cluster.data)
        sockets = psycopg.conninfo.conninfo_to_dict(cluster.url)["host"]
        assert sockets == str(cluster.data) or not Path(str(sockets)).exists()
    finally:
        (base / name).rename(ledger)


def test_line_break_in_the_name_is_refused(base: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match="line break"):
        open_cluster(base / "a\nb")


def test_moved_folder_keeps_its_rows(base: Path, ledger_copy: Path) -> None:
    first = open_cluster(ledger_copy)
    ledger_copy.rename(base / "there")
    with open_cluster(base / "there") as moved, open_cluster(ledger_copy) as fresh:
        first.close()
        assert query(moved, "select n from t") == 7
        assert query(fresh, "select to_regclass('t')") is None


def test_copy_of_a_running_folder_has_a_server_of_its_own(base: Path, ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        subprocess.run(["cp", "-a", ledger, base / "copy"], check=True)
        with open_cluster(base / "copy") as copy:
            query(copy, "drop table t")
            assert query(cluster, "select n from t") == 7


def test_interrupt_of_the_opener_leaves_the_server(ledger: Path) -> None:
    with open_cluster(ledger) as cluster:
        cluster.kill()
        other = user(ledger)
        pid = said(other)
        os.killpg(other.pid, signal.SIGINT)
        other.communicate()
        assert other.returncode
        assert query(cluster, "select 1") == 1
        server = postmaster(cluster.data)
        assert server
        assert server.pid == pid


def test_server_does_not_hold_the_openers_output(ledger: Path) -> None:
    code = USER.replace("sys.stdin.read()", "import os; os._exit(3)")
    done = subprocess.run(
        [sys.executable, "-c", code, str(ledger)],
        capture_output=True,
        timeout=30,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE), *sys.path])},
    )
    assert done.returncode == 3
    assert postmaster(ledger / "postgresql")


def test_failed_start_says_why_in_one_line(ledger: Path) -> None:
    settings = ledger / "postgresql" / "postgresql.auto.conf"
    before = settings.read_text()
    settings.write_text("shared_buffers = 'much'\n")
    try:
        with pytest.raises(EmbeddedUnavailable, match="shared_buffers") as failure:
            open_cluster(ledger)
    finally:
        settings.write_text(before)
    assert "\n" not in str(failure.value)


def test_closed_handle_does_not_start(ledger: Path) -> None:
    cluster = open_cluster(ledger)
    cluster.close()
    with pytest.raises(EmbeddedUnavailable, match="closed"):
        cluster.ensure_running()


def test_folder_of_something_else_is_left_alone(base: Path) -> None:
    (base / "postgresql").mkdir()
    if ROOT:
        os.chown(base / "postgresql", server_account().uid, -1)
    (base / "postgresql" / "letter").touch()
    with pytest.raises(EmbeddedUnavailable, match="neither empty nor PostgreSQL's"):
        open_cluster(base)
    (base / "postgresql" / "PG_VERSION").write_text("16\n")
    with pytest.raises(EmbeddedUnavailable, match="made by PostgreSQL 16"):
        open_cluster(base)


def test_empty_data_folder_is_filled(base: Path) -> None:
    (base / "postgresql").mkdir()
    with open_cluster(base) as cluster:
        assert query(cluster, "select 1") == 1


def test_file_in_place_of_the_folder_is_one_clear_line(base: Path) -> None:
    (base / "file").touch()
    with pytest.raises(EmbeddedUnavailable, match="Not a directory"):
        open_cluster(base / "file")


def test_dangling_link_is_not_taken_for_an_empty_ledger(base: Path) -> None:
    (base / "postgresql").symlink_to(base / "gone" / "postgresql")
    with pytest.raises(EmbeddedUnavailable, match="which is gone"):
        open_cluster(base)


def test_temporary_cluster_leaves_nothing(base: Path) -> None:
    with temporary_cluster(base) as cluster:
        assert query(cluster, "show fsync") == "on"
        assert len(list(base.iterdir())) == 1
    assert not cluster.data.exists()
    assert not list(base.iterdir())


def test_private_folder_is_neither_changed_nor_littered(
    base: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home = base / "home"
    (home / "work").mkdir(0o700, parents=True)
    home.chmod(0o700)
    folders = [home / "work", *(home / "work").parents]
    before = [(f.stat().st_mode, f.stat().st_uid, f.stat().st_gid) for f in folders]
    with temporary_cluster(home / "work") as cluster:
        assert query(cluster, "select 1") == 1
        assert (cluster.data.parent.parent == Path("/var/lib/shared-ledger")) is ROOT
    assert [(f.stat().st_mode, f.stat().st_uid, f.stat().st_gid) for f in folders] == before
    assert not cluster.data.parent.exists()
    assert not list((home / "work").iterdir())
    assert not caplog.records


def test_programs_are_at_hand() -> None:
    done = subprocess.run([program("pg_dump"), "--version"], capture_output=True, check=True)
    assert b"PostgreSQL" in done.stdout
    with pytest.raises(EmbeddedUnavailable, match="no program pg_none"):
        program("pg_none")


def test_missing_wheel_says_what_to_install(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(EmbeddedUnavailable, match=r"pip install 'shared-ledger\[embedded\]'"):
        open_cluster(base)


def test_windows_is_refused(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedUnavailable, match="set DATABASE_URL"):
        open_cluster(base)


@as_root
def test_roots_private_folder_links_to_its_data(private_ledger: Path) -> None:
    with open_cluster(private_ledger) as cluster:
        assert (private_ledger / "postgresql").readlink() == cluster.data
        assert cluster.data.parent.name.startswith("my_ledger-")
        assert cluster.data.parent.parent == Path("/var/lib/shared-ledger")
        assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700
        other = user(private_ledger)
        said(other)
    other.communicate()
    assert postmaster(cluster.data) is None
    with open_cluster(private_ledger) as again:
        assert query(again, "select n from t") == 7


@as_root
def test_new_folder_never_gets_the_data_of_an_old_one(private_ledger: Path) -> None:
    there = private_ledger.rename(private_ledger.with_name("there"))
    try:
        with open_cluster(private_ledger) as new, open_cluster(there) as moved:
            assert query(new, "select to_regclass('t')") is None
            assert query(moved, "select n from t") == 7
    finally:
        private_ledger.rename(private_ledger.with_name("new"))
        there.rename(private_ledger)


@as_root
def test_unreachable_programs_are_copied_once(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = link_wheel(base / "private")
    (base / "private").chmod(0o700)
    monkeypatch.setattr(programs, "_wheel", lambda: wheel)
    monkeypatch.setattr(programs, "STORE", base / "store")
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(program, ["initdb", "psql"])
    assert first.parent == second.parent
    assert first.is_relative_to(base / "store")
    assert {path.name for path in (base / "store").iterdir()} == {
        first.relative_to(base / "store").parts[0],
        "programs.lock",
    }
    assert all(
        path.stat().st_uid == 0 and not path.stat().st_mode & 0o022
        for path in (base / "store").rglob("*")
    )
    with open_cluster(base / "ledger") as cluster:
        assert query(cluster, "select 1") == 1
        server = postmaster(cluster.data)
        assert server
        assert Path(server.exe()).is_relative_to(base / "store")


@as_root
def test_wheel_installed_under_a_strict_umask_is_not_used_in_place(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = link_wheel(base)
    strict = wheel / "pginstall18" / "share" / "postgresql" / "postgres.bki"
    content = strict.read_bytes()
    strict.unlink()
    strict.write_bytes(content)
    strict.chmod(0o600)
    monkeypatch.setattr(programs, "_wheel", lambda: wheel)
    monkeypatch.setattr(programs, "STORE", base / "store")
    assert program("postgres").is_relative_to(base / "store")
    assert stat.S_IMODE(strict.stat().st_mode) == 0o600


@as_root
def test_data_of_another_user_are_refused(ledger: Path) -> None:
    os.chown(ledger / "postgresql", NOBODY, NOBODY)
    try:
        with pytest.raises(EmbeddedUnavailable, match="belongs to the user nobody"):
            open_cluster(ledger)
    finally:
        os.chown(ledger / "postgresql", *server_account()[:2])


def interpreter_for_anybody() -> list[str]:
    """A Python that an ordinary user can run, with this project; root's own may be in its home."""
    path = os.pathsep.join(
        str(Path(p).resolve()) for p in [SOURCE, Path(psycopg.__file__).parents[1]]
    )
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/{name}", f"/usr/local/bin/{name}"):
        command = ["env", "-i", f"PYTHONPATH={path}", python, "-c"]
        try:
            subprocess.run(
                [*command, "import shared_ledger.embedded"],
                check=True,
                capture_output=True,
                cwd="/",
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    pytest.skip("an ordinary user cannot read this checkout or run its Python")


@as_root
def test_ordinary_user_needs_no_root(base: Path) -> None:
    python = interpreter_for_anybody()
    home = base / "home"
    home.mkdir(0o700)
    os.chown(home, NOBODY, NOBODY)
    code = """
import pathlib, subprocess, sys
from shared_ledger.embedded import open_cluster, program
for _ in range(2):
    with open_cluster(pathlib.Path(sys.argv[1])) as cluster:
        sql = "select current_user"
        subprocess.run([program("psql"), "-qAt", cluster.url, "-c", sql], check=True)
"""
    done = subprocess.run(
        [*python, code, str(home / "ledger")],
        capture_output=True,
        text=True,
        cwd="/",
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        check=False,
    )
    assert (done.stdout, done.stderr) == ("postgres\npostgres\n", "")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert {p.stat().st_uid for p in home.rglob("*")} == {NOBODY}
    with pytest.raises(EmbeddedUnavailable, match="belongs to the user nobody"):
        open_cluster(home / "ledger")
