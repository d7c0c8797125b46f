"""The containers of compose.yaml as they stand, brought up, used, broken and taken down."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from builders import eventually
from deploy import compose
from deploy.compose import Failed, NoContainers, Stack
from deploy.guide import block
from deploy.load import Clients
from serving import PASSWORD, bearer, kind
from shared_ledger import SHARED, Posting, SharedOperation
from shared_ledger.client import AsyncLedgerClient

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600, func_only=True)]

INSTANCES = [
    f"{name}-{number}"
    for name in ("ledger", "content", "ecommerce", "crowdfunding")
    for number in (1, 2)
]
# Their public images have nothing in them that could look.
WITHOUT_HEALTH = {"nginx-exporter", "redis-exporter"}
MAX_LAYERS_BYTES = 125_000_000
"""What may stand on python:3.12-slim, which has 125 MB itself, so that all of it is below 250."""
MAX_IDLE_BYTES = 120_000_000
CONTENT, ECOMMERCE, CROWDFUNDING = "/api/v1/content", "/api/v1/ecommerce", "/api/v1/crowdfunding"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The project, of which nothing runs yet, on an engine that has all images."""
    try:
        with ExitStack() as opened:
            folder = compose.standins()
            environment = opened.enter_context(compose.engine(folder))
            compose.run([folder / "build", "compose-v2"], environment=environment)
            yield Stack(tmp_path_factory.mktemp("compose"), folder, environment)
    except NoContainers as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def stack(
    project: Stack, announce: Callable[[str], None], request: pytest.FixtureRequest
) -> Iterator[Stack]:
    """Production as `make up-prod` brings it up, without the dashboards."""
    announce("making images and starting containers; this takes minutes")
    failed_before = request.session.testsfailed
    try:
        project.make_images()
        project.compose("up", "-d", "--wait")
        yield project
    finally:
        if request.session.testsfailed > failed_before:
            announce(project.logs())
        project.down()


@pytest.fixture(scope="module")
def client(stack: Stack) -> Iterator[httpx.Client]:
    """Somebody who asks nginx."""
    with httpx.Client(base_url=stack.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="module")
def operator(stack: Stack) -> dict[str, str]:
    """A service that may do everything."""
    return {"x-token": stack.api_token}


# The file.


@pytest.mark.parametrize("profile", ["prod", "dashboards", "tracing", "dev", "tests", "*"])
def test_compose_finds_nothing_wrong_with_its_file(project: Stack, profile: str) -> None:
    assert project.compose("config", "-q", profiles=[profile]) == ""


def test_compose_finds_nothing_wrong_with_what_adds_backups(project: Stack) -> None:
    with pytest.raises(Failed, match="required variable BACKUP is missing a value"):
        project.with_backups("config", "-q")
    said = json.loads(project.with_backups("config", "--format", "json", folder="/srv/backup"))
    postgres = said["services"]["postgres"]
    assert {one["target"] for one in postgres["volumes"]} > {
        "/srv/backup",
        "/var/lib/postgresql/data",
    }
    assert "archive_mode=on" in postgres["command"]


def test_nothing_starts_without_its_secrets(project: Stack) -> None:
    for name in project.secrets:
        with pytest.raises(Failed) as failed:
            project.config_without(name)
        sentence = f"required variable {name} is missing a value: is not set; make secrets writes"
        assert sentence in str(failed.value)


def test_every_image_is_pinned(project: Stack) -> None:
    images = project.images("*")
    assert len(images) == 14
    for image in images:
        assert re.fullmatch(r"[\w./-]+:(v?\d+\.\d+(\.\d+)?|tested)", image), image


# Production, as it was brought up.


def test_everything_is_healthy_and_nothing_was_started_twice(stack: Stack) -> None:
    services = set(stack.services("prod"))
    assert services > {*INSTANCES, "nginx", "postgres", "redis", "prometheus", "alertmanager"}
    for service in services - {"migrate"}:
        container = stack.container(service)
        assert (container.status, container.restarts) == ("running", 0), service
        assert container.health == (None if service in WITHOUT_HEALTH else "healthy"), service


