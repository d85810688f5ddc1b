"""What a job waits for: each reason, and none where there is none."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job, JobState, Oban, Queue, Rate, Workflow, enqueue
from oban_sa.client import Wait
from oban_sa.errors import JobNotFound
from oban_sa.jobs.attempted_by import new_producer
from oban_sa.jobs.durable import waiting
from oban_sa.jobs.limits import Limits
from tests.clients import change, stored
from tests.factories import Row, producer

MOMENT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)


async def add(engine: AsyncEngine, row: Row) -> str:
    async with engine.begin() as connection:
        await connection.execute(text(row.statement), row.values)
    return str(row.values["uuid"])


async def serve(engine: AsyncEngine, node: str = "web.1", *, queue: str = "calls", **meta: Any) -> str:
    """A node of ours that serves a queue."""
    given = {"limit": 10, "paused": False, **meta}
    return await add(engine, producer(node, queue=queue, uuid=new_producer(), **given))


async def execute(engine: AsyncEngine, count: int, *, by: str, queue: str = "calls", **options: Any) -> None:
    jobs = [Job("app.Call", queue=queue, state=JobState.EXECUTING, **options) for _ in range(count)]
    for each in jobs:
        each.attempt, each.attempted_by, each.attempted_at = 1, ["web.1", by], MOMENT
    await stored(engine, *jobs)


def limits(**given: Any) -> dict[str, object]:
    made = Queue(10, **given).limits
    assert isinstance(made, Limits)
    return made.as_json()


async def waits(engine: AsyncEngine, job: Job | int, **given: Any) -> list[Wait]:
    return await Oban(engine).waits_for(job, **given)


@pytest.mark.parametrize("state", ["executing", "completed", "cancelled", "discarded"])
async def test_a_job_that_has_begun_or_ended_waits_for_nothing(engine: AsyncEngine, state: str) -> None:
    [job] = await stored(engine, Job("app.Call", queue="calls", state=JobState(state), meta={"sequence": "1"}))
    assert await waits(engine, job) == []


async def test_a_job_that_the_next_free_slot_takes_waits_for_nothing(driven: AsyncEngine, engine: AsyncEngine) -> None:
    await serve(engine)
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    assert await waits(driven, job) == []


async def test_a_job_that_is_not_there_is_refused(engine: AsyncEngine) -> None:
    with pytest.raises(JobNotFound, match="4711"):
        await waits(engine, 4711)


@pytest.mark.parametrize("state", ["scheduled", "retryable"])
async def test_a_job_waits_for_its_moment(engine: AsyncEngine, state: str) -> None:
    [job] = await stored(engine, Job("app.Call", state=JobState(state), scheduled_at=MOMENT))
    assert await waits(engine, job) == [Wait("schedule", until=MOMENT)]
    assert str(Wait("schedule", until=MOMENT)) == "its moment, 2030-01-02 03:04:05 UTC"


async def test_a_job_waits_for_a_node_that_serves_its_queue(engine: AsyncEngine) -> None:
    await serve(engine, queue="others")
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    assert await waits(engine, job) == [Wait("unserved")]
    await Oban(engine).pause_queue("calls")
    assert await waits(engine, job) == [Wait("unserved"), Wait("paused")]
    await Oban(engine).resume_queue("calls")
    await add(engine, producer(queue="calls", silent_for=40.0, limit=10))
    assert await waits(engine, job) == [Wait("unserved")]
    assert await waits(engine, job, dead_after="1 minute") == []


async def test_a_node_of_elixir_serves_a_queue_while_it_executes_something(engine: AsyncEngine) -> None:
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    await execute(engine, 1, by=str(new_producer()))
    assert await waits(engine, job) == [Wait("unserved")]  # one of ours that is gone
    await execute(engine, 1, by="018f0000-0000-7000-8000-000000000000")
    assert await waits(engine, job) == []


async def test_a_job_waits_for_its_queue_to_be_resumed(engine: AsyncEngine) -> None:
    await serve(engine, paused=True)
    await serve(engine, "web.2", paused=True)
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    [found] = await waits(engine, job)
    assert (found.why, found.nodes) == ("paused", ("web.1", "web.2"))
    assert str(found) == "its queue to be resumed: it is paused on web.1 and web.2"
    await serve(engine, "web.3")
    assert await waits(engine, job) == []


async def test_a_job_waits_for_a_program_that_knows_its_worker(engine: AsyncEngine) -> None:
    await serve(engine, unknown=[{"worker": "app.Call", "version": None}, {"worker": "app.Old", "version": 2}])
    call, old, older = await stored(
        engine,
        Job("app.Call", queue="calls"),
        Job("app.Old", queue="calls", meta={"args_version": 2}),
        Job("app.Old", queue="calls"),
    )
    assert await waits(engine, call) == [Wait("unknown_worker", nodes=("web.1",))]
    assert await waits(engine, old) == [Wait("unknown_worker", nodes=("web.1",))]
    assert await waits(engine, older) == []


async def test_a_job_waits_for_a_free_slot_on_a_node(engine: AsyncEngine) -> None:
    one, two = await serve(engine, limit=3), await serve(engine, "web.2", limit=2)
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    await execute(engine, 3, by=one)
    assert await waits(engine, job) == []
    await execute(engine, 2, by=two)
    [found] = await waits(engine, job)
    assert found == Wait("limit", executing=5, limit=5, nodes=("web.1", "web.2"))
    assert str(found) == "a free slot on web.1 and web.2: 5 of 5 execute"


async def test_a_job_waits_for_a_free_slot_in_the_cluster(driven: AsyncEngine, engine: AsyncEngine) -> None:
    await serve(engine, limits=limits(global_limit=3))
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    await execute(engine, 2, by="another program")
    assert await waits(driven, job) == []
    await execute(engine, 2, by="another program")
    [found] = await waits(driven, job)
    assert found == Wait("global_limit", executing=3, limit=3)
    assert str(found) == "a free slot of its queue in the cluster: 3 of 3 execute"


async def test_a_job_waits_for_a_free_slot_of_its_partition(engine: AsyncEngine) -> None:
    uuid = await serve(engine, limits=limits(by="partition", each=2))
    full, free, keyless = await stored(
        engine,
        Job("app.Call", queue="calls", meta={"partition": "acme"}),
        Job("app.Call", queue="calls", meta={"partition": "globex"}),
        Job("app.Call", queue="calls"),
    )
    await execute(engine, 2, by=uuid, meta={"partition": "acme"})
    await execute(engine, 2, by=uuid, queue="other", meta={"partition": "globex"})
    [found] = await waits(engine, full)
    assert found == Wait("partition", key="acme", executing=2, limit=2)
    assert str(found) == "a free slot of its partition, acme: 2 of 2 execute"
    assert await waits(engine, free) == []
    assert await waits(engine, keyless) == [Wait("no_key")]


async def spend(engine: AsyncEngine, rate: Rate, count: int, *, key: str = "") -> datetime:
    """Spend starts of the rate of the queue, as fetches do; return when the next one may be."""
    async with engine.begin() as connection:
        given = {"key": key, "n": rate.n, "per": rate.span, "algorithm": rate.algorithm, "count": count}
        statement = "oban_sa_rate('queue:calls', :key, :n, :per, :algorithm, NULL, :count, 1, timezone('UTC', now()))"
        row = (await connection.execute(text(f"SELECT now(), {statement}"), given)).one()
    at: datetime = row[0]
    return at + timedelta(seconds=row[1] or 0)


@pytest.mark.parametrize("algorithm", ["sliding", "bucket"])
async def test_a_job_waits_for_the_rate_of_its_queue(engine: AsyncEngine, algorithm: Any) -> None:
    rate = Rate(10, per="1 hour", algorithm=algorithm)
    await serve(engine, limits=limits(rate=rate))
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    assert await waits(engine, job) == []
    await spend(engine, rate, 9)
    assert await waits(engine, job) == []
    until = await spend(engine, rate, 1)
    [found] = await waits(engine, job)
    assert (found.why, found.limit, found.per, found.key) == ("rate", 10, 3600.0, None)
    assert found.until is not None
    assert abs(found.until - until) < timedelta(seconds=0.01)
    assert str(found) == f"the rate of its queue, which is spent until {found.until:%Y-%m-%d %H:%M:%S} UTC"


async def test_a_job_waits_for_the_rate_of_its_partition(engine: AsyncEngine) -> None:
    rate = Rate(5, per="1 hour")
    await serve(engine, limits=limits(by="partition", rate=rate))
    spent, left = await stored(
        engine, *(Job("app.Call", queue="calls", meta={"partition": key}) for key in ("acme", "globex"))
    )
    await spend(engine, rate, 5, key="acme")
    [found] = await waits(engine, spent)
    assert (found.why, found.key) == ("rate", "acme")
    assert str(found).startswith("the rate of its partition, acme, which is spent until 20")
    assert await waits(engine, left) == []


@pytest.mark.parametrize("algorithm", ["sliding", "fixed", "bucket"])
async def test_a_row_of_rates_that_another_program_wrote_is_read_as_the_database_reads_it(
    driven: AsyncEngine, engine: AsyncEngine, algorithm: Any
) -> None:
    rate = Rate(10, per="1 hour", algorithm=algorithm)
    await serve(engine, limits=limits(rate=rate))
    [job] = await stored(engine, Job("app.Call", queue="calls"))
    sevens = "{" + ",".join(["7"] * 61) + "}"
    given = {"n": rate.n, "per": rate.span, "algorithm": algorithm}
    function = "oban_sa_rate('queue:calls', '', :n, :per, :algorithm, NULL, CAST(:spends AS bigint), 1, NULL)"
    for width, newest, counts, full_at in (
        ("NaN", 0, "{}", "infinity"),
        ("0", 0, "{}", "-infinity"),
        ("0", 0, "{}", "294276-12-31 23:59:59.999999"),
        ("60", 2**63 - 1, sevens, None),
        ("60", -(2**63), sevens, None),
        ("60", 2**51, sevens, "2100-01-01"),
        ("60", 2**51, f"[0:60]={sevens}", "2100-01-01"),
        ("60", 2**51, sevens.replace("7", "NULL"), None),
        ("60", 2**51, sevens.replace("7", "-7"), None),
        ("3600", 2**51, "{2147483647}", "2100-01-01"),
        ("3600", 0, "{{1,2},{3,4}}", "2100-01-01"),
        ("Infinity", 0, "{5}", "2100-01-01"),
    ):
        async with engine.begin() as connection:
            await connection.execute(text("DELETE FROM oban_sa_rates"))
            await connection.execute(
                text(
                    "INSERT INTO oban_sa_rates (name, width, newest, counts, full_at) "
                    f"VALUES ('queue:calls', '{width}', {newest}, '{counts}', CAST(:full_at AS text)::timestamp)"
                ).bindparams(full_at=full_at)
            )
            left = (await connection.execute(text(f"SELECT {function}"), {**given, "spends": None})).scalar_one()
            spent = (await connection.execute(text(f"SELECT {function}"), {**given, "spends": 0})).scalar_one()
        [use] = await Oban(driven).check_limits()
        assert use.left == left, (width, newest, counts, full_at)
        assert bool(await waits(driven, job)) is (use.until is not None) is (spent is not None), (width, newest, counts)


async def test_a_heavy_job_waits_until_the_rate_has_as_much_left(engine: AsyncEngine) -> None:
    rate = Rate(10, per="1 hour", weight="args.points")
    await serve(engine, limits=limits(rate=rate))
    await spend(engine, rate, 6)
    light, heavy = await stored(engine, *(Job("app.Call", queue="calls", args={"points": points}) for points in (4, 5)))
    assert await waits(engine, light) == []
    assert [each.why for each in await waits(engine, heavy)] == ["rate"]


async def test_a_job_waits_for_everything_that_keeps_it(engine: AsyncEngine) -> None:
    uuid = await serve(engine, limit=2, limits=limits(global_limit=2, by="partition", each=2))
    [job] = await stored(engine, Job("app.Call", queue="calls", meta={"partition": "acme"}))
    await execute(engine, 2, by=uuid, meta={"partition": "acme"})
    assert [each.why for each in await waits(engine, job)] == ["limit", "global_limit", "partition"]


@pytest.mark.parametrize("state", ["available", "suspended", "scheduled"])
async def test_a_job_waits_for_the_one_before_it_in_its_sequence(engine: AsyncEngine, state: str) -> None:
    await serve(engine)
    meta = {"sequence": "17"}
    _, first, _, job, _ = await stored(
        engine,
        Job("app.Book", queue="calls", meta=meta, state=JobState.COMPLETED),
        Job("app.Book", queue="calls", meta=meta, state=JobState.RETRYABLE, scheduled_at=MOMENT),
        Job("app.Book", queue="calls", meta=meta),
        Job("app.Book", queue="calls", meta={**meta, "parked": "2020"}, state=JobState(state), scheduled_at=MOMENT),
        Job("app.Book", queue="calls", meta=meta),
    )
    found = [each for each in await waits(engine, job) if each.why != "schedule"]
    assert found == [Wait("sequence", key="17", job_id=first.id)]
    assert str(found[0]) == f"job {first.id}, which comes first in its sequence, 17"


async def test_a_job_waits_for_people_where_its_sequence_has_halted(driven: AsyncEngine, engine: AsyncEngine) -> None:
    await serve(engine)
    meta = {"sequence": "17", "halts": True}
    halting, job = await stored(
        engine,
        Job("app.Book", queue="calls", meta=meta, state=JobState.DISCARDED),
        Job("app.Book", queue="calls", meta=meta),
    )
    [found] = await waits(driven, job)
    assert found == Wait("halted", key="17", job_id=halting.id)
    assert str(found) == f"a decision: job {halting.id} was discarded, which halted its sequence, 17"
    await Oban(engine).resume_sequence("calls", 17)
    assert await waits(driven, job) == []


async def test_a_job_waits_for_a_later_one_of_its_sequence_that_executes(engine: AsyncEngine) -> None:
    await serve(engine)
    [job] = await stored(engine, Job("app.Book", queue="calls", meta={"sequence": "17"}))
    await execute(engine, 1, by="x", meta={"sequence": "17"})
    assert [each.why for each in await waits(engine, job)] == ["sequence"]


async def test_a_job_waits_for_members_and_groups_of_its_workflow(
    driven: AsyncEngine, engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    flow = Workflow("report")
    flow.add("export", Job("app.Export"))
    flow.add_many("parts", [Job("app.Part") for _ in range(3)])
    job = Job("app.Send")
    flow.add("send", job, deps=["export", "parts"])
    many = Workflow("many")
    for n in range(20):
        many.add(f"part{n}", Job("app.Part"))
    last = Job("app.Last")
    many.add("last", last, deps=[f"part{n}" for n in range(20)])
    async with sessions.begin() as session:
        enqueue(session, flow)
        enqueue(session, many)
    [found] = await waits(driven, job)
    assert found == Wait("workflow", names=("export", "parts"))
    assert str(found) == "export, parts, in its workflow"
    [found] = await waits(driven, last)
    assert str(found).endswith(", part9 and 10 others, in its workflow")
    assert (found.names[:2], len(found.names), found.more) == (("part0", "part1"), 10, 10)
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE oban_sa_members SET settled = 'c' WHERE name = 'export'"))
        await connection.execute(text("UPDATE oban_sa_flows SET completed_at = now() WHERE name = 'parts'"))
    [found] = await waits(driven, job)
    assert str(found) == "its release, in its workflow"


@pytest.mark.parametrize("state", ["suspended", "scheduled"])
async def test_a_job_waits_for_a_signal(engine: AsyncEngine, state: str) -> None:
    given = waiting(until=None, signal="approved")
    [job] = await stored(engine, Job("app.Order", state=JobState(state), scheduled_at=MOMENT, meta=given))
    [found] = await waits(engine, job)
    until = MOMENT if state == "scheduled" else None
    assert found == Wait("signal", names=("approved",), until=until)
    assert str(found) == "the signal approved" + (", until 2030-01-02 03:04:05 UTC at most" if until else "")
    await change(engine, job.id, meta={**given, "waits_for": None})
    assert [each.why for each in await waits(engine, job)] == ["schedule" if until else "suspended"]


async def test_a_job_that_another_program_suspended_waits_for_its_release(engine: AsyncEngine) -> None:
    [job] = await stored(engine, Job("app.Call", state=JobState.SUSPENDED))
    assert await waits(engine, job) == [Wait("suspended")]


def test_what_is_said_as_json_leaves_out_what_is_not() -> None:
    assert Wait("limit", executing=0, limit=5, nodes=("web.1",)).as_json() == {
        "why": "limit",
        "executing": 0,
        "limit": 5,
        "nodes": ("web.1",),
        "text": "a free slot on web.1: 0 of 5 execute",
    }
