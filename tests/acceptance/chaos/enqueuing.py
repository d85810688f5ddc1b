"""Those who enqueue: sessions that commit, roll back, roll back a part, and lose the answer to their commit."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, Oban, enqueue
from tests.acceptance.chaos import ledger, workers

_MIX: dict[Any, float] = {
    workers.Steady: 14,
    workers.Snoozing: 14,
    workers.Recording: 5,
    workers.Lengthy: 7,
    workers.InThread: 6,
    workers.Blocking: 2,
    workers.Effect: 14,
    workers.EffectInThread: 8,
    workers.EffectThenSnooze: 4,
    workers.Alone: 4,
    workers.InProcess: 2,
    workers.KillsItsProcess: 0.2,
    workers.Poison: 0.1,
}

CROWDED: Final = 60
"""Available jobs at which enqueuers wait."""

_WAITING: Final = text("SELECT count(*) FROM oban_jobs WHERE state::text = 'available'")


class Enqueuer:
    """Enqueues until it is told to stop; what it does follows from its seed, when it does it from the machine."""

    def __init__(
        self,
        name: str,
        engine: AsyncEngine,
        *,
        draw: random.Random,
        enqueued: Callable[[int], None],
        crowd: Crowd,
    ) -> None:
        """`enqueued` is told the ids of jobs that are committed."""
        self._name = name
        self._engine = engine
        self._draw = draw
        self._enqueued = enqueued
        self._crowd = crowd
        self._number = 0

    async def run(self) -> None:
        """Go on with one transaction after another, waiting while too many jobs do."""
        while not self._crowd.over:
            if self._crowd.waiting > CROWDED:
                await asyncio.sleep(0.1)
                continue
            how = self._draw.choices(("commit", "rollback", "savepoint", "copy"), (70, 10, 12, 8))[0]
            jobs = [self._job() for _ in range(self._draw.randint(1, 4))]
            rest = self._draw.uniform(0.1, 0.6)
            await self._transaction(how, jobs)
            await asyncio.sleep(rest)

    async def _transaction(self, how: str, jobs: list[Job]) -> None:
        keys = [job.args["key"] for job in jobs]
        undone: list[str] = []
        if how == "copy":
            ledger.write("about", keys=keys)
            try:
                await Oban(self._engine).enqueue_many(jobs)
            except Exception as error:
                ledger.write("unknown", keys=keys, why=_first_line(error))
            else:
                ledger.write("committed", keys=keys)
            return
        try:
            async with AsyncSession(self._engine, expire_on_commit=False) as session:
                if how == "savepoint":
                    undone, keys = keys[:1], keys[1:]
                    nested = await session.begin_nested()
                    enqueue(session, jobs[0])
                    await session.flush()
                    await nested.rollback()
                    jobs = jobs[1:]
                for job in jobs:
                    enqueue(session, job)
                if how == "rollback":
                    await session.flush()
                    await session.rollback()
                    undone, keys, jobs = [*undone, *keys], [], []
                    return
                await session.flush()
                if not keys:
                    return
                ledger.write("about", keys=keys)
                try:
                    await session.commit()
                except Exception as error:
                    ledger.write("unknown", keys=keys, why=_first_line(error))
                    keys = []
                    return
            ledger.write("committed", keys=keys, ids=[job.id for job in jobs])
            for job in jobs:
                self._enqueued(job.id)
            keys = []
        except Exception as error:
            # The server is away, and nobody has said commit.
            ledger.write("failed", keys=keys, why=_first_line(error))
            undone, keys = [*undone, *keys], []
        finally:
            if undone:
                ledger.write("undone", keys=undone)

    def _job(self) -> Job:
        draw = self._draw
        self._number += 1
        kind = draw.choices(list(_MIX), list(_MIX.values()))[0]
        if (self._name, self._number) == ("0", 20):
            kind = workers.Poison  # one in each run at least
        args: dict[str, Any] = {"key": f"{self._name}-{self._number}", "rest": round(draw.uniform(0.01, 0.5), 3)}
        # Drawn whether they are used or not, so that one choice does not move all others.
        fails, child, snoozes, snooze = draw.random(), draw.random(), draw.randint(1, 3), draw.uniform(0.05, 0.8)
        if fails < 0.12 and kind is not workers.Poison:
            args["fail"] = [1, 2][: 1 if fails < 0.08 else 2]
        if kind in (workers.Effect, workers.EffectInThread) and child < 0.25:
            args["child"] = True
        if kind in (workers.Snoozing, workers.EffectThenSnooze):
            args |= {"snoozes": snoozes, "snooze": round(snooze, 3), "rest": round(args["rest"] * 5, 3)}
        later = draw.uniform(0.2, 2) if draw.random() < 0.15 else None
        return kind.new(args, priority=draw.randint(0, 3), **({"schedule_in": later} if later else {}))


class Crowd:
    """How many jobs wait, lest a slow machine has more to do after the faults than under them."""

    def __init__(self) -> None:
        self.waiting = 0
        self.over = False
        """Whether nothing more is enqueued."""

    async def count(self, engine: AsyncEngine) -> None:
        """Keep the count up to date."""
        while True:
            with contextlib.suppress(Exception):
                async with engine.connect() as connection:
                    self.waiting = (await connection.execute(_WAITING)).scalar_one()
            await asyncio.sleep(0.5)


class Recent:
    """The ids of jobs that were committed last, for those who cancel and retry."""

    def __init__(self) -> None:
        self._ids: deque[int] = deque(maxlen=60)

    def add(self, job_id: int) -> None:
        """Take note of a job."""
        self._ids.append(job_id)

    def some(self, count: int, draw: random.Random) -> list[int]:
        """A few of them, the newest more often."""
        newest = list(self._ids)[::-1]
        return sorted({newest[int(len(newest) * draw.random() ** 2)] for _ in range(count)} if newest else set())


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