def test_migrations_ran_once_and_before_the_instances(stack: Stack) -> None:
    migrate = stack.container("migrate")
    assert (migrate.status, migrate.exit_code) == ("exited", 0)
    assert all(stack.container(name).started_at > migrate.started_at for name in INSTANCES)


def test_the_image_is_small_and_has_no_tools_and_no_secrets_in_it(stack: Stack) -> None:
    image = stack.container("ledger-1").image
    sizes = stack.docker("inspect", "-f", "{{.Size}}", image, "python:3.12-slim").split()
    whole, base = map(int, sizes)
    assert whole - base < MAX_LAYERS_BYTES
    tools = "command -v pip pip3 gcc cc make flit || true"
    assert stack.within("ledger-1", "sh", "-c", tools) == ""
    about = stack.docker("inspect", image) + stack.docker("history", "--no-trunc", image)
    assert not [name for name, secret in stack.secrets.items() if secret in about]


def test_nobody_is_root_and_nothing_can_be_changed(stack: Stack) -> None:
    for service in set(stack.services("prod")) - {"migrate"}:
        container = stack.container(service)
        status = Path(f"/proc/{container.pid}/status").read_text()
        (user,) = re.findall(r"(?m)^Uid:\s+(\d+)", status)
        assert user != "0", service
        assert re.search(r"(?m)^NoNewPrivs:\s+1$", status), service
        assert re.search(r"(?m)^CapEff:\s+0+$", status), service
        said = json.loads(stack.docker("inspect", container.id))[0]
        assert said["HostConfig"]["ReadonlyRootfs"] is True, service
    said = stack.within("ledger-1", "sh", "-c", "touch /opt/shared-ledger/x 2>&1 || true")
    assert "Read-only file system" in said


def test_an_idle_instance_is_small(stack: Stack) -> None:
    for name in INSTANCES:
        found = stack.docker(
            "stats", "--no-stream", "--format", "{{.MemUsage}}", stack.container(name).id
        )
        mebibytes = re.match(r"([\d.]+)MiB / ", found)
        assert mebibytes is not None, found
        assert float(mebibytes[1]) * 2**20 < MAX_IDLE_BYTES, name


def test_the_databases_have_no_way_out_and_no_way_in(stack: Stack) -> None:
    networks = json.loads(stack.docker("network", "inspect", f"{compose.PROJECT}_data"))
    assert networks[0]["Internal"] is True
    for service in ("postgres", "redis", *INSTANCES):
        said = json.loads(stack.docker("inspect", stack.container(service).id))[0]
        assert not any(said["NetworkSettings"]["Ports"].values()), service


def test_the_service_is_not_the_databases_superuser(stack: Stack) -> None:
    words = ("-h", "127.0.0.1", "-U", "postgres", "-d", "ledger", "-Atc")
    question = (
        "select rolname, rolsuper, rolcreaterole, rolcreatedb from pg_roles where rolcanlogin"
    )
    said = stack.within("postgres", "psql", *words, f"{question} order by 1")
    assert said.split() == ["exporter|f|f|f", "ledger|f|f|f", "postgres|t|t|t"]


# What is done with it.


def test_the_guides_commands_work(stack: Stack) -> None:
    prefix = "docker compose -f deploy/compose.yaml"
    assert prefix in block("tried")
    text = block("tried").replace("localhost:8080", stack.url.removeprefix("http://"))
    said = stack.shell(text.replace(prefix, " ".join(stack.command("prod"))))
    entry = json.loads(said.strip().splitlines()[-1])
    assert entry.items() >= {"owner_id": "grace", "available": 10}.items()


