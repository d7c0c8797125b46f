"""What the guides tell their readers to do can be done, and does what they say."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from builders import SHOP, eventually, query
from contexts import SHOP_CONTEXT, engine_on, make_tables, place_order, till_context
from documentation import TOP, block, run
from instances import Instance
from instances import running as running_instances
from nats_server import NatsServer
from serving import OPERATOR, SERVICES, serving
from shared_ledger import Ledger, __version__
from shared_ledger.apps.crowdfunding.lightning.port import NodeUnavailable
from shared_ledger.apps.crowdfunding.lightning.simulated import SimulatedNode
from shared_ledger.embedded import Cluster
from shared_ledger.messages import Inbox, running
from shared_ledger.service import Figure
from test_lightning_nodes import make_tables as make_tables_of_nodes

# What the tests' surroundings may have set.
VARIABLES = re.compile(
    "DATABASE_URL|DB_.*|SHARED_LEDGER_.*|ENVIRONMENT|API_TOKEN|HOST|PORT|REDIS_URL|NATS_URL|MAKE.*"
)


def documents(text: str) -> list[Any]:
    """The JSON documents in a text, one after another."""
    reader, found = json.JSONDecoder(), []
    while text := text.lstrip():
        document, end = reader.raw_decode(text)
        found.append(document)
        text = text[end:]
    return found


def printed(code: str, data: Path) -> list[str]:
    """Run a program on a database of its own; the lines that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=surroundings() | {"SHARED_LEDGER_DATA": str(data)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def surroundings() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not VARIABLES.fullmatch(name)}


