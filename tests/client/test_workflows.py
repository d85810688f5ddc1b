"""Workflows are looked at, cancelled and retried from any process, in a transaction of one's own or in a session's."""

from __future__ import annotations

from uuid import uuid4

import pytest
from sqlalchemy import bindparam, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from oban_sa import Job, JobState, Oban, Workflow, chain, enqueue
from oban_sa.errors import InvalidJob, InvalidOption, JobNotFound, WorkflowNotFound
from oban_sa.jobs.durable import WAKING, waiting
from oban_sa.jobs.flow import lane_of
from oban_sa.sql.lanes import lanes
from oban_sa.sql.settle import LIMIT, settle
from oban_sa.sql.signals import wake
from oban_sa.sql.workflow import retry


async def written(engine: AsyncEngine, flow: Workflow) -> Workflow:
    async with AsyncSession(engine) as session, session.begin():
        enqueue(session, flow)
    await book(engine)
    return flow


async def book(engine: AsyncEngine) -> None:
    """Book what runners would."""
    while True:
        async with engine.begin() as connection:
            found = list(await connection.scalars(lanes("public")))
            for lane in found:
                given = {"lanes": [lane], "limit": LIMIT, "afters": [0], "channel": "", "announcing": False}
                await connection.execute(settle("public"), given)
        if not found:
            return


async def end(engine: AsyncEngine, **states: str) -> None:
    """Members ended so, by their names, which is noted and booked."""
    for name, state in states.items():
        async with engine.begin() as connection:
            await connection.execute(
                text(
                    "WITH done AS (UPDATE oban_jobs SET state = CAST(CAST(:state AS text) AS oban_job_state), "
                    "attempt = 20, attempted_at = timezone('UTC', now()) WHERE meta ->> 'name' = :name "
                    "RETURNING id, meta) "
                    "INSERT INTO oban_sa_endings (lane, job_id) SELECT (meta ->> 'lane')::int, id FROM done"
                ),
                {"name": name, "state": state},
            )
        await book(engine)


async def states(engine: AsyncEngine) -> dict[str, str]:
    async with engine.connect() as connection:
        found = await connection.execute(text("SELECT meta ->> 'name', state::text FROM oban_jobs ORDER BY id"))
        return {row[0]: row[1] for row in found}


def shop() -> Workflow:
    flow = Workflow("shop")
    flow.add("a", Job("w"))
    flow.add("b", Job("w"), deps="a")
    flow.add_many("g", [Job("w"), Job("w")], deps="b")
    flow.add("c", Job("w"), deps="g")
    flow.add("other", Job("w"))
    return flow


async def test_a_workflow_says_how_it_stands(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, shop())
    found = await oban.workflow(flow)
    assert (found.id, found.name, found.state, found.total, found.unfinished) == (
        flow.id,
        "shop",
        JobState.EXECUTING,
        6,
        6,
    )
    assert (found.started_at, found.completed_at, found.duration) == (None, None, None)
    assert {name: (sub.total, sub.state) for name, sub in found.subs.items()} == {"g": (2, JobState.EXECUTING)}

    await end(driven, a="completed", other="completed", b="discarded")
    found = await oban.workflow(str(flow.id))
    assert found.state is JobState.DISCARDED
    assert found.counts == {JobState.COMPLETED: 2, JobState.DISCARDED: 1, JobState.CANCELLED: 3}
    assert found.subs["g"].state is JobState.CANCELLED
    assert found.completed_at is not None and found.started_at is not None and found.duration is not None
    assert found.inserted_at <= found.completed_at
    assert (await oban.workflow(found.subs["g"].id)).total == 2


