"""The command line: what it does, what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from builders import add, query
from shared_ledger import Ledger, LedgerUnavailable, SharedOperation, __version__
from shared_ledger.bench import main as bench
from shared_ledger.cli import app
from shared_ledger.cli.options import UNREADABLE_URL, place_of
from shared_ledger.cli.output import plain
from shared_ledger.embedded import Cluster
from shared_ledger.schema import VERSION_TABLE

Run = Callable[..., Result]

# What the tests' surroundings may have set.
VARIABLES = re.compile(
    "DATABASE_URL|DB_.*|SHARED_LEDGER_.*|ENVIRONMENT|API_TOKEN|HOST|PORT|COLUMNS"
)

BOOKINGS = """
from shared_ledger import Application, BaseLedgerOperation, Rule

class BookingOperation(BaseLedgerOperation):
    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    BOOKING = "BOOKING"

RULES = {BookingOperation.BOOKING: Rule.variable(minimum=-50, maximum=50)}
BOOKINGS = Application("bookings", BookingOperation, rules=RULES)
"""


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory that PostgreSQL's user can enter."""
    path = Path(tempfile.mkdtemp(prefix="test-cli-", dir="/tmp"))
    path.chmod(0o755)
    monkeypatch.chdir(path)
    for name in os.environ:
        if VARIABLES.fullmatch(name):
            monkeypatch.delenv(name)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def empty(
    folder: Path, cluster: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> Mapping[str, str]:
    """The environment for a database without a book."""
    environment = {"DATABASE_URL": cluster.url, "SHARED_LEDGER_SCHEMA": schema}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


@pytest.fixture
def run(empty: Mapping[str, str], ledger: Ledger[SharedOperation]) -> Run:
    """Run a command on a new book, in this process."""
    return invoke


def invoke(*arguments: str, input: bytes | None = None) -> Result:  # noqa: A002  # as the runner
    return CliRunner().invoke(app, arguments, input=input)


def document(result: Result) -> Any:
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as users do."""
    return subprocess.run(
        [sys.executable, "-m", "shared_ledger.cli", *arguments],
        check=False,
        text=True,
        capture_output=True,
        timeout=60,
        **options,
    )


def failed(result: Result, status: int) -> str:
    """The one line of an error."""
    assert result.exit_code == status, (result.stdout, result.stderr)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").strip()


# Help, usage and errors.


def test_help_names_every_command(folder: Path) -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for command in app.registered_commands:
        assert f" {command.name} " in result.stdout
    assert invoke().stdout == result.stdout


def test_help_and_version_need_no_framework_and_no_database() -> None:
    script = (
        "import sys; from shared_ledger.cli import app\n"
        "try: app(['--version'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('fastapi', 'alembic', 'uvicorn', 'rich.progress') if m in sys.modules])"
    )
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output == f"shared-ledger {__version__}\n[]\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nope"], "No such command 'nope'"),
        (["post"], "Missing argument 'OPERATION'"),
        (["post", "CREDIT_ADD", "u", "--colour"], "No such option: --colour"),
        (["post", "CREDIT_ADD", "u", "--amount", "1.5"], "'1.5' is not a whole number"),
        (["post", "CREDIT_ADD", "u", "--amount", "1_0"], "'1_0' is not a whole number"),
        (["post", "CREDIT_ADD", "u", "--amount", "9" * 5_000], "is not a whole number"),
        (["post", "CREDIT_ADD", "u", "--metadata", "{"], "'--metadata': is not JSON"),
        (["post", "CREDIT_ADD", "u", "--metadata", "[1]"], "'--metadata': is not a JSON object"),
        (["post", "CREDIT_ADD", "u", "--metadata", "[" * 99_999], "'--metadata': is not JSON"),
        (["post", "CREDIT_ADD", "u", "--metadata", '"\udcff"'], "'--metadata': is not JSON"),
        (["history", "u", "--limit", "0"], "'--limit'"),
        (["history", "u", "--limit", "1001"], "'--limit'"),
        (["history", "u", "--cursor", str(2**63)], "'--cursor'"),
        (["balance", "u", "--asset", "\udcff"], "'--asset'"),
        (["balance", "-5"], "No such option: -5 (no argument is a negative number)"),
        (["migrate", "--revision", "9999"], "the book has no revision '9999'"),
        (["serve", "--port", "65536"], "'--port'"),
        (["import", "x.csv", "--batch", "0"], "'--batch'"),
        (["balance", "u", "--application", "bookings"], "is not of the form MODULE:NAME"),
        (["balance", "u", "--application", "no_such:NAME"], "there is no module no_such"),
        (["balance", "u", "--application", "json:loads"], "loads in the module json is not"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    empty: Mapping[str, str], arguments: list[str], sentence: str
) -> None:
    assert sentence in failed(invoke(*arguments), 2)


def test_a_wrong_setting_is_one_line_and_status_2(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://me:hush@host/name")
    sentence = failed(invoke("balance", "u"), 2)
    assert "DATABASE_URL" in sentence
    assert "hush" not in sentence


def test_a_database_that_cannot_be_reached_is_one_line_and_status_1(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hush@127.0.0.1:1/name")
    for command in (["balance", "u"], ["migrate"], ["verify"], ["serve", "--port", "0"]):
        sentence = failed(invoke(*command), 1)
        assert "the database cannot be reached" in sentence
        assert "hush" not in sentence


def test_a_book_that_is_not_there_is_one_line_and_status_1(empty: Mapping[str, str]) -> None:
    for command in ("post", "balance", "verify", "serve"):
        arguments = {"post": ["CREDIT_ADD", "u"], "balance": ["u"], "serve": ["--port", "0"]}
        sentence = failed(invoke(command, *arguments.get(command, [])), 1)
        assert "run `shared-ledger migrate`" in sentence


def test_what_nobody_foresaw_is_one_line_too(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr(Ledger, "balance", fail)
    assert failed(run("balance", "u"), 1).startswith("unexpected ZeroDivisionError: two lines")


def test_an_interrupt_is_quiet_and_status_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "balance", interrupt)
    result = run("balance", "u")
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_a_reader_that_leaves_is_no_error(
    empty: Mapping[str, str], ledger: Ledger[SharedOperation]
) -> None:
    ledger.post_batch([add("u", f"n{number}") for number in range(1_000)])
    command = f"{sys.executable} -m shared_ledger.cli history u --limit 1000 | head -c 1"
    done = subprocess.run(command, shell=True, check=False, capture_output=True)
    assert (len(done.stdout), done.stderr) == (1, b"")


def test_a_full_disk_is_one_line(empty: Mapping[str, str], ledger: Ledger[Any]) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    with full.open("wb") as file:
        command = [sys.executable, "-m", "shared_ledger.cli", "balance", "u", "--json"]
        # As a shell has it: what is written last is written when Python ends.
        buffered = {name: each for name, each in os.environ.items() if name != "PYTHONUNBUFFERED"}
        done = subprocess.run(
            command, check=False, stdout=file, stderr=subprocess.PIPE, text=True, env=buffered
        )
    assert (done.returncode, done.stderr) == (1, "error: No space left on device\n")


# What comes from outside is shown, not obeyed.


def test_text_from_outside_is_no_markup(run: Run, ledger: Ledger[SharedOperation]) -> None:
    ledger.post(add("[red]bob[/red]", "[link=x]:smile:"))
    assert "[link=x]:smile:" in run("history", "[red]bob[/red]").stdout
    assert "[red]bob[/red]" in run("balance", "[red]bob[/red]").stdout


def test_text_from_outside_is_no_order_to_the_terminal(run: Run) -> None:
    result = run("balance", "\x1b]0;title\x07\u202e")
    assert "control character" in failed(result, 1)
    assert "\x1b" not in failed(run("nope\x1b[31m"), 2)
    metadata = json.dumps({"say": "\x9b31m\u202e\U000e0001"}, ensure_ascii=False)
    result = run("post", "CREDIT_ADD", "u", "--metadata", metadata, "--json")
    assert document(result)["metadata"] == {"say": "\x9b31m\u202e\U000e0001"}
    assert result.stdout.strip().isprintable()


@pytest.mark.parametrize(
    ("text", "shown"), [("a b", "a b"), ("a\nb\x1b\u2028", "a\\nb\\x1b\\u2028"), ("é漢", "é漢")]
)
def test_what_cannot_be_printed_is_made_visible(text: str, shown: str) -> None:
    assert plain(text) == shown


# Posting and reading.


def test_post_shows_the_entry_and_its_new_nonce(run: Run) -> None:
    result = run("post", "CREDIT_ADD", "u")
    assert result.exit_code == 0
    assert result.stdout.startswith("Posted\n")
    assert "+10 credits from @issued" in result.stdout
    assert re.search(r"nonce +[0-9a-f]{8}-[0-9a-f-]{27}", result.stdout)


def test_post_as_json_is_the_entry_of_the_http_service(run: Run) -> None:
    entry = document(run("post", "CREDIT_ADD", "u", "--nonce", "n1", "--json"))
    created_on = entry.pop("created_on")
    assert created_on.endswith("Z")
    assert entry.pop("id") > 0
    assert entry == {
        "app": "shared",
        "operation": "CREDIT_ADD",
        "owner_id": "u",
        "counterparty": "@issued",
        "asset": "credits",
        "amount": 10,
        "balance_after": 10,
        "nonce": "n1",
        "replayed": False,
    }


def test_post_with_the_same_nonce_is_replayed(run: Run) -> None:
    first = document(run("post", "CREDIT_ADD", "u", "--nonce", "n1", "--json"))
    again = document(run("post", "CREDIT_ADD", "u", "--nonce", "n1", "--json"))
    assert again == {**first, "replayed": True}
    assert "posted before" in run("post", "CREDIT_ADD", "u", "--nonce", "n1").stdout
    assert document(run("balance", "u", "--json"))["balance"] == 10


def test_a_negative_amount_can_be_posted(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    entry = document(run("post", "CREDIT_SPEND", "u", "--amount", "-1", "--json"))
    assert (entry["amount"], entry["balance_after"]) == (-1, 9)


def test_metadata_is_kept(run: Run) -> None:
    entry = document(run("post", "CREDIT_ADD", "u", "--metadata", '{"a": [1]}', "--json"))
    assert entry["metadata"] == {"a": [1]}
    assert '{"a":[1]}' in run("post", "CREDIT_ADD", "u", "--metadata", '{"a": [1]}').stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["CREDIT_SPEND", "poor"], "poor has 0 credits available, 1 required"),
        (["NOPE", "u"], "'NOPE' is not one of shared's: DAILY_REWARD,"),
        (["CREDIT_ADD", "@u"], "kept for system accounts"),
        (["CREDIT_ADD", "u", "--nonce", ""], "nonce is empty"),
        (["CREDIT_ADD", "u", "--amount", "11"], "amount is fixed at 10"),
    ],
)
def test_a_refusal_is_one_line_and_status_1(run: Run, arguments: list[str], sentence: str) -> None:
    assert sentence in failed(run("post", *arguments), 1)
    assert sentence in failed(run("post", *arguments, "--json"), 1)


def test_balance(run: Run, ledger: Ledger[SharedOperation]) -> None:
    ledger.post(add("u", "n1"))
    assert document(run("balance", "u", "--json")) == {
        "owner_id": "u",
        "balance": 10,
        "available": 10,
        "held": 0,
        "asset": "credits",
        "expiring": 0,
        "debt": 0,
    }
    assert re.search(r"u +credits +10 +0 +10 +0$", run("balance", "u").stdout, re.MULTILINE)
    assert document(run("balance", "u", "--asset", "points", "--json"))["balance"] == 0


def test_history_is_paged_newest_first(run: Run, ledger: Ledger[SharedOperation]) -> None:
    ledger.post_batch([add("u", f"n{number}") for number in range(3)])
    page = document(run("history", "u", "--limit", "2", "--json"))
    assert [entry["nonce"] for entry in page["entries"]] == ["n2", "n1"]
    cursor = str(page["cursor"])
    rest = document(run("history", "u", "--cursor", cursor, "--json"))
    assert [entry["nonce"] for entry in rest["entries"]] == ["n0"]
    assert rest["cursor"] is None
    text = run("history", "u", "--limit", "2").stdout
    assert text.index("n2") < text.index("n1")
    assert f"--cursor {cursor}" in text
    assert "no entries of credits" in run("history", "nobody").stdout


# An application of one's own.


def test_an_application_in_the_working_directory_is_migrated_posted_and_imported(
    folder: Path, empty: Mapping[str, str]
) -> None:
    (folder / "bookings.py").write_text(BOOKINGS)
    (folder / ".env").write_text("SHARED_LEDGER_APPLICATION=bookings:BOOKINGS\n")
    (folder / "rows.csv").write_text("operation,owner_id,nonce,amount\nBOOKING,u,n1,40\n")
    assert "BOOKING" in program("migrate", "--application", "bookings:BOOKINGS").stdout
    assert "+5 credits" in program("post", "BOOKING", "u", "--amount", "5").stdout
    assert json.loads(program("import", "rows.csv", "--json").stdout)["posted"] == 1
    done = program("post", "BOOKING", "u", "--amount", "-45", "--json")
    assert json.loads(done.stdout)["balance_after"] == 0
    assert json.loads(done.stdout)["app"] == "bookings"


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("1 / 0", "importing broken1 failed: ZeroDivisionError: division by zero"),
        ("import no_such_module", "importing broken2 failed: ModuleNotFoundError"),
        ("raise SystemExit(0)", "importing broken3 failed: SystemExit"),
        ("from shared_ledger import SHARED as RIGHT", "is not an Application; it has RIGHT"),
        (
            "from shared_ledger import *\nAPP = Application('Bad Name', SharedOperation)",
            "importing broken5 failed: ConfigurationError: the application's name",
        ),
    ],
)
def test_an_application_that_cannot_be_imported_is_one_line(
    folder: Path, empty: Mapping[str, str], source: str, sentence: str, request: Any
) -> None:
    number = request.node.callspec.indices["source"] + 1
    (folder / f"broken{number}.py").write_text(source)
    assert sentence in failed(invoke("balance", "u", "--application", f"broken{number}:APP"), 2)


# Migrations.


def test_migrate_says_from_which_revision_to_which(empty: Mapping[str, str]) -> None:
    first = document(invoke("migrate", "--json"))
    assert (first["from"], first["application"]) == (None, "shared")
    assert first["new_operations"] == sorted(SharedOperation)
    again = document(invoke("migrate", "--json"))
    assert (again["from"], again["to"], again["new_operations"]) == (first["to"], first["to"], [])
    assert "as before" in invoke("migrate").stdout
    down = invoke("migrate", "--revision", "base")
    assert f"is now at revision base; it was at {first['to']}" in down.stdout


def test_a_book_that_holds_entries_is_not_taken_down(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    assert "holds entries" in failed(run("migrate", "--revision", "base"), 1)
    assert document(run("verify", "--json"))["entries"] == 1


def test_a_book_of_a_later_version_is_left_alone(run: Run, cluster: Cluster, schema: str) -> None:
    query(cluster.url, f"update {schema}.{VERSION_TABLE} set version_num = '9999'")
    for command in ("migrate", "verify"):
        assert "upgrade the program" in failed(run(command), 1)


# Verify.


def test_verify_of_a_good_book(run: Run) -> None:
    run("post", "CREDIT_ADD", "u")
    result = run("verify")
    assert result.exit_code == 0
    assert "The book agrees: 1 entries, 2 accounts, assets sum to zero" in result.stdout
    assert document(run("verify", "--json"))["agrees"] is True


def test_verify_of_a_damaged_book(run: Run, cluster: Cluster, schema: str) -> None:
    run("post", "CREDIT_ADD", "u")
    query(cluster.url, f"update {schema}.accounts set posted = 11 where owner_id = 'u'")
    result = run("verify")
    assert result.exit_code == 1
    assert "2 disagreements in 1 entries, 2 accounts" in result.stdout
    assert "posted_differs_from_entries" in result.stdout
    found = run("verify", "--json")
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    assert (report["agrees"], report["count"]) == (False, 2)
    assert report["disagreements"][1] == {
        "owner_id": "u",
        "asset": "credits",
        "kind": "posted_differs_from_entries",
        "expected": 10,
        "found": 11,
        "entry_id": None,
    }


# Import.


def test_import_shows_what_became_of_the_rows(run: Run, folder: Path) -> None:
    (folder / "rows.csv").write_text(
        "operation,owner_id,nonce,amount\nCREDIT_ADD,u,n1,\nCREDIT_ADD,u,n1,\nCREDIT_ADD,u,n2,x\n"
    )
    result = run("import", "rows.csv", "--report", "refused.csv")
    assert result.exit_code == 1
    assert re.search(r"rows +3\s+posted +1\s+replayed +1\s+refused +1", result.stdout)
    assert re.search(r"4 +CREDIT_ADD +u +n2 +x +amount is a whole number", result.stdout)
    assert (folder / "refused.csv").read_text().splitlines() == [
        "line,operation,owner_id,nonce,amount,code,reason",
        "4,CREDIT_ADD,u,n2,x,invalid_posting,\"amount is a whole number such as 5 or -5, not 'x'\"",
    ]


def test_import_from_standard_input_as_json(run: Run) -> None:
    summary = document(
        run("import", "-", "--json", input=b"operation,owner_id,nonce\nCREDIT_ADD,u,n1\n")
    )
    assert summary.pop("seconds") >= 0
    assert summary.pop("rows_per_second") >= 0
    assert summary == {"rows": 1, "posted": 1, "replayed": 0, "refused": 0, "first_refused": []}


def test_import_shows_the_first_refused_rows_and_counts_the_others(run: Run) -> None:
    lines = "".join(f"NOPE,u,n{number}\n" for number in range(25))
    data = f"operation,owner_id,nonce\n{lines}".encode()
    text = run("import", "-", input=data)
    assert "… and 5 more; --report FILE.csv writes them all" in text.stdout
    assert text.stdout.count("NOPE  ") == 20
    summary = json.loads(run("import", "-", "--json", input=data).stdout)
    assert (summary["refused"], len(summary["first_refused"])) == (25, 20)


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["gone.csv"], 1, "No such file or directory: gone.csv"),
        (["."], 1, "Is a directory: ."),
        (["empty.csv"], 2, "the file is empty"),
        (["wrong.csv"], 2, "unknown column 'colour'"),
        (["rows.csv", "--report", "rows.csv"], 2, "is the file that is imported"),
        (["rows.csv", "--report", "no/such/folder"], 1, "No such file or directory"),
    ],
)
def test_an_import_that_cannot_begin_is_one_line(
    run: Run, folder: Path, arguments: list[str], status: int, sentence: str
) -> None:
    (folder / "empty.csv").touch()
    (folder / "wrong.csv").write_text("operation,owner_id,nonce,colour\n")
    (folder / "rows.csv").write_text("operation,owner_id,nonce\nCREDIT_ADD,u,n1\n")
    assert sentence in failed(run("import", *arguments), status)
    assert (folder / "rows.csv").read_text().count("\n") == 2


def test_an_import_that_is_stopped_says_where(
    run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def gone(*_: object) -> None:
        raise LedgerUnavailable("the database cannot be reached: gone")

    monkeypatch.setattr(Ledger, "apost_batch", gone)
    (folder / "rows.csv").write_text("operation,owner_id,nonce\nCREDIT_ADD,u,n1\n")
    sentence = failed(run("import", "rows.csv"), 1)
    assert sentence.startswith("stopped at line 2: the database cannot be reached: gone.")


def test_an_import_that_is_killed_is_finished_by_the_next(
    empty: Mapping[str, str], ledger: Ledger[SharedOperation], folder: Path
) -> None:
    rows = "".join(f"CREDIT_ADD,o{number % 50},n{number},\n" for number in range(30_000))
    (folder / "rows.csv").write_text(f"operation,owner_id,nonce,amount\n{rows}")
    command = [sys.executable, "-m", "shared_ledger.cli", "import", "rows.csv", "--batch", "100"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    count = f"select count(*) from {empty['SHARED_LEDGER_SCHEMA']}.entries"
    while query(ledger.url, count) == [(0,)]:
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = json.loads(program("import", "rows.csv", "--json").stdout)
    assert done["replayed"] > 0
    assert done["posted"] + done["replayed"] == 30_000
    assert query(ledger.url, count) == [(30_000,)]


# Serve.


@pytest.fixture
def served(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start the service on a free port; it is killed after the test if it still runs."""
    processes: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "shared_ledger.cli", "serve", "--port", "0", *arguments],
            env=os.environ | {"LOG_LEVEL": "warning"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def get(url: str) -> Any:
    request = urllib.request.Request(url, headers={"x-token": "secret-token"})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_answers_until_it_is_told_to_stop(
    run: Run, served: Callable[..., subprocess.Popen[str]], number: int
) -> None:
    assert run("migrate").exit_code == 0
    run("post", "CREDIT_ADD", "u")
    process = served("--json")
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    assert ready["services"]["content"] == f"{ready['url']}/api/v1/content"
    assert ready["docs"] == f"{ready['url']}/docs"
    assert get(f"{ready['url']}/balance/u") == {"owner_id": "u", "balance": 10}
    process.send_signal(number)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


def test_serve_starts_and_stops_the_embedded_database(
    folder: Path, served: Callable[..., subprocess.Popen[str]]
) -> None:
    process = served()
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(10)]
    assert re.search(r"service +http://127\.0\.0\.1:\d+", lines[1])
    for line, name in zip(lines[4:7], ("content", "ecommerce", "crowdfunding"), strict=True):
        assert re.search(rf"{name} +http://127\.0\.0\.1:\d+/api/v1/{name}/docs", line)
    assert re.search(rf"database +embedded PostgreSQL \d+\.\d+ in {folder}/data", lines[7])
    assert "x-token: secret-token" in lines[9]
    assert (folder / "data/postgresql/postmaster.pid").exists()
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0
    assert not (folder / "data/postgresql/postmaster.pid").exists()


