"""A service that logs all that it can shows no secret: none that is configured, nor anybody's."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy.engine import Engine

from builders import eventually, query
from lnd_server import LndServer
from loopback import served
from nats_server import NatsServer
from redis_server import RedisServer
from serving import SERVICES, migrate_all
from shared_ledger import SHARED
from shared_ledger.embedded import Cluster
from shared_ledger.settings import Settings

pytestmark = pytest.mark.slow

OTHERS = (
    "asyncio",
    "alembic",
    "httpcore",
    "httpx",
    "nats",
    "sqlalchemy.pool",
    "urllib3",
    "uvicorn",
)
PASSWORD, WRONG = "correct-Horse-1", "wrong-Battery-2"
OTLP_KEY = "key-of-the-collector-0123456789"
UNKNOWN_KEY = "slk_0123456789ab_" + "k" * 43
CONFIGURED = {
    "DATABASE_URL": "password-of-the-database",
    "REDIS_URL": "password-of-redis",
    "NATS_URL": "password-of-nats",
    "LIGHTNING_NODE": "0201036c6e6402f801030a10c0ffee",
    "SECRET_KEY": "key-that-signs-the-tokens-of-users-0123456789",
    "SECRET_KEY_PREVIOUS": "key-that-signed-them-before-0123456789",
    "API_TOKEN": "key-of-the-operator-0123456789",
}


class Service:
    """The service with all of its applications; what it says goes to a file."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self.log = folder / "log"
        self.secrets = {OTLP_KEY, *CONFIGURED.values()}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shared_ledger.cli", "serve", "--port", "0", "--json"],
                env=environment,
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.client = httpx.Client(base_url=json.loads(line)["url"], timeout=30)

    def keep(self, secret: str) -> str:
        """Note that this must not be seen, nor the part of it that alone is secret."""
        self.secrets |= {secret, *(part for part in re.split("[._]", secret) if len(part) > 20)}
        return secret

    def end(self) -> None:
        self.client.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def everything(
    folder: Path, cluster: Cluster, schema: str, redis_server: RedisServer
) -> Iterator[Service]:
    """A service with secrets for everything; each opens something."""
    lnd = LndServer(cluster.url, schema)
    lnd.secret = CONFIGURED["LIGHTNING_NODE"]  # type: ignore[misc]  # of this one alone
    user = ("--user", "ledger", "--pass", CONFIGURED["NATS_URL"])
    with NatsServer(*user) as nats, served(lnd.app) as node, redis_server.connect() as redis:
        redis.config_set("requirepass", CONFIGURED["REDIS_URL"])
        names = {name.upper() for name in Settings.model_fields}
        environment = {name: value for name, value in os.environ.items() if name not in names}
        service = Service(
            folder,
            environment
            | CONFIGURED
            | {
                "DATABASE_URL": cluster.url.replace(
                    "postgres@", f"postgres:{CONFIGURED['DATABASE_URL']}@"
                ),
                "REDIS_URL": redis_server.url.replace("//", f"//:{CONFIGURED['REDIS_URL']}@"),
                "NATS_URL": nats.url.replace("//", f"//ledger:{CONFIGURED['NATS_URL']}@"),
                "LIGHTNING_NODE": f"lnd+http://{node}?macaroon={CONFIGURED['LIGHTNING_NODE']}",
                "SHARED_LEDGER_SCHEMA": schema,
                "ENVIRONMENT": "production",
                "LOG_LEVEL": "debug",
                "LOG_LEVELS": ",".join(f"{name}=debug" for name in OTHERS),
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
                "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={OTLP_KEY}",
            },
        )
        try:
            yield service
            # What goes wrong is said as well.
            redis_server.kill()
            nats.kill()
            ask_everything(service, {"x-token": CONFIGURED["API_TOKEN"]})
            query(cluster.url, f"alter schema {schema} rename to {schema}_away")
            ask_everything(service, {"x-token": CONFIGURED["API_TOKEN"]})
            query(cluster.url, f"alter schema {schema}_away rename to {schema}")
        finally:
            service.end()


