"""Each context in a process of its own, over NATS: killing any loses and doubles nothing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from builders import eventually, free_ports, query
from shared_ledger.embedded import Cluster
from sparking import migrate_spark

PASSWORD = "Test@1234"
NAMES = ("auth", "accounting", "bitcoin", "crowdfunding", "dashboard")

pytestmark = [
    pytest.mark.skipif(
        shutil.which("nats-server") is None and "SHARED_LEDGER_REQUIRE_NATS" not in os.environ,
        reason="there is no nats-server (apt-get install nats-server)",
    ),
    pytest.mark.timeout(300),
]


class Processes:
    """What ``serve crowdfunding --separate`` runs, as its clients meet it."""

    def __init__(self, parent: subprocess.Popen[bytes], port: int, url: str, schema: str) -> None:
        self.parent = psutil.Process(parent.pid)
        self.urls = {name: f"http://127.0.0.1:{port + i}" for i, name in enumerate(NAMES)}
        self.url = url
        self.schema = schema

    def ready(self) -> bool:
        try:
            return all(
                httpx.get(f"{url}/health/ready").status_code == 200 for url in self.urls.values()
            )
        except httpx.TransportError:
            return False

    def call(self, context: str, method: str, path: str, **more: Any) -> httpx.Response:
        """Ask until there is an answer, as a client does whose requests may be repeated."""
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = httpx.request(method, self.urls[context] + path, timeout=20, **more)
            except httpx.TransportError:
                answer = None
            if answer is not None and answer.status_code < 500:
                return answer
            assert time.monotonic() < deadline, f"{context} does not answer"
            time.sleep(0.1)

    def log_in(self, name: str) -> dict[str, str]:
        body = {"username": name, "password": PASSWORD}
        assert self.call("auth", "POST", "/auth/register", json=body).status_code in (201, 409)
        token = self.call("auth", "POST", "/token", data=body).json()["access_token"]
        return {"authorization": f"Bearer {token}"}

    def kill_one(self, chance: Random) -> str:
        """Kill one of the processes, and say which."""
        child = chance.choice(self.parent.children())
        command: list[str] = child.cmdline()
        child.send_signal(signal.SIGKILL)
        return command[command.index("--context") + 1] if "--context" in command else command[0]

    def balances(self) -> dict[str, int]:
        rows = query(
            self.url,
            f"select owner_id, posted::bigint from {self.schema}.accounts where asset = 'msat'",
        )
        return dict(rows)

    def undone(self) -> int:
        """How many messages have not arrived, or were not handled."""
        counts = [
            f"(select count(*) from {self.schema}.crowdfunding_{name}_outbox "
            "where published_on is null) + "
            f"(select count(*) from {self.schema}.crowdfunding_{name}_inbox "
            "where state <> 'handled')"
            for name in ("auth", "accounting", "bitcoin", "campaigns", "dashboard")
        ]
        count: int = query(self.url, f"select ({' + '.join(counts)})::int")[0][0]
        return count


@pytest.fixture
def processes(cluster: Cluster, schema: str, tmp_path: Path) -> Iterator[Processes]:
    migrate_spark(cluster.url, schema)
    port = free_ports(len(NAMES))
    command = [sys.executable, "-m", "shared_ledger.cli", "serve", "crowdfunding", "--separate"]
    environment = os.environ | {
        "DATABASE_URL": cluster.url,
        "SHARED_LEDGER_SCHEMA": schema,
        "SHARED_LEDGER_DATA": str(tmp_path),
        "PAY_TIMEOUT_S": "1",
    }
    environment.pop("NATS_URL", None)
    with subprocess.Popen([*command, "--port", str(port)], env=environment) as parent:
        try:
            found = Processes(parent, port, cluster.url, schema)
            eventually(found.ready, within_s=60)
            yield found
        finally:
            children = psutil.Process(parent.pid).children(recursive=True)
            parent.terminate()
            assert parent.wait(60) == 0
            assert not psutil.wait_procs(children, timeout=10)[1]


def test_killing_any_process_at_any_time_loses_and_doubles_nothing(processes: Processes) -> None:
    chance = Random(7)
    ada, bob = processes.log_in("ada"), processes.log_in("bob")
    created = processes.call(
        "crowdfunding",
        "POST",
        "/crowdfunding/campaign",
        headers=ada,
        json={
            "title": "A bridge for toads",
            "description": "They cross the road every March.",
            "goal": 1_000_000,
            "deadline": (datetime.now(UTC) + timedelta(days=1)).isoformat(),
            "kind": "all_or_nothing",
            "idempotency_key": "the only one",
        },
    )
    campaign = created.json()["campaign_id"]
    received = given = 0
    withdrawn: list[str] = []
    killed = set()
    ends = time.monotonic() + 45
    for number in cycle(range(1_000_000)):
        if time.monotonic() > ends:
            break
        if number % 4 == 0:
            killed.add(processes.kill_one(chance))
        invoice = processes.call(
            "bitcoin", "POST", "/bitcoin/deposit", headers=bob, json={"amount": 100}
        ).json()
        # Paid by somebody outside; a repetition finds it paid.
        processes.call(
            "bitcoin",
            "POST",
            "/dev/lightning/pay",
            json={"payment_request": invoice["payment_request"]},
        )
        received += 100
        donation = {"idempotency_key": f"n{number}", "campaign_id": campaign, "amount": 30}
        answer = processes.call(
            "crowdfunding", "POST", "/crowdfunding/donate", headers=bob, json=donation
        )
        # Some come before their deposit, and are rejected.
        assert answer.status_code in (200, 201, 202, 402), answer.text
        request = processes.call(
            "bitcoin", "POST", "/dev/lightning/invoice", json={"amount": 20}
        ).json()["payment_request"]
        asked = processes.call(
            "bitcoin", "POST", "/bitcoin/withdraw", headers=bob, json={"encoded_invoice": request}
        )
        assert asked.status_code in (201, 202, 402, 409), asked.text
        withdrawn.append(asked.json()["payment_hash"])
    assert len(killed) >= 4, killed
    eventually(processes.ready, within_s=60)
    eventually(lambda: not processes.undone(), within_s=90)
    rows = query(
        processes.url,
        "select coalesce(sum(amount), 0)::bigint, count(*)::int from "
        f"{processes.schema}.crowdfunding_campaigns_donations where state = 'registered'",
    )
    given, donations = rows[0]
    states = query(
        processes.url,
        "select state, count(*)::int, coalesce(sum(amount + fee), 0)::bigint "
        f"from {processes.schema}.crowdfunding_bitcoin_withdrawals group by state",
    )
    # What waits to be paid, or to be heard of, is done a moment later.
    eventually(
        lambda: (
            not query(
                processes.url,
                f"select 1 from {processes.schema}.crowdfunding_bitcoin_withdrawals "
                "where state not in ('succeeded', 'failed', 'refused')",
            )
        ),
        within_s=60,
    )
    eventually(lambda: not processes.undone(), within_s=60)
    states = query(
        processes.url,
        "select state, count(*)::int, coalesce(sum(amount + fee), 0)::bigint "
        f"from {processes.schema}.crowdfunding_bitcoin_withdrawals group by state",
    )
    paid = sum(total for state, _, total in states if state == "succeeded")
    sent = query(
        processes.url,
        "select coalesce(sum(amount_msat + fee_msat), 0)::bigint "
        f"from {processes.schema}.crowdfunding_sim_payments where state = 'succeeded'",
    )[0][0]
    assert paid == sent > 0
    balances = processes.balances()
    assert balances[f"campaign:{campaign}"] == given > 0
    assert donations > 3
    assert balances["bob"] == received * 1_000 - given - paid
    assert balances["@lightning"] == paid - received * 1_000
    shown = processes.call("dashboard", "GET", "/dashboard", headers=bob).json()
    assert shown["balance_msat"] == balances["bob"]
    seen = processes.call(
        "crowdfunding", "GET", f"/crowdfunding/campaign?campaign_id={campaign}"
    ).json()
    assert seen["total_raised"] * 1_000 == given


def test_a_process_answers_for_its_own_context_only(processes: Processes) -> None:
    ada = processes.log_in("ada")
    answer = processes.call("bitcoin", "GET", "/dashboard", headers=ada)
    assert (answer.status_code, answer.json()["context"]) == (421, "dashboard")
    assert processes.call("dashboard", "GET", "/dashboard", headers=ada).status_code == 200
