"""nginx as it stands before the instances: where a request goes, and when to another one."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from builders import assert_sound, eventually, query
from deploy.conftest import StartNginx
from deploy.load import Clients
from deploy.nginx import Nginx
from instances import Instance, running
from loopback import answered, refused, served
from serving import OPERATOR, PASSWORD, bearer
from shared_ledger.embedded import Cluster

pytestmark = pytest.mark.deploy

CONTENT, ECOMMERCE, CROWDFUNDING = "/api/v1/content", "/api/v1/ecommerce", "/api/v1/crowdfunding"
PROGRESS = f"{CROWDFUNDING}/crowdfunding/campaign/progress"


class Echo:
    """A service that answers what it was asked, and who it is."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.asked = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await request.body()
        self.asked += 1
        client = scope["client"]
        answer = JSONResponse(
            {
                "name": self.name,
                "headers": dict(request.headers),
                "path": scope["raw_path"].decode(),
                "from": f"{client[0]}:{client[1]}",
                "filling": "x" * int(request.query_params.get("length", "0")),
            },
            headers={"x-request-id": "the service's own"},
        )
        await answer(scope, receive, send)


@pytest.fixture
def echoes() -> Iterator[dict[str, tuple[str, str]]]:
    """For each upstream one that says which it is, as both of its instances."""
    with ExitStack() as opened:
        places = {}
        for name in ("LEDGER", "CONTENT", "ECOMMERCE", "CROWDFUNDING"):
            place = opened.enter_context(served(Echo(name)))
            places[name] = (place, place)
        yield places


@pytest.fixture
def echoing(start_nginx: StartNginx, echoes: dict[str, tuple[str, str]]) -> Nginx:
    """An nginx before them."""
    return start_nginx(echoes)


def problem(answer: httpx.Response) -> str:
    """The name of a problem, which says its own status."""
    assert answer.headers["content-type"] == "application/problem+json"
    content = answer.json()
    assert content["status"] == answer.status_code
    return str(content["type"]).removeprefix("urn:shared-ledger:problem:")


# Where a request goes.


def test_nginx_finds_nothing_wrong_with_its_configuration(echoing: Nginx) -> None:
    said = echoing.checked()
    assert said.returncode == 0, said.stderr
    assert "warn" not in said.stderr


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "LEDGER"),
        ("/ledger", "LEDGER"),
        ("/ledger/holds/7/capture", "LEDGER"),
        ("/balance/ada", "LEDGER"),
        ("/auth/token", "LEDGER"),
        ("/api/v1/contents", "LEDGER"),
        (f"{CONTENT}", "CONTENT"),
        (f"{CONTENT}/content/3/access", "CONTENT"),
        (f"{CONTENT}/docs", "CONTENT"),
        (f"{CONTENT}/ledger/api%2Fv1%2Fecommerce", "CONTENT"),
        (f"{ECOMMERCE}/orders", "ECOMMERCE"),
        (f"{ECOMMERCE}/health/ready", "ECOMMERCE"),
        (f"{CROWDFUNDING}/crowdfunding/donate", "CROWDFUNDING"),
        (f"{CROWDFUNDING}/dashboard", "CROWDFUNDING"),
        (PROGRESS, "CROWDFUNDING"),
    ],
)
def test_each_path_goes_to_its_upstream_as_it_was_sent(
    echoing: Nginx, path: str, name: str
) -> None:
    answer = httpx.get(f"{echoing.url}{path}").json()
    assert (answer["name"], answer["path"]) == (name, path)


@pytest.mark.parametrize("path", ["/metrics", "/metrics/", "/%6detrics", f"{CONTENT}/metrics"])
def test_metrics_are_not_shown_to_the_internet(echoing: Nginx, path: str) -> None:
    answer = httpx.get(f"{echoing.url}{path}")
    assert (answer.status_code, problem(answer)) == (404, "not_found")


# What goes with it.


@pytest.mark.parametrize("given", ["a-client.s_own-1", "x" * 64])
def test_a_clients_request_id_is_passed_on_answered_and_logged(echoing: Nginx, given: str) -> None:
    answer = httpx.get(f"{echoing.url}/ledger", headers={"x-request-id": given})
    assert answer.json()["headers"]["x-request-id"] == given
    assert answer.headers.get_list("x-request-id") == [given]
    assert echoing.requests(1)[0]["request_id"] == given


