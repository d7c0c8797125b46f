"""Dashboards are files that Grafana reads, and each of their panels shows what a service does."""

from __future__ import annotations

import asyncio
import json
import math
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations, count
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

import prometheus_server
from builders import query
from instances import Instance
from instances import running as running_instances
from prometheus_server import Prometheus
from redis_server import RedisServer
from serving import OPERATOR, PASSWORD, bearer
from shared_ledger.embedded import Cluster

TOP = Path(__file__).parent.parent
GRAFANA = TOP / "deploy" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
ALERTS = TOP / "deploy" / "prometheus" / "alerts.yml"
SPARK = "/api/v1/crowdfunding"

UNITS = {"bytes", "locale", "none", "ops", "percentunit", "reqps", "s", "short"}
KINDS = {"row", "stat", "table", "timeseries"}
WITHIN_S = 60
"""How long traffic may take to show in every panel."""
MANY = 100

each_file = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


def board_of(file: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(file.read_text())
    return board


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def questions() -> Iterator[tuple[str, str, str]]:
    """What each panel asks, as the board, the panel and the query, with its variables filled in."""
    for file in FILES:
        board = board_of(file)
        for panel in panels_of(board):
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "10s").replace("$__range", "30s")
                for variable in board["templating"]["list"]:
                    text = text.replace(f"${variable['name']}", variable["allValue"])
                assert "$" not in text, text
                yield board["title"], panel["title"], text


# --- the files ---


def test_there_is_a_dashboard_for_the_book_the_service_and_satoshi_spark() -> None:
    assert [file.stem for file in FILES] == ["book", "satoshi-spark", "service"]
    boards = [board_of(file) for file in FILES]
    for name in ("uid", "title"):
        assert len({board[name] for board in boards}) == len(boards)


@each_file
def test_a_dashboard_is_what_grafana_reads(file: Path) -> None:
    board = board_of(file)
    assert re.fullmatch("[a-z0-9-]{1,40}", board["uid"])
    assert {"schemaVersion", "title", "description", "time", "refresh", "timezone"} <= set(board)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in board["panels"]:
        assert panel["title"]
        assert panel["type"] in KINDS
        assert 0 <= panel["gridPos"]["x"] <= panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


@each_file
def test_no_panel_lies_over_another(file: Path) -> None:
    for one, two in combinations(board_of(file)["panels"], 2):
        a, b = one["gridPos"], two["gridPos"]
        apart = (
            a["x"] + a["w"] <= b["x"]
            or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"]
            or b["y"] + b["h"] <= a["y"]
        )
        assert apart, (one["title"], two["title"])


@each_file
def test_every_panel_asks_the_source_that_is_provided_and_says_its_unit(file: Path) -> None:
    (source,) = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    ours = {"type": source["type"], "uid": source["uid"]}
    board = board_of(file)
    for variable in board["templating"]["list"]:
        assert variable["datasource"] == ours
    for panel in panels_of(board):
        assert panel["datasource"] == ours
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"]
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        assert all(target["datasource"] == ours for target in panel["targets"])


def test_grafana_finds_the_dashboards_where_compose_puts_them() -> None:
    provisioning = GRAFANA / "provisioning" / "dashboards" / "shared-ledger.yml"
    (provider,) = yaml.safe_load(provisioning.read_text())["providers"]
    compose = yaml.safe_load((TOP / "deploy" / "compose.yaml").read_text())
    mounted = compose["services"]["grafana"]["volumes"]
    assert f"./grafana/dashboards:{provider['options']['path']}:ro" in mounted
    assert "./grafana/provisioning:/etc/grafana/provisioning:ro" in mounted


# --- what they show ---


