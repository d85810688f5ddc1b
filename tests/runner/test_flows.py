"""Many workflows on several nodes, some of whose members fail: none begins too early, none is lost, counters agree."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Batch, Cancel, Job, Oban, Workflow, chain, deps, enqueue
from oban_sa.jobs.flow import EVENTS
from oban_sa.workers import Registry, job
from tests.runner.conftest import Harness
from tests.support import eventually

EARLY = """
SELECT c.name FROM oban_sa_edges e
JOIN oban_sa_members c ON c.job_id = e.child_id JOIN oban_jobs cj ON cj.id = e.child_id
JOIN oban_sa_members p ON p.job_id = e.parent_id JOIN oban_jobs pj ON pj.id = e.parent_id
WHERE cj.attempted_at IS NOT NULL AND (
    cj.attempted_at < coalesce(pj.completed_at, pj.cancelled_at, pj.discarded_at)
    OR (p.settled = 'x' AND e.forgives & 1 = 0) OR (p.settled = 'd' AND e.forgives & 2 = 0))
"""
RECOUNT = """
SELECT f.id FROM oban_sa_flows f CROSS JOIN LATERAL (
    SELECT count(*) AS total, count(*) FILTER (WHERE j.state = 'completed') AS completed,
        count(*) FILTER (WHERE j.state = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE j.state = 'discarded') AS discarded
    FROM oban_sa_flows inside JOIN oban_sa_members m ON m.flow_id = inside.id JOIN oban_jobs j ON j.id = m.job_id
    WHERE f.id = ANY (inside.path)
) AS found
WHERE (f.total, f.completed, f.cancelled, f.discarded, f.unfinished)
    <> (found.total, found.completed, found.cancelled, found.discarded, 0) OR f.completed_at IS NULL
