"""Following a campaign over real sockets, as server-sent events."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import uvicorn
from sqlalchemy.engine import Engine

from builders import eventually, free_ports
from serving import PASSWORD, Served, bearer, kind, serving
from shared_ledger.apps.crowdfunding import SERVICE
from shared_ledger.apps.crowdfunding.crowdfunding import progress
from shared_ledger.connections import make_engine
from shared_ledger.embedded import Cluster, temporary_cluster
from shared_ledger.service.connection import BoundedConnection
from shared_ledger.service.server import GRACE_S, listen
from spark_served import (
    WITHOUT_LIMITS,
    be_patient,
    campaign_body,
    let_it_end,
    person,
    quiet,
    rich,
    simulate,
)
from sparking import migrate_spark

FOLLOW = "/crowdfunding/campaign/progress"
# A busy machine may take long to do what takes a moment.
WITHIN_S = 30


class Stream:
    """What somebody hears who follows a campaign."""

    def __init__(self, answer: httpx.Response) -> None:
        self.answer = answer
        self._pieces = answer.aiter_text()
        self._heard = ""

    async def next(self) -> str:
        """The next event or comment, without the empty line at its end; "" at the end of all."""
        async with asyncio.timeout(WITHIN_S):
            while "\n\n" not in self._heard:
                try:
                    self._heard += await anext(self._pieces)
                except StopAsyncIteration:
                    assert self._heard == ""
                    return ""
        found, _, self._heard = self._heard.partition("\n\n")
        return found

    async def campaign(self) -> dict[str, Any]:
        """The campaign that the next event shows; comments are skipped."""
        while (text := await self.next()).startswith(":"):
            pass
        event, data = text.split("\n")
        assert event == "event: campaign"
        assert data.startswith("data: {")
        found: dict[str, Any] = json.loads(data.removeprefix("data: "))
        return found


@asynccontextmanager
async def listening(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    """Serve it on a real socket as well, with connections as the program has them."""
    config = uvicorn.Config(
        served.app,
        http=BoundedConnection,
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=WITHIN_S,
    )
    server = uvicorn.Server(config)
    with listen("127.0.0.1", 0) as port:
        url = f"http://127.0.0.1:{port.getsockname()[1]}"
        running = asyncio.create_task(server.serve(sockets=[port]))
        # A connection for each who follows.
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=WITHIN_S, limits=limits) as client:
            yield client
        served.app.state.leaving.set()
        server.should_exit = True
        await running


@asynccontextmanager
async def following(client: httpx.AsyncClient, campaign_id: str) -> AsyncIterator[Stream]:
    async with client.stream("GET", FOLLOW, params={"campaign_id": campaign_id}) as answer:
        assert answer.status_code == 200
        yield Stream(answer)


@pytest.fixture
async def served(
    cluster: Cluster, schema: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Served]:
    simulate(monkeypatch)
    be_patient(monkeypatch)
    monkeypatch.setattr(progress, "LOOK_EVERY_S", 0.05)
    async with serving(
        cluster.url, schema, engine, application=SERVICE, **WITHOUT_LIMITS
    ) as served:
        yield served


@pytest.fixture
async def client(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with listening(served) as client:
        yield client


async def came_true(fact: Callable[[], bool]) -> None:
    ends = time.monotonic() + WITHIN_S
    while not fact():
        assert time.monotonic() < ends, "it did not come true"
        await asyncio.sleep(0.01)


def followed(served: Served) -> int:
    """How many campaigns of this book are looked at."""
    return sum(
        len(campaigns)
        for engine, (_, campaigns) in progress._looking.items()
        if engine is served.app.state.own.engine
    )


async def test_an_event_at_first_one_after_each_donation_and_the_end_with_the_campaign(
    served: Served, client: httpx.AsyncClient
) -> None:
    campaign_id = await person(served, "ada").campaign(title="A bridge\N{ROCKET} for toads")
    bob = await rich(served, "bob")
    async with following(client, campaign_id) as stream:
        headers = stream.answer.headers
        assert headers["content-type"] == "text/event-stream; charset=utf-8"
        assert headers["cache-control"] == "no-store"
        assert headers["x-accel-buffering"] == "no"
        shown = await client.get("/crowdfunding/campaign", params={"campaign_id": campaign_id})
        first = await stream.campaign()
        assert first == shown.json()
        for number, raised in ((1, 1_500), (2, 3_000)):
            assert (await bob.donate(campaign_id, 1_500, f"{number}")).status_code == 201
            assert await stream.campaign() == first | {"total_raised": raised}
        let_it_end(served, campaign_id)
        while (seen := await stream.campaign())["state"] != "ended":
            assert seen["state"] in ("open", "closing")
        assert seen["total_raised"] == 3_000
        assert await stream.next() == ""
    # Who comes later is told how it ended, and no more.
    async with following(client, campaign_id) as late:
        assert await late.campaign() == seen
        assert await late.next() == ""


async def test_a_campaign_that_is_not_there_is_404(client: httpx.AsyncClient) -> None:
    unknown = {"campaign_id": "0b0e7c1c-5d3e-5b7e-9d3f-2f1c7a6f5e4d"}
    answer = await client.get(FOLLOW, params=unknown)
    assert (answer.status_code, kind(answer)) == (404, "campaign_not_found")


async def test_who_hears_nothing_is_told_that_somebody_is_there(
    served: Served, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SPEAK_EVERY_S", 0.2)
    campaign_id = await person(served, "ada").campaign()
    async with following(client, campaign_id) as stream:
        await stream.campaign()
        for _ in range(3):
            assert await stream.next() == ": still here"


async def test_many_who_follow_need_no_more_connections_than_one(
    served: Served, client: httpx.AsyncClient
) -> None:
    ada, bob = person(served, "ada"), await rich(served, "bob")
    campaigns = [await ada.campaign(title=f"number {number}") for number in range(10)]
    engine = served.app.state.own.engine
    looks = 0

    def count(*arguments: Any) -> None:
        nonlocal looks
        looks += "crowdfunding_campaigns.description" in arguments[2]

    async with AsyncExitStack() as leaving:
        streams = await asyncio.gather(
            *(leaving.enter_async_context(following(client, each)) for each in campaigns * 20)
        )
        for stream in streams:
            await stream.campaign()
        await quiet(served)
        assert followed(served) == len(campaigns)
        sa.event.listen(engine.sync_engine, "before_cursor_execute", count)
        began = time.monotonic()
        await asyncio.sleep(2)
        assert 0 < looks <= (time.monotonic() - began) / progress.LOOK_EVERY_S + 1
        sa.event.remove(engine.sync_engine, "before_cursor_execute", count)
        # All are told, and others are answered meanwhile.
        given = [bob.donate(each, number + 1, each) for number, each in enumerate(campaigns)]
        assert {answer.status_code for answer in await asyncio.gather(*given)} == {201}
        for number, stream in enumerate(streams):
            assert (await stream.campaign())["total_raised"] == number % len(campaigns) + 1
    await came_true(lambda: followed(served) == 0)


async def test_a_client_that_goes_away_leaves_nothing_behind(
    served: Served, client: httpx.AsyncClient
) -> None:
    ada = person(served, "ada")
    one, two = await ada.campaign(), await ada.campaign()
    for _ in range(3):
        async with following(client, one) as first, following(client, two) as second:
            await first.campaign()
            await second.campaign()
            async with following(client, one) as third:
                await third.campaign()
                assert followed(served) == 2
            await asyncio.sleep(0.2)
            # One that others follow is looked at for them.
            assert followed(served) == 2
        await came_true(lambda: followed(served) == 0)
    await came_true(lambda: progress.NAME not in {task.get_name() for task in asyncio.all_tasks()})


async def test_who_comes_while_others_follow_is_shown_what_is_newest(
    served: Served, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    campaign_id = await person(served, "ada").campaign()
    bob = await rich(served, "bob")
    # Nobody looks again before the end of the test.
    monkeypatch.setattr(progress, "LOOK_EVERY_S", 3_600)
    async with following(client, campaign_id) as early:
        assert (await early.campaign())["total_raised"] == 0
        assert (await bob.donate(campaign_id, 10, "first")).status_code == 201
        async with following(client, campaign_id) as late:
            assert (await late.campaign())["total_raised"] == 10
            # And what he saw, the others see.
            assert (await early.campaign())["total_raised"] == 10
        served.app.state.leaving.set()


async def test_who_only_asks_for_the_head_has_it_and_the_connection_is_free(
    served: Served, client: httpx.AsyncClient, request: pytest.FixtureRequest
) -> None:
    campaign_id = await person(served, "ada").campaign()
    # What is left behind is not to wait for the collector, which comes seldom.
    gc.disable()
    request.addfinalizer(gc.enable)
    one = httpx.Limits(max_connections=1)
    async with httpx.AsyncClient(base_url=client.base_url, limits=one) as alone:
        head = await alone.head(FOLLOW, params={"campaign_id": campaign_id})
        assert head.status_code == 200
        assert head.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (await alone.get("/health")).status_code == 200
    await came_true(lambda: followed(served) == 0)


async def test_a_process_that_leaves_ends_what_would_go_on_for_ever(
    served: Served, client: httpx.AsyncClient
) -> None:
    campaign_id = await person(served, "ada").campaign()
    async with following(client, campaign_id) as stream:
        await stream.campaign()
        served.app.state.leaving.set()
        assert await stream.next() == ""


async def test_who_follows_while_the_database_is_gone_is_told_when_it_is_back(
    schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulate(monkeypatch)
    be_patient(monkeypatch)
    monkeypatch.setattr(progress, "SPEAK_EVERY_S", 0.2)
    with temporary_cluster() as fragile, engine_of(fragile.url) as engine:
        async with (
            serving(fragile.url, schema, engine, application=SERVICE, **WITHOUT_LIMITS) as served,
            listening(served) as client,
        ):
            campaign_id = await person(served, "ada").campaign()
            bob = await rich(served, "bob")
            async with following(client, campaign_id) as stream:
                await stream.campaign()
                fragile.kill()
                for _ in range(10):
                    assert await stream.next() == ": still here"
                fragile.ensure_running()
                for _ in range(100):
                    if (await bob.donate(campaign_id, 10, "first")).status_code < 300:
                        break
                    await asyncio.sleep(0.1)
                assert (await stream.campaign())["total_raised"] == 10


@contextmanager
def engine_of(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


# --- programs that are told to end ---

PROGRAMS = {
    "shared-ledger serve": ("shared_ledger.cli", "serve", "crowdfunding"),
    "uvicorn": ("uvicorn", "shared_ledger.apps.crowdfunding.main:app"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_is_told_to_end_is_not_held_up_by_who_follows(
    name: str, cluster: Cluster, schema: str, tmp_path: Path
) -> None:
    migrate_spark(cluster.url, schema)
    url = f"http://127.0.0.1:{(port := free_ports(1))}"
    environment = {"DATABASE_URL": cluster.url, "SHARED_LEDGER_SCHEMA": schema}
    with (
        subprocess.Popen(
            [sys.executable, "-m", *PROGRAMS[name], "--port", str(port)],
            cwd=tmp_path,
            env=os.environ | environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as program,
        httpx.Client(base_url=url, timeout=WITHIN_S) as client,
    ):
        try:
            eventually(lambda: is_there(client), within_s=60)
            with client.stream("GET", FOLLOW, params={"campaign_id": begun(client)}) as answer:
                pieces = answer.iter_text()
                assert next(pieces).startswith("event: campaign\n")
                program.send_signal(signal.SIGTERM)
                told_at = time.monotonic()
                # All of it, to its very end.
                assert list(pieces) == []
            program.wait(WITHIN_S)
            assert time.monotonic() - told_at < GRACE_S
        finally:
            program.kill()


def is_there(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.ConnectError:
        return False


def begun(client: httpx.Client) -> str:
    """Register somebody who begins a campaign; its id."""
    body = {"username": "ada", "password": PASSWORD}
    assert client.post("/auth/register", json=body).status_code == 201
    token = client.post("/token", data=body).json()["access_token"]
    made = client.post("/crowdfunding/campaign", json=campaign_body(), headers=bearer(token))
    assert made.status_code == 201
    return str(made.json()["campaign_id"])
