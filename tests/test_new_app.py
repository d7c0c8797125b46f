"""What `shared-ledger new-app` writes: it runs, and passes tests, lint and types, at once."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner, Result

from builders import query
from shared_ledger.cli import app
from shared_ledger.cli.model import MAX_THING, MODEL, words_of
from shared_ledger.cli.new_app import PATHS
from shared_ledger.cli.settings_file import with_service
from shared_ledger.embedded import Cluster
from shared_ledger.service.authorisation import RIGHTS
from shared_ledger.settings import Settings
from shared_ledger.testing import TemporaryService, temporary_service

TOP = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
LONGEST = "n" * 55
LONGEST_THINGS = f"{'n' * MAX_THING}s"
# Plain, short, long and odd ones, and such as would be taken for something else in the code.
NAMES = ("bookings", "a", "x_1", LONGEST, LONGEST_THINGS, "routes", "calls", "match", "transfers")
DEFAULT = str(Settings.model_fields["shared_ledger_services"].default)
VARIABLES = re.compile(
    "DATABASE_URL|DB_.*|SHARED_LEDGER_.*|ENVIRONMENT|API_TOKEN|HOST|PORT|COLUMNS|PYTEST_.*"
)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["new-app", *arguments])


def refused(*arguments: str) -> str:
    """The one line of an error that the caller has to mend."""
    result = invoke(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").strip()


def tree(folder: Path) -> dict[str, str | None]:
    """All that is in a folder."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in folder.rglob("*")
    }