def test_a_port_in_use_is_one_line_before_a_database_is_started(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = failed(invoke("serve", "--port", str(port)), 1)
    assert sentence == f"cannot listen on 127.0.0.1 port {port}: Address already in use"
    assert not (folder / "data").exists()


def test_a_host_that_is_not_this_one_is_one_line(run: Run) -> None:
    assert "cannot listen on no.such.host.invalid" in failed(
        run("serve", "--host", "no.such.host.invalid", "--port", "0"), 1
    )


# Doctor.


def states(result: Result) -> dict[str, str]:
    return {check["name"]: check["state"] for check in json.loads(result.stdout)["checks"]}


def test_doctor_finds_everything_in_place(run: Run) -> None:
    result = run("doctor", "--json")
    assert result.exit_code == 0
    assert set(states(result).values()) == {"ok"}
    assert {"database", "durability", "book", "append-only", "operations"} <= states(result).keys()
    assert "PostgreSQL 18" in run("doctor").stdout


def test_doctor_shows_no_secret(
    run: Run, empty: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_TOKEN", "hush-hush-hush-hush")
    for url in (
        "postgresql://me:hush@127.0.0.1:1/name",
        "postgresql://me:hu/sh@127.0.0.1/name",
        "postgresql://me:hu?sh@127.0.0.1/name",
        "postgresql://127.0.0.1:1/name?password=hush",
        "postgresql://me:hush@[::1/name",
    ):
        monkeypatch.setenv("DATABASE_URL", url)
        for result in (run("doctor"), run("doctor", "--json")):
            assert result.exit_code == 1
            assert "hu" not in result.stdout.replace("PostgreSQL", "") + result.stderr


def test_doctor_does_not_make_an_embedded_database(folder: Path) -> None:
    result = invoke("doctor")
    assert result.exit_code == 0
    assert "not created yet" in result.stdout
    assert list(folder.iterdir()) == []


def test_verify_does_not_make_an_embedded_database(folder: Path) -> None:
    assert "there is no embedded database" in failed(invoke("verify"), 1)
    assert list(folder.iterdir()) == []


def test_the_embedded_database_is_made_looked_into_and_stopped(folder: Path) -> None:
    assert document(invoke("post", "CREDIT_ADD", "u", "--json"))["balance_after"] == 10
    assert document(invoke("verify", "--json"))["entries"] == 1
    result = invoke("doctor", "--json")
    assert set(states(result).values()) == {"ok"}
    data = folder / "data/postgresql"
    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert not (data / "postmaster.pid").exists()


def test_doctor_finds_a_missing_book(empty: Mapping[str, str]) -> None:
    result = invoke("doctor", "--json")
    assert result.exit_code == 1
    assert states(result)["book"] == "fail"
    assert "Run `shared-ledger migrate`." in invoke("doctor").stdout


def test_doctor_finds_operations_that_the_book_does_not_know(run: Run, folder: Path) -> None:
    (folder / "bookings_of_doctor.py").write_text(BOOKINGS)
    result = run("doctor", "--json", "--application", "bookings_of_doctor:BOOKINGS")
    assert (result.exit_code, states(result)["operations"]) == (1, "fail")


def test_doctor_finds_entries_that_can_be_changed(run: Run, cluster: Cluster, schema: str) -> None:
    query(cluster.url, f"alter table {schema}.entries disable trigger entries_append_only")
    result = run("doctor", "--json")
    assert (result.exit_code, states(result)["append-only"]) == (1, "fail")


def test_doctor_finds_a_wrong_application_and_a_wrong_setting(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED_LEDGER_APPLICATION", "no_such:APP")
    assert states(run("doctor", "--json"))["application"] == "fail"
    monkeypatch.setenv("PORT", "a")
    assert states(run("doctor", "--json"))["settings"] == "fail"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgresql://me:hush@db:5432/name", "db:5432/name"),
        ("postgresql://db/name", "db/name"),
        ("postgresql://a:1,b:2/name?target_session_attrs=any", "a:1,b:2/name"),
        ("postgresql:///name?host=/run/sockets", "/run/sockets/name"),
        ("postgresql:///name", "local socket/name"),
        ("postgresql://me:p@ss@db/name", "db/name"),
        ("postgresql://me:pa/ss@db/name", UNREADABLE_URL),
        ("postgresql://me:pa#ss@db/name", UNREADABLE_URL),
        ("postgresql://[::1/name", UNREADABLE_URL),
    ],
)
def test_a_place_is_host_and_name_and_never_a_password(url: str, place: str) -> None:
    assert place_of(url) == place


# Bench.


def test_bench_hands_its_options_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[float, int, Path | None]] = []

    def measured(scale: float, entries: int, json_file: Path | None) -> int:
        given.append((scale, entries, json_file))
        return 3

    monkeypatch.setattr(bench, "run", measured)
    assert invoke("bench").exit_code == 3
    invoke("bench", "--scale", "0.1", "--entries", "5", "--json", "figures.json")
    assert given == [(1.0, 0, None), (0.1, 5, Path("figures.json"))]