@pytest.mark.parametrize("given", [None, "", 'a" b', "-x", "x" * 65])
def test_without_one_that_can_be_used_nginx_makes_a_request_id(
    echoing: Nginx, given: str | None
) -> None:
    headers = {} if given is None else {"x-request-id": given}
    answer = httpx.get(f"{echoing.url}/ledger", headers=headers)
    made = answer.json()["headers"]["x-request-id"]
    assert re.fullmatch("[0-9a-f]{32}", made)
    assert answer.headers.get_list("x-request-id") == [made]
    assert echoing.requests(1)[0]["request_id"] == made


def test_the_log_says_what_was_asked_and_keeps_no_query_string(echoing: Nginx) -> None:
    httpx.get(f"{echoing.url}/ledger/ada?token=secret")
    line = echoing.requests(1)[0]
    assert line.items() >= {"path": "/ledger/ada", "status": 200, "client": "127.0.0.1"}.items()
    assert "secret" not in echoing.log.read_text()


def test_the_client_is_named_by_nginx_alone(echoing: Nginx) -> None:
    said = httpx.get(f"{echoing.url}/ledger", headers={"x-forwarded-for": "203.0.113.1"}).json()
    assert said["headers"]["x-forwarded-for"] == "127.0.0.1"


def test_a_proxy_in_front_is_believed_if_it_is_named(
    start_nginx: StartNginx, echoes: dict[str, tuple[str, str]]
) -> None:
    nginx = start_nginx(echoes, NGINX_REAL_IP_FROM="127.0.0.0/8")
    headers = {"x-forwarded-for": "198.51.100.1, 203.0.113.1"}
    said = httpx.get(f"{nginx.url}/ledger", headers=headers).json()
    assert said["headers"]["x-forwarded-for"] == "203.0.113.1"
    assert nginx.requests(1)[0]["client"] == "203.0.113.1"


def test_connections_to_the_instances_are_kept(echoing: Nginx) -> None:
    connections = {httpx.get(f"{echoing.url}/ledger").json()["from"] for _ in range(20)}
    # Each of its workers keeps its own, and there is one for each processor.
    assert len(connections) < 10


def test_long_answers_are_compressed_and_events_are_not(echoing: Nginx) -> None:
    for path, coding in (("/ledger", "gzip"), (PROGRESS, None)):
        answer = httpx.get(f"{echoing.url}{path}?length=5000")
        assert answer.headers.get("content-encoding") == coding
        assert answer.json()["filling"] == "x" * 5000
    assert "content-encoding" not in httpx.get(f"{echoing.url}/ledger").headers


# What nginx refuses itself.


def test_what_is_too_large_is_refused_as_the_service_would(echoing: Nginx) -> None:
    whole = httpx.post(f"{echoing.url}/ledger/batch", content=b"x" * 1_048_576)
    assert whole.status_code == 200
    body = httpx.post(f"{echoing.url}/ledger/batch", content=b"x" * 1_048_577)
    assert (body.status_code, problem(body)) == (413, "content_too_large")
    url = httpx.get(f"{echoing.url}/ledger/{'x' * 9_000}")
    assert (url.status_code, problem(url)) == (414, "uri_too_long")
    head = httpx.get(f"{echoing.url}/ledger", headers={"x-more": "x" * 9_000})
    assert (head.status_code, problem(head)) == (431, "headers_too_large")
    for answer in (body, url, head):
        assert answer.headers["x-request-id"]