def tool(folder: Path, *command: str, **environment: str) -> str:
    """Run a program of the virtual environment as a user does who has activated it."""
    kept = {name: value for name, value in os.environ.items() if not VARIABLES.fullmatch(name)}
    done = subprocess.run(
        [BIN / command[0], *command[1:]],
        cwd=folder,
        env={**kept, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def lint(folder: Path) -> None:
    """Check style and format by ruff's own rules and by ours, whose lines may be longer."""
    ours = ("--config", str(TOP / "pyproject.toml"), "--config", 'src = ["."]')
    for rules in ("--isolated",), ours:
        tool(folder, "ruff", "check", *rules)
        tool(folder, "ruff", "format", "--check", *rules)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and no settings."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if VARIABLES.fullmatch(name):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an application of each name."""
    folder = tmp_path_factory.mktemp("project")
    for name in NAMES:
        assert invoke(name, "--folder", str(folder)).exit_code == 0
    return folder


@pytest.fixture
def book(cluster: Cluster, schema: str) -> dict[str, str]:
    """The environment for a database in which there is no book yet."""
    return {"DATABASE_URL": cluster.url, "SHARED_LEDGER_SCHEMA": schema}


# What is written.


def test_what_is_written_is_linted_and_formatted(project: Path) -> None:
    lint(project)


@pytest.mark.slow
def test_what_is_written_is_typed(project: Path) -> None:
    assert "no issues found" in tool(project, "mypy", "--strict")
    assert "0 errors, 0 warnings" in tool(project, "basedpyright")


@pytest.mark.slow
def test_what_is_written_passes_its_own_tests(project: Path) -> None:
    tests = [f"tests/test_{name}.py" for name in NAMES[:4]]
    assert f"{7 * len(tests)} passed" in tool(project, "pytest", "-q", *tests)


@pytest.mark.slow
def test_its_tests_pass_under_settings_of_the_users_own(folder: Path) -> None:
    own = folder / "pyproject.toml"
    own.write_text('[tool.pytest.ini_options]\naddopts = "--strict-markers"\n')
    assert invoke("bookings").exit_code == 0
    assert own.read_text() == '[tool.pytest.ini_options]\naddopts = "--strict-markers"\n'
    assert "7 passed" in tool(folder, "python", "-m", "pytest", "-q")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bookings", "x_1", LONGEST])
def test_its_migration_makes_what_the_application_has(
    project: Path, book: dict[str, str], name: str
) -> None:
    ini = f"{name}/alembic.ini"
    tool(project, "alembic", "-c", ini, "upgrade", "head", **book)
    said = tool(project, "alembic", "-c", ini, "check", **book)
    assert "No new upgrade operations detected." in said
    tool(project, "alembic", "-c", ini, "downgrade", "base", **book)
    table = f"{book['SHARED_LEDGER_SCHEMA']}.{name}_items"
    assert query(book["DATABASE_URL"], "select to_regclass(%s)", table) == [(None,)]


@pytest.mark.slow
def test_tables_of_another_book_on_the_search_path_are_none_of_its_own(
    folder: Path, book: dict[str, str]
) -> None:
    assert invoke("bookings").exit_code == 0
    database = f"other_{book['SHARED_LEDGER_SCHEMA']}"
    query(book["DATABASE_URL"], f"create database {database}")
    url = book["DATABASE_URL"].replace("/postgres?", f"/{database}?")
    for table in "bookings_items", "bookings_rooms":
        query(url, f"create table public.{table} (id bigint)")
    alembic = ("alembic", "-c", "bookings/alembic.ini")
    environment = book | {"DATABASE_URL": url}
    tool(folder, *alembic, "upgrade", "head", **environment)
    said = tool(folder, *alembic, "check", **environment)
    assert "No new upgrade operations detected." in said


@pytest.mark.slow
def test_the_next_migration_is_complete_linted_and_formatted(
    folder: Path, book: dict[str, str]
) -> None:
    assert invoke("bookings").exit_code == 0
    ini = "bookings/alembic.ini"
    tool(folder, "alembic", "-c", ini, "upgrade", "head", **book)
    operations = folder / "bookings" / "operations.py"
    text = operations.read_text()
    text = text.replace('"BOOKING"\n', '"BOOKING"\n    LATE_FEE = "LATE_FEE"\n')
    text = text.replace("(-4),\n", "(-4),\n        BookingOperation.LATE_FEE: Rule.fixed(-2),\n")
    operations.write_text(text)
    tool(folder, "alembic", "-c", ini, "revision", "--autogenerate", "-m", "late fee", **book)
    (written,) = (folder / "bookings" / "migrations" / "versions").glob("*_late_fee.py")
    assert 'op.add_ledger_operations("bookings", ["LATE_FEE"])' in written.read_text()
    lint(folder)
    tool(folder, "alembic", "-c", ini, "upgrade", "head", **book)
    said = tool(folder, "alembic", "-c", ini, "check", **book)
    assert "No new upgrade operations detected." in said


def test_nothing_of_the_model_is_left(folder: Path) -> None:
    assert invoke("bookings").exit_code == 0
    left = [
        f"{name}: {line}"
        for name, text in tree(folder).items()
        for line in (name, *(text or "").splitlines())
        if re.search(r"example(?!s=)|record(?!ed=)", line, re.IGNORECASE)
    ]
    assert left == []


def test_every_file_of_the_model_is_written(folder: Path) -> None:
    # With this name the model's things keep theirs.
    assert invoke(LONGEST).exit_code == 0
    written = {
        name.replace(LONGEST, "example"): text.replace(LONGEST, "example").replace(
            LONGEST.capitalize(), "Example"
        )
        for name, text in tree(folder).items()
        if text is not None
    }
    assert written.pop(".env") == f"SHARED_LEDGER_SERVICES={DEFAULT},example:SERVICE\n"
    assert written == {
        name: text
        for name, text in tree(MODEL).items()
        if text is not None and "__pycache__" not in name
    }
    assert len(written) == 13


@pytest.fixture
def served(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[TemporaryService]:
    """The model itself, served in this process."""
    monkeypatch.syspath_prepend(str(MODEL))
    with temporary_service(import_module("example").SERVICE, url=cluster.url) as served:
        yield served


def test_what_is_asked_many_times_at_once_happens_once(served: TemporaryService) -> None:
    user = served.user(credits=12)
    body = {"title": "the first", "nonce": "n1"}
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: user.post("/example", body), range(16)))
        assert sorted(answer.status_code for answer in made) == [200] * 15 + [201]
        assert user.credits() == 8
        path = f"/example/{made[0].json()['id']}"
        cancelled = list(threads.map(lambda _: user.post(f"{path}/cancel"), range(16)))
    assert {answer.status_code for answer in cancelled} == {200}
    assert {answer.text for answer in cancelled} == {user.get(path).text}
    assert user.credits() == 12


def test_an_entry_that_a_service_posted_alone_is_none_of_its_own(served: TemporaryService) -> None:
    user = served.user(credits=12)
    entry = {"operation": "RECORD", "owner_id": user.name, "nonce": "@record:n1"}
    assert served.key().post("/ledger", entry).status_code == 201
    refused = user.post("/example", {"title": "the first", "nonce": "n1"})
    assert (refused.status_code, refused.json()["field"]) == (409, "kind")


# What it is called.


@pytest.mark.parametrize(
    ("name", "thing", "module"),
    [
        ("bookings", "Booking", "bookings"),
        ("room_bookings", "RoomBooking", "room_bookings"),
        ("x_1", "X1", "x_1"),
        ("a", "A", "a"),
        ("prices", "Price", "prices"),
        # Nobody knows what one of them is called.
        ("stock", "Stock", "stock"),
        ("addresses", "Addresses", "addresses"),
        ("series", "Series", "series"),
        # It would be the name of something else: the model's, Python's, the ledger's.
        ("calls", "Record", "records"),
        ("routes", "Record", "records"),
        ("owners", "Record", "records"),
        ("lists", "List", "lists"),
        ("list", "Record", "records"),
        ("transfers", "Record", "records"),
        ("credit_add", "Record", "records"),
        # Too long to be put everywhere, or just short enough.
        (LONGEST_THINGS, "N" + "n" * 15, LONGEST_THINGS),
        (LONGEST, "Record", "records"),
    ],
)
def test_its_things_have_a_name_that_is_free(name: str, thing: str, module: str) -> None:
    words = words_of(name)
    assert (words["Record"], words["records"]) == (thing, module)
    assert words["example"] == name


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("Bookings", "is not 1 to 55 lower-case letters, digits and underscores"),
        ("1a", "is not 1 to 55 lower-case letters, digits and underscores"),
        ("a-b", "is not 1 to 55 lower-case letters, digits and underscores"),
        ("../a", "is not 1 to 55 lower-case letters, digits and underscores"),
        ("", "is not 1 to 55 lower-case letters, digits and underscores"),
        ("n" * 56, "is not 1 to 55 lower-case letters, digits and underscores"),
        ("class", "class is a keyword of Python"),
        ("json", "a module json can be imported already"),
        ("winreg", "a module winreg can be imported already"),  # on another system
        ("sqlalchemy", "a module sqlalchemy can be imported already"),
        ("shared_ledger", "a module shared_ledger can be imported already"),
        ("shared", "there is an application shared already"),
        ("content", "there is an application content already"),
        ("data", "the folder data is for something else"),
        ("tests", "the folder tests is for something else"),
        ("ledger", "every service has a route /ledger"),
    ],
)
def test_a_name_that_cannot_be_is_refused(folder: Path, name: str, sentence: str) -> None:
    assert sentence in refused(name)
    assert tree(folder) == {}