def test_users_buy_content_and_mugs_and_begin_campaigns(
    client: httpx.Client, operator: dict[str, str]
) -> None:
    for name in ("ada", "bob"):
        registered = client.post("/auth/register", json={"username": name, "password": PASSWORD})
        assert registered.status_code == 201, registered.text
    ada, bob = (logged_in(client, name) for name in ("ada", "bob"))
    for name in ("ada", "bob"):
        body = {"operation": "CREDIT_ADD", "owner_id": name, "nonce": "a gift"}
        for path, status in (("/ledger", 201), ("/ledger", 200), (f"{CONTENT}/ledger", 201)):
            assert client.post(path, json=body, headers=operator).status_code == status
    # One book: what was given by one application is spent in another.
    assert client.get("/ledger/ada", headers=ada).json()["available"] == 20

    article = {
        "title": "Bread",
        "body": "Wait a day.",
        "price": 10,
        "owner_id": "ada",
        "nonce": "1",
    }
    made = client.post(f"{CONTENT}/content", json=article, headers=operator)
    assert made.status_code == 201, made.text
    access = f"{CONTENT}/content/{made.json()['id']}/access"
    read = client.post(access, json={"owner_id": "bob"}, headers=operator)
    assert (read.status_code, read.json()["charged"]) == (201, 10)

    mug = {"sku": "mug-blue", "title": "A blue mug", "price": 3, "stock": 10}
    product = client.post(f"{ECOMMERCE}/products", json=mug, headers=operator)
    order = {"product_id": product.json()["id"], "quantity": 2, "owner_id": "bob", "nonce": "1"}
    placed = client.post(f"{ECOMMERCE}/orders", json=order, headers=operator)
    assert placed.status_code == 201, placed.text
    shipped = client.post(f"{ECOMMERCE}/orders/{placed.json()['id']}/ship", headers=operator)
    assert shipped.status_code == 201, shipped.text
    assert client.get("/ledger/bob", headers=bob).json()["available"] == 20 - 10 - 6

    campaign = {
        "title": "A bridge for toads",
        "description": "They cross the road every March.",
        "goal": 5_000,
        "deadline": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
    }
    begun = client.post(f"{CROWDFUNDING}/crowdfunding/campaign", json=campaign, headers=ada)
    assert begun.status_code == 201, begun.text
    asked = {"campaign_id": begun.json()["campaign_id"]}
    shown = client.get(f"{CROWDFUNDING}/crowdfunding/campaign", params=asked)
    assert shown.json()["title"] == campaign["title"]
    # There is no Lightning node here, and none is simulated in production.
    deposit = client.post(f"{CROWDFUNDING}/bitcoin/deposit", json={"amount": 2_000}, headers=bob)
    assert (deposit.status_code, kind(deposit)) == (503, "node_unavailable")
    assert client.post(f"{CROWDFUNDING}/dev/lightning/pay", json={}).status_code == 404


def logged_in(client: httpx.Client, name: str) -> dict[str, str]:
    answer = client.post("/auth/token", data={"username": name, "password": PASSWORD})
    assert answer.status_code == 200, answer.text
    return bearer(answer.json()["access_token"])


def test_an_instance_knows_who_asks_nginx(stack: Stack, client: httpx.Client) -> None:
    form = {"username": "nobody", "password": PASSWORD}
    said = {"x-forwarded-for": "203.0.113.1"}
    assert client.post("/auth/token", data=form, headers=said).status_code == 401
    # Whoever is on this machine comes from the network's gateway.
    sentence = f"log-in refused (from {compose.NETWORK}.1)"
    eventually(lambda: sentence in stack.compose("logs", "ledger-1", "ledger-2"), within_s=10)


def test_nginx_shows_no_metrics_and_all_documentation(client: httpx.Client) -> None:
    for path in ("", CONTENT, ECOMMERCE, CROWDFUNDING):
        assert client.get(f"{path}/metrics").status_code == 404
        assert client.get(f"{path}/docs").status_code == 200
        paths = client.get(f"{path}/openapi.json").json()["paths"]
        assert "/ledger" in paths
        ready = client.get(f"{path}/health/ready").json()
        assert ready["cache"] == "ok"


