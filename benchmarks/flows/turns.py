"""oban_sa's turns with workflows, and with plain jobs beside them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from itertools import pairwise
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from benchmarks import filling
from benchmarks.flows import filling as flows
from benchmarks.shares import Progress, Share, drained
from benchmarks.turn import Turn, play, queue_names, until
from benchmarks.working import engine_for, worked
from oban_sa import Job, Runner, Workflow, deps, enqueue, enqueue_many, job
from oban_sa import chain as in_a_row
from oban_sa.workers import Registry

registry = Registry()
executed: list[int] = []
moments: list[float] = []
grafted = asyncio.Event()
holding: int | None = None
"""How many jobs have to run before the transaction that has grafted ends; None: it ends at once."""


@job(queue="bench", registry=registry, name=filling.WORKER)
async def nothing(job: Job) -> None:
    moments.append(time.perf_counter())
    executed.append(job.id)


@job(queue="bench", registry=registry, name="benchmarks.link")
async def link(job: Job, session: AsyncSession, left: int) -> None:
    moments.append(time.perf_counter())
    executed.append(job.id)
    if left:
        enqueue(session, link.new(left - 1))


@job(queue="grafting", registry=registry, name="benchmarks.lists")
async def lists(job: Job, session: AsyncSession, count: int, queue: str) -> None:
    pages = deps().graft("pages")
    for number in range(count):
        pages.add(f"page {number}", Job(filling.WORKER, queue=queue))
    enqueue(session, pages)
    await session.flush()
    grafted.set()
    if holding is not None:
        await until(lambda: len(executed) >= holding, within=240)
        # Their outcomes are written, and what follows from these is booked.
        await asyncio.sleep(0.2)
    executed.append(job.id)


@job(queue="grafting", registry=registry, name="benchmarks.first")
async def first(job: Job) -> None:
    executed.append(job.id)
    await grafted.wait()


async def plain(turn: Turn) -> None:
    await filling.fill(turn)
    await drained(turn, _work)
    await filling.check(turn)


async def pairs(turn: Turn) -> None:
    await _drain(turn, await flows.fill(turn, flows.pairs(turn)))


async def fan_in(turn: Turn) -> None:
    await _drain(turn, await flows.fill(turn, [flows.fan_in(turn)]))


async def fan_out(turn: Turn) -> None:
    """Two thirds of the jobs wait for the first one, which is released first of all; the others run meanwhile."""
    released = turn.jobs * 2 // 3
    closing = await flows.fill(turn, [flows.fan_out(turn, released)])
    await filling.fill(Turn({**turn.options, "jobs": turn.jobs - released}))
    await _drain(turn, closing)


async def graft(turn: Turn) -> None:
    """A tenth of the jobs is grafted by one of the others, in its session, which is committed at once."""
    await _graft(turn, held=False)


async def graft_open(turn: Turn) -> None:
    """The same, but the session is committed only when all others have run."""
    await _graft(turn, held=True)


async def _graft(turn: Turn, *, held: bool) -> None:
    global holding
    count = turn.jobs // 10
    many = turn.jobs - count - 3
    if held:
        holding = many + 1
    flow = Workflow()
    by = flow.add("lists", lists.new(count, queue_names(turn.options)[0]))
    pages = flow.graft("pages", by=by)
    flow.add("first", first.new())
    flow.add_many("many", flows.jobs(turn, many), deps="first")
    [last] = flows.jobs(turn, 1)
    flow.add("last", last, deps=pages)
    closing = await flows.fill(turn, [flow])
    # The outcome of the one that grafts is written by its session's commit, and not by its queue.
    await drained(turn, _graft_work, flows=closing - 1)
    await _book_rest(turn)
    await flows.check(turn)


async def _book_rest(turn: Turn) -> None:
    """Have a node book what others have left: they end with the last outcome, whose note may still be there."""
    engine = engine_for(turn.url)
    connection = await asyncpg.connect(turn.url)
    async with Runner(engine, queues={"nothing": 1}, registry=registry), asyncio.timeout(60):
        while await connection.fetchval("SELECT EXISTS (SELECT FROM oban_sa_endings)"):  # noqa: ASYNC110 - not measured
            await asyncio.sleep(0.1)
    await connection.close()
    await engine.dispose()


async def chain(turn: Turn) -> None:
    """A workflow in a row: from the first line of a job to that of the next."""
    await flows.fill(turn, [in_a_row(*flows.jobs(turn, turn.jobs))])
    await _follow(turn)
    await flows.check(turn)


async def by_hand(turn: Turn) -> None:
    """Each job enqueues the next in its session."""
    engine = engine_for(turn.url)
    async with async_sessionmaker(engine).begin() as session:
        enqueue(session, link.new(turn.jobs - 1))
    await engine.dispose()
    await _follow(turn)
    await filling.check(turn)


async def _follow(turn: Turn) -> None:
    engine = engine_for(turn.url)
    turn.ready()
    async with Runner(engine, queues={"bench": turn.concurrency}, registry=registry):
        await until(lambda: len(executed) >= turn.jobs, within=240)
        turn.done(samples=[(then - now) * 1000 for now, then in pairwise(moments)])
        await asyncio.sleep(0.2)  # its outcome is written, and the workflow is over
    await engine.dispose()
    turn.once(executed)


async def enqueue_pairs(turn: Turn) -> None:
    engine = engine_for(turn.url)
    async with engine.connect():
        turn.ready()
    await flows.write(engine, flows.pairs(turn))
    turn.done()
    await engine.dispose()
    connection = await asyncpg.connect(turn.url)
    members = await connection.fetchval("SELECT count(*) FROM oban_sa_members JOIN oban_jobs ON id = job_id")
    edges = await connection.fetchval("SELECT count(*) FROM oban_sa_edges")
    await connection.close()
    turn.check("members that are written", members, turn.jobs)
    turn.check("dependencies that are written", edges, turn.jobs // 2)


async def enqueue_plain(turn: Turn) -> None:
    """As many jobs in a transaction."""
    engine = engine_for(turn.url)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with engine.connect():
        turn.ready()
    size = 2 * flows.AT_ONCE
    for begun in range(0, turn.jobs, size):
        async with sessions.begin() as session:
            enqueue_many(session, flows.jobs(turn, min(size, turn.jobs - begun)))
    turn.done()
    await engine.dispose()
    connection = await asyncpg.connect(turn.url)
    written = await connection.fetchval("SELECT count(*) FROM oban_jobs")
    await connection.close()
    turn.check("jobs that are written", written, turn.jobs)


async def _drain(turn: Turn, closing: int) -> None:
    await drained(turn, _work, flows=closing)
    await flows.check(turn)


async def _work(options: dict[str, Any], progress: Progress, go: Callable[[], Coroutine[Any, Any, None]]) -> Share:
    return await worked(options, progress, go, options["concurrency"], registry, executed)


async def _graft_work(
    options: dict[str, Any], progress: Progress, go: Callable[[], Coroutine[Any, Any, None]]
) -> Share:
    return await _work({**options, "besides": {"grafting": 2}}, progress, go)


KINDS = {
    "plain": plain,
    "pairs": pairs,
    "fan_in": fan_in,
    "fan_out": fan_out,
    "graft": graft,
    "graft_open": graft_open,
    "chain": chain,
    "by_hand": by_hand,
    "enqueue_plain": enqueue_plain,
    "enqueue_pairs": enqueue_pairs,
}

if __name__ == "__main__":
    play(KINDS, "oban-sa", "sqlalchemy", "asyncpg", "orjson", "uvloop")