def test_the_paths_of_every_service_are_known() -> None:
    roots = {path.split("/")[1] for _, path in RIGHTS}
    assert {root for root in roots if "." not in root} == set(PATHS)


# What was there before.


@pytest.mark.parametrize("path", ["bookings", "bookings.py", "tests/test_bookings.py"])
@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_there_is_named_and_left_alone(folder: Path, path: str, kind: str) -> None:
    mine = folder / path
    mine.parent.mkdir(exist_ok=True)
    if kind == "file":
        mine.write_text("mine")
    elif kind == "folder":
        mine.mkdir()
    else:
        mine.symlink_to("nowhere")
    before = tree(folder)
    assert refused("bookings") == f"there is {path} already: nothing was written"
    assert tree(folder) == before


def test_a_second_one_of_a_name_is_refused(folder: Path) -> None:
    assert invoke("bookings").exit_code == 0
    before = tree(folder)
    assert refused("bookings") == "there is bookings already: nothing was written"
    assert tree(folder) == before


def test_when_it_cannot_write_all_it_writes_nothing(folder: Path) -> None:
    (folder / "tests").write_text("a file, and no folder")
    before = tree(folder)
    result = invoke("bookings", "--folder", ".")
    assert (result.exit_code, result.stderr) == (1, "error: File exists: tests\n")
    assert tree(folder) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"SHARED_LEDGER_SERVICES={DEFAULT},a:SERVICE\n"),
        ("PORT=1", f"PORT=1\nSHARED_LEDGER_SERVICES={DEFAULT},a:SERVICE\n"),
        ("# X\r\nPORT=1\r\n", f"# X\r\nPORT=1\r\nSHARED_LEDGER_SERVICES={DEFAULT},a:SERVICE\n"),
        ("SHARED_LEDGER_SERVICES=b:S", "SHARED_LEDGER_SERVICES=b:S,a:SERVICE"),
        ("SHARED_LEDGER_SERVICES=\nX=1", "SHARED_LEDGER_SERVICES=a:SERVICE\nX=1"),
        ("SHARED_LEDGER_SERVICES=''\nX=1", "SHARED_LEDGER_SERVICES='a:SERVICE'\nX=1"),
        (
            "X='2\n3'\n export shared_ledger_services = \"b:S, c.d:S\"  # mine\r\nY=z\n",
            "X='2\n3'\n export shared_ledger_services = \"b:S, c.d:S,a:SERVICE\"  # mine\r\nY=z\n",
        ),
        (
            "SHARED_LEDGER_SERVICES=b:S # old\nSHARED_LEDGER_SERVICES=c:S # new\n",
            "SHARED_LEDGER_SERVICES=b:S # old\nSHARED_LEDGER_SERVICES=c:S,a:SERVICE # new\n",
        ),
        ("SHARED_LEDGER_SERVICES=a:SERVICE,b:S\n", "SHARED_LEDGER_SERVICES=a:SERVICE,b:S\n"),
        ("#SHARED_LEDGER_SERVICES=b:S\n", None),
        ("SHARED_LEDGER_SERVICES\n", None),
    ],
)
def test_the_service_is_added_to_the_settings_and_nothing_lost(
    before: str, after: str | None
) -> None:
    expected = f"{before}SHARED_LEDGER_SERVICES={DEFAULT},a:SERVICE\n" if after is None else after
    assert with_service(before, "a:SERVICE") == expected