@pytest.fixture(scope="module")
def made() -> Iterator[str]:
    """The address of what `make run` serves, on data of its own."""
    assert block("README.md", "run") == block("docs/satoshi-spark.md", "run") == "make run\n"
    if shutil.which("make") is None:
        pytest.skip("make is missing")
    folder = Path(tempfile.mkdtemp(prefix="made-"))
    folder.chmod(0o755)
    # All is installed where the tests run, and nothing of it is to be made anew.
    installed = [f"BIN={Path(sys.executable).parent}", "-o", ".venv/run.done"]
    service = subprocess.Popen(
        ["make", "run", *installed, "ARGS=--port 0 --json"],
        cwd=TOP,
        env=surroundings() | {"SHARED_LEDGER_DATA": str(folder / "data")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert service.stdout is not None
    try:
        yield json.loads(service.stdout.readline())["url"]
    finally:
        os.killpg(service.pid, signal.SIGINT)
        service.communicate(timeout=60)
        shutil.rmtree(folder)


@pytest.fixture
def book(cluster: Cluster, schema: str) -> dict[str, str]:
    """The environment of a command on a book that is not there yet."""
    return {"DATABASE_URL": cluster.url, "SHARED_LEDGER_SCHEMA": schema}


# --- the README ---


def test_the_first_posting_and_its_balance_are_those_of_the_readme(
    made: str, tmp_path: Path
) -> None:
    commands = block("README.md", "first-posting").replace("localhost:8000", made)
    entry, balance = documents(run(commands, tmp_path, {}))
    assert (entry["operation"], entry["replayed"]) == ("SIGNUP_CREDIT", False)
    assert balance == json.loads(block("README.md", "balance"))
    again, balance_again = documents(run(commands, tmp_path, {}))
    assert again == entry | {"replayed": True}
    assert balance_again == balance


def test_a_user_registers_and_logs_in_as_the_readme_says(made: str, tmp_path: Path) -> None:
    commands = block("README.md", "first-user").replace("localhost:8000", made)
    user, token = documents(run(commands, tmp_path, {}))
    assert user["owner_id"] == "testuser"
    assert token["token_type"] == "bearer"


def test_the_readme_example_prints_what_its_comments_say(data: Path) -> None:
    assert printed(block("README.md", "library"), data) == [
        "ada has 2 credits available, 4 required",
        "2",
    ]


def test_the_readmes_new_application_is_written(tmp_path: Path, book: dict[str, str]) -> None:
    assert "bookings/main.py" in run(block("README.md", "new-app"), tmp_path, book)
    assert (tmp_path / "tests" / "test_bookings.py").is_file()


def test_the_readmes_commands_work(tmp_path: Path, book: dict[str, str]) -> None:
    lines = block("README.md", "commands").splitlines()
    # Others run these two, which end when they are told to, or after minutes.
    assert [line.split()[:2] for line in lines[-2:]] == [
        ["shared-ledger", "serve"],
        ["shared-ledger", "bench"],
    ]
    (tmp_path / "credits.csv").write_text("operation,owner_id,nonce\nCREDIT_ADD,user3,n1\n")
    run("shared-ledger migrate", tmp_path, book)
    said = run("\n".join(lines[:-2]), tmp_path, book)
    assert "invoice-17" in said
    balance = json.loads(run("shared-ledger balance user1 --json", tmp_path, book))
    assert balance["balance"] == 5


@pytest.mark.parametrize("name", ["two_applications.py"])
def test_the_example_runs(name: str, data: Path) -> None:
    shown = printed((TOP / "examples" / name).read_text(), data)
    assert "refused: ada has 1 credits available, 5 required" in shown
    assert any("replayed: True" in line for line in shown)


# --- credits, migrations ---


def test_the_guide_to_credits_prints_what_its_comments_say(data: Path) -> None:
    code = block("docs/credits.md", "program")
    said = re.findall(r"print\(.*\)  # (.*)", code)
    assert printed(code, data) == said
    assert len(said) == 4  # of the four prints


BOOKINGS = """
import sqlalchemy as sa
from shared_ledger import Application, BaseLedgerOperation, Rule

class BookingOperation(BaseLedgerOperation):
    DAILY_REWARD = "DAILY_REWARD"
    SIGNUP_CREDIT = "SIGNUP_CREDIT"
    CREDIT_SPEND = "CREDIT_SPEND"
    CREDIT_ADD = "CREDIT_ADD"
    BOOKING = "BOOKING"  #

BOOKINGS = Application("bookings", BookingOperation, rules={name: Rule.fixed(-4) for name in
    BookingOperation if name.value.startswith("BOOKING")})
metadata = sa.MetaData()
sa.Table("bookings_bookings", metadata, sa.Column("id", sa.BigInteger, primary_key=True))
"""


def test_an_application_migrates_as_the_guide_says(tmp_path: Path, book: dict[str, str]) -> None:
    # Its table is in the database's default schema, which other tests look into.
    query(book["DATABASE_URL"], f"create database guide_{book['SHARED_LEDGER_SCHEMA']}")
    url = book["DATABASE_URL"].replace("/postgres?", f"/guide_{book['SHARED_LEDGER_SCHEMA']}?")
    book |= {"DATABASE_URL": url}
    assert "is now at revision" in run(block("docs/migrations.md", "migrate"), tmp_path, book)
    run("alembic init migrations", tmp_path, book)
    (tmp_path / "migrations" / "env.py").write_text(block("docs/migrations.md", "environment"))
    (tmp_path / "alembic.ini").write_text(block("docs/migrations.md", "settings"))
    (tmp_path / "bookings.py").write_text(BOOKINGS)
    commands = block("docs/migrations.md", "revision")
    run(commands, tmp_path, book)
    schema = book["SHARED_LEDGER_SCHEMA"]
    assert query(url, f"select operation::text from {schema}.operations where app = 'bookings'")

    more = BOOKINGS.replace("#", '\n    BOOKING_CANCELLED = "BOOKING_CANCELLED"')
    (tmp_path / "bookings.py").write_text(more)
    run(commands.replace("first tables", "cancel"), tmp_path, book)
    (written,) = (tmp_path / "migrations" / "versions").glob("*_cancel.py")
    for line in filter(None, block("docs/migrations.md", "operation").splitlines()):
        assert f"{line}\n" in written.read_text()
    run("alembic downgrade -1", tmp_path, book)


# --- messages, Lightning ---


async def test_contexts_talk_over_nats_as_the_guide_says(
    cluster: Cluster, schema: str, nats_server: NatsServer
) -> None:
    make_tables(cluster.url, schema)
    code = block("docs/messages.md", "nats").replace("        ...\n", "        await go_on()\n")
    code = code.replace("nats://user:password@host:4222", nats_server.url)
    sql = block("docs/messages.md", "publish-again").replace("ledger.shop", f"{schema}.shop")
    unpublished = f"select count(*) from {schema}.shop_outbox where published_on is null"
    async with engine_on(cluster.url, schema) as engine:

        async def go_on() -> None:
            await place_order(engine, "order 1")
            await asyncio.to_thread(eventually, lambda: query(cluster.url, unpublished) == [(0,)])

        with Ledger(SHOP, cluster.url, schema=schema, migrate=True) as ledger:
            names = {"SHOP": SHOP_CONTEXT, "TILL": till_context(ledger), "Inbox": Inbox}
            await executed(code, {**names, "engine": engine, "running": running, "go_on": go_on})
    client = await nats.connect(nats_server.url)
    assert (await client.jetstream().stream_info("ledger-till")).state.messages == 1
    await client.close()
    with psycopg.connect(cluster.url, autocommit=True) as connection:
        connection.execute(sql.encode())
    assert query(cluster.url, unpublished) == [(1,)]


async def test_the_simulated_node_is_told_what_the_guide_says(
    cluster: Cluster, schema: str
) -> None:
    make_tables_of_nodes(cluster.url, schema)
    async with engine_on(cluster.url, schema) as engine:
        node = SimulatedNode(engine, poll_s=0.01)

        async def asked_for() -> str:
            made = await node.create_invoice(amount_msat=8_000, description="", expires_in_s=600)
            return made.payment_request

        names: dict[str, Any] = {"engine": engine}
        names |= {"payment_request": await asked_for(), "another_request": await asked_for()}
        done = []
        for statement in ast.parse(block("docs/lightning.md", "world")).body:
            code = ast.unparse(statement)
            if "resolve" in code:
                payment = await node.pay(names["payment_request"], max_fee_msat=9, timeout_s=0)
                assert payment.state == "in_flight"
            await executed(code, names)
            done.append(code)
        assert len(done) == 12
        ended = await node.track(names["payment_hash"])
        assert ended is not None
        assert ended.state == "succeeded"
        lost = await node.outside_invoice(1_000)
        await node.plan(node.decode(lost).payment_hash, lost="answer")
        with pytest.raises(NodeUnavailable):
            await node.pay(lost, max_fee_msat=9, timeout_s=9)


async def executed(code: str, names: dict[str, Any]) -> None:
    """Run a piece of a coroutine."""
    compiled = compile(code, "guide", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    result = eval(compiled, names)
    if inspect.isawaitable(result):
        await result


def test_what_is_said_of_satoshi_spark_is_what_its_service_answers(
    made: str, tmp_path: Path
) -> None:
    commands = block("docs/satoshi-spark.md", "campaign")
    assert "http://localhost:8000/api" in commands
    answers = documents(run(commands.replace("http://localhost:8000", made), tmp_path, {}))
    *registered, paid, donation, campaign, dashboard = answers
    assert [user["username"] for user in registered] == ["ada", "bob"]
    assert paid["received"] == 2_000
    assert (donation["state"], donation["amount"]) == ("registered", 1_500)
    assert (campaign["total_raised"], campaign["goal"]) == (1_500, 5_000)
    assert dashboard["account_id"] == "bob"
    assert dashboard["balance"] in (500, 2_000)  # a moment after it has changed


# --- observability ---


def test_a_line_of_the_log_is_as_it_is_shown(tmp_path: Path, cluster: Cluster, schema: str) -> None:
    shown = json.loads(block("docs/observability.md", "line"))
    instance = Instance(tmp_path / "instance", cluster.url, schema)
    instance.migrate()
    with running_instances(instance):
        body = '{"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": "n1"}'
        headers = f"-H 'x-token: {OPERATOR['x-token']}' -H 'Content-Type: application/json'"
        run(f"curl -fsS {instance.url}/ledger {headers} -d '{body}'", tmp_path, {})
    said = instance.log.read_text().splitlines()
    lines = [json.loads(line) for line in said if line.startswith("{")]
    (line,) = [line for line in lines if line.get("route") == "/ledger"]
    assert list(line) == list(shown)
    for name in ("timestamp", "duration_ms", "request_id"):
        assert len(str(line.pop(name))) > 0
        del shown[name]
    assert line == shown


async def test_a_figure_of_the_guide_is_measured(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    metadata = sa.MetaData()
    bookings = sa.Table("bookings", metadata, sa.Column("confirmed_on", sa.DateTime))
    names = {"Figure": Figure, "sa": sa, "bookings": bookings}
    figure: Figure = eval(block("docs/observability.md", "figure"), names)
    content = next(service for service in SERVICES if service.path == "/api/v1/content")
    beside = [replace(content, figures=[figure])]
    async with serving(cluster.url, schema, engine, beside=beside) as served:
        metadata.create_all(engine.execution_options(schema_translate_map={None: schema}))
        query(cluster.url, f"insert into {schema}.bookings values (null), (null), (now())")
        text = (await served.client.get("/metrics")).text
    assert "\nshared_ledger_bookings_open 2.0\n" in text


def test_what_verify_found_is_left_for_the_node_exporter(
    tmp_path: Path, book: dict[str, str]
) -> None:
    run("shared-ledger migrate", tmp_path, book)
    command = block("docs/observability.md", "verify")
    run(command.replace("/var/lib/node-exporter", str(tmp_path)), tmp_path, book)
    left = (tmp_path / "shared-ledger.prom").read_text()
    assert f'shared_ledger_verify_agrees{{schema="{book["SHARED_LEDGER_SCHEMA"]}"}} 1.0\n' in left


# --- when something goes wrong, and what changes ---


def test_the_two_commands_that_look_further_find_a_good_book_good(
    tmp_path: Path, book: dict[str, str]
) -> None:
    run("shared-ledger migrate", tmp_path, book)
    assert "agrees" in run(block("docs/troubleshooting.md", "look"), tmp_path, book)


def test_a_key_that_leaked_is_rotated_and_revoked(tmp_path: Path, book: dict[str, str]) -> None:
    run("shared-ledger migrate", tmp_path, book)
    assert "the web shop" in run(block("docs/security.md", "key"), tmp_path, book)
    (key,) = json.loads(run("shared-ledger key list --json", tmp_path, book))["keys"]
    assert key["revoked_on"] is not None


def test_an_upgrade_goes_forward_back_and_forward(tmp_path: Path, book: dict[str, str]) -> None:
    assert "is now at revision" in run(block("docs/upgrades.md", "migrate"), tmp_path, book)
    assert __version__ in run(block("docs/upgrades.md", "versions"), tmp_path, book)
    back = block("docs/upgrades.md", "back")
    assert "is now at revision 0002" in run(back, tmp_path, book)
    with pytest.raises(AssertionError, match="older than"):
        run("shared-ledger balance ada", tmp_path, book)
    run(block("docs/upgrades.md", "migrate"), tmp_path, book)
    run(block("docs/upgrades.md", "after"), tmp_path, book)
    run("shared-ledger key create shop --every-application", tmp_path, book)
    with pytest.raises(AssertionError, match="would lose users or the keys of services"):
        run(back, tmp_path, book)
    run(block("docs/upgrades.md", "after"), tmp_path, book)
