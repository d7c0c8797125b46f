"""Who the client is when a proxy stands between: whom its name is believed, and whom not."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest
from sqlalchemy.engine import Engine

from instances import Instance, running
from shared_ledger import SHARED, migrations
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError
from shared_ledger.settings import load_settings

LIMIT = 2
ELSEWHERE = "198.51.100.7"


def statuses(instance: Instance, *clients: str) -> list[int]:
    """Ask once for each, as whoever the header says; what is answered."""
    return [
        httpx.post(
            f"{instance.url}/auth/token",
            data={"username": "nobody", "password": "Test@1234"},
            headers={"x-forwarded-for": client},
        ).status_code
        for client in clients
    ]


def instance_behind(
    proxies: str | None, folder: Path, cluster: Cluster, schema: str, engine: Engine
) -> Instance:
    migrations.migrate(engine, schema, [SHARED])
    return Instance(
        folder / "instance",
        cluster.url,
        schema,
        SHARED_LEDGER_SERVICES="",
        RATE_LIMIT_ANONYMOUS=f"{LIMIT}/minute",
        **({} if proxies is None else {"FORWARDED_ALLOW_IPS": proxies}),
    )


@pytest.mark.parametrize("proxies", [None, "", "192.0.2.1, 192.0.3.0/24"])
def test_whoever_is_no_proxy_is_not_believed_to_be_another(
    proxies: str | None, tmp_path: Path, cluster: Cluster, schema: str, engine: Engine
) -> None:
    instance = instance_behind(proxies, tmp_path, cluster, schema, engine)
    with running(instance):
        assert statuses(instance, "203.0.113.1", "203.0.113.2", "203.0.113.3") == [401, 401, 429]
    assert "log-in refused (from 127.0.0.1)" in instance.log.read_text()


def test_a_proxy_is_believed_who_asks_and_not_whom_the_client_says_it_stands_for(
    tmp_path: Path, cluster: Cluster, schema: str, engine: Engine
) -> None:
    instance = instance_behind("127.0.0.0/8", tmp_path, cluster, schema, engine)
    with running(instance):
        clients = [f"203.0.113.{number}" for number in range(LIMIT + 1)]
        assert statuses(instance, *clients) == [401] * (LIMIT + 1)
        # What stands before the last was said by the client.
        told = [f"203.0.114.{number}, {ELSEWHERE}" for number in range(LIMIT + 1)]
        assert statuses(instance, *told) == [401, 401, 429]
    assert f"log-in refused (from {ELSEWHERE})" in instance.log.read_text()


@pytest.mark.parametrize("proxies", ["*", "nginx", "10.0.0.1,", "10.0.0.1/8", "10.0.0.256"])
def test_what_is_no_address_of_a_proxy_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, proxies: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", proxies)
    with pytest.raises(ConfigurationError, match="FORWARDED_ALLOW_IPS: is a list of addresses"):
        load_settings()
