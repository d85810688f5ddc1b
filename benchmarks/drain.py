"""How fast one runner works through jobs that do nothing.

    python -m benchmarks.drain [--jobs 20000] [--concurrency 10 50 200] [--finished 1000000] [--against procrastinate]

Counted from the first fetch to the last written outcome; every figure is refused unless each job ran exactly once and
is completed. The floor is bare asyncpg on the same table: fetch as many, ack them by one statement, again.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from benchmarks import floor, others
from benchmarks.ground import Ground, Spent, cpu_each, main, parser, rate, table, watch
from oban_sa import Job, Oban, Runner, job, telemetry
from oban_sa.workers import Registry

registry = Registry()
executed: list[int] = []


@job(queue="bench", registry=registry, name="benchmarks.nothing")
async def nothing(job: Job) -> None:
    executed.append(job.id)


async def fill(ground: Ground, jobs: int, finished: int) -> None:
    await ground.clear(finished=finished)
    await Oban(ground.engine, announce=False).enqueue_many(
        Job("benchmarks.nothing", queue="bench") for _ in range(jobs)
    )
    await ground.settle()


async def ours(ground: Ground, jobs: int, concurrency: int) -> Spent:
    """One runner with one queue."""
    executed.clear()
    ended = asyncio.Event()
    acked = 0
    first: tuple[float, float] | None = None

    def fetched(event: telemetry.ProducerFetch) -> None:
        nonlocal first
        if first is None:
            first = (time.perf_counter() - event.duration, time.process_time())

    def written(event: telemetry.ProducerAck) -> None:
        nonlocal acked
        acked += event.count
        if acked >= jobs:
            ended.set()

    detaches = [telemetry.attach(fetched, telemetry.ProducerFetch), telemetry.attach(written, telemetry.ProducerAck)]
    async with Runner(ground.engine, queues={"bench": concurrency}, registry=registry):
        await ended.wait()
        over, cpu = time.perf_counter(), time.process_time()
    for detach in detaches:
        detach()
    if sorted(executed) != list(range(min(executed), min(executed) + jobs)):
        raise SystemExit(f"{len(executed)} executions of {len(set(executed))} jobs, where {jobs} were to run once each")
    assert first is not None
    return Spent(over - first[0], cpu - first[1])


async def bare(ground: Ground, jobs: int, concurrency: int) -> Spent:
    """The floor."""
    connection = await ground.connect()
    with watch() as spent:
        done = await floor.drain(connection, concurrency)
    await connection.close()
    if done != jobs:
        raise SystemExit(f"the floor ran {done} jobs, where {jobs} were to run")
    return spent[0]


async def measure(ground: Ground, options: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    for concurrency in options.concurrency:
        kinds = {"floor": bare, "oban_sa": ours}
        spents: dict[str, list[Spent]] = {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            for kind, run in kinds.items():
                await fill(ground, options.jobs, options.finished)
                spents[kind].append(await run(ground, options.jobs, concurrency))
                await ground.check(completed=options.jobs, but=options.finished)
        for name in options.against:
            spents[name] = [await others.drain(name, ground, options.jobs, concurrency) for _ in range(options.rounds)]
        base = rate(options.jobs, spents["floor"])
        for kind, taken in spents.items():
            speed = rate(options.jobs, taken)
            rows.append([kind, concurrency, speed, speed / base, cpu_each(options.jobs, taken)])
    finished = f", {options.finished:,} finished rows" if options.finished else ""
    print(f"drain of {options.jobs:,} jobs{finished}, one process, median of {options.rounds}\n")
    table(["", "concurrency", "jobs/s", "of the floor", "Python CPU us/job"], rows)


def run(arguments: list[str] | None = None) -> None:
    options = parser(__doc__ or "")
    options.add_argument("--jobs", type=int, default=20_000)
    options.add_argument("--concurrency", type=int, nargs="+", default=[10, 50, 200])
    options.add_argument("--finished", type=int, default=0, help="rows of jobs that are over, in the same table")
    options.add_argument("--against", nargs="*", default=[], choices=sorted(others.KNOWN), help="where it is installed")
    main(options.parse_args(arguments), measure)


if __name__ == "__main__":
    run()
