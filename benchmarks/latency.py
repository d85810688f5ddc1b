"""How soon jobs start: a lone job on an idle queue, and jobs scheduled at random milliseconds.

    python -m benchmarks.latency [--lone 300] [--scheduled 1000] [--over 10]

A lone job's latency runs from asking for the commit to the first line of its code; the floor is bare asyncpg that
listens and fetches. A scheduled job's lateness runs from its moment to the first line of its code; both by this
machine's clock, so the database has to be on this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import async_sessionmaker

from benchmarks import floor
from benchmarks.ground import Ground, main, parser, percentile, table
from oban_sa import Job, Oban, Runner, enqueue, job
from oban_sa.workers import Registry

registry = Registry()
started: list[asyncio.Future[float]] = []
late: list[float] = []

WARM = 10
"""Jobs that open connections and make plans before any is counted."""


@job(queue="bench", registry=registry, name="benchmarks.lone")
async def lone(job: Job) -> None:
    started[-1].set_result(time.perf_counter())


@job(queue="bench", registry=registry, name="benchmarks.due")
async def due(job: Job) -> None:
    late.append((datetime.now(UTC) - job.scheduled_at).total_seconds() * 1000)


async def lone_jobs(ground: Ground, jobs: int) -> list[float]:
    loop = asyncio.get_running_loop()
    sessions = async_sessionmaker(ground.engine, expire_on_commit=False)
    latencies: list[float] = []
    async with Runner(ground.engine, queues={"bench": 10}, registry=registry):
        for number in range(jobs + WARM):
            async with sessions() as session:
                enqueue(session, lone.new())
                await session.flush()
                started.append(loop.create_future())
                asked = time.perf_counter()
                await session.commit()
            latency = (await started[-1] - asked) * 1000
            if number >= WARM:
                latencies.append(latency)
            await asyncio.sleep(random.uniform(0.002, 0.02))
    return latencies


async def floor_jobs(ground: Ground, jobs: int) -> list[float]:
    writing, fetching, listening = [await ground.connect() for _ in range(3)]
    listener = floor.Listener(fetching, listening)
    await listener.start()
    latencies: list[float] = []
    for number in range(jobs + WARM):
        transaction = writing.transaction()
        await transaction.start()
        await writing.fetchval(floor.ONE, "benchmarks.lone", "{}")
        await writing.execute("SELECT pg_notify('floor', '')")
        listener.arrived = asyncio.get_running_loop().create_future()
        asked = time.perf_counter()
        await transaction.commit()
        latency = (await listener.arrived - asked) * 1000
        if number >= WARM:
            latencies.append(latency)
        await asyncio.sleep(random.uniform(0.002, 0.02))
    await listener.stop()
    for connection in (writing, fetching, listening):
        await connection.close()
    return latencies


async def scheduled_jobs(ground: Ground, jobs: int, over: float) -> list[float]:
    late.clear()
    await ground.clear()
    async with Runner(ground.engine, queues={"bench": 50}, registry=registry):
        begin = datetime.now(UTC) + timedelta(seconds=1)
        moments = [begin + timedelta(seconds=random.uniform(0, over)) for _ in range(jobs)]
        await Oban(ground.engine).enqueue_many(
            Job("benchmarks.due", queue="bench", scheduled_at=moment) for moment in moments
        )
        if datetime.now(UTC) > begin:
            raise SystemExit("writing the jobs took longer than the second that was left for it")
        async with asyncio.timeout(over + 60):
            while len(late) < jobs:  # noqa: ASYNC110 - nothing is measured by it
                await asyncio.sleep(0.05)
    await ground.check(completed=jobs)
    return list(late)


async def measure(ground: Ground, options: argparse.Namespace) -> None:
    waits: dict[str, list[float]] = {"floor": [], "oban_sa": []}
    for _ in range(options.rounds):
        await ground.clear()
        waits["floor"] += await floor_jobs(ground, options.lone // options.rounds)
        await ground.clear()
        waits["oban_sa"] += await lone_jobs(ground, options.lone // options.rounds)
        await ground.check(completed=options.lone // options.rounds + WARM)
    print("a lone job, from its commit to its code, milliseconds\n")
    base = percentile(waits["floor"], 0.5)
    table(
        ["", "jobs", "p50", "p99", "max", "p50 to the floor's"],
        [
            [kind, len(each), percentile(each, 0.5), percentile(each, 0.99), max(each), percentile(each, 0.5) / base]
            for kind, each in waits.items()
        ],
    )
    lateness = await scheduled_jobs(ground, options.scheduled, options.over)
    print(f"scheduled at random milliseconds within {options.over:g} s, milliseconds after the moment\n")
    row = ["oban_sa", len(lateness), percentile(lateness, 0.5), percentile(lateness, 0.99), max(lateness)]
    table(["", "jobs", "p50", "p99", "max"], [row])


def run(arguments: list[str] | None = None) -> None:
    options = parser(__doc__ or "")
    options.add_argument("--lone", type=int, default=300)
    options.add_argument("--scheduled", type=int, default=1_000)
    options.add_argument("--over", type=float, default=10.0, help="seconds that the scheduled moments are spread over")
    main(options.parse_args(arguments), measure)


if __name__ == "__main__":
    run()