async def test_cancelling_a_workflow_cancels_the_whole_tree(driven: AsyncEngine) -> None:
    flow = shop()
    flow.add_workflow("inner", chain(Job("w"), Job("w")), deps="c")
    await written(driven, flow)
    await end(driven, a="completed")
    async with driven.begin() as connection:
        await connection.execute(text("UPDATE oban_jobs SET state = 'executing' WHERE meta ->> 'name' = 'b'"))
    oban = Oban(driven)
    assert await oban.cancel_workflow(flow) == 7
    await book(driven)
    cancelled = dict.fromkeys(("g/0", "g/1", "c", "other", "1", "2"), "cancelled")
    assert await states(driven) == {"a": "completed", "b": "executing", **cancelled}
    assert (await oban.workflow(flow)).unfinished == 1
    await end(driven, b="cancelled")
    assert (await oban.workflow(flow)).state is JobState.CANCELLED


async def test_a_workflow_is_cancelled_in_a_session_or_not_at_all(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, shop())
    async with AsyncSession(driven) as session:
        job = (await session.scalars(select(Job).where(Job.meta["name"].astext == "c"))).one()
        assert await oban.cancel_workflow(flow.id, session=session) == 6
        assert job.state is JobState.CANCELLED
        await session.rollback()
    assert "cancelled" not in (await states(driven)).values()


async def test_deleting_a_member_in_a_session_that_holds_it_is_noted(driven: AsyncEngine) -> None:
    oban, _ = Oban(driven), await written(driven, chain(Job("w"), Job("w")))
    async with AsyncSession(driven) as session, session.begin():
        job = (await session.scalars(select(Job).where(Job.id == 1))).one()
        assert await oban.delete_job(job, session=session)
        assert job not in session
    await book(driven)
    assert await states(driven) == {"2": "cancelled"}


async def test_retrying_runs_again_what_failed_and_what_was_cancelled_for_it(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, shop())
    await end(driven, a="completed", other="completed", b="discarded")
    assert await oban.retry_workflow(flow, attempts=3) == 4
    await book(driven)
    waiting = dict.fromkeys(("g/0", "g/1", "c"), "suspended")
    assert await states(driven) == {"a": "completed", "other": "completed", "b": "available", **waiting}
    found = await oban.workflow(flow)
    assert (found.state, found.unfinished, found.completed, found.cancelled) == (JobState.EXECUTING, 4, 2, 0)
    assert (await oban.get_job(2)).max_attempts == 23

    for name in ("b", "g/0", "g/1", "c"):
        await end(driven, **{name: "completed"})
    assert (await oban.workflow(flow)).state is JobState.COMPLETED


async def test_retrying_from_a_member_runs_it_and_all_that_waits_for_it_again(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, shop())
    for name in ("a", "b", "g/0", "g/1", "c", "other"):
        await end(driven, **{name: "completed"})
    assert await oban.retry_workflow(flow, from_="b") == 4
    await book(driven)
    waiting = dict.fromkeys(("g/0", "g/1", "c"), "suspended")
    assert await states(driven) == {"a": "completed", "other": "completed", "b": "available", **waiting}
    await end(driven, b="completed")
    assert (await states(driven))["g/0"] == "available"
    assert (await states(driven))["c"] == "suspended"


async def test_a_unique_workflow_runs_again_beside_a_later_one_of_its_name(driven: AsyncEngine) -> None:
    oban = Oban(driven)
    flows = [Workflow("nightly", unique=True) for _ in range(2)]
    for flow in flows:
        flow.add("a", Job("w"))
        await written(driven, flow)
        if flow is flows[0]:
            await end(driven, a="discarded")
    assert [flow.conflict for flow in flows] == [False, False]
    assert await oban.retry_workflow(flows[0]) == 1
    await book(driven)
    assert [(await oban.workflow(flow)).state for flow in flows] == [JobState.EXECUTING, JobState.EXECUTING]


async def test_retrying_from_a_group_runs_it_again(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, shop())
    for name in ("a", "b", "g/0", "g/1", "c", "other"):
        await end(driven, **{name: "completed"})
    assert await oban.retry_workflow(flow, from_="g") == 3
    await book(driven)
    assert {name: state for name, state in (await states(driven)).items() if state != "completed"} == {
        "g/0": "available",
        "g/1": "available",
        "c": "suspended",
    }


