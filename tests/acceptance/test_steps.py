"""A worker that is killed between any two of ten steps, and inside of each of them, by real processes."""

from __future__ import annotations

import asyncio
from collections import Counter

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import enqueue_many
from tests.acceptance.step_jobs import EFFECTS, STEPS, ten_steps
from tests.support import eventually, forked, plain_url

FLAGS = (
    *("--queues", "default:1", "--heartbeat-every", "0.2", "--dead-after", "1", "--grace", "1"),
    *("--log-level", "warning", "--prune", "never", "--import", "tests.acceptance.step_jobs"),
)


async def test_each_effect_happens_once_wherever_the_worker_dies(database_url: str, engine: AsyncEngine) -> None:
    kills = [(after, None) for after in range(STEPS + 1)] + [(None, inside) for inside in range(1, STEPS + 1)]
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text(EFFECTS))
        jobs = enqueue_many(session, [ten_steps.new(after, inside) for after, inside in kills])
        await session.flush()
        inside_of = {job.id: inside for job, (_, inside) in zip(jobs, kills, strict=True)}
    env = {"OBAN_DATABASE_URL": plain_url(database_url)}
    killed = 0
    while not await completed(engine, len(kills)):
        with forked(["-m", "oban_sa.runner", *FLAGS], env=env) as process:
            ended = asyncio.create_task(process.ended(60))

            async def over(ended: asyncio.Task[int] = ended) -> None:
                assert ended.done() or await completed(engine, len(kills))

            await eventually(over, 60)
            if ended.done():
                killed += 1
            else:
                process.kill()
                await ended
    assert killed == len(kills)
    async with engine.connect() as connection:
        rows = [tuple(row) for row in await connection.execute(text("SELECT job_id, step FROM effects"))]
    twice = {(job_id, inside) for job_id, inside in inside_of.items() if inside is not None and inside % 2 == 0}
    happened = Counter(rows)
    assert happened == {
        (job_id, number): 2 if (job_id, number) in twice else 1
        for job_id in inside_of
        for number in range(1, STEPS + 1)
    }


async def completed(engine: AsyncEngine, count: int) -> bool:
    async with engine.connect() as connection:
        found = await connection.scalar(text("SELECT count(*) FROM oban_jobs WHERE state = 'completed'"))
    return found == count