def test_a_flood_from_one_address_is_turned_away(
    start_nginx: StartNginx, echoes: dict[str, tuple[str, str]]
) -> None:
    nginx = start_nginx(echoes, NGINX_RATE="1r/s", NGINX_BURST="3")
    with httpx.Client(base_url=nginx.url) as client:
        answers = [client.get("/ledger") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 4 + [429] * 2
    assert problem(answers[-1]) == "too_many_requests"
    assert answers[-1].headers["retry-after"] == "1"


def test_its_status_is_on_a_port_of_its_own(echoing: Nginx) -> None:
    status = httpx.get(f"http://127.0.0.1:{echoing.status_port}/stub_status").text
    assert re.search(r"Active connections: \d+", status)
    assert httpx.get(f"{echoing.url}/stub_status").json()["name"] == "LEDGER"


# When it goes to the other instance.

NONCED = [
    "/ledger",
    "/ledger/batch",
    f"{CONTENT}/content",
    f"{CONTENT}/signup",
    f"{ECOMMERCE}/orders/3/ship",
    f"{CROWDFUNDING}/ledger/holds",
    f"{CROWDFUNDING}/crowdfunding/donate",
]
ONCE = [
    "/auth/register",
    "/admin/keys",
    "/ledgers",
    f"{CONTENT}/daily-reward",
    f"{CONTENT}/auth/register",
    f"{CROWDFUNDING}/crowdfunding/campaign",
    f"{CROWDFUNDING}/bitcoin/withdraw",
]


def posted_with_one_broken(nginx: Nginx, path: str) -> list[int]:
    """Post twice, so that each instance has its turn; what is answered."""
    return [httpx.post(f"{nginx.url}{path}").status_code for _ in range(2)]


@pytest.mark.parametrize("path", NONCED)
def test_a_post_with_a_nonce_goes_to_the_other_one_when_an_instance_dies_of_it(
    start_nginx: StartNginx, path: str
) -> None:
    echo = Echo("the other one")
    with served(echo) as place, answered(b"") as broken:
        assert posted_with_one_broken(start_nginx((broken, place)), path) == [200, 200]
    assert echo.asked == 2


@pytest.mark.parametrize("path", ONCE)
def test_what_may_have_been_done_already_is_not_asked_for_twice(
    start_nginx: StartNginx, path: str
) -> None:
    echo = Echo("the other one")
    with served(echo) as place, answered(b"") as broken:
        nginx = start_nginx((broken, place))
        assert sorted(posted_with_one_broken(nginx, path)) == [200, 502]
        failed = next(line for line in nginx.requests(2) if line["status"] == 502)
        # By one instance, and that is told.
        assert "," not in failed["upstream"]
    assert echo.asked == 1


@pytest.mark.parametrize("path", [*NONCED, *ONCE])
def test_whatever_was_not_sent_goes_to_the_other_one(start_nginx: StartNginx, path: str) -> None:
    echo = Echo("the other one")
    with served(echo) as place, refused() as nobody:
        nginx = start_nginx((nobody, place))
        assert posted_with_one_broken(nginx, path) == [200, 200]
        assert any("," in line["upstream"] for line in nginx.requests(2))


@pytest.mark.parametrize("path", ["/balance/ada", "/auth/me", f"{CONTENT}/content/3"])
def test_what_only_reads_is_asked_of_the_other_one(start_nginx: StartNginx, path: str) -> None:
    echo = Echo("the other one")
    with served(echo) as place, answered(b"") as broken:
        nginx = start_nginx((broken, place))
        assert {httpx.get(f"{nginx.url}{path}").status_code for _ in range(4)} == {200}


@pytest.mark.parametrize("path", ["/ledger", "/balance/ada"])
def test_an_answer_is_an_answer(start_nginx: StartNginx, path: str) -> None:
    """A 503 asks for a pause; the other instance waits for the same database."""
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n"
    echo = Echo("the other one")
    with served(echo) as place, answered(unavailable) as broken:
        nginx = start_nginx((broken, place))
        statuses = [httpx.get(f"{nginx.url}{path}").status_code for _ in range(8)]
    # It goes on having its turn: nothing has failed.
    assert statuses.count(503) == 4


def test_when_nobody_answers_that_is_a_problem_too(start_nginx: StartNginx) -> None:
    with refused() as nobody:
        nginx = start_nginx((nobody, nobody))
        answer = httpx.post(f"{nginx.url}/ledger")
    assert (answer.status_code, problem(answer)) == (502, "bad_gateway")
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-request-id"]


# Before real instances.


BOOK = "behind_nginx"


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, cluster: Cluster
) -> Iterator[tuple[Instance, Instance]]:
    """Two instances of everything, on one book."""
    folder = tmp_path_factory.mktemp("instances")
    first, second = (
        Instance(
            folder / name,
            cluster.url,
            BOOK,
            FORWARDED_ALLOW_IPS="127.0.0.1",
            RATE_LIMIT_ANONYMOUS="",
            SHUTDOWN_DELAY_S="1",
        )
        for name in ("first", "second")
    )
    first.migrate()
    with running(first, second):
        yield first, second


