"""A program: plays one saga again and again, killed each time after another of its steps.

``python killing.py URL SCHEMA SAGA LINE LINES`` plays it once to its end, which tells the steps,
and then takes every ``LINES``-th of them, from the ``LINE``-th on. Each time it forks a process
that first finishes and checks what the one before it has left, as a service does when it is started
again, and then plays the saga under a new name until it kills itself. It prints the steps it was
killed at.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

from contexts import engine_on
from shared_ledger import Ledger
from shared_ledger.apps.crowdfunding.accounting.operations import CROWDFUNDING
from shared_ledger.apps.crowdfunding.common import faults
from shared_ledger.apps.crowdfunding.crowdfunding import commands
from shared_ledger.messages import faults as message_faults
from spark_sagas import SAGAS, Saga, World, world_of
from sparking import Spark

Reached = Callable[[str], None]


class Killing:
    """What is done to one saga on one book."""

    def __init__(self, url: str, schema: str, saga: type[Saga]) -> None:
        self.url = url
        self.schema = schema
        self.saga = saga
        # SQLAlchemy's: what is compiled once need not be in each process.
        self._compiled: dict[Any, Any] = {}
        self.steps: list[str] = []
        """The points that it comes to, from the beginning to the end."""

    async def record(self) -> None:
        """Play it to its end, and learn its steps."""
        async with self._world() as (spark, world):
            await self._play(spark, world, "whole", self.steps.append)
            await self._finish(spark, world, "whole", self.steps)

    def kill_at_each(self, places: range) -> list[str]:
        """Kill it at these of its steps, and let it go on each time; return the steps."""
        for before, place in pairwise([None, *places, None]):
            status = self._live(self._life(before, place))
            if place is None:
                assert status == 0, status
            else:
                assert os.WIFSIGNALED(status), (place, self.steps[place], status)
                assert os.WTERMSIG(status) == signal.SIGKILL, status
        return [self.steps[place] for place in places]

    def _live(self, life: Coroutine[Any, Any, None]) -> int:
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(life)
            except BaseException:  # noqa: BLE001  # Whatever it is, it must not run the parent's code.
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        life.close()
        return os.waitpid(child, 0)[1]

    async def _life(self, before: int | None, place: int | None) -> None:
        async with self._world() as (spark, world):
            if before is not None:
                world.let_leases_end()
                await self._finish(spark, world, str(before), self.steps[: before + 1])
            if place is not None:
                await self._play(spark, world, str(place), self._killing_at(place))

    @asynccontextmanager
    async def _world(self) -> AsyncIterator[tuple[Spark, World]]:
        with Ledger(CROWDFUNDING, self.url, schema=self.schema) as ledger:
            async with engine_on(self.url, self.schema) as plain:
                engine = plain.execution_options(compiled_cache=self._compiled)
                spark = Spark(self.url, self.schema, engine, ledger)
                async with world_of(spark) as world:
                    yield spark, world

    async def _play(self, spark: Spark, world: World, run: str, reached: Reached) -> None:
        saga = self.saga(spark, world, run)
        await saga.prepare()
        on_reach(reached)
        await saga.play()
        on_reach(None)

    async def _finish(self, spark: Spark, world: World, run: str, steps: Sequence[str]) -> None:
        """Let it go on after it has done these steps, and check its end."""
        saga = self.saga(spark, world, run)
        await saga.play()
        await saga.check(steps)
        spark.assert_sound()
        world.assert_watched()

    def _killing_at(self, place: int) -> Reached:
        reached: list[str] = []

        def reach(step: str) -> None:
            reached.append(step)
            assert reached == self.steps[: len(reached)], "it went another way than before"
            if len(reached) > place:
                os.kill(os.getpid(), signal.SIGKILL)

        return reach


def on_reach(call: Reached | None) -> None:
    """Have something called at each point, of messages and of the contexts' own work."""
    message_faults.on_reach(call)
    faults.on_reach(call)


def main() -> None:
    """Do it."""
    url, schema, name, line, lines = sys.argv[1:]
    # What is killed is the program, not the database.
    os.environ["PGOPTIONS"] = "-c synchronous_commit=off"
    commands.REFUNDS_AT_ONCE = 2
    killing = Killing(url, schema, next(saga for saga in SAGAS if saga.__name__ == name))
    asyncio.run(killing.record())
    # What is not looked at by the collector is not copied by each fork.
    gc.freeze()
    killed = killing.kill_at_each(range(int(line), len(killing.steps), int(lines)))
    print(json.dumps([killing.steps, killed]))  # noqa: T201  # It is what the program is for.


if __name__ == "__main__":
    main()