def test_prometheus_reaches_everything(stack: Stack) -> None:
    targets = f"{stack.port_url('PROMETHEUS_PORT')}/api/v1/targets"
    give_up_at = time.monotonic() + 120
    while True:
        found = httpx.get(targets).json()["data"]["activeTargets"]
        health = {target["labels"]["instance"]: target["health"] for target in found}
        if set(health.values()) == {"up"}:
            break
        assert time.monotonic() < give_up_at, [t["lastError"] for t in found if t["lastError"]]
        time.sleep(1)
    others = {"nginx-exporter:9113", "postgres-exporter:9187", "redis-exporter:9121"}
    others |= {"node-exporter:9100", "localhost:9090", "alertmanager:9093"}
    assert set(health) == others | {f"{name}:8000" for name in INSTANCES}
    for question in ("pg_up", "redis_up", "nginx_up", "shared_ledger_verify_agrees"):
        while asked_of_prometheus(stack, question) != ["1"]:
            assert time.monotonic() < give_up_at, question
            time.sleep(1)
    alertmanagers = httpx.get(f"{stack.port_url('PROMETHEUS_PORT')}/api/v1/alertmanagers").json()
    assert len(alertmanagers["data"]["activeAlertmanagers"]) == 1
    exporter = httpx.get(f"{stack.port_url('NGINX_EXPORTER_PORT')}/metrics").text
    assert "nginx_http_requests_total" in exporter


def asked_of_prometheus(stack: Stack, question: str) -> list[str]:
    """The values of its answer."""
    url = f"{stack.port_url('PROMETHEUS_PORT')}/api/v1/query"
    result = httpx.get(url, params={"query": question}).json()["data"]["result"]
    return [series["value"][1] for series in result]


# When something breaks.


@pytest.fixture
def product(client: httpx.Client, operator: dict[str, str]) -> int:
    """What ``buyer`` has credits to buy 10,000 of."""
    mug = {"sku": "mug-red", "title": "A red mug", "price": 1, "stock": 100_000}
    added: int = client.post(f"{ECOMMERCE}/products", json=mug, headers=operator).json()["id"]
    gifts = [
        {"operation": "CREDIT_ADD", "owner_id": "buyer", "nonce": f"{number}"}
        for number in range(1_000)
    ]
    given = client.post("/ledger/batch", json={"entries": gifts}, headers=operator)
    assert given.status_code == 200, given.text
    return added


async def test_no_request_is_lost_when_instances_are_killed_or_replaced(
    stack: Stack, product: int, operator: dict[str, str]
) -> None:
    clients = Clients(stack.url, operator)
    clients.post_credits()
    clients.get(f"{CONTENT}/content")
    clients.place_orders(f"{ECOMMERCE}/orders", product, "buyer")

    restarted: dict[str, int] = {}

    async def kill_some_and_replace_all() -> None:
        for name in ("ledger-1", "ecommerce-2", "content-1"):
            killed = stack.container(name)
            os.kill(killed.pid, signal.SIGKILL)
            await clients.answered(100)
            await asyncio.to_thread(stack.wait_healthy, name, after=killed)
            restarted[name] = stack.container(name).restarts
        await asyncio.to_thread(stack.shell, upgrade(stack))

    seen = await clients.ask_while(kill_some_and_replace_all, each=3)
    assert seen.unexpected == []
    assert restarted == {"ledger-1": 1, "ecommerce-2": 1, "content-1": 1}
    assert stored_nonces(stack, "load") == sorted(seen.nonces)


def upgrade(stack: Stack) -> str:
    """The guide's upgrade, to the image that is there."""
    lines = block("upgrade").splitlines(keepends=True)
    assert lines[:2] == ["git pull\n", "make build-prod\n"]
    guided = "docker compose -f deploy/compose.yaml --profile prod"
    return "".join(lines[2:]).replace(guided, " ".join(stack.command("prod")))


async def test_what_was_acknowledged_is_there_though_postgresql_was_killed_and_restarted(
    stack: Stack, operator: dict[str, str]
) -> None:
    acknowledged: list[tuple[str, str]] = []

    async with posting(stack.url, operator["x-token"], acknowledged) as more:
        await more(100)
        os.kill(stack.container("postgres").pid, signal.SIGKILL)
        await more(100)
        await asyncio.to_thread(stack.compose, "restart", "postgres")
        await more(100)

    stored = stored_nonces(stack, "kept")
    assert set(acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))
    said = json.loads(stack.within("ledger-1", "shared-ledger", "verify", "--json"))
    assert said["agrees"] is True
    for name in INSTANCES:
        stack.wait_healthy(name)
        # They have waited for it, and were not started anew.
        assert stack.container(name).status == "running"