class Traffic:
    """Everything that the panels are about, again and again, on both of two instances."""

    def __init__(self, instances: list[Instance]) -> None:
        self._instances = instances
        self._ends = threading.Event()
        self._numbers = count()

    def end(self) -> None:
        """Let it come to its end; from any thread."""
        self._ends.set()

    async def run(self) -> None:
        """Ask until it is to end."""
        clients = [httpx.AsyncClient(base_url=each.url, timeout=30) for each in self._instances]
        ada, bob = [await self._log_in(clients[0], name) for name in ("ada", "bob")]
        body = {
            "title": "A bridge for toads",
            "description": "They cross the road every March.",
            "goal": 5_000,
            "deadline": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
        }
        answer = await clients[0].post(f"{SPARK}/crowdfunding/campaign", json=body, headers=ada)
        assert answer.status_code == 201, answer.text
        campaign_id = answer.json()["campaign_id"]
        while not self._ends.is_set():
            for client in clients:
                await asyncio.gather(
                    self._use_ledger(client), self._use_spark(client, bob, campaign_id)
                )
        for client in clients:
            await client.aclose()

    async def _log_in(self, client: httpx.AsyncClient, name: str) -> dict[str, str]:
        who = {"username": name, "password": PASSWORD}
        assert (await client.post("/auth/register", json=who)).status_code == 201
        token = (await client.post("/auth/token", data=who)).json()["access_token"]
        return bearer(token)

    async def _use_ledger(self, client: httpx.AsyncClient) -> None:
        number = next(self._numbers)
        owner = f"owner{number % 20}"
        gift = {"operation": "CREDIT_ADD", "owner_id": owner, "nonce": f"gift {number}"}
        spend = {"operation": "CREDIT_SPEND", "owner_id": owner, "nonce": f"spend {number}"}
        poor = {"operation": "CREDIT_SPEND", "owner_id": "nobody", "nonce": f"poor {number}"}
        for body, status in ((gift, 201), (gift, 200), (spend, 201), (poor, 402)):
            answer = await client.post("/ledger", json=body, headers=OPERATOR)
            assert answer.status_code == status, answer.text
        content = {"title": "t", "body": "b", "nonce": f"content {number}", "owner_id": owner}
        answer = await client.post("/api/v1/content/content", json=content, headers=OPERATOR)
        assert answer.status_code == 201, answer.text
        for _ in range(2):
            assert (await client.get(f"/balance/{owner}", headers=OPERATOR)).status_code == 200
        assert (await client.get("/no/such/path")).status_code == 404

    async def _use_spark(
        self, client: httpx.AsyncClient, bob: dict[str, str], campaign_id: str
    ) -> None:
        number = next(self._numbers)

        async def post(path: str, **body: Any) -> Any:
            answer = await client.post(f"{SPARK}{path}", json=body, headers=bob)
            assert answer.status_code in (200, 201, 202), (path, answer.text)
            return answer.json()

        made = await post("/bitcoin/deposit", amount=3_000)
        await post("/dev/lightning/pay", payment_request=made["payment_request"])
        # What was deposited is there in a moment.
        for _ in range(100):
            if await self._sat(client, bob) >= 2_000:
                break
            await asyncio.sleep(0.05)
        donation = {"campaign_id": campaign_id, "amount": 1, "idempotency_key": f"{number}"}
        await post("/crowdfunding/donate", **donation)
        outside = await post("/dev/lightning/invoice", amount=1_000)
        await post("/bitcoin/withdraw", encoded_invoice=outside["payment_request"])
        much = donation | {"amount": 10_000_000, "idempotency_key": f"much {number}"}
        answer = await client.post(f"{SPARK}/crowdfunding/donate", json=much, headers=bob)
        assert answer.status_code in (202, 402), answer.text

    async def _sat(self, client: httpx.AsyncClient, bob: dict[str, str]) -> int:
        answer = await client.get("/ledger/bob", headers=bob, params={"asset": "msat"})
        sat: int = answer.json()["available"] // 1_000
        return sat


