"""Workflows of jobs that do nothing, written as an application writes them; and the check that they are over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

import asyncpg
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker

from benchmarks import filling
from benchmarks.turn import Turn, queue_names
from benchmarks.working import engine_for
from oban_sa import Job, Workflow, chain, enqueue

AT_ONCE = 100
"""Workflows that are written in one transaction."""

OVER = """
SELECT count(*) AS flows,
    count(*) FILTER (WHERE completed_at IS NOT NULL AND unfinished = 0 AND completed = total) AS completed,
    (SELECT count(*) FROM oban_sa_endings) AS notes
FROM oban_sa_flows
"""
EARLY = """
SELECT (
    SELECT count(*) FROM oban_sa_edges e
    JOIN oban_jobs p ON p.id = e.parent_id JOIN oban_jobs c ON c.id = e.child_id
    WHERE c.attempted_at < p.attempted_at
) + (
    SELECT count(*) FROM oban_sa_gates g
    JOIN oban_sa_members m ON m.flow_id = g.flow_id
    JOIN oban_jobs p ON p.id = m.job_id JOIN oban_jobs c ON c.id = g.child_id
    WHERE c.attempted_at < p.attempted_at
)
"""
"""Members that were fetched before one that they wait for. Only fetches are compared, since both say when their
statement began, and an outcome says when it was written."""


def jobs(turn: Turn, count: int) -> Iterator[Job]:
    """Make jobs that do nothing, in all queues of the turn alike."""
    queues = queue_names(turn.options)
    return (Job(filling.WORKER, queue=queues[number % len(queues)]) for number in range(count))


def pairs(turn: Turn) -> Iterator[Workflow]:
    """Make workflows of two jobs, of which one waits for the other."""
    return (chain(*jobs(turn, 2)) for _ in range(turn.jobs // 2))


def fan_in(turn: Turn) -> Workflow:
    """Make a workflow of one job that waits for all others."""
    flow = Workflow()
    many = flow.add_many("many", jobs(turn, turn.jobs - 1))
    [one] = jobs(turn, 1)
    flow.add("one", one, deps=many)
    return flow


def fan_out(turn: Turn, count: int) -> Workflow:
    """Make a workflow of one job, and of others that wait for it."""
    flow = Workflow()
    [one] = jobs(turn, 1)
    flow.add("one", one)
    for number, job in enumerate(jobs(turn, count - 1)):
        flow.add(f"{number}", job, deps="one")
    return flow


async def write(engine: AsyncEngine, flows: Iterable[Workflow]) -> None:
    """Write workflows, some in each transaction."""
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    left = iter(flows)
    while batch := list(islice(left, AT_ONCE)):
        async with sessions.begin() as session:
            for flow in batch:
                enqueue(session, flow)


async def fill(turn: Turn, flows: Iterable[Workflow]) -> int:
    """Put workflows into the tables: how many flows have to be over, groups and grafts among them."""
    engine = engine_for(turn.url)
    await write(engine, flows)
    await engine.dispose()
    connection = await asyncpg.connect(turn.url)
    found: int = await connection.fetchval("SELECT count(*) FROM oban_sa_flows")
    await connection.close()
    return found


async def check(turn: Turn) -> None:
    """Refuse the figure where a workflow is not over, or a job began before one that it waits for."""
    await filling.check(turn)
    connection = await asyncpg.connect(turn.url)
    row = await connection.fetchrow(OVER)
    early = await connection.fetchval(EARLY)
    await connection.close()
    turn.check("workflows that are over", row["completed"], row["flows"])
    turn.check("notes that are not booked", row["notes"], 0)
    turn.check("jobs that began too early", early, 0)
