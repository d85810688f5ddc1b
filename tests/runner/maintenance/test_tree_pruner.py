"""Members of flows are deleted with their whole tree, once that is over for long enough, and never before."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any, Self
from uuid import UUID

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, Workflow, chain, enqueue, telemetry
from oban_sa.jobs.flow import LANES
from oban_sa.jobs.retention import Prune, Retention
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance.pruner import Pruner
from oban_sa.runner.maintenance.settler import Settler
from oban_sa.runner.maintenance.tree_pruner import TreePruner
from oban_sa.sql.locks import lane_key
from oban_sa.telemetry.sentences import sentence
from tests.runner.conftest import Harness

SOURCE = telemetry.Source(node="pruning.node")
OURS = ("oban_jobs", "oban_sa_flows", "oban_sa_members", "oban_sa_edges", "oban_sa_gates", "oban_sa_endings")
AT_ONCE = Prune(completed=0, cancelled=0, discarded=0)


class Pruning:
    """Both pruners by themselves, with a settler before them."""

    def __init__(self, engine: AsyncEngine, prune: Prune) -> None:
        self.database = Database(engine)
        self.leader = Leader(self.database, source=SOURCE, lasts=20)
        self.settler = Settler(self.database, self.leader, source=SOURCE)
        self.jobs = Pruner(self.database, self.leader, prune, engine=engine, source=SOURCE)
        self.trees = TreePruner(self.database, self.leader, prune, engine=engine, source=SOURCE)

    async def __aenter__(self) -> Self:
        await self.leader.tick()
        return self

    async def __aexit__(self, *_: object) -> None:
        for each in (self.trees, self.jobs, self.settler, self.leader):
            await each.close()

    async def book(self) -> None:
        await self.settler.tick()

    async def sweep(self) -> None:
        """Tick until all is done."""
        for pruner in (self.jobs, self.trees):
            ticks = 0
            while await pruner.tick() < 60:
                ticks += 1
                assert ticks < 200


async def write(harness: Harness, *flows: Workflow) -> None:
    async with harness.sessions.begin() as session:
        for flow in flows:
            enqueue(session, flow)


async def end(harness: Harness, *flows: Workflow, state: str = "completed", age: float = 100) -> None:
    """Have all members of workflows end `age` seconds ago, and the flows be over since then."""
    ids = [member.job.id for flow in flows for member in flow.tree().members]
    ended_at = "timezone('UTC', now()) - make_interval(secs => :age)"
    async with Pruning(harness.engine, AT_ONCE) as pruning:
        await harness.sql(
            f"UPDATE oban_jobs SET state = CAST(:state AS oban_job_state), {state}_at = {ended_at} "
            "WHERE id = ANY(:ids)",
            state=state,
            age=float(age),
            ids=ids,
        )
        await harness.sql(
            "INSERT INTO oban_sa_endings (lane, job_id) SELECT f.lane, m.job_id FROM oban_sa_members m "
            "JOIN oban_sa_flows f ON f.id = m.flow_id WHERE m.job_id = ANY(:ids)",
            ids=ids,
        )
        await pruning.book()
    roots = [flow.id for flow in flows]
    await harness.sql(
        f"UPDATE oban_sa_flows SET completed_at = {ended_at} WHERE root_id = ANY(:roots)", age=float(age), roots=roots
    )


async def left(harness: Harness) -> dict[str, int]:
    counts = {table: (await harness.sql(f"SELECT count(*) FROM {table}"))[0][0] for table in OURS}
    return {table: count for table, count in counts.items() if count}


async def roots(harness: Harness) -> set[UUID]:
    return {row[0] for row in await harness.sql("SELECT root_id FROM oban_sa_flows")}


def job(**options: Any) -> Job:
    return Job("w", **options)


def large() -> Workflow:
    """A workflow of edges, a group, a gate, and a workflow inside."""
    flow = Workflow()
    flow.add("a", job())
    group = flow.add_many("many", [job() for _ in range(5)], deps="a")
    flow.add("b", job(), deps=group)
    flow.add_workflow("inside", chain(job(), job()), deps="b")
    return flow


async def test_a_tree_that_is_over_goes_with_all_that_belongs_to_it(harness: Harness) -> None:
    flows = [large(), chain(job(), job()), chain(job())]
    await write(harness, *flows)
    await end(harness, *flows)
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        await pruning.sweep()
    assert await left(harness) == {}


@pytest.mark.parametrize("archiving", [False, True])
async def test_ended_members_of_a_tree_that_is_not_over_are_kept_and_jobs_beside_them_go(
    harness: Harness, archiving: bool
) -> None:
    flow = large()
    await write(harness, flow)
    await harness.enqueue(*[job() for _ in range(7)])
    await harness.sql(
        "UPDATE oban_jobs SET state = 'completed', completed_at = '2000-01-01' WHERE id NOT IN "
        "(SELECT max(job_id) FROM oban_sa_members)"
    )
    members = len(flow.tree().members)

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        archived.extend(job.id for job in jobs)

    archived: list[int] = []
    prune = Prune(completed=60, batch=3, archive=archive if archiving else None)
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.sweep()
    assert (await left(harness))["oban_jobs"] == members
    assert len(archived) == (7 if archiving else 0)
    # Nothing of it was booked as deleted.
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.book()
    assert await harness.sql("SELECT FROM oban_sa_members WHERE settled = 'g'") == []


async def test_members_that_all_ended_at_one_moment_do_not_stop_the_pruner(harness: Harness) -> None:
    flow = Workflow()
    flow.add_many("many", [job() for _ in range(50)])
    flow.add("last", job())
    await write(harness, flow)
    await harness.sql(
        "UPDATE oban_jobs SET state = 'cancelled', cancelled_at = '2000-01-01' WHERE meta->>'name' <> 'last'"
    )
    await harness.enqueue(*[job() for _ in range(20)])
    await harness.sql(
        "UPDATE oban_jobs SET state = 'cancelled', cancelled_at = '2000-01-02' WHERE NOT meta ? 'workflow_id'"
    )
    async with Pruning(harness.engine, Prune(cancelled=60, batch=4)) as pruning:
        await pruning.sweep()
    assert (await left(harness))["oban_jobs"] == 51


async def test_a_tree_is_as_young_as_its_last_end(harness: Harness) -> None:
    old, young = chain(job(), job()), chain(job(), job())
    await write(harness, old, young)
    await end(harness, old, age=61)
    await end(harness, young, age=40)
    await harness.sql("UPDATE oban_jobs SET completed_at = '2000-01-01'")
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        await pruning.sweep()
    assert await roots(harness) == {young.id}
    assert (await left(harness))["oban_jobs"] == 2


async def test_each_state_of_a_tree_has_its_own_age(harness: Harness) -> None:
    flows = {state: chain(job(), job()) for state in ("completed", "cancelled", "discarded")}
    await write(harness, *flows.values())
    for state, flow in flows.items():
        await end(harness, flow, state=state)
    async with Pruning(harness.engine, Prune(completed=200, cancelled=60, discarded=None)) as pruning:
        await pruning.sweep()
    assert await roots(harness) == {flows["completed"].id, flows["discarded"].id}


async def test_of_each_state_only_the_newest_trees_are_kept_where_a_count_is_given(harness: Harness) -> None:
    flows = [chain(job(), job()) for _ in range(5)]
    await write(harness, *flows)
    for number, flow in enumerate(flows):
        await end(harness, flow, age=100 - number)
    async with Pruning(harness.engine, Prune(completed=Retention(max_count=2))) as pruning:
        await pruning.sweep()
    assert await roots(harness) == {flow.id for flow in flows[-2:]}


@pytest.mark.parametrize("batch", [1, 1000])
@pytest.mark.parametrize(
    "rules",
    [
        {"queues": {"audit": None}},
        {"queues": {"audit": "1 hour"}},
        {"workers": {"audited": None}},
        {"queues": {"audit": "1 hour"}, "workers": {"w": 10}},
    ],
)
async def test_a_member_that_its_own_rule_keeps_for_longer_keeps_its_tree(
    harness: Harness, rules: dict[str, Any], batch: int
) -> None:
    kept, gone = chain(job(), Job("audited", queue="audit")), chain(job(), job())
    await write(harness, kept, gone)
    await end(harness, kept, gone)
    async with Pruning(harness.engine, Prune(completed=60, batch=batch, **rules)) as pruning:
        await pruning.sweep()
    assert await roots(harness) == {kept.id}
    assert (await left(harness))["oban_jobs"] == 2


@pytest.mark.parametrize("batch", [1, 2, 3, 7, 1000])
async def test_trees_larger_than_a_batch_go_in_slices_and_small_ones_together(harness: Harness, batch: int) -> None:
    flows = [large(), *(chain(job(), job()) for _ in range(5)), large()]
    await write(harness, *flows)
    await end(harness, *flows)
    async with Pruning(harness.engine, Prune(completed=60, batch=batch)) as pruning:
        await pruning.sweep()
    assert await left(harness) == {}


@pytest.mark.parametrize("batch", [1, 1000])
async def test_a_tree_with_a_job_that_runs_again_is_kept_whole(harness: Harness, batch: int) -> None:
    flow = large()
    await write(harness, flow)
    await end(harness, flow)
    await harness.sql("UPDATE oban_jobs SET state = 'executing' WHERE id = (SELECT max(id) FROM oban_jobs)")
    before = await left(harness)
    async with Pruning(harness.engine, Prune(completed=60, batch=batch)) as pruning:
        await pruning.sweep()
    assert await left(harness) == before


async def test_a_tree_with_a_locked_job_or_flow_is_kept_whole_and_not_waited_for(harness: Harness) -> None:
    flows = [large(), large(), chain(job(), job())]
    await write(harness, *flows)
    await end(harness, *flows)
    async with harness.engine.connect() as locking:
        last = flows[0].tree().members[-1].job.id
        await locking.execute(text("SELECT FROM oban_jobs WHERE id = :id FOR UPDATE"), {"id": last})
        inside = "SELECT FROM oban_sa_flows WHERE root_id = :root AND id <> root_id LIMIT 1 FOR KEY SHARE"
        await locking.execute(text(inside), {"root": flows[1].id})
        async with Pruning(harness.engine, Prune(completed=60)) as pruning:
            async with asyncio.timeout(20):
                await pruning.sweep()
        assert await roots(harness) == {flows[0].id, flows[1].id}
        assert (await left(harness))["oban_jobs"] == 2 * len(flows[0].tree().members)


async def test_trees_in_a_lane_that_is_being_booked_wait_for_the_next_look(harness: Harness) -> None:
    flows = [chain(job(), job()) for _ in range(20)]
    await write(harness, *flows)
    await end(harness, *flows)
    lane = flows[0].id.int % LANES
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        async with harness.engine.begin() as booking:
            await booking.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": lane_key("public", lane)})
            for _ in range(3):
                await pruning.trees.tick()
            assert await roots(harness) == {flow.id for flow in flows if flow.id.int % LANES == lane}
        await pruning.sweep()
    assert await roots(harness) == set()


async def test_a_tree_whose_job_is_referred_to_is_kept_whole_and_others_go(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    flows = [chain(job(), job()) for _ in range(3)]
    await write(harness, *flows)
    await end(harness, *flows)
    await harness.sql("CREATE TABLE letters (job_id bigint REFERENCES oban_jobs)")
    await harness.sql("INSERT INTO letters VALUES (:id)", id=flows[1].tree().members[0].job.id)
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        await pruning.sweep()
    assert await roots(harness) == {flows[1].id}
    assert (await left(harness))["oban_jobs"] == 2
    assert f"the workflow {flows[1].id} can't be pruned" in caplog.text


@pytest.mark.parametrize("batch", [1, 1000])
async def test_members_are_archived_with_their_tree_or_it_stays(harness: Harness, batch: int) -> None:
    flow = large()
    await write(harness, flow)
    await end(harness, flow)
    ids = sorted(member.job.id for member in flow.tree().members)
    before = await left(harness)

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        archived.update(job.id for job in jobs)
        if failing:
            raise RuntimeError("the archive is full")

    archived: Counter[int] = Counter()
    failing = True
    prune = Prune(completed=60, archive=archive, batch=batch)
    async with Pruning(harness.engine, prune) as pruning:
        with pytest.raises(RuntimeError, match="full"):
            await pruning.sweep()
    assert await left(harness) == before
    failing = False
    archived.clear()
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.sweep()
    assert sorted(archived) == ids
    assert set(archived.values()) == {1}
    assert await left(harness) == {}


@pytest.mark.parametrize("batch", [1, 1000])
async def test_an_archive_that_commits_by_itself_is_refused_and_deletes_nothing(harness: Harness, batch: int) -> None:
    flow = large()
    await write(harness, flow)
    await end(harness, flow)
    before = await left(harness)

    async def archive(session: AsyncSession, jobs: list[Job]) -> None:
        await session.commit()

    async with Pruning(harness.engine, Prune(completed=60, archive=archive, batch=batch)) as pruning:
        with pytest.raises(Exception, match="transaction"):
            await pruning.sweep()
    assert await left(harness) == before


async def test_an_event_says_how_many_workflows_went(harness: Harness, of: Any) -> None:
    flows = [chain(job(), job()) for _ in range(3)]
    await write(harness, *flows)
    await end(harness, *flows)
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        await pruning.sweep()
    [event] = of(telemetry.PrunerPrune)
    assert (event.count, event.completed, event.workflows) == (6, 6, 3)
    assert sentence(event).startswith("pruned 6 jobs and 3 workflows that were over, in ")


async def test_a_flow_written_while_a_batch_is_deleted_keeps_its_members(harness: Harness) -> None:
    """As in a node that has met no flow yet: the batch in which the first member stands is rolled back."""
    flow = chain(job(), job())
    await harness.enqueue(*[job() for _ in range(3)])
    await write(harness, flow)
    await harness.sql("UPDATE oban_jobs SET state = 'completed', completed_at = '2000-01-01' WHERE state = 'available'")
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        await pruning.jobs.tick()
        assert (await left(harness))["oban_jobs"] == 5
        await pruning.sweep()
        assert (await left(harness))["oban_jobs"] == 2


async def test_a_note_of_a_tree_that_is_gone_is_booked_as_nothing(harness: Harness) -> None:
    flow = chain(job(), job())
    await write(harness, flow)
    await end(harness, flow)
    member = flow.tree().members[0].job.id
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        await pruning.sweep()
        lane = flow.id.int % LANES
        await harness.sql("INSERT INTO oban_sa_endings (lane, job_id) VALUES (:lane, :id)", lane=lane, id=member)
        await harness.sql("INSERT INTO oban_sa_endings (lane, flow_id) VALUES (:lane, :id)", lane=lane, id=flow.id)
        await pruning.book()
    assert await left(harness) == {}


async def test_a_node_that_does_not_lead_deletes_no_tree(harness: Harness) -> None:
    flow = chain(job(), job())
    await write(harness, flow)
    await end(harness, flow)
    async with Pruning(harness.engine, Prune(completed=60)) as pruning:
        await harness.sql("UPDATE oban_leaders SET node = 'another', elected_at = now()")
        await pruning.sweep()
    assert await roots(harness) == {flow.id}


async def test_the_rule_of_a_worker_goes_before_that_of_its_queue(harness: Harness) -> None:
    flow = chain(job(), job(queue="audit"))
    await write(harness, flow)
    await end(harness, flow)
    prune = Prune(completed=60, queues={"audit": None}, workers={"w": 10})
    async with Pruning(harness.engine, prune) as pruning:
        await pruning.sweep()
    assert await left(harness) == {}
