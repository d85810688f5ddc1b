"""oban_sa's turns: as its documentation has it, with nothing tuned."""

from __future__ import annotations

import asyncio
import inspect
import random
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from benchmarks import filling
from benchmarks.command.drain import drained_by_command, runner_command
from benchmarks.command.startup import first_job
from benchmarks.nodes.crowd import kinds_of_nodes
from benchmarks.nodes.lone import WARM, Enqueue, Lone
from benchmarks.shares import Progress, Share, drained
from benchmarks.turn import Turn, play, queue_names, until
from benchmarks.working import engine_for, worked
from benchmarks.writing import writer
from oban_sa import Job, Oban, Queue, Runner, enqueue, enqueue_many, job, worker
from oban_sa.jobs.limits import QueueLimits
from oban_sa.workers import Registry

registry = Registry()
executed: list[int] = []
waited = Lone()
samples: list[float] = []


@job(queue="bench", registry=registry, name=filling.WORKER)
async def nothing(job: Job, text: str = "") -> None:
    executed.append(job.id)


@job(queue="bench", registry=registry, name="benchmarks.lone")
async def lone() -> None:
    waited.arrived()


@job(queue="bench", registry=registry, name="benchmarks.arrival")
async def arrival(at: float) -> None:
    samples.append((time.perf_counter() - at) * 1000)


@job(queue="bench", registry=registry, name="benchmarks.due")
async def due(job: Job) -> None:
    samples.append((datetime.now(UTC) - job.scheduled_at).total_seconds() * 1000)


@worker(queue="bench", registry=registry, name="benchmarks.send")
class Send:
    async def process(self, job: Job) -> None: ...


@worker(queue="bench", registry=registry, name="benchmarks.send_once", unique=True)
class SendOnce:
    async def process(self, job: Job) -> None: ...


async def ready(turn: Turn, engine: AsyncEngine) -> None:
    """Connect first, as an application that runs has done."""
    async with engine.connect():
        turn.ready()


@job(queue="bench", registry=registry, name="benchmarks.waiting")
async def waiting(job: Job) -> None:
    await asyncio.sleep(0.002)
    executed.append(job.id)


async def drain(turn: Turn) -> None:
    await filling.fill(turn)
    await drained(turn, _work)
    await filling.check(turn)


async def drain_limited(turn: Turn) -> None:
    """The same in a queue with the limits of the options, of jobs that have so many keys."""
    await filling.fill(turn)
    await filling.give_keys(turn)
    await drained(turn, _work_within_limits)
    await filling.check(turn)


async def drain_unique(turn: Turn) -> None:
    """The same of jobs that have a unique key, each its own."""
    await filling.fill(turn)
    await filling.give_unique_keys(turn)
    await drained(turn, _work)
    await filling.check(turn)


async def _work_within_limits(
    options: dict[str, Any], progress: Progress, go: Callable[[], Coroutine[Any, Any, None]]
) -> Share:
    limits: QueueLimits = options["limits"]
    return await worked(options, progress, go, Queue(options["concurrency"], **limits), registry, executed)


async def _work(options: dict[str, Any], progress: Progress, go: Callable[[], Coroutine[Any, Any, None]]) -> Share:
    return await worked(options, progress, go, options["concurrency"], registry, executed)


@asynccontextmanager
async def node(turn: Turn) -> AsyncIterator[None]:
    """A node as it is by default, with ten jobs of each queue at once."""
    engine = engine_for(turn.url)
    queues = dict.fromkeys(queue_names(turn.options), 10)
    async with Runner(engine, queues=queues, registry=registry, node=f"bench.{turn.options.get('number', 0)}"):
        yield
    await engine.dispose()


@asynccontextmanager
async def application(turn: Turn) -> AsyncIterator[Enqueue]:
    """An application that writes a job in a session and flushes, then commits."""
    engine = engine_for(turn.url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)

    async def write_one(asks: Callable[[], None]) -> None:
        async with sessions() as session:
            enqueue(session, lone.new())
            await session.flush()
            asks()
            await session.commit()

    yield write_one
    await engine.dispose()


async def latency(turn: Turn) -> None:
    """A lone job on an idle queue, from asking for its commit to the first line of its code."""
    turn.ready()
    async with node(turn):
        await waited.measure(turn, application)
        turn.done(samples=waited.samples)
    await filling.check(turn, jobs=turn.jobs + WARM)


async def loaded(turn: Turn) -> None:
    """Jobs that arrive all the time, from asking for their commit to the first line of their code."""
    engine = engine_for(turn.url)
    turn.ready()
    async with Runner(engine, queues={"bench": turn.concurrency}, registry=registry):
        async with writer(turn):
            await until(lambda: len(samples) >= turn.jobs, within=120, every=0.02)
        turn.done(samples=samples)
    await engine.dispose()
    await filling.check(turn)