async def test_retrying_from_one_member_of_a_group_runs_that_again(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, shop())
    for name in ("a", "b", "g/0", "g/1", "c", "other"):
        await end(driven, **{name: "completed"})
    assert await oban.retry_workflow(flow, from_="g/1") == 2
    await book(driven)
    found = {name: state for name, state in (await states(driven)).items() if state != "completed"}
    assert found == {"g/1": "available", "c": "suspended"}


async def test_a_retry_that_is_not_booked_yet_lets_no_older_note_release_a_job(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, chain(Job("w"), Job("w")))
    await end(driven, **{"1": "completed"})
    async with driven.begin() as connection:  # it ended, and that is not booked when both are retried
        await connection.execute(text("UPDATE oban_jobs SET state = 'completed' WHERE id = 2"))
        await connection.execute(
            text("INSERT INTO oban_sa_endings (lane, job_id) SELECT lane, 2 FROM oban_sa_flows WHERE id = :id"),
            {"id": flow.id},
        )
    assert await oban.retry_workflow(flow, from_="1") == 2
    async with driven.begin() as connection:
        [lane] = await connection.scalars(lanes("public"))
        given = {"lanes": [lane], "limit": 1, "afters": [0], "channel": "", "announcing": False}
        await connection.execute(settle("public"), given)
    assert await states(driven) == {"1": "suspended", "2": "suspended"}
    await book(driven)
    assert await states(driven) == {"1": "available", "2": "suspended"}


async def test_a_retry_of_what_a_job_waited_for_keeps_it_waiting_although_it_was_about_to_begin(
    driven: AsyncEngine,
) -> None:
    flow = await written(driven, chain(Job("w"), Job("w")))
    async with driven.begin() as other:  # so that its release is put off
        await other.execute(text("SELECT FROM oban_jobs WHERE id = 2 FOR UPDATE"))
        async with driven.begin() as connection:
            await connection.execute(text("UPDATE oban_jobs SET state = 'completed' WHERE id = 1"))
            lane = lane_of(flow.id)
            await connection.execute(
                text("INSERT INTO oban_sa_endings (lane, job_id) VALUES (:lane, 1)"), {"lane": lane}
            )
        async with driven.begin() as connection:
            given = {"lanes": [lane], "limit": 1, "afters": [0], "channel": "", "announcing": False}
            await connection.execute(settle("public"), given)
    async with AsyncSession(driven) as session, session.begin():
        given = {"ids": [1], "states": ["completed"], "attempts": 1, "lane": lane}
        await session.execute(retry("public"), given)
    await book(driven)
    assert await states(driven) == {"1": "available", "2": "suspended"}
    await end(driven, **{"1": "completed"})
    assert await states(driven) == {"1": "completed", "2": "available"}


async def test_a_retry_that_is_booked_bit_by_bit_begins_nothing_too_early(driven: AsyncEngine) -> None:
    flow = Workflow()
    flow.add("last", Job("w"), deps=["group", "first"], forgive="all")
    flow.add_many("group", [Job("w"), Job("w")], deps="first", forgive="all")
    flow.add("first", Job("w"))
    oban, _ = Oban(driven), await written(driven, flow)
    for name in ("first", "group/0", "group/1", "last"):
        await end(driven, **{name: "discarded"})
    assert await oban.retry_workflow(flow) == 4
    for _ in range(3):
        async with driven.begin() as connection:
            [lane] = await connection.scalars(lanes("public"))
            given = {"lanes": [lane], "limit": 1, "afters": [0], "channel": "", "announcing": False}
            await connection.execute(settle("public"), given)
    await book(driven)
    waiting = dict.fromkeys(("last", "group/0", "group/1"), "suspended")
    assert await states(driven) == {**waiting, "first": "available"}


