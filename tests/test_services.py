"""Services as they are served: alone at the root, beside others, and what a service may not be."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urljoin

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from sqlalchemy.engine import Engine
from starlette.responses import Response

from builders import assert_sound, balances, eventually, fund, query
from serving import OPERATOR, PASSWORD, SERVICES, Served, kind, serving
from shared_ledger import SHARED
from shared_ledger.apps import content, crowdfunding
from shared_ledger.embedded import Cluster
from shared_ledger.errors import ConfigurationError
from shared_ledger.migrations import migrate
from shared_ledger.service import OPEN, Call, RightsTable, Service, called, create_app
from shared_ledger.service.authorisation import KNOWN, May
from shared_ledger.service.service import plain
from shared_ledger.settings import Settings

each_service = pytest.mark.parametrize(
    "service", SERVICES, ids=lambda service: service.application.name
)

# --- alone ---

Start = Callable[..., "Program"]


class Program:
    """A service alone, as ``uvicorn module:app`` runs it."""

    def __init__(self, service: Service, environment: Mapping[str, str]) -> None:
        self.said: list[str] = []
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "uvicorn", "--port", "0"),
                f"shared_ledger.apps.{service.application.name}.main:app",
            ],
            env={**_without_settings(), "LOG_FORMAT": "json", **environment},
            stderr=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def url(self) -> str:
        """Where it listens; waits until it does."""
        found: list[re.Match[str]] = []

        def listens() -> bool:
            assert self.process.poll() is None, self.said
            found.extend(filter(None, (re.search(r"http://\S+:\d+", line) for line in self.said)))
            return bool(found)

        eventually(listens, within_s=60)
        return found[0][0]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        code = self.process.wait(60)
        self._reader.join()
        return code

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self.said.extend(map(str.rstrip, lines))


def _without_settings() -> dict[str, str]:
    names = {name.upper() for name in Settings.model_fields}
    return {name: value for name, value in os.environ.items() if name not in names}


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a service alone; it is killed after the test if it still runs."""
    programs: list[Program] = []
    # No file .env of whoever runs the tests.
    monkeypatch.chdir(tmp_path)

    def started(service: Service, **environment: str) -> Program:
        programs.append(Program(service, environment))
        return programs[-1]

    yield started
    for program in programs:
        program.process.kill()
        program.ended()


@each_service
def test_a_service_alone_serves_its_routes_at_the_root(
    service: Service, start: Start, data: Path
) -> None:
    program = start(service, SHARED_LEDGER_DATA=str(data))
    with httpx.Client(base_url=program.url, headers={"x-token": "secret-token"}) as client:
        described = client.get("/openapi.json").json()
        assert described["info"]["title"] == service.title
        own = {path for _, path in service.rights}
        assert own <= described["paths"].keys()
        assert client.get("/docs").status_code == 200
        post = {"operation": "CREDIT_ADD", "owner_id": "user1", "nonce": "n"}
        assert client.post("/ledger", json=post).json()["app"] == service.application.name
        asked = 0
        for (method, path), rights in service.rights.items():
            if method != "GET" or "{" in path or (rights and rights.service is May.NOT):
                continue
            taken = described["paths"][path]["get"]["parameters"]
            if any(each["required"] for each in taken):
                continue
            whose = {"owner_id": "user1"} if "owner_id" in {p["name"] for p in taken} else None
            assert client.get(path, params=whose).status_code == 200
            asked += 1
        assert asked
    program.end()
    assert not any("Traceback" in line for line in program.said)


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "a secret that everybody knows": ({"ENVIRONMENT": "production"}, "SECRET_KEY must be set"),
    "a number that is none": ({"SWEEP_INTERVAL_S": "soon"}, "SWEEP_INTERVAL_S: "),
    "another database": ({"DATABASE_URL": "mysql://root@localhost/db"}, "DATABASE_URL: "),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_setting_ends_the_start_with_one_line(start: Start, what: str) -> None:
    environment, begins = WRONG[what]
    program = start(content.SERVICE, **environment)
    assert program.ended() == 1
    (line,) = program.said
    assert line.startswith(f"shared-ledger: {begins}")