async def schedule(turn: Turn) -> None:
    """Jobs at random milliseconds, from their moment to the first line of their code."""
    engine = engine_for(turn.url)
    turn.ready()
    async with Runner(engine, queues={"bench": 50}, registry=registry):
        begin = datetime.now(UTC) + timedelta(seconds=1)
        moments = [begin + timedelta(seconds=random.uniform(0, turn.options["over"])) for _ in range(turn.jobs)]
        await Oban(engine).enqueue_many(Job("benchmarks.due", queue="bench", scheduled_at=moment) for moment in moments)
        if datetime.now(UTC) > begin:
            raise SystemExit("writing the jobs took longer than the second that was left for it")
        await until(lambda: len(samples) >= turn.jobs, within=120, every=0.02)
        turn.done(samples=samples)
    await engine.dispose()
    await filling.check(turn)


async def enqueue_one(turn: Turn) -> None:
    """A session and a transaction for each, announced."""
    engine = engine_for(turn.url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    await ready(turn, engine)
    for number in range(turn.jobs):
        async with sessions.begin() as session:
            enqueue(session, Send.new({"user_id": number}))  # type: ignore[attr-defined]
    turn.done()
    await engine.dispose()
    await filling.check_written(turn)


async def enqueue_unique(turn: Turn) -> None:
    """The same of a unique job, each with a key of its own."""
    engine = engine_for(turn.url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    await ready(turn, engine)
    for number in range(turn.jobs):
        async with sessions.begin() as session:
            enqueue(session, SendOnce.new({"user_id": number}))  # type: ignore[attr-defined]
    turn.done()
    await engine.dispose()
    await filling.check_written(turn)


async def enqueue_direct(turn: Turn) -> None:
    """`Oban.enqueue`, which needs no session, announced."""
    engine = engine_for(turn.url)
    oban = Oban(engine)
    await ready(turn, engine)
    for number in range(turn.jobs):
        await oban.enqueue(Send.new({"user_id": number}))  # type: ignore[attr-defined]
    turn.done()
    await engine.dispose()
    await filling.check_written(turn)


async def enqueue_session(turn: Turn) -> None:
    """`Oban.enqueue_many` in a session's transaction, whose jobs the session does not keep."""
    if "session" not in inspect.signature(Oban.enqueue_many).parameters:
        raise SystemExit("this version of `Oban.enqueue_many` takes no session")
    engine = engine_for(turn.url)
    many: Any = Oban(engine).enqueue_many
    await ready(turn, engine)
    async with async_sessionmaker(engine, expire_on_commit=False).begin() as session:
        await many([Send.new({"user_id": number}) for number in range(turn.jobs)], session=session)  # type: ignore[attr-defined]
    turn.done()
    await engine.dispose()
    await filling.check_written(turn)


async def enqueue_flush(turn: Turn) -> None:
    """A session for each batch, one flush and one commit."""
    size = turn.options["batch"]
    engine = engine_for(turn.url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    await ready(turn, engine)
    for first in range(0, turn.jobs, size):
        async with sessions.begin() as session:
            made = [Send.new({"user_id": number}) for number in range(first, min(first + size, turn.jobs))]  # type: ignore[attr-defined]
            enqueue_many(session, made)
    turn.done()
    await engine.dispose()
    await filling.check_written(turn)


async def enqueue_copy(turn: Turn) -> None:
    """`Oban.enqueue_many` from a generator."""
    engine = engine_for(turn.url)
    await ready(turn, engine)
    await Oban(engine).enqueue_many(Send.new({"user_id": number}) for number in range(turn.jobs))  # type: ignore[attr-defined]
    turn.done()
    await engine.dispose()
    await filling.check_written(turn)


async def startup(turn: Turn) -> None:
    """`python -m oban_sa.runner`, with its defaults."""
    await first_job(turn, runner_command(turn, concurrency=10, module="benchmarks.command.began"))


async def drain_command(turn: Turn) -> None:
    """`python -m oban_sa.runner`, with its defaults: from its first fetch to its last written outcome."""
    await filling.fill(turn)
    turn.ready()
    told = await drained_by_command(turn)
    turn.once(told.pop("executed"))
    turn.done(**told)
    await filling.check(turn)


KINDS = {
    "drain": drain,
    "drain_command": drain_command,
    "drain_limited": drain_limited,
    "drain_unique": drain_unique,
    **kinds_of_nodes(waited, application, node=node, completed=filling.completed, latency=latency),
    "loaded": loaded,
    "schedule": schedule,
    "enqueue_one": enqueue_one,
    "enqueue_unique": enqueue_unique,
    "enqueue_direct": enqueue_direct,
    "enqueue_session": enqueue_session,
    "enqueue_flush": enqueue_flush,
    "enqueue_copy": enqueue_copy,
    "startup": startup,
}

if __name__ == "__main__":
    play(KINDS, "oban-sa", "sqlalchemy", "asyncpg", "orjson", "uvloop")
