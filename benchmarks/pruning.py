"""How much a drain is slowed by a million deletable jobs being pruned beside it.

    python benchmarks/pruning.py postgresql://postgres@127.0.0.1:5432/scratch

One runner drains all the time; in every other window of a few seconds the million is being pruned. Prints the rate of
each window and the ratio of those with pruning to their neighbours. The database needs our tables and is emptied.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections import Counter

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa import Runner, job, telemetry
from oban_sa.jobs.retention import Prune
from oban_sa.service import service

FINISHED = """
INSERT INTO oban_jobs (state, queue, worker, args, attempt, inserted_at, scheduled_at, attempted_at, completed_at)
SELECT 'completed', 'done', 'benchmark.old', jsonb_build_object('n', n), 1, moment, moment, moment, moment
FROM generate_series(1, :count) AS n, LATERAL (
    SELECT timezone('UTC', now()) - interval '3 days' + n * interval '10 milliseconds' AS moment
) AS moments
"""
AVAILABLE = "INSERT INTO oban_jobs (queue, worker) SELECT 'default', :worker FROM generate_series(1, :count)"


@job(queue="default", name="benchmark.nothing")
async def nothing() -> None:
    """Do nothing."""


async def run(url: str, *, finished: int, windows: int, within: float, concurrency: int) -> None:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    counts: Counter[str] = Counter()
    detach = [
        telemetry.attach(lambda event: counts.update(acked=event.count), telemetry.ProducerAck),
        telemetry.attach(lambda event: counts.update(pruned=event.count), telemetry.PrunerPrune),
    ]
    rates: list[float] = []
    ratios: list[float] = []
    try:
        await fill(engine, finished)
        async with Runner(engine, queues={"default": concurrency}, prune=None):
            filling = asyncio.create_task(keep_full(engine, int(within * 30_000)))
            await measured(counts, within)  # warm
            for number in range(2 * windows + 1):
                if number % 2:
                    # A runner of another instance, so that it leads beside the first, and with nothing else to do.
                    async with Runner(engine, queues={"none": 1}, name="Pruning", prune=Prune()):
                        await asyncio.sleep(1.5)  # until it leads, and the pruner is at work
                        rates.append(await measured(counts, within))
                else:
                    await asyncio.sleep(0.5)
                    rates.append(await measured(counts, within))
                print(f"{'pruning' if number % 2 else 'quiet':8} {rates[-1]:10,.0f} jobs/s", flush=True)
            filling.cancel()
        left = await scalar(engine, "SELECT count(*) FROM oban_jobs WHERE queue = 'done'")
    finally:
        for undo in detach:
            undo()
        await engine.dispose()
    # Each window with pruning against the mean of its neighbours, so that a machine that changes its mind harms little.
    for before, pruning, after in zip(rates[0::2], rates[1::2], rates[2::2], strict=False):
        ratios.append(2 * pruning / (before + after))
    print(f"pruned {finished - left:,} of {finished:,} meanwhile, {left:,} left")
    print(f"ratios {', '.join(f'{ratio:.3f}' for ratio in sorted(ratios))}")
    print(f"median {statistics.median(ratios):.3f}, mean {statistics.mean(ratios):.3f}")


async def measured(counts: Counter[str], within: float) -> float:
    """Jobs acked per second, for so many seconds."""
    before, started = counts["acked"], time.perf_counter()
    await asyncio.sleep(within)
    return (counts["acked"] - before) / (time.perf_counter() - started)


async def keep_full(engine: AsyncEngine, count: int) -> None:
    """Have jobs to do all the time, in portions that are the same whether there is pruning or not."""
    while True:
        if await scalar(engine, "SELECT count(*) FROM oban_jobs WHERE state = 'available'") < count:
            async with engine.begin() as connection:
                await connection.execute(text(AVAILABLE), {"count": 20_000, "worker": "benchmark.nothing"})
        await asyncio.sleep(0.5)


async def scalar(engine: AsyncEngine, statement: str) -> int:
    async with engine.connect() as connection:
        return int((await connection.execute(text(statement))).scalar_one())


async def fill(engine: AsyncEngine, finished: int) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("TRUNCATE oban_jobs, oban_leaders, oban_producers"))
        await connection.execute(text(FINISHED), {"count": finished})
        await connection.execute(text(AVAILABLE), {"count": 300_000, "worker": "benchmark.nothing"})
        await connection.commit()
    async with engine.connect() as connection:
        settled = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await settled.execute(text("VACUUM ANALYZE oban_jobs"))
        await settled.execute(text("CHECKPOINT"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--within", type=float, default=3.0)
    parser.add_argument("--concurrency", type=int, default=50)
    given = parser.parse_args()
    service.run(
        run(
            given.url,
            finished=given.finished,
            windows=given.windows,
            within=given.within,
            concurrency=given.concurrency,
        )
    )


if __name__ == "__main__":
    main()