@contextmanager
def files_of(folder: Path) -> Iterator[str]:
    """Serve a folder's files, as the node exporter does with what `verify` leaves."""
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def prometheus(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that asks two instances, both under traffic, with our alerts."""
    schema = "dashboards"
    folder = tmp_path_factory.mktemp("dashboards")
    folder.chmod(0o755)
    with ExitStack() as opened:
        redis = opened.enter_context(RedisServer())
        instances = [
            Instance(
                folder / name,
                cluster.url,
                schema,
                ENVIRONMENT="development",
                REDIS_URL=redis.url,
                RATE_LIMIT_USER="",
                RATE_LIMIT_ANONYMOUS="",
                SWEEP_INTERVAL_S="1",
            )
            for name in ("one", "two")
        ]
        instances[0].migrate()
        opened.enter_context(running_instances(*instances))
        (folder / "textfile").mkdir()
        verify(cluster.url, schema, folder / "textfile" / "metrics")
        jobs = {
            "shared-ledger": [each.url.removeprefix("http://") for each in instances],
            "node": [opened.enter_context(files_of(folder / "textfile"))],
        }
        prometheus = opened.enter_context(prometheus_server.running(folder, jobs, rules=[ALERTS]))
        traffic = Traffic(instances)
        pool = opened.enter_context(ThreadPoolExecutor(1))
        asking = pool.submit(lambda: asyncio.run(traffic.run()))
        try:
            give_up_at = time.monotonic() + WITHIN_S
            while missing(prometheus) and time.monotonic() < give_up_at and not asking.done():
                time.sleep(0.5)
            yield prometheus
        finally:
            traffic.end()
            asking.result()


def verify(url: str, schema: str, file: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "shared_ledger.cli", "verify", "--metrics", str(file)],
        env={"DATABASE_URL": url, "SHARED_LEDGER_SCHEMA": schema, "PATH": ""},
        cwd=file.parent,
        stdout=subprocess.DEVNULL,
        check=True,
    )


def missing(prometheus: Prometheus) -> list[str]:
    """The panels that show nothing."""
    return [
        f"{board}, {panel}: {text}"
        for board, panel, text in questions()
        if not any(math.isfinite(series.value) for series in prometheus.query(text))
    ]


@pytest.mark.slow
def test_every_panel_shows_something_of_a_service_under_traffic(prometheus: Prometheus) -> None:
    assert len(list(questions())) > 40
    assert missing(prometheus) == []


@pytest.mark.slow
def test_no_panel_shows_series_without_end(prometheus: Prometheus) -> None:
    for _, panel, text in questions():
        assert len(prometheus.query(text)) < MANY, panel


@pytest.mark.slow
def test_what_is_outstanding_is_what_owners_have(prometheus: Prometheus, cluster: Cluster) -> None:
    board = board_of(GRAFANA / "dashboards" / "book.json")
    (outstanding,) = [panel for panel in panels_of(board) if panel["title"] == "Outstanding"]
    (asked,) = [text for _, panel, text in questions() if panel == outstanding["title"]]

    def had() -> dict[str, int]:
        return dict(
            query(
                cluster.url,
                "select asset, sum(posted)::bigint from dashboards.accounts "
                "where owner_id not like '@%%' group by asset",
            )
        )

    before = had()
    time.sleep(12)
    shown = {series.labels["asset"]: series.value for series in prometheus.query(asked)}
    after = had()
    assert shown.keys() == after.keys() == {"credits", "msat"}
    # Both only grow under this traffic, and what is shown is a few seconds old.
    for asset, amount in shown.items():
        assert before[asset] <= amount <= after[asset]


@pytest.mark.slow
def test_every_alert_is_evaluated_on_what_there_is_and_none_fires(prometheus: Prometheus) -> None:
    rules = prometheus.rules()
    assert {rule["health"] for rule in rules} == {"ok"}
    firing = [rule["name"] for rule in rules if rule["state"] == "firing"]
    assert firing == []


@pytest.mark.slow
def test_every_metric_that_an_alert_is_about_is_measured(prometheus: Prometheus) -> None:
    named = set(re.findall(r"shared_ledger_\w+", ALERTS.read_text()))
    assert len(named) > 10
    assert [name for name in sorted(named) if not prometheus.query(name)] == []