@asynccontextmanager
async def posting(
    url: str, token: str, acknowledged: list[tuple[str, str]]
) -> AsyncIterator[Callable[[int], Any]]:
    """Post through the library's own client, which tries again; gives what waits for more."""
    done = asyncio.Event()
    changed = asyncio.Condition()

    async def post(client: AsyncLedgerClient[SharedOperation], owner_id: str) -> None:
        number = 0
        while not done.is_set():
            number += 1
            nonce = f"kept {number}"
            await client.post(Posting(SharedOperation.CREDIT_ADD, owner_id, nonce))
            async with changed:
                acknowledged.append((owner_id, nonce))
                changed.notify_all()
            await asyncio.sleep(0.01)

    async def more(number: int) -> None:
        until = len(acknowledged) + number
        async with asyncio.timeout(90), changed:
            await changed.wait_for(lambda: len(acknowledged) >= until)

    async with (
        AsyncLedgerClient(url, SHARED, token=token, retries=20, deadline_s=60) as client,
        asyncio.TaskGroup() as posters,
    ):
        for number in range(8):
            posters.create_task(post(client, f"keeper {number}"))
        try:
            yield more
        finally:
            done.set()


def stored_nonces(stack: Stack, prefix: str) -> list[tuple[str, str]]:
    """What is in the book of nonces that begin so."""
    words = ("-h", "127.0.0.1", "-U", "postgres", "-d", "ledger", "-AtF", "|", "-c")
    question = f"select owner_id, nonce from ledger.entries where nonce like '{prefix} %'"
    lines = stack.within("postgres", "psql", *words, question).splitlines()
    return sorted(
        (owner_id, nonce) for owner_id, _, nonce in (line.partition("|") for line in lines)
    )


def test_a_dump_is_loaded_into_another_database_and_proven(stack: Stack, tmp_path: Path) -> None:
    prefix = "docker compose -f deploy/compose.yaml"
    commands = block("docker-dump", page="backup.md").replace(prefix, " ".join(stack.command()))
    said = stack.shell(f"cd {tmp_path}\n{commands}")
    assert "The book agrees" in said
    words = ("-h", "127.0.0.1", "-U", "postgres", "-Atc", "select count(*) from ledger.entries")
    counts = [
        stack.within("postgres", "psql", "-d", name, *words) for name in ("ledger", "restored")
    ]
    assert counts[0] == counts[1]
    assert int(counts[0]) > 0


def test_an_instance_ends_in_order(stack: Stack) -> None:
    stack.compose("stop", "crowdfunding-2")
    ended = stack.container("crowdfunding-2")
    assert (ended.status, ended.exit_code) == ("exited", 0)


# What is not production.


def test_a_developer_has_one_instance_of_each_and_two_databases(stack: Stack) -> None:
    stack.down()
    stack.compose("up", "-d", "--wait", "dev-nginx", "dev-postgres-test", profiles=["dev"])
    url = stack.port_url("DEV_HTTP_PORT")
    headers = {"x-token": "secret-token"}
    body = {"operation": "SIGNUP_CREDIT", "owner_id": "user1", "nonce": "1"}
    assert httpx.post(f"{url}/ledger", json=body, headers=headers).status_code == 201
    for path in (CONTENT, ECOMMERCE, CROWDFUNDING):
        assert httpx.get(f"{url}{path}/health/ready").json()["status"] == "ready"
    password = stack.secrets["LEDGER_DB_PASSWORD"]
    for name, entries in (("DEV_POSTGRES_PORT", 1), ("DEV_POSTGRES_TEST_PORT", None)):
        address = f"postgresql://ledger:{password}@127.0.0.1:{stack.ports[name]}/ledger"
        with psycopg.connect(address) as connection:
            found = connection.execute(
                "select to_regclass('ledger.entries') is not null"
            ).fetchone()
            assert found == (entries is not None,)


def test_the_tests_run_in_a_container(stack: Stack) -> None:
    stack.compose("build", "tests", profiles=["tests"])
    # One file, with a database: whoever runs `make test` runs the others.
    said = stack.compose("run", "--rm", "tests", "tests/test_reversals.py", profiles=["tests"])
    assert "[100%]" in said
