"""How soon jobs of an async queue start beside a queue of jobs that block their threads.

    python -m benchmarks.beside [--jobs 300] [--blocking 20]

The same lone jobs are enqueued in turn on one runner: with nothing beside them, beside sync jobs that sleep, and beside
sync jobs that wait for the database in their own session. Latency runs from asking for the commit to the first line of
the job's code. Heartbeats are counted meanwhile, by the changes of the producer's row.
"""

from __future__ import annotations

import argparse
import asyncio
import time

from sqlalchemy import text
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session

from benchmarks.ground import Ground, main, parser, table
from benchmarks.turn import percentile
from oban_sa import Runner, enqueue, enqueue_many, job
from oban_sa.workers import Registry

registry = Registry()
started: list[asyncio.Future[float]] = []

BEAT = 0.2
"""Seconds between heartbeats."""

WARM = 20
"""Jobs that open connections and make plans before any is counted."""


@job(queue="quick", registry=registry, name="benchmarks.quick")
async def quick() -> None:
    started[-1].set_result(time.perf_counter())


@job(queue="blocking", registry=registry, name="benchmarks.sleeps")
def sleeps() -> None:
    time.sleep(0.05)


@job(queue="blocking", registry=registry, name="benchmarks.asks")
def asks(session: Session) -> None:
    session.execute(text("SELECT pg_sleep(0.05)"))


async def measured(ground: Ground, jobs: int) -> tuple[list[float], float]:
    """Latencies in milliseconds, and heartbeats per second."""
    loop = asyncio.get_running_loop()
    sessions = async_sessionmaker(ground.engine, expire_on_commit=False)
    latencies: list[float] = []
    beats: set[str] = set()
    began = time.perf_counter()
    for number in range(jobs):
        async with sessions() as session:
            enqueue(session, quick.new())
            await session.flush()
            if number % 5 == 0:
                beats.add(
                    (await session.execute(text("SELECT max(updated_at)::text FROM oban_producers"))).scalar_one()
                )
            started.append(loop.create_future())
            asked = time.perf_counter()
            await session.commit()
        latencies.append((await started[-1] - asked) * 1000)
        await asyncio.sleep(0.01)
    return latencies, (len(beats) - 1) / (time.perf_counter() - began)


async def measure(ground: Ground, options: argparse.Namespace) -> None:
    rows: list[list[object]] = []
    queues = {"quick": 10, "blocking": options.blocking}
    for name, worker in (("alone", None), ("beside sleeping threads", sleeps), ("beside sync sessions", asks)):
        async with Runner(ground.engine, queues=queues, registry=registry, heartbeat_every=BEAT, grace=0):
            await measured(ground, WARM)
            if worker is not None:
                sessions = async_sessionmaker(ground.engine, expire_on_commit=False)
                async with sessions.begin() as session:
                    # So many that they outlast the measurement; what is left is given back.
                    enqueue_many(session, (worker.new() for _ in range(options.jobs * options.blocking)))
            latencies, beats = await measured(ground, options.jobs)
        await ground.clear()
        rows.append([name, len(latencies), percentile(latencies, 0.5), percentile(latencies, 0.99), beats])
    print(f"a lone async job beside {options.blocking} that block threads, milliseconds; heartbeats per second\n")
    table(["", "jobs", "p50", "p99", "beats"], rows)


def run(arguments: list[str] | None = None) -> None:
    options = parser(__doc__ or "")
    options.add_argument("--jobs", type=int, default=300)
    options.add_argument("--blocking", type=int, default=20)
    main(options.parse_args(arguments), measure)


if __name__ == "__main__":
    run()