async def test_mistakes_are_refused_with_words(driven: AsyncEngine) -> None:
    oban, flow = Oban(driven), await written(driven, shop())
    with pytest.raises(WorkflowNotFound, match="no workflow in schema 'public' has the id"):
        await oban.workflow(uuid4())
    with pytest.raises(InvalidOption, match=r"'shop' is no id of a workflow; that is a UUID, as flow.id and"):
        await oban.cancel_workflow("shop")
    with pytest.raises(InvalidOption, match="not as an int"):
        await oban.workflow(7)  # type: ignore[arg-type]
    with pytest.raises(JobNotFound, match="has no member, group or workflow named 'x'"):
        await oban.retry_workflow(flow, from_="x")
    with pytest.raises(JobNotFound, match=r"named 'othr'; did you mean 'other'\? For one in a workflow inside of it"):
        await oban.retry_workflow(flow, from_="othr")
    for wrong in ("", 5, "\0", "\ud800"):
        with pytest.raises(InvalidJob, match="the name of what is to run again from"):
            await oban.retry_workflow(flow, from_=wrong)  # type: ignore[arg-type]
    for limit in (0, -1, "x", True, 10**12):
        with pytest.raises(InvalidOption, match="limit is how many workflows are listed at most, 1 to 100000, not"):
            await oban.list_workflows(limit=limit)  # type: ignore[arg-type]
    with pytest.raises(InvalidJob, match="the name of a workflow is a text"):
        await oban.list_workflows(name=5)  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"not as a Group; write .inner, or the .id of a group"):
        await oban.cancel_workflow(flow.parts["g"])  # type: ignore[arg-type]
    with pytest.raises(InvalidJob, match="attempts"):
        await oban.retry_workflow(flow, attempts=0)


async def test_a_retried_member_that_had_waited_for_a_signal_waits_for_its_dependencies_again(
    driven: AsyncEngine,
) -> None:
    oban, flow = Oban(driven), await written(driven, chain(Job("w"), Job("w")))
    second = await waits_for_signal(driven, "2", after="1")
    await oban.cancel_workflow(flow.id)
    await book(driven)
    assert await oban.retry_workflow(flow.id, from_="1") == 2
    await book(driven)
    await signal_and_wake(driven, second)
    assert await states(driven) == {"1": "available", "2": "suspended"}
    await end(driven, **{"1": "completed"})
    assert await states(driven) == {"1": "completed", "2": "available"}


@pytest.mark.parametrize("state", ["completed", "discarded"])
async def test_what_becomes_of_others_neither_wakes_nor_cancels_a_member_that_waits_for_a_signal(
    driven: AsyncEngine, state: str
) -> None:
    oban, flow = Oban(driven), await written(driven, chain(Job("w"), Job("w")))
    second = await waits_for_signal(driven, "2", after="1")
    assert await oban.retry_workflow(flow.id, from_="1") == 1  # the second one has begun, and so stays as it is
    await book(driven)
    await end(driven, **{"1": state})
    assert await states(driven) == {"1": state, "2": "suspended"}
    await signal_and_wake(driven, second)
    assert await states(driven) == {"1": state, "2": "available"}


async def waits_for_signal(engine: AsyncEngine, name: str, *, after: str) -> int:
    """A member has begun after another one, and its code has come to `wait_for`: its job's id."""
    await end(engine, **{after: "completed"})
    suspend = text("UPDATE oban_jobs SET state = 'suspended', meta = meta || :said WHERE meta ->> 'name' = :name")
    given = {"said": waiting(until=None, signal="go"), "name": name}
    async with engine.begin() as connection:
        await connection.execute(suspend.bindparams(bindparam("said", type_=JSONB())), given)
        return (await connection.scalars(select(Job.id).where(Job.meta["name"].astext == name))).one()


async def signal_and_wake(engine: AsyncEngine, job: int) -> None:
    await Oban(engine).signal(job, "go")
    async with engine.begin() as connection:
        given = {"lane": WAKING, "limit": LIMIT, "after": 0, "channel": "", "announcing": False}
        await connection.execute(wake("public"), given)
