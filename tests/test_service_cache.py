"""Services that share a Redis: what one of them answered, the other does not contradict."""

from __future__ import annotations

import re

import httpx
from pydantic import SecretStr
from sqlalchemy.engine import Engine

from redis_server import RedisServer
from serving import OPERATOR, Served, serving
from shared_ledger.apps import content
from shared_ledger.embedded import Cluster


async def balance(served: Served, owner_id: str) -> int:
    answer = await served.client.get(f"/balance/{owner_id}", headers=OPERATOR)
    assert answer.status_code == 200, answer.text
    found: int = answer.json()["balance"]
    return found


async def hits(client: httpx.AsyncClient) -> float:
    text = (await client.get("/metrics")).text
    found = re.search(r"^shared_ledger_cache_hits_total (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


async def test_what_one_service_posts_the_other_reads_whatever_becomes_of_redis(
    cluster: Cluster, schema: str, engine: Engine, redis_server: RedisServer
) -> None:
    redis_url = SecretStr(redis_server.url)
    async with (
        serving(
            cluster.url, schema, engine, application=content.SERVICE, redis_url=redis_url
        ) as left,
        serving(
            cluster.url, schema, None, application=content.SERVICE, redis_url=redis_url
        ) as right,
    ):
        assert (await left.post(OPERATOR, "CREDIT_ADD", "ben")).status_code == 201
        assert (await left.post(OPERATOR, "CREDIT_ADD", "ben")).status_code == 201
        expected = {"ann": 0, "ben": 20}
        for number in range(12):
            if number == 5:
                redis_server.kill()
            if number == 9:
                redis_server.start()
            assert (await left.post(OPERATOR, "CREDIT_ADD", "ann")).status_code == 201
            expected["ann"] += 10
            if number in (3, 6, 11):
                # In a transaction of the application's own, with its row.
                body = {"title": "t", "body": "b", "nonce": left.nonce(), "owner_id": "ben"}
                stored = await right.client.post("/content", json=body, headers=OPERATOR)
                assert stored.status_code == 201, stored.text
                expected["ben"] -= 5
            for served in (right, left, right):
                assert await balance(served, "ann") == expected["ann"]
                assert await balance(served, "ben") == expected["ben"]
            if number == 4:
                assert await hits(left.client) > 0
                assert await hits(right.client) > 0
            if number == 7:
                left.app.state.readiness._fresh_until = 0  # What metrics have seen is older.
                ready = await left.client.get("/health/ready")
                assert (ready.status_code, ready.json()["cache"]) == (200, "down")
