"""oban_sa's turns with durable steps, and with jobs that wait for a signal."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from benchmarks import filling
from benchmarks.turn import Turn, play, until
from benchmarks.working import engine_for
from oban_sa import Job, Oban, Runner, job, step, telemetry, wait_for
from oban_sa.workers import Registry

registry = Registry()
called: list[int] = []
woken: dict[int, asyncio.Future[float]] = {}


async def double(number: int) -> int:
    called.append(number)
    return 2 * number


@job(queue="bench", registry=registry, name="benchmarks.stepping")
async def stepping(count: int) -> None:
    for number in range(count):
        await step(f"step {number}", double, number)


@job(queue="bench", registry=registry, name="benchmarks.woken")
async def waits(job: Job) -> None:
    await wait_for("go")
    woken[job.id].set_result(time.perf_counter())


async def steps(turn: Turn) -> None:
    """Each step's result is committed before the next one begins."""
    count: int = turn.options["steps"]
    engine = engine_for(turn.url)
    await Oban(engine).enqueue_many(stepping.new(count) for _ in range(turn.jobs))
    left = turn.jobs

    def written(event: telemetry.ProducerAck) -> None:
        nonlocal left
        left -= event.count

    detach = telemetry.attach(written, telemetry.ProducerAck)
    turn.ready()
    async with Runner(engine, queues={"bench": turn.concurrency}, registry=registry):
        await until(lambda: left <= 0, within=120)
        turn.done(jobs=turn.jobs * count)
    detach()
    await engine.dispose()
    turn.check("calls of steps", len(called), turn.jobs * count)
    connection = await asyncpg.connect(turn.url)
    kept = await connection.fetchval("SELECT count(*) FROM oban_sa_journal")
    await connection.close()
    turn.check("steps that are kept", kept, turn.jobs * count)
    await filling.check(turn)


async def signals(turn: Turn) -> None:
    """Signals to one after another; from the call that sends it, in a transaction of its own, to the job's code."""
    engine = engine_for(turn.url)
    oban = Oban(engine)
    samples = []
    async with Runner(engine, queues={"bench": turn.concurrency}, registry=registry):
        await oban.enqueue_many(waits.new() for _ in range(turn.jobs))
        connection = await asyncpg.connect(turn.url)
        ids = await _suspended(connection, turn.jobs)
        turn.ready()
        for number in ids:
            woken[number] = asyncio.get_running_loop().create_future()
            asked = time.perf_counter()
            await oban.signal(number, "go", {"ok": True})
            samples.append((await asyncio.wait_for(woken[number], 60) - asked) * 1000)
        turn.done(samples=samples)
        await asyncio.sleep(0.2)
    await connection.close()
    await engine.dispose()
    await filling.check(turn)


async def _suspended(connection: asyncpg.Connection, count: int) -> list[int]:
    async with asyncio.timeout(120):
        while True:
            rows = await connection.fetch("SELECT id FROM oban_jobs WHERE state = 'suspended' ORDER BY id")
            if len(rows) == count:
                return [row["id"] for row in rows]
            await asyncio.sleep(0.05)


KINDS = {"steps": steps, "signals": signals}

if __name__ == "__main__":
    play(KINDS, "oban-sa", "sqlalchemy", "asyncpg", "orjson", "uvloop")