@pytest.mark.parametrize(
    "text",
    [
        "OTHER=b:S\nSHARED_LEDGER_SERVICES=${OTHER}\n",
        "'SHARED_LEDGER_SERVICES'=b:S\n",
        "X=\"\nSHARED_LEDGER_SERVICES=c:S\n\"\n'SHARED_LEDGER_SERVICES'=b:S\n",
        "SHARED_LEDGER_SERVICES='b:S\n,c:S'\n",
    ],
)
def test_settings_that_are_not_understood_are_left_alone(folder: Path, text: str) -> None:
    (folder / ".env").write_text(text)
    assert "add bookings:SERVICE to it" in refused("bookings")
    assert tree(folder) == {".env": text}


def test_settings_in_another_encoding_are_left_alone(folder: Path) -> None:
    (folder / ".env").write_bytes(b"NAME=caf\xe9\n")
    assert refused("bookings") == ".env is not in UTF-8: nothing was written"
    assert [path.name for path in folder.iterdir()] == [".env"]


def test_settings_stay_where_they_are_and_as_private(folder: Path) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "settings").write_bytes(b"API_TOKEN=a-secret\r\n")
    (elsewhere / "settings").chmod(0o600)
    (folder / ".env").symlink_to("elsewhere/settings")
    assert invoke("bookings").exit_code == 0
    assert (folder / ".env").is_symlink()
    assert (elsewhere / "settings").read_bytes().startswith(b"API_TOKEN=a-secret\r\nSHARED_")
    assert (elsewhere / "settings").stat().st_mode & 0o777 == 0o600
    assert list(elsewhere.iterdir()) == [elsewhere / "settings"]