WRONG_OWN: dict[str, tuple[dict[str, str], str]] = {
    "a node that is none": ({"LIGHTNING_NODE": "hunter2"}, "LIGHTNING_NODE is simulated:, lnd+"),
    "a simulated one in production": (
        {
            "LIGHTNING_NODE": "simulated:",
            "ENVIRONMENT": "production",
            "SECRET_KEY": "0123456789abcdef" * 2,
        },
        "LIGHTNING_NODE is simulated:, which is money that nobody has",
    ),
    "a time that is none": ({"PAY_TIMEOUT_S": "soon"}, "PAY_TIMEOUT_S: Input should be a valid "),
    "a time that is over": ({"PAY_TIMEOUT_S": "-1"}, "PAY_TIMEOUT_S: Input should be greater "),
    "a context that nobody knows": ({"SHARED_LEDGER_CONTEXTS": "shop"}, "Satoshi Spark has no "),
}


@pytest.mark.parametrize("what", WRONG_OWN)
def test_a_wrong_setting_of_its_own_ends_the_start_with_one_line(
    start: Start, data: Path, what: str
) -> None:
    environment, begins = WRONG_OWN[what]
    program = start(crowdfunding.SERVICE, SHARED_LEDGER_DATA=str(data), **environment)
    assert program.ended() != 0
    (line,) = _errors(program)
    assert line.startswith(f"shared-ledger: {begins}")
    assert "hunter2" not in line


def test_a_database_that_is_not_migrated_ends_the_start_with_one_line(
    start: Start, cluster: Cluster, schema: str, engine: Engine
) -> None:
    environment = {"DATABASE_URL": cluster.url, "SHARED_LEDGER_SCHEMA": schema}
    program = start(content.SERVICE, **environment)
    assert program.ended() != 0
    (line,) = _errors(program)
    assert line == (
        f"shared-ledger: there is no book in the schema '{schema}' of this database: "
        "run `shared-ledger migrate`"
    )
    migrate(engine, schema, [content.CONTENT])
    program = start(content.SERVICE, **environment)
    assert program.ended() != 0
    (line,) = _errors(program)
    assert line.startswith("shared-ledger: the tables of content are at revision base")


def test_a_database_that_cannot_be_reached_ends_the_start_with_one_line(
    start: Start, tmp_path: Path
) -> None:
    program = start(content.SERVICE, DATABASE_URL=f"postgresql:///postgres?host={tmp_path}")
    assert program.ended() != 0
    (line,) = _errors(program)
    assert line.startswith("shared-ledger: the database cannot be reached: ")


def _errors(program: Program) -> list[str]:
    """What a program said beside the stages of its start, each of which uvicorn tells."""
    logged = [json.loads(line) for line in program.said]
    return [
        line["event"]
        for line in logged
        if line["level"] != "info" and not line["event"].startswith("Application startup failed")
    ]


# --- two processes on one book ---


@pytest.fixture
async def served(cluster: Cluster, schema: str, engine: Engine) -> AsyncIterator[Served]:
    async with serving(cluster.url, schema, engine, beside=SERVICES) as served:
        yield served


def environment_of(served: Served) -> dict[str, str]:
    """What a program needs to work on the book of ``served``."""
    return {
        "DATABASE_URL": served.url,
        "SHARED_LEDGER_SCHEMA": served.schema,
        "API_TOKEN": OPERATOR["x-token"],
    }


ARTICLE = {"title": "Bread", "body": "Wait a day.", "price": 10, "nonce": "n", "owner_id": "alice"}


def test_a_reader_pays_once_whichever_process_he_asks(start: Start, served: Served) -> None:
    programs = [start(content.SERVICE, **environment_of(served)) for _ in range(2)]
    for owner_id, amount in (("alice", 5), ("bob", 100)):
        fund(served.url, served.schema, owner_id, amount)
    urls = [f"{program.url}/content" for program in programs]
    made = httpx.post(urls[0], json=ARTICLE, headers=OPERATOR).json()

    def read(number: int) -> int:
        url = f"{urls[number % 2]}/{made['id']}/access"
        return httpx.post(url, json={"owner_id": "bob"}, headers=OPERATOR).status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = sorted(pool.map(read, range(50)))
    assert statuses == [200] * 49 + [201]
    assert balances(served.url, served.schema)["bob", "credits"] == 90
    assert_sound(served.url, served.schema)


