"""How much a drain is slowed by a million deletable jobs being pruned beside it.

    python benchmarks/pruning.py postgresql://postgres@127.0.0.1:5432/scratch

Drains in turn with the million there and pruning off, and with the million being pruned, in one database; prints each
drain, the jobs pruned meanwhile, and the ratio of the medians. The database needs our tables and is emptied.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from oban_sa import Runner, job, telemetry
from oban_sa.retention import Prune
from oban_sa.runner import service

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


async def run(url: str, *, finished: int, jobs: int, rounds: int, concurrency: int) -> None:
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    rates: dict[str, list[float]] = {"quiet": [], "pruning": []}
    try:
        await drain(engine, jobs, concurrency, prune=None)  # warm
        for number in range(rounds):
            for kind in ("quiet", "pruning") if number % 2 else ("pruning", "quiet"):
                await fill(engine, finished)
                prune = Prune() if kind == "pruning" else None
                rate, pruned = await drain(engine, jobs, concurrency, prune=prune)
                rates[kind].append(rate)
                print(f"{kind:8} {rate:10,.0f} jobs/s  {pruned:9,} pruned meanwhile", flush=True)
    finally:
        await engine.dispose()
    quiet, pruning = statistics.median(rates["quiet"]), statistics.median(rates["pruning"])
    print(f"median   {quiet:10,.0f} quiet, {pruning:,.0f} while pruning: ratio {pruning / quiet:.3f}")


async def fill(engine: AsyncEngine, finished: int) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("TRUNCATE oban_jobs, oban_leaders, oban_producers"))
        await connection.execute(text(FINISHED), {"count": finished})
        await connection.commit()
        settled = await connection.execution_options(isolation_level="AUTOCOMMIT")
        await settled.execute(text("VACUUM ANALYZE oban_jobs"))
        await settled.execute(text("CHECKPOINT"))


async def drain(engine: AsyncEngine, jobs: int, concurrency: int, *, prune: Prune | None) -> tuple[float, int]:
    pruned = 0

    def count(event: telemetry.PrunerPrune) -> None:
        nonlocal pruned
        pruned += event.count

    detach = telemetry.attach(count, telemetry.PrunerPrune)
    runner = Runner(engine, queues={"default": concurrency}, prune=prune)
    async with runner:
        await asyncio.sleep(3)  # until it leads, and the pruner is at work
        async with engine.begin() as connection:
            await connection.execute(text(AVAILABLE), {"count": jobs, "worker": "benchmark.nothing"})
        started = time.perf_counter()
        await runner.until_idle()
        elapsed = time.perf_counter() - started
    detach()
    return jobs / elapsed, pruned


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--concurrency", type=int, default=50)
    given = parser.parse_args()
    service.run(
        run(given.url, finished=given.finished, jobs=given.jobs, rounds=given.rounds, concurrency=given.concurrency)
    )


if __name__ == "__main__":
    main()
