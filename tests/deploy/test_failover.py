"""The database's primary is replaced under load: the service goes on, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from builders import add, assert_sound, eventually, query
from deploy.compose import TOP
from deploy.guide import block
from deploy.patroni import PASSWORDS, Nodes
from deploy.postgres import PASSWORD, open_folder, postgresql, run_shell
from deploy.programs import program
from instances import Instance, running
from serving import OPERATOR
from shared_ledger import SHARED, SharedOperation
from shared_ledger.client import AsyncLedgerClient
from shared_ledger.embedded.account import server_account

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(180, func_only=True)]

PAGE = "high-availability.md"
SCHEMA = "ledger"
CLIENTS = 8
MAX_POSTINGS = 20_000
FAILOVER_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    """Two nodes, with the service's roles and its database."""
    with open_folder() as folder, Nodes(folder, server_account()) as nodes:
        ports = [str(node.port) for node in nodes.nodes]
        commands = (
            block("roles", page=PAGE)
            .replace("db1,db2,db3", ",".join(["127.0.0.1"] * len(ports)))
            .replace("PGPORT=5432", f"PGPORT={','.join(ports)}")
            .replace("PGPASSWORD=…", f"PGPASSWORD='{PASSWORDS['PATRONI_SUPERUSER']}'")
            .replace("PASSWORD=…", f'PASSWORD="{PASSWORD}"')
        )
        shell(commands)
        yield nodes


