"""What the guide says of backups: taken while others post, lost, restored, proven."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import httpx
import pytest
import yaml

from builders import add, assert_sound, eventually, query
from deploy.compose import DEPLOY, TOP
from deploy.guide import block
from deploy.load import Clients
from deploy.postgres import Postgres, open_folder, run_shell
from instances import Instance, running
from serving import OPERATOR
from shared_ledger import SHARED, Ledger
from shared_ledger.embedded import open_cluster

pytestmark = pytest.mark.deploy

PAGE = "backup.md"
SCHEMA = "ledger"
ARCHIVE_WAL = DEPLOY / "backup" / "archive-wal"
POINT_IN_TEXT = "2026-11-21 14:30:00+00"


@pytest.fixture
def place() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


@pytest.fixture
def postgres(place: Path) -> Iterator[Postgres]:
    """A server with the service's role and its database."""
    server = Postgres(place)
    try:
        server.make()
        yield server
    finally:
        server.stop()


@pytest.fixture
def instance(postgres: Postgres, tmp_path: Path) -> Instance:
    """A service on it, migrated, not started yet."""
    instance = Instance(tmp_path / "instance", postgres.url, SCHEMA)
    instance.migrate()
    return instance


class Administrator:
    """Somebody who does what the guide says, with the paths of here."""

    def __init__(self, postgres: Postgres) -> None:
        self.postgres = postgres
        self.wal = postgres.folder / "srv" / "wal"
        self.backups = postgres.folder / "srv" / "base"
        self._here = {
            "/usr/local/bin": str(postgres.folder),
            "/srv/backup": str(postgres.folder / "srv"),
        }
        run_shell(self._commands("archive-program"), {}, cwd=TOP)
        postgres.shell("mkdir srv")

    def do(self, name: str, replacing: dict[str, str] | None = None) -> str:
        """Run a block as PostgreSQL's account; what it printed."""
        return self.postgres.shell(self._commands(name, replacing))

    def do_ours(self, name: str, folder: Path) -> str:
        """Run a block as whoever has the service's environment; what it printed."""
        programs = f"{Path(sys.executable).parent}:{self.postgres.programs}"
        environment = {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "DATABASE_URL": self.postgres.url,
        }
        return run_shell(self._commands(name), environment, cwd=folder)

    def archive(self) -> None:
        """Begin to archive."""
        self.do("archive")
        self.postgres.shell("pg_ctl restart -s -w -l log")
        self.do("archive-check")

    def wait_archived(self) -> None:
        """Wait until all that was written is in the archive, as it is after a minute."""
        segment = self.postgres.shell("psql -XAtc 'select pg_walfile_name(pg_current_wal_lsn())'")
        self.do("archive-check")
        eventually((self.wal / segment.strip()).exists)

    def backup(self) -> Path:
        """Take a base backup."""
        self.do("base-backup")
        (made,) = self.backups.iterdir()
        return made

    def _commands(self, name: str, replacing: dict[str, str] | None = None) -> str:
        commands = block(name, page=PAGE)
        for text, here in {**self._here, **(replacing or {})}.items():
            commands = commands.replace(text, here)
        return commands


@pytest.fixture
def administrator(postgres: Postgres) -> Administrator:
    return Administrator(postgres)


def written(url: str) -> set[tuple[str, str]]:
    """Owner and nonce of all entries."""
    return {(owner, nonce) for owner, nonce in query(url, ENTRIES)}


ENTRIES = f"select owner_id, nonce from {SCHEMA}.entries"


def at_point(url: str) -> str:
    """The database's present, as the guide writes it."""
    ((now,),) = query(url, "select clock_timestamp()")
    assert isinstance(now, datetime)
    return now.isoformat(sep=" ")


def post(url: str, owner_id: str, nonce: str) -> int:
    """Post credits; the status of the answer."""
    body = {"operation": "CREDIT_ADD", "owner_id": owner_id, "nonce": nonce}
    return httpx.post(f"{url}/ledger", json=body, headers=OPERATOR).status_code


@pytest.mark.parametrize("lost", [False, True], ids=["disk is there", "disk is lost"])
async def test_a_book_is_restored_to_a_point_in_time(
    administrator: Administrator, instance: Instance, tmp_path: Path, lost: bool
) -> None:
    server = administrator.postgres
    await asyncio.to_thread(administrator.archive)
    clients = Clients(instance.url, OPERATOR)
    clients.post_credits()
    before: list[tuple[str, str]] = []
    point = ""
    later = [f"later {number}" for number in range(20)]

    async def back_up_and_go_on() -> None:
        nonlocal before, point
        await asyncio.to_thread(administrator.backup)
        await clients.answered(50)
        before = list(clients.seen.nonces)
        point = at_point(server.url)
        for nonce in later:
            assert await asyncio.to_thread(post, instance.url, "ada", nonce) == 201

    with running(instance):
        seen = await clients.ask_while(back_up_and_go_on)
        assert seen.unexpected == []
        if lost:
            administrator.wait_archived()
        server.kill()
    if lost:
        shutil.rmtree(server.data)
    administrator.do("restore")
    administrator.do("point", {POINT_IN_TEXT: point})
    server.start()

    said = administrator.do("look")
    # Of the point nothing is lost; of what came later there is nothing.
    restored = written(server.url)
    assert re.search(rf"(?m)\| +{len(restored)}$", said)
    assert set(before) <= restored
    assert restored < set(seen.nonces)
    assert not {nonce for _, nonce in restored} & set(later)
    assert "The book agrees" in administrator.do_ours("verify", tmp_path)

    administrator.do("open")
    administrator.do_ours("doctor", tmp_path)
    with running(instance):
        # Who sends again what was lost writes it again, and what was not lost only once.
        assert post(instance.url, "ada", later[0]) == 201
        assert post(instance.url, *before[-1]) == 200
    assert_sound(server.url, SCHEMA)
    # The next base backup is of the new line of time, into the same archive.
    administrator.do("base-backup")
    administrator.do("archive-check")


