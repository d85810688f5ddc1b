"""How fast jobs are written, one transaction for each and many in one.

    python -m benchmarks.enqueue [--jobs 10000] [--singles 2000]

The floor is bare asyncpg: a prepared INSERT for each job, and COPY for many. Ours includes making the jobs.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import async_sessionmaker

from benchmarks import floor
from benchmarks.ground import Ground, Spent, cpu_each, main, parser, rate, table, watch
from oban_sa import Job, Oban, enqueue, enqueue_many, worker
from oban_sa.workers import Registry


@worker(queue="bench", registry=Registry(), name="benchmarks.send")
class Send:
    async def process(self, job: Job) -> None: ...


NAME = "benchmarks.send"
Measure = Callable[[Ground, int], Awaitable[Spent]]


async def floor_single(ground: Ground, jobs: int) -> Spent:
    connection = await ground.connect()
    with watch() as spent:
        for number in range(jobs):
            await floor.insert_one(connection, NAME, f'{{"user_id":{number}}}')
    await connection.close()
    return spent[0]


async def floor_many(ground: Ground, jobs: int) -> Spent:
    connection = await ground.connect()
    now = datetime.now(UTC).replace(tzinfo=None)
    with watch() as spent:
        await floor.copy(connection, NAME, [f'{{"user_id":{number}}}' for number in range(jobs)], now)
    await connection.close()
    return spent[0]


async def session_single(ground: Ground, jobs: int) -> Spent:
    sessions = async_sessionmaker(ground.engine, expire_on_commit=False)
    with watch() as spent:
        for number in range(jobs):
            async with sessions.begin() as session:
                enqueue(session, Send.new({"user_id": number}))  # type: ignore[attr-defined]
    return spent[0]


async def session_many(ground: Ground, jobs: int) -> Spent:
    sessions = async_sessionmaker(ground.engine, expire_on_commit=False)
    with watch() as spent:
        async with sessions.begin() as session:
            enqueue_many(session, [Send.new({"user_id": number}) for number in range(jobs)])  # type: ignore[attr-defined]
    return spent[0]


async def client_many(ground: Ground, jobs: int) -> Spent:
    with watch() as spent:
        await Oban(ground.engine).enqueue_many(Send.new({"user_id": number}) for number in range(jobs))  # type: ignore[attr-defined]
    return spent[0]


async def measure(ground: Ground, options: argparse.Namespace) -> None:
    groups: list[tuple[str, int, dict[str, Measure]]] = [
        (
            "one by one",
            options.singles,
            {"floor: prepared INSERT": floor_single, "enqueue(session, job)": session_single},
        ),
        (
            "at once",
            options.jobs,
            {
                "floor: COPY": floor_many,
                "enqueue_many(session, jobs)": session_many,
                "Oban.enqueue_many(jobs)": client_many,
            },
        ),
    ]
    rows: list[list[object]] = []
    for title, jobs, kinds in groups:
        spents: dict[str, list[Spent]] = {kind: [] for kind in kinds}
        for _ in range(options.rounds):
            for kind, run in kinds.items():
                await ground.clear()
                spents[kind].append(await run(ground, jobs))
                await _check(ground, jobs)
        base = rate(jobs, next(iter(spents.values())))
        for kind, taken in spents.items():
            speed = rate(jobs, taken)
            rows.append([kind, f"{jobs:,} {title}", speed, speed / base, cpu_each(jobs, taken)])
    print(f"enqueueing, median of {options.rounds}\n")
    table(["", "jobs", "jobs/s", "of the floor", "Python CPU us/job"], rows)


async def _check(ground: Ground, jobs: int) -> None:
    query = select(func.count(Job.args["user_id"].distinct())).where(Job.state == "available", Job.queue == "bench")
    async with ground.engine.connect() as connection:
        found = await connection.scalar(query)
    if found != jobs:
        raise SystemExit(f"{found} jobs are there, where {jobs} were written")


def run(arguments: list[str] | None = None) -> None:
    options = parser(__doc__ or "")
    options.add_argument("--jobs", type=int, default=10_000)
    options.add_argument("--singles", type=int, default=2_000)
    main(options.parse_args(arguments), measure)


if __name__ == "__main__":
    run()