@pytest.fixture(scope="module")
def instance(nodes: Nodes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One service for all tests, which is told of both nodes as the guide says."""
    instance = Instance(
        tmp_path_factory.mktemp("failover") / "instance",
        nodes.url,
        SCHEMA,
        # For Satoshi Spark's simulated node.
        ENVIRONMENT="development",
    )
    instance.migrate()
    with running(instance):
        yield instance


class Posters:
    """Clients of a service that post without a pause, each posting under a nonce of its own."""

    def __init__(self, url: str) -> None:
        self.acknowledged: list[tuple[str, str]] = []
        self._url = url
        self._numbers = count(1)
        self.run = os.urandom(4).hex()
        """What the nonces begin with."""
        self._going = True
        self._answered = asyncio.Condition()

    async def post_while(self, work: Callable[[], Awaitable[None]]) -> None:
        """Post before, during and after some work."""
        async with (
            AsyncLedgerClient(
                self._url,
                SHARED,
                token=OPERATOR["x-token"],
                deadline_s=FAILOVER_TIMEOUT_S,
                retries=100,
            ) as client,
            asyncio.TaskGroup() as posters,
        ):
            for number in range(CLIENTS):
                posters.create_task(self._post(client, f"owner {number}"))
            try:
                await self.more(100)
                await work()
                await self.more(100)
            finally:
                self._going = False

    async def more(self, number: int) -> None:
        """Wait until so many more are acknowledged."""
        until = len(self.acknowledged) + number
        async with asyncio.timeout(FAILOVER_TIMEOUT_S), self._answered:
            await self._answered.wait_for(lambda: len(self.acknowledged) >= until)

    async def _post(self, client: AsyncLedgerClient[SharedOperation], owner_id: str) -> None:
        while self._going:
            number = next(self._numbers)
            assert number < MAX_POSTINGS, "the work takes too long"
            nonce = f"{self.run} {number}"
            await client.post(add(owner_id, nonce))
            self.acknowledged.append((owner_id, nonce))
            async with self._answered:
                self._answered.notify_all()
            await asyncio.sleep(0.005)


def assert_each_once(url: str, posters: Posters) -> None:
    """What was acknowledged is there, once, and nothing else; the book agrees."""
    run = f"{posters.run} %"
    rows = query(url, f"select owner_id, nonce from {SCHEMA}.entries where nonce like %s", run)
    assert Counter(rows) == Counter(posters.acknowledged)
    assert_sound(url, SCHEMA)


def shell(commands: str, **environment: str) -> str:
    """Run commands with the programs of this checkout and of PostgreSQL; what they printed."""
    path = f"{Path(sys.executable).parent}:{postgresql()}:{os.environ['PATH']}"
    return run_shell(commands, {"PATH": path, **environment}, cwd=TOP)


async def test_the_service_goes_on_when_the_primary_is_killed_and_nothing_is_lost(
    nodes: Nodes, instance: Instance
) -> None:
    posters = Posters(instance.url)
    process = instance._process
    primary, replica = nodes.wait_whole()

    async def kill_and_bring_back() -> None:
        primary.kill()
        await asyncio.to_thread(eventually, lambda: replica.is_primary, within_s=30)
        await posters.more(100)
        # Perhaps it has what nobody else has, which has to go.
        primary.start()
        await asyncio.to_thread(nodes.wait_whole)

    await posters.post_while(kill_and_bring_back)
    assert nodes.wait_whole() == (replica, primary)
    assert process is not None
    assert process is instance._process
    assert process.poll() is None
    assert_each_once(nodes.url, posters)
    assert "The book agrees" in shell("shared-ledger verify", DATABASE_URL=nodes.url)


async def test_the_service_goes_on_when_the_replica_is_killed(
    nodes: Nodes, instance: Instance
) -> None:
    posters = Posters(instance.url)
    primary, replica = nodes.wait_whole()

    async def kill_and_bring_back() -> None:
        replica.kill()
        # Commits wait until Patroni has seen that.
        await posters.more(100)
        replica.start()
        await asyncio.to_thread(nodes.wait_whole)

    await posters.post_while(kill_and_bring_back)
    assert nodes.wait_whole() == (primary, replica)
    assert_each_once(nodes.url, posters)


async def test_a_primary_gives_its_place_to_another_under_load(
    nodes: Nodes, instance: Instance
) -> None:
    posters = Posters(instance.url)
    before, after = nodes.wait_whole()

    async def switch() -> None:
        await asyncio.to_thread(before.run, block("switchover", page=PAGE))
        await asyncio.to_thread(nodes.wait_whole)

    await posters.post_while(switch)
    assert nodes.wait_whole() == (after, before)
    assert_each_once(nodes.url, posters)
    said = before.run(block("nodes", page=PAGE))
    assert re.search(rf"{after.name} .* Leader ", said)
    assert re.search(rf"{before.name} .* Sync Standby ", said)


def test_contexts_go_on_when_the_primary_is_killed(nodes: Nodes, instance: Instance) -> None:
    primary, replica = nodes.wait_whole()
    primary.kill()
    eventually(lambda: replica.is_primary, within_s=30)
    instance.wait_ready()
    # A campaign, a deposit and a donation, through all five of them.
    commands = block("campaign", page="satoshi-spark.md")
    said = shell(commands.replace("http://localhost:8000", instance.url))
    assert '"total_raised":1500' in said
    primary.start()
    nodes.wait_whole()


# Posts, lets the network be gone while the database is at it, and tells how long that goes unseen.
GONE = """
import sys, threading, time
from pathlib import Path
from subprocess import run

from deploy.postgres import Postgres
from shared_ledger.errors import LedgerUnavailable
from shared_ledger.store import connect

server, ip = Postgres(Path(sys.argv[1])), sys.argv[2]
run([ip, "link", "set", "lo", "up"], check=True)
server.make()
try:
    connection = connect(server.url)
    threading.Timer(1, run, [[ip, "link", "set", "lo", "down"]]).start()
    began = time.monotonic()
    try:
        connection.execute("select pg_sleep(150)")
    finally:
        print("seen after", time.monotonic() - began)
finally:
    server.kill()
"""


def test_a_machine_that_is_gone_is_seen_within_seconds() -> None:
    postgresql()
    command = [program("unshare", "util-linux"), "--net"]
    if subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("a network of one's own needs root")
    with open_folder() as folder:
        done = subprocess.run(
            [*command, sys.executable, "-c", GONE, str(folder), program("ip", "iproute2")],
            env=os.environ | {"PYTHONPATH": str(TOP / "tests")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "Connection timed out" in done.stderr
    assert float(done.stdout.removeprefix("seen after")) < 30