@pytest.fixture
def nginx(start_nginx: StartNginx, pair: tuple[Instance, Instance]) -> Nginx:
    """An nginx before them."""
    return start_nginx([f"127.0.0.1:{instance.port}" for instance in pair])


def test_a_request_has_one_id_in_all_logs(nginx: Nginx, pair: tuple[Instance, Instance]) -> None:
    body = {"operation": "CREDIT_ADD", "owner_id": "ada", "nonce": "1"}
    answer = httpx.post(f"{nginx.url}/ledger", json=body, headers=OPERATOR)
    assert answer.status_code == 201
    request_id = answer.headers["x-request-id"]
    assert nginx.requests(1)[0]["request_id"] == request_id
    eventually(lambda: any(request_id in one.log.read_text() for one in pair), within_s=5)


def test_whom_wrong_passwords_come_from_is_known_behind_nginx(
    nginx: Nginx, pair: tuple[Instance, Instance]
) -> None:
    form = {"username": "nobody", "password": "Test@1234"}
    said = {"x-forwarded-for": "203.0.113.1"}
    assert httpx.post(f"{nginx.url}/auth/token", data=form, headers=said).status_code == 401
    logs = "".join(one.log.read_text() for one in pair)
    assert "127.0.0.1" in logs
    assert "203.0.113.1" not in logs


def test_a_campaigns_progress_comes_as_it_happens(nginx: Nginx) -> None:
    with httpx.Client(base_url=nginx.url, timeout=20) as client:
        eve = {"username": "eve", "password": PASSWORD}
        assert client.post(f"{CROWDFUNDING}/auth/register", json=eve).status_code == 201
        token = client.post(f"{CROWDFUNDING}/auth/token", data=eve).json()["access_token"]
        deadline = datetime.now(UTC) + timedelta(seconds=4)
        campaign = {
            "title": "A bridge for toads",
            "description": "They cross the road every March.",
            "goal": 5_000,
            "deadline": deadline.isoformat(),
        }
        begun = client.post(
            f"{CROWDFUNDING}/crowdfunding/campaign", json=campaign, headers=bearer(token)
        )
        assert begun.status_code == 201, begun.text
        asked = {"campaign_id": begun.json()["campaign_id"]}
        with client.stream("GET", PROGRESS, params=asked) as stream:
            lines = stream.iter_lines()
            states = []
            for line in lines:
                if line.startswith("data: "):
                    states.append(json.loads(line.removeprefix("data: "))["state"])
                    if len(states) == 1:
                        # Not held back until there is more of it.
                        assert datetime.now(UTC) < deadline
    assert states[0] == "open"
    assert states[-1] == "ended"


@pytest.mark.timeout(180)
async def test_no_request_is_lost_when_instances_are_killed_or_end(
    nginx: Nginx, pair: tuple[Instance, Instance], cluster: Cluster
) -> None:
    clients = Clients(nginx.url, OPERATOR)
    clients.post_credits()
    clients.post_credits(f"{CONTENT}/ledger")
    clients.get("/ledger/owner%201")
    clients.get(f"{CONTENT}/content")

    async def kill_and_end_each() -> None:
        for instance in pair:
            instance.kill()
            await clients.answered(200)
            await start_again(instance)
        for instance in pair:
            await asyncio.to_thread(instance.stop)
            await clients.answered(200)
            await start_again(instance)

    async def start_again(instance: Instance) -> None:
        instance.start()
        await asyncio.to_thread(instance.wait_ready)
        # For longer than nginx leaves alone what has failed.
        await asyncio.sleep(2)
        await clients.answered(200)

    seen = await clients.ask_while(kill_and_end_each)
    assert seen.unexpected == []
    stored = query(
        cluster.url, f"select owner_id, nonce from {BOOK}.entries where nonce like 'load %'"
    )
    assert sorted(stored) == sorted(seen.nonces)
    assert_sound(cluster.url, BOOK)
    repeated = [line for line in nginx.log.read_text().splitlines() if ", 127.0.0.1" in line]
    assert repeated, "nothing was asked of the other one"