def test_a_process_that_is_killed_between_entry_and_row_leaves_neither(
    start: Start, served: Served
) -> None:
    program = start(content.SERVICE, **environment_of(served))
    fund(served.url, served.schema, "alice", 5)
    url = f"{program.url}/content"
    name = f"{served.schema}.slow"
    query(
        served.url,
        f"create function {name}() returns trigger language plpgsql "
        "as $$ begin perform pg_sleep(2); return new; end $$",
    )
    query(
        served.url,
        f"create trigger slow before insert on {served.schema}.content_items "
        f"for each row execute function {name}()",
    )
    sleeps = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(httpx.post, url, json=ARTICLE, headers=OPERATOR, timeout=30)
        eventually(lambda: query(served.url, sleeps) == [(1,)])
        program.end(signal.SIGKILL)
        with pytest.raises(httpx.HTTPError):
            asked.result()
    eventually(lambda: query(served.url, sleeps) == [(0,)])
    locked = f"select from {served.schema}.accounts where owner_id = 'alice' for update"
    query(served.url, locked)
    assert query(served.url, f"select count(*) from {served.schema}.content_items") == [(0,)]
    assert balances(served.url, served.schema)["alice", "credits"] == 5
    assert_sound(served.url, served.schema)


# --- beside others ---


@each_service
async def test_a_mounted_service_documents_itself_where_it_is(
    service: Service, served: Served
) -> None:
    described = (await served.client.get(f"{service.path}/openapi.json")).json()
    assert described["info"]["title"] == service.title
    assert described["servers"][0]["url"] == service.path
    assert {path for _, path in service.rights} <= described["paths"].keys()
    flow = described["components"]["securitySchemes"]["bearer"]["flows"]["password"]
    for page in ("/docs", "/redoc"):
        shown = await served.client.get(service.path + page)
        assert f"{service.path}/openapi.json" in shown.text
        files = re.findall(r'(?:src|href)="(/[^"]+)"', shown.text)
        assert files
        for file in files:
            assert (await served.client.get(file)).status_code == 200, file
    # Swagger's form finds the log-in of this service, relative to its description.
    served.user("alice")
    log_in = urljoin(f"{service.path}/openapi.json", flow["tokenUrl"])
    form = {"username": "alice", "password": PASSWORD}
    assert (await served.client.post(log_in, data=form)).status_code == 200
    root = (await served.client.get("/openapi.json")).json()
    assert not {path for _, path in service.rights} & root["paths"].keys()


@each_service
async def test_a_mounted_service_posts_as_its_own_application(
    service: Service, served: Served
) -> None:
    name = service.application.name
    body = {"operation": "CREDIT_ADD", "owner_id": "alice", "nonce": "n"}
    for path, app in (("", "shared"), (service.path, name)):
        answer = await served.client.post(f"{path}/ledger", json=body, headers=OPERATOR)
        assert (answer.status_code, answer.json()["app"]) == (201, app)
        shown = await served.client.get(f"{path}/balance/alice", headers=served.key(app))
        assert shown.status_code == 200
        refused = await served.client.get(f"{path}/balance/alice", headers=served.key("another"))
        assert refused.status_code == 403
    assert (await served.client.get("/balance/alice", headers=OPERATOR)).json()["balance"] == 20


async def test_a_user_of_one_service_is_a_user_of_all(served: Served) -> None:
    body = {"username": "alice", "password": PASSWORD}
    path = content.SERVICE.path
    assert (await served.client.post(f"{path}/auth/register", json=body)).status_code == 201
    token = (await served.client.post("/auth/token", data=body)).json()["access_token"]
    bearer = {"authorization": f"Bearer {token}"}
    for service in SERVICES:
        answer = await served.client.get(f"{service.path}/balance/alice", headers=bearer)
        assert answer.status_code == 200