def ask_everything(service: Service, headers: Mapping[str, str]) -> None:
    """Ask each route, with secrets wherever something can be said."""
    for prefix in ("", *(each.path for each in SERVICES)):
        paths = service.client.get(f"{prefix}/openapi.json").json()["paths"]
        for path, methods in paths.items():
            for method, described in methods.items():
                ask(service, method, f"{prefix}{path}", described, headers)


def ask(
    service: Service, method: str, path: str, described: Any, headers: Mapping[str, str]
) -> None:
    if "progress" in path:
        return  # which goes on for ever
    secret = service.keep(f"whispered-{len(service.secrets)}-to-{method}")
    words = ("username", "password", "nonce", "owner_id", "operation", "title", "body", "name")
    body: dict[str, Any] = dict.fromkeys((*words, "payment_request", "description"), secret)
    body["metadata"] = {"card": secret}
    form = "application/x-www-form-urlencoded" in str(described)
    service.client.request(
        method,
        # What belongs into a path is no secret; what is added to it may be.
        re.sub(r"\{\w+\}", "1", path),
        params={"token": secret, "owner_id": secret},
        headers=headers,
        data=body if form else None,
        json=None if form or method == "get" else body,
    )


def credentials(service: Service) -> list[dict[str, str]]:
    """Register, log in, make, rotate and revoke keys: what opens something, and what does not."""
    client = service.client
    service.keep(PASSWORD)
    service.keep(WRONG)
    for username in ("ada", "root"):
        body = {"username": username, "password": PASSWORD}
        assert client.post("/auth/register", json=body).status_code == 201
        form = {"username": PASSWORD, "password": username}
        assert client.post("/auth/token", data=form).status_code == 401
        assert client.post("/auth/token", data=body | {"password": WRONG}).status_code == 401
    tokens = []
    for username in ("ada", "root"):
        form = {"username": username, "password": PASSWORD}
        token = service.keep(client.post("/auth/token", data=form).json()["access_token"])
        tokens.append({"authorization": f"Bearer {token}"})
    return tokens


def keys(service: Service, admin: Mapping[str, str]) -> list[dict[str, str]]:
    made = service.client.post("/admin/keys", json={"name": "a till"}, headers=admin)
    assert made.status_code == 201, made.text
    path = f"/admin/keys/{made.json()['id']}"
    rotated = service.client.post(f"{path}/rotate", json={}, headers=admin)
    assert rotated.status_code in (200, 201), rotated.text
    return [{"x-token": service.keep(answer.json()["key"])} for answer in (made, rotated)]


def test_no_secret_is_logged(
    cluster: Cluster, schema: str, engine: Engine, redis_server: RedisServer, tmp_path: Path
) -> None:
    migrate_all(cluster.url, schema, engine, [SHARED, *SERVICES])
    with everything(tmp_path, cluster, schema, redis_server) as service:
        ada, root = credentials(service)
        query(cluster.url, f"update {schema}.users set is_admin = true where username = 'root'")
        wrong = {"authorization": f"Bearer {service.keep('eyJhbGciOiJIUzI1NiJ9.e30.' + 'x' * 43)}"}
        eventually(lambda: service.client.get("/admin/keys", headers=root).status_code == 200)
        callers = [ada, root, wrong, *keys(service, root), {"x-token": service.keep(UNKNOWN_KEY)}]
        for headers in (*callers, {"x-token": CONFIGURED["API_TOKEN"]}, {}):
            ask_everything(service, headers)
    said = service.log.read_text()
    lines = [json.loads(line) for line in said.splitlines()]
    # It said enough: of requests, of what went wrong, and of others.
    assert {"debug", "info", "warning", "error"} <= {line["level"] for line in lines}
    assert len({line["route"] for line in lines if line["event"] == "request"}) > 50
    assert {"httpx", "httpcore.http11"} <= {line["logger"] for line in lines}
    assert any("exception" in line for line in lines)
    shown = [secret for secret in service.secrets if secret in said]
    shown += [s for s in service.secrets if base64.b64encode(s.encode()).decode()[:-3] in said]
    assert shown == []