# What it says.


def test_it_says_what_it_wrote_and_what_is_next(folder: Path) -> None:
    said = invoke("bookings").stdout
    for name, text in tree(folder).items():
        assert text is None or f" {name}" in said
    commands = re.findall(r"^  (shared-ledger \w+|python -m pytest) ", said, re.MULTILINE)
    assert commands == ["shared-ledger migrate", "shared-ledger serve", "python -m pytest"]


def test_it_says_so_to_programs(folder: Path) -> None:
    result = invoke("bookings", "--folder", "a/shop", "--json")
    assert result.stdout.count("\n") == 1
    said = json.loads(result.stdout)
    assert said["application"] == "bookings"
    assert said["service"] == "bookings:SERVICE"
    assert said["folder"] == str(folder / "a" / "shop")
    written = tree(folder / "a" / "shop")
    files = {name for name, text in written.items() if text is not None}
    assert {*said["files"], said["settings"]} == files
    assert said["next"][0] == "shared-ledger migrate"


def test_it_says_when_the_environment_goes_before_the_settings(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_LEDGER_SERVICES", "")
    assert "the environment sets SHARED_LEDGER_SERVICES too: add a:SERVICE" in invoke("a").stdout


# What is served.


@contextmanager
def running(folder: Path, command: Callable[[int], list[str]], **environment: str) -> Iterator[str]:
    """Run a service on a free port until the block ends; give its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not VARIABLES.fullmatch(name)}
    program, *arguments = command(port)
    process = subprocess.Popen(
        [BIN / program, *arguments], cwd=folder, env=kept | environment, stdout=subprocess.DEVNULL
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 60
    try:
        while not alive(url):
            assert process.poll() is None, "it has ended"
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def alive(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def book_one(url: str, path: str) -> dict[str, Any]:
    """Give somebody credits, and let him have one of what the application offers."""
    headers = {"x-token": "secret-token"}
    gift = {"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": f"gift {path}"}
    assert httpx.post(f"{url}/ledger", json=gift, headers=headers).status_code == 201
    body = {"title": "the first", "nonce": "n1", "owner_id": "ada"}
    made = httpx.post(f"{url}{path}", json=body, headers=headers)
    assert made.status_code == 201, made.text
    document: dict[str, Any] = made.json()
    return document


@pytest.mark.slow
def test_all_are_served_beside_each_other_at_once(project: Path, book: dict[str, str]) -> None:
    said = json.loads(tool(project, "shared-ledger", "migrate", "--json", **book))
    assert set(said["services"]) >= set(NAMES)
    with running(
        project, lambda port: ["shared-ledger", "serve", "--port", str(port)], **book
    ) as url:
        for name in NAMES:
            base = f"{url}/api/v1/{name}"
            described = httpx.get(f"{base}/openapi.json").json()
            assert f"/{name}" in described["paths"]
            assert httpx.get(f"{base}/docs").status_code == 200
            assert book_one(base, f"/{name}")["owner_id"] == "ada"
        balance = httpx.get(f"{url}/balance/ada", headers={"x-token": "secret-token"}).json()
        assert balance == {"owner_id": "ada", "balance": (10 - 4) * len(NAMES)}


@pytest.mark.slow
def test_each_is_served_alone(project: Path, book: dict[str, str]) -> None:
    tool(project, "alembic", "-c", "bookings/alembic.ini", "upgrade", "head", **book)
    with running(
        project, lambda port: ["uvicorn", "bookings.main:app", "--port", str(port)], **book
    ) as url:
        assert book_one(url, "/bookings")["title"] == "the first"
