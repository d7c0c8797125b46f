"""Satoshi Spark is killed after every single step of every saga, and each ends as it should."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from builders import assert_sound
from contexts import HERE
from killing import on_reach
from shared_ledger.apps.crowdfunding.common.faults import POINTS
from shared_ledger.apps.crowdfunding.crowdfunding import commands
from shared_ledger.embedded import Cluster
from shared_ledger.messages.faults import POINTS as MESSAGE_POINTS
from spark_sagas import SAGAS, Saga, make_world, world_of
from sparking import migrate_spark, spark_on

LINES = 2
"""So many processes are killed at a time, each on a book of its own."""


async def test_the_sagas_come_to_every_point(
    cluster: Cluster, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "REFUNDS_AT_ONCE", 2)
    migrate_spark(cluster.url, schema)
    make_world(cluster.url, schema)
    reached: set[str] = set()
    async with spark_on(cluster.url, schema, migrated=True) as spark, world_of(spark) as world:
        for kind in SAGAS:
            saga = kind(spark, world, kind.__name__)
            await saga.prepare()
            steps: list[str] = []
            on_reach(steps.append)
            await saga.play()
            on_reach(None)
            await saga.check(steps)
            reached.update(steps)
        spark.assert_sound()
        world.assert_watched()
    assert reached == {*POINTS, *MESSAGE_POINTS}
    assert_sound(cluster.url, schema)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("saga", SAGAS, ids=lambda saga: saga.__name__)
def test_killed_after_any_step_a_saga_ends_as_it_should(
    cluster: Cluster, schema: str, saga: type[Saga]
) -> None:
    books = [f"{schema}_{line}" for line in range(LINES)]
    for book in books:
        migrate_spark(cluster.url, book)
        make_world(cluster.url, book)
    programs = [
        subprocess.Popen(
            [sys.executable, "killing.py", cluster.url, book, saga.__name__, str(line), str(LINES)],
            cwd=HERE,
            stdout=subprocess.PIPE,
        )
        for line, book in enumerate(books)
    ]
    printed = [program.communicate()[0] for program in programs]
    assert [program.returncode for program in programs] == [0] * LINES
    (steps, first), (same, second) = map(json.loads, printed)
    assert steps == same
    assert (first, second) == (steps[::LINES], steps[1::LINES])
    for book in books:
        assert_sound(cluster.url, book)