async def test_a_dump_under_load_is_a_whole_book_in_another_database(
    administrator: Administrator, instance: Instance, tmp_path: Path
) -> None:
    server = administrator.postgres
    clients = Clients(instance.url, OPERATOR)
    clients.post_credits()
    before: list[tuple[str, str]] = []

    async def dump() -> None:
        nonlocal before
        before = list(clients.seen.nonces)
        await asyncio.to_thread(administrator.do_ours, "dump", tmp_path)

    with running(instance):
        seen = await clients.ask_while(dump)
    assert seen.unexpected == []
    administrator.do("restored-database")
    assert "The book agrees" in administrator.do_ours("load", tmp_path)
    restored = server.url_of("ledger_restored")
    assert set(before) <= written(restored) < written(server.url)
    assert_sound(restored, SCHEMA)
    with Ledger(SHARED, restored, schema=SCHEMA) as ledger:
        assert ledger.post(add(*before[0])).replayed
        assert not ledger.post(add("ada", "after all")).replayed


def flip_a_byte(backup: Path) -> str:
    """Change the largest table or index a little; its name."""
    largest = max((backup / "base").rglob("*"), key=lambda file: file.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(4_000)
        byte = file.read(1)[0]
        file.seek(4_000)
        file.write(bytes([byte ^ 1]))
    return largest.name


def lose_the_log(backup: Path) -> str:
    """Remove what was written while the backup was taken; what is said of that."""
    for segment in (backup / "pg_wal").glob("0*"):
        segment.unlink()
    return "WAL"


@pytest.mark.parametrize("damage", [flip_a_byte, lose_the_log])
def test_a_damaged_backup_is_not_restored(administrator: Administrator, damage: object) -> None:
    server = administrator.postgres
    administrator.archive()
    backup = administrator.backup()
    assert callable(damage)
    said = damage(backup)
    server.kill()
    with pytest.raises(AssertionError, match=said):
        administrator.do("restore")
    # It stopped before the old folder was touched.
    server.start()


def test_of_the_archive_goes_what_only_older_backups_need(administrator: Administrator) -> None:
    administrator.archive()
    old = set(administrator.wal.iterdir())
    backup = administrator.backup()
    administrator.do("expire")
    assert backup.is_dir()
    left = set(administrator.wal.iterdir())
    assert old
    assert not old & left
    assert left


def test_compose_with_backups_is_compose_and_the_archive() -> None:
    production, backups = (
        yaml.safe_load((DEPLOY / name).read_text())["services"]["postgres"]
        for name in ("compose.yaml", "compose.backup.yaml")
    )
    command = production["command"]
    more = backups["command"][len(command) :]
    assert backups["command"] == command + more
    settings = block("archive", page=PAGE).replace("alter system set ", "")
    said = dict(re.findall(r"(?m)^(\w+) = '?(.*?)'?;$", settings))
    assert dict(setting.split("=", 1) for setting in more[1::2]) == said
    assert (DEPLOY / backups["volumes"][0].split(":")[0]).samefile(ARCHIVE_WAL)


@pytest.fixture
def segments(tmp_path: Path) -> Path:
    """A folder with two files of the log, and an archive with nothing."""
    (tmp_path / "a").write_text("one")
    (tmp_path / "b").write_text("two")
    (tmp_path / "wal").mkdir()
    return tmp_path


def archived(folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    """Offer a file to the archive as PostgreSQL does, always under one name."""
    return subprocess.run(
        [ARCHIVE_WAL, "wal", path, "0001"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_archive_keeps_a_file_that_is_offered_twice(segments: Path) -> None:
    assert archived(segments, "a").returncode == 0
    assert archived(segments, "a").returncode == 0
    assert [file.name for file in (segments / "wal").iterdir()] == ["0001"]
    assert (segments / "wal" / "0001").read_text() == "one"


def test_the_archive_changes_nothing_that_it_has(segments: Path) -> None:
    archived(segments, "a")
    again = archived(segments, "b")
    assert again.returncode == 1
    assert "is another" in again.stderr
    assert (segments / "wal" / "0001").read_text() == "one"


def test_the_archive_takes_a_file_after_it_was_interrupted(segments: Path) -> None:
    # What is left when the machine stops in the middle of the copy.
    (segments / "wal" / ".0001").write_text("o")
    assert archived(segments, "a").returncode == 0
    assert (segments / "wal" / "0001").read_text() == "one"


def test_the_archive_does_not_say_that_it_has_what_it_could_not_read(segments: Path) -> None:
    assert archived(segments, "c").returncode != 0
    assert not (segments / "wal" / "0001").exists()


def test_the_embedded_book_is_dumped_and_loaded_by_its_own_programs(place: Path) -> None:
    with Ledger(SHARED, data=place / "data", schema=SCHEMA) as ledger:
        ledger.post(add("ada", "n1"))
        # While it is used.
        run_python("embedded", place)
        ledger.post(add("ada", "n2"))
    run_python("embedded-load", place)
    with open_cluster(place / "restored") as cluster:
        assert written(cluster.url) == {("ada", "n1")}
        assert_sound(cluster.url, SCHEMA)
    with Ledger(SHARED, data=place / "restored", schema=SCHEMA) as ledger:
        assert ledger.post(add("ada", "n1")).replayed


def run_python(name: str, folder: Path) -> None:
    """Run a block of the guide that is a program."""
    code = block(name, page=PAGE)
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)