"""
UNCAUSED = """
SELECT m.name FROM oban_sa_members m JOIN oban_jobs j ON j.id = m.job_id
WHERE j.state = 'cancelled' AND j.attempt = 0 AND NOT EXISTS (
    SELECT FROM oban_sa_edges e JOIN oban_sa_members p ON p.job_id = e.parent_id
    WHERE e.child_id = m.job_id AND p.settled <> 'c'
) AND NOT EXISTS (
    SELECT FROM oban_sa_gates g JOIN oban_sa_flows f ON f.id = g.flow_id
    WHERE g.child_id = m.job_id AND f.cancelled + f.discarded > 0
)
"""


def random_flow(chance: random.Random, new: Callable[..., Job]) -> Workflow:
    flow = Workflow()
    for number in range(chance.randint(2, 8)):
        before = list(flow.parts)
        deps = chance.sample(before, min(len(before), chance.choice([0, 1, 1, 2, 3])))
        forgive: Any = chance.choice([(), (), "all"])
        if chance.random() < 0.15:
            jobs = [new(chance.random() < 0.05) for _ in range(chance.randint(0, 4))]
            flow.add_many(f"g{number}", jobs, deps=deps, forgive=forgive)
        else:
            flow.add(f"m{number}", new(chance.random() < 0.1), deps=deps, forgive=forgive)
    return flow


async def test_random_workflows_on_three_nodes(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def work(fails: bool) -> object:
        return Cancel("fails") if fails else None

    chance = random.Random(7)
    flows = 150
    async with harness.sessions.begin() as session:
        for _ in range(flows):
            enqueue(session, random_flow(chance, work.new))

    async def over() -> None:
        assert await harness.sql("SELECT id FROM oban_sa_flows WHERE completed_at IS NULL") == []

    async with harness.runner(node="a"), harness.runner(node="b"), harness.runner(node="c"):
        await eventually(over, 60)
    assert await harness.sql(EARLY) == []
    assert await harness.sql(RECOUNT) == []
    assert await harness.sql(UNCAUSED) == []
    assert set(await harness.states()) <= {"completed", "cancelled"}
    assert await harness.sql("SELECT id FROM oban_jobs WHERE attempt > 1") == []
    assert await harness.sql("SELECT * FROM oban_sa_endings") == []


async def test_batches_on_three_nodes_make_one_job_for_each_event(harness: Harness, registry: Registry) -> None:
    failing = True

    @job(registry=registry, max_attempts=2, backoff=0)
    async def work(fails: bool) -> object:
        if fails and failing:
            raise ValueError
        return None

    @job(registry=registry)
    async def tell() -> None: ...

    chance = random.Random(7)
    made: list[Batch] = []
    async with harness.sessions.begin() as session:
        for _ in range(60):
            jobs = [work.new(chance.random() < 0.1) for _ in range(chance.choice([0, 1, 2, 5, 20]))]
            made.append(Batch(jobs, **{event: tell.new() for event in EVENTS}))  # type: ignore[arg-type]
            enqueue(session, made[-1])

    async def over() -> None:
        assert await harness.sql("SELECT id FROM oban_sa_flows WHERE completed_at IS NULL") == []
        assert await harness.sql("SELECT id FROM oban_sa_endings") == []

    client = Oban(harness.engine)
    async with harness.runner(node="a"), harness.runner(node="b"), harness.runner(node="c"):
        await eventually(over, 60)
        failing = False
        for each in made:
            await client.retry_workflow(each)
        await eventually(over, 60)
    found = await harness.sql(
        "SELECT meta ->> 'batch_id', meta ->> 'batch_event' FROM oban_jobs WHERE meta ? 'batch_event'"
    )
    expected: list[tuple[str, str]] = []
    for each in made:
        events = {"on_success", "on_complete", "on_attempt"}
        if any(member.args["fails"] for member in each.jobs):
            events |= {"on_discard", "on_exhausted"}
        expected += [(str(each.id), event) for event in events]
    assert sorted(map(tuple, found)) == sorted(expected)
    assert await harness.sql(RECOUNT) == []


EARLY_JOIN = """
SELECT c.id FROM oban_sa_gates g JOIN oban_jobs c ON c.id = g.child_id
JOIN oban_sa_members m ON m.flow_id = g.flow_id JOIN oban_jobs j ON j.id = m.job_id
WHERE c.attempted_at IS NOT NULL AND (j.completed_at IS NULL OR c.attempted_at < j.completed_at)
"""


async def test_grafts_that_fail_and_are_retried_on_three_nodes(harness: Harness, registry: Registry) -> None:
    @job(registry=registry, backoff=0)
    async def split(job: Job, session: AsyncSession, count: int, fails: bool) -> None:
        graft = deps().graft("pages")
        for number in range(count):
            graft.add(str(number), work.new())
        enqueue(session, graft)
        await session.flush()
        if fails and job.attempt == 1:
            raise ValueError

    @job(registry=registry)
    async def work() -> None: ...

    chance = random.Random(7)
    total = 0
    async with harness.sessions.begin() as session:
        for _ in range(100):
            flow = Workflow()
            count = chance.choice([0, 1, 5])
            flow.add("split", split.new(count, chance.random() < 0.2))
            flow.add("other", work.new())
            flow.graft("pages", by="split")
            flow.add("join", work.new(), deps=["other", "pages"])
            enqueue(session, flow)
            total += count + 3

    async def over() -> None:
        assert await harness.sql("SELECT id FROM oban_sa_flows WHERE completed_at IS NULL") == []

    async with harness.runner(node="a"), harness.runner(node="b"), harness.runner(node="c"):
        await eventually(over, 60)
    assert await harness.states() == {"completed": total}
    assert await harness.sql(EARLY_JOIN) == []
    assert await harness.sql(RECOUNT) == []


async def test_a_transaction_that_appends_holds_up_no_other_member(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def work() -> None: ...

    flow = chain(*(work.new() for _ in range(20)))
    client = Oban(harness.engine)
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    async with harness.sessions() as session:
        await client.append(session, flow.id, "late", work.new(), deps="20")

        async def all_others() -> None:
            status = await client.workflow(flow)
            assert (status.completed, status.unfinished, status.state) == (20, 0, "executing")

        async with harness.runner(node="a"), harness.runner(node="b"):
            await eventually(all_others, 30)
            await session.commit()

            async def over() -> None:
                status = await client.workflow(flow)
                assert (status.completed, status.total, status.state) == (21, 21, "completed")

            await eventually(over, 30)