async def test_a_path_that_only_begins_as_a_services_is_the_roots(served: Served) -> None:
    for path in (
        "/api/v1/contents/health",
        "/api/v1/Content/health",
        "/api/v1//content/health",
        "/api/v1/other/health",
        "/api/v1/",
        "/api/v1",
        "/content",
        "/api/v1/content",
        "/api/v1/content/",
        "/api/v1/content/api/v1/content/health",
    ):
        answer = await served.client.get(path, headers=OPERATOR)
        assert (answer.status_code, kind(answer)) == (404, "not_found"), path
    assert (await served.client.get("/api/v1/content/health")).status_code == 200


async def test_requests_to_a_service_are_counted_by_its_whole_path(served: Served) -> None:
    await served.client.get("/api/v1/content/content/7", headers=OPERATOR)
    await served.client.head("/api/v1/content/health")
    counted = (await served.client.get("/metrics")).text
    assert 'route="/api/v1/content/content/{content_id}"' in counted
    assert 'route="/api/v1/content/health"' in counted


# --- who is let in ---


async def test_a_route_that_does_not_ask_who_calls_is_guarded_all_the_same(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    service = routed({("GET", "/things"): KNOWN}, one_route())
    async with serving(cluster.url, schema, engine, application=service) as served:
        assert (await served.client.get("/things")).status_code == 401
        assert (await served.client.get("/things", headers=OPERATOR)).json() == "things"


async def test_a_route_for_everybody_that_asks_who_calls_refuses_whoever_says_nothing(
    cluster: Cluster, schema: str, engine: Engine
) -> None:
    router = APIRouter()

    @router.get("/caller")
    def show_caller(call: Annotated[Call[Any], Depends(called)]) -> str:
        return call.caller.name

    service = routed({("GET", "/things"): OPEN, ("GET", "/caller"): OPEN}, one_route(), router)
    async with serving(cluster.url, schema, engine, application=service) as served:
        assert (await served.client.get("/things")).json() == "things"
        refused = await served.client.get("/caller")
        assert (refused.status_code, kind(refused)) == (401, "unauthorized")
        assert "Bearer" in refused.headers["www-authenticate"]


# --- what a service may not be ---


def routed(rights: RightsTable, *routers: APIRouter, migrations: Any = None) -> Service:
    return Service(
        application=SHARED,
        title="A service",
        description="Of a test.",
        routers=routers,
        rights=rights,
        migrations=migrations,
    )


def one_route(path: str = "/things", **more: Any) -> APIRouter:
    router = APIRouter(**more)

    @router.get(path)
    def show_things() -> str:
        return "things"

    return router


def test_a_route_without_a_row_ends_the_start() -> None:
    with pytest.raises(ConfigurationError, match="nobody decided who may call GET /things"):
        create_app(routed({}, one_route()), Settings())
    create_app(routed({("GET", "/things"): KNOWN}, one_route()), Settings())
    # The path is the whole one.
    with pytest.raises(ConfigurationError, match="who may call GET /all/things"):
        create_app(routed({("GET", "/things"): KNOWN}, one_route(prefix="/all")), Settings())


def test_a_route_of_the_ledger_cannot_be_another() -> None:
    rights: RightsTable = {("GET", "/health"): OPEN, ("GET", "/balance/{owner_id}"): OPEN}
    with pytest.raises(ConfigurationError, match=r"GET /balance/\{owner_id\}, GET /health"):
        create_app(routed(rights, one_route("/health")), Settings())


def test_routes_of_which_the_table_cannot_be_asked_end_the_start() -> None:
    nested, mounted, socket, bare = APIRouter(), APIRouter(), APIRouter(), APIRouter()
    nested.include_router(one_route(), prefix="/admin")
    mounted.mount("/files", FastAPI())

    @socket.websocket("/live")
    async def live(_: WebSocket) -> None:
        """Never reached."""

    bare.add_route("/bare", lambda _: Response())
    rights: RightsTable = {("GET", "/things"): KNOWN, ("GET", "/bare"): KNOWN}
    for router in (nested, mounted, socket, bare):
        with pytest.raises(ConfigurationError, match="routes of FastAPI only"):
            create_app(routed(rights, router), Settings())


def test_two_services_cannot_have_one_path() -> None:
    with pytest.raises(ConfigurationError, match="two services are to be served below /api/v1/"):
        create_app(SHARED, Settings(), beside=[content.SERVICE, plain(content.CONTENT)])
