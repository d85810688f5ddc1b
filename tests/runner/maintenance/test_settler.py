"""Runners book what has become of members of workflows, whatever ended them: none is lost, early or twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, Oban, Snooze, Workflow, chain, enqueue, telemetry
from oban_sa.jobs.flow import lane_of
from oban_sa.migrations import migrate
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.maintenance import settler as settling
from oban_sa.runner.maintenance.settler import Settler
from oban_sa.sql.locks import lane_key
from oban_sa.workers import Registry, job
from tests import factories
from tests.runner.conftest import Harness
from tests.support import eventually


@pytest.fixture
async def leader(harness: Harness) -> AsyncIterator[Leader]:
    made = Leader(Database(harness.engine), source=telemetry.Source(node="settling"), lasts=60)
    yield made
    await made.close()


@pytest.fixture
async def settler(harness: Harness, leader: Leader) -> AsyncIterator[Settler]:
    made = Settler(Database(harness.engine), leader, source=telemetry.Source(node="settling"))
    yield made
    await made.close()


async def written(harness: Harness, flow: Workflow) -> Workflow:
    async with harness.sessions.begin() as session:
        enqueue(session, flow)
    return flow


async def states(harness: Harness) -> dict[str, str]:
    return dict(map(tuple, await harness.sql("SELECT meta ->> 'name', state::text FROM oban_jobs ORDER BY id")))


async def flow_row(harness: Harness, flow: Workflow) -> tuple[int, ...]:
    """Total, unfinished, completed, cancelled, discarded, and whether it is over."""
    columns = "total, unfinished, completed, cancelled, discarded, (completed_at IS NOT NULL)::int"
    [row] = await harness.sql(f"SELECT {columns} FROM oban_sa_flows WHERE id = :id", id=flow.id)
    return tuple(row)


def diamond(new: Callable[[str], Job]) -> Workflow:
    flow = Workflow("diamond")
    flow.add("a", new("a"))
    flow.add("b", new("b"), deps="a")
    flow.add("c", new("c"), deps="a")
    flow.add("d", new("d"), deps=["b", "c"])
    return flow


async def test_members_run_after_what_they_wait_for(harness: Harness, registry: Registry) -> None:
    ran: list[str] = []

    @job(registry=registry)
    async def work(name: str) -> None:
        ran.append(name)

    flow = await written(harness, diamond(work.new))
    await harness.drain()
    assert (ran[0], sorted(ran[1:3]), ran[3:]) == ("a", ["b", "c"], ["d"])
    assert await flow_row(harness, flow) == (4, 0, 4, 0, 0, 1)
    assert await harness.sql("SELECT * FROM oban_sa_endings") == []


async def test_attempts_with_sessions_note_the_end_of_members_in_their_commit(
    harness: Harness, registry: Registry
) -> None:
    ran: list[str] = []

    @job(registry=registry)
    async def first(session: AsyncSession, name: str) -> None:
        await session.execute(text("SELECT 1"))
        ran.append(name)

    @job(registry=registry)
    def then(session: Session, name: str) -> None:
        session.execute(text("SELECT 1"))
        ran.append(name)

    flow = await written(harness, chain(first.new("1"), then.new("2"), first.new("3")))
    await harness.drain()
    assert ran == ["1", "2", "3"]
    assert await flow_row(harness, flow) == (3, 0, 3, 0, 0, 1)


async def test_where_a_member_fails_what_waits_for_it_is_cancelled_and_says_why(
    harness: Harness, registry: Registry
) -> None:
    @job(registry=registry)
    async def work(name: str) -> object:
        return Cancel("not wanted") if name == "a" else None

    flow = diamond(work.new)
    flow.add("e", work.new("e"), deps="d", forgive="cancelled")
    await written(harness, flow)
    await harness.drain()
    assert await states(harness) == {**dict.fromkeys("abcd", "cancelled"), "e": "completed"}
    assert await flow_row(harness, flow) == (5, 0, 1, 4, 0, 1)
    jobs = {each.meta["name"]: each for each in [await harness.job(number) for number in range(1, 6)]}
    assert [each["error"] for each in jobs["b"].errors] == ["DependencyFailed: a was cancelled"]
    assert jobs["d"].errors[0]["error"] in ("DependencyFailed: b was cancelled", "DependencyFailed: c was cancelled")
    assert jobs["d"].cancelled_at is not None


async def test_a_member_that_snoozes_or_is_retried_has_not_ended(harness: Harness, registry: Registry) -> None:
    ran: list[int] = []

    @job(registry=registry, backoff=lambda job: 0)
    async def first() -> object:
        ran.append(1)
        if len(ran) == 1:
            return Snooze(0)
        if len(ran) == 2:
            raise ValueError("once")
        return None

    @job(registry=registry)
    async def then() -> None:
        ran.append(2)

    flow = await written(harness, chain(first.new(), then.new()))
    await harness.drain()
    assert ran == [1, 1, 1, 2]
    assert await flow_row(harness, flow) == (2, 0, 2, 0, 0, 1)


async def test_a_member_that_is_scheduled_is_due_only_then(harness: Harness, settler: Settler) -> None:
    flow = Workflow()
    flow.add("a", Job("w"))
    flow.add("b", Job("w", schedule_in="1 hour"), deps="a")
    await written(harness, flow)
    assert await states(harness) == {"a": "available", "b": "suspended"}
    await ended(harness, "a", "completed")
    await settler.tick()
    assert (await states(harness))["b"] == "scheduled"


async def ended(harness: Harness, name: str, state: str) -> None:
    """A member ended, and that was noted."""
    await harness.sql(
        "WITH done AS (UPDATE oban_jobs SET state = CAST(:state AS oban_job_state) WHERE meta ->> 'name' = :name "
        "RETURNING id, meta) INSERT INTO oban_sa_endings (lane, job_id) SELECT (meta ->> 'lane')::int, id FROM done",
        name=name,
        state=state,
    )


async def test_groups_that_are_empty_are_over_at_once(harness: Harness, settler: Settler) -> None:
    flow = Workflow()
    flow.add_many("none", [])
    flow.add("a", Job("w"), deps="none")
    await written(harness, flow)
    assert await states(harness) == {"a": "suspended"}
    await settler.tick()
    assert await states(harness) == {"a": "available"}


async def test_cancelled_and_deleted_members_are_noted_by_the_client(harness: Harness, settler: Settler) -> None:
    flow = Workflow()
    flow.add("a", Job("w"))
    flow.add("b", Job("w"))
    flow.add("after a", Job("w"), deps="a")
    flow.add("after b", Job("w"), deps="b", forgive="deleted")
    await written(harness, flow)
    oban = Oban(harness.engine)
    await oban.cancel_job(1)
    await oban.delete_job(2)
    await settler.tick()
    assert await states(harness) == {"a": "cancelled", "after a": "cancelled", "after b": "available"}
    assert await flow_row(harness, flow) == (4, 1, 0, 2, 1, 0)


async def test_a_member_whose_node_died_with_its_last_attempt_is_noted(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(self: Settler) -> None: ...

    monkeypatch.setattr(Settler, "_note_others", never)
    flow = await written(harness, chain(Job("w", max_attempts=1), Job("w")))
    dead = uuid4()
    await harness.add(factories.producer("dead.1", uuid=dead, silent_for=60, dead_after=1))
    await harness.add(factories.executing([1], by=dead, node="dead.1"))
    async with harness.runner(queues={"other": 1}):

        async def over() -> None:
            assert await states(harness) == {"1": "discarded", "2": "cancelled"}
            assert await flow_row(harness, flow) == (2, 0, 0, 1, 1, 1)

        await eventually(over)


async def test_notes_that_a_node_left_behind_are_booked_by_another(harness: Harness) -> None:
    flow = await written(harness, chain(Job("w"), Job("w")))
    async with harness.runner(queues={"other": 1}):
        await ended(harness, "1", "completed")

        async def released() -> None:
            assert (await states(harness))["2"] == "available"

        await eventually(released)
    assert await flow_row(harness, flow) == (2, 1, 1, 0, 0, 0)


async def test_a_note_of_a_transaction_that_commits_late_is_booked_too(harness: Harness, settler: Settler) -> None:
    flow = Workflow()
    flow.add("a", Job("w"))
    flow.add("b", Job("w"))
    flow.add("after b", Job("w"), deps="b")
    await written(harness, flow)
    await harness.sql("ALTER TABLE oban_sa_endings ALTER COLUMN id RESTART WITH 100")
    await ended(harness, "a", "completed")
    await settler.tick()
    await harness.sql("ALTER TABLE oban_sa_endings ALTER COLUMN id RESTART WITH 50")
    await ended(harness, "b", "completed")

    async def released() -> None:
        await settler.tick()
        assert (await states(harness))["after b"] == "available"

    await eventually(released)


@pytest.mark.parametrize("how", ["completed", "deleted"])
async def test_the_leader_notes_what_ended_without_a_note(
    harness: Harness, settler: Settler, leader: Leader, how: str
) -> None:
    flow = chain(Job("w"), Job("w"))
    await written(harness, flow)
    if how == "completed":  # as another member of the family does, or a program that changes the meta
        await harness.sql("UPDATE oban_jobs SET state = 'completed', meta = '{}' WHERE id = 1")
    else:
        await harness.sql("DELETE FROM oban_jobs WHERE id = 1")
    await settler.tick()
    assert await flow_row(harness, flow) == (2, 2, 0, 0, 0, 0)
    await leader.tick()
    await settler.tick()
    assert (await harness.job(2)).state == ("available" if how == "completed" else "cancelled")


async def test_a_lane_is_booked_by_one_node_at_a_time(harness: Harness, settler: Settler) -> None:
    flow = await written(harness, chain(Job("w"), Job("w")))
    await ended(harness, "1", "completed")
    async with harness.engine.begin() as other:
        key = {"key": lane_key("public", lane_of(flow.id))}
        await other.execute(text("SELECT pg_advisory_xact_lock(:key)"), key)
        assert await settler.tick() < 0.1
        assert (await states(harness))["2"] == "suspended"
    await asyncio.sleep(settler.rests)
    await settler.tick()
    assert (await states(harness))["2"] == "available"


@pytest.mark.parametrize("fate", ["available", "cancelled"])
async def test_a_job_whose_row_is_locked_is_released_or_cancelled_later(
    harness: Harness, settler: Settler, fate: str
) -> None:
    await written(harness, chain(Job("w"), Job("w")))
    async with harness.engine.begin() as other:
        await other.execute(text("SELECT FROM oban_jobs WHERE id = 2 FOR UPDATE"))
        await ended(harness, "1", "completed" if fate == "available" else "discarded")
        async with asyncio.timeout(5):
            assert await settler.tick() == 0.1
    await settler.tick()
    assert (await states(harness))["2"] == fate


async def test_what_is_left_of_a_cancelled_workflow_is_cancelled_though_rows_were_locked(
    harness: Harness, settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = Workflow()
    flow.add("a", Job("w"))
    flow.add("b", Job("w"), deps="a", forgive="cancelled")
    flow.add("c", Job("w"))
    await written(harness, flow)
    async with harness.engine.begin() as other:
        await other.execute(text("SELECT FROM oban_jobs WHERE id IN (2, 3) FOR UPDATE"))
        note = "INSERT INTO oban_sa_endings (lane, flow_id, recount) VALUES (:lane, :flow, true)"
        await harness.sql(note, lane=lane_of(flow.id), flow=flow.id)
        async with asyncio.timeout(5):
            await settler.tick()
        assert await states(harness) == {"a": "cancelled", "b": "suspended", "c": "available"}
    monkeypatch.setattr(settling, "EVERY", 60)

    async def looked() -> None:
        await settler.tick()  # which does not look at the note of the workflow again
        assert (await states(harness))["b"] != "suspended"

    await eventually(looked)
    assert await states(harness) == {"a": "cancelled", "b": "cancelled", "c": "available"}
    monkeypatch.setattr(settling, "EVERY", 0.01)

    async def cancelled() -> None:
        await settler.tick()
        assert await states(harness) == dict.fromkeys("abc", "cancelled")

    await eventually(cancelled)
    assert (await harness.job(2)).errors[0]["error"] == "DependencyFailed: the workflow was cancelled"
    await eventually(settler.tick)
    assert await flow_row(harness, flow) == (3, 0, 0, 3, 0, 1)


async def test_a_job_that_was_cancelled_before_its_note_is_booked_stays_cancelled(
    harness: Harness, settler: Settler
) -> None:
    flow = await written(harness, chain(Job("w"), Job("w")))
    await ended(harness, "1", "completed")
    await ended(harness, "2", "cancelled")
    await settler.tick()
    assert await states(harness) == {"1": "completed", "2": "cancelled"}
    assert await flow_row(harness, flow) == (2, 0, 1, 1, 0, 1)


async def test_queues_of_released_jobs_are_announced_and_what_was_booked_is_told(
    harness: Harness, settler: Settler, of: Callable[[type[telemetry.Event]], list[Any]]
) -> None:
    heard: list[str] = []
    async with harness.engine.connect() as connection:
        raw = await connection.get_raw_connection()
        driver: Any = raw.driver_connection
        await driver.add_listener("public.oban_insert", lambda *message: heard.append(message[3]))
        flow = Workflow()
        flow.add("a", Job("w"))
        flow.add("b", Job("w", queue="mail"), deps="a")
        flow.add("c", Job("w", queue="mail"), deps="a")
        await written(harness, flow)
        await ended(harness, "a", "completed")
        await settler.tick()

        async def announced() -> None:
            assert any('"queue" : "mail", "jobs" : 2' in each for each in heard), heard

        await eventually(announced)
    [event] = of(telemetry.SettlerSettle)
    assert (event.count, event.released, event.cancelled, event.closed) == (1, 2, 0, 0)


async def test_a_lane_that_is_not_one_is_passed_over(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def work() -> None: ...

    await harness.enqueue(*(Job(work.new().worker, meta={"lane": lane}) for lane in ("x", 8, 1.5, None, {"a": 1}, 3)))
    await harness.drain()
    assert await harness.states() == {"completed": 6}


async def test_a_node_whose_members_end_books_at_once(harness: Harness, registry: Registry) -> None:
    @job(registry=registry)
    async def work() -> None: ...

    flow = await written(harness, chain(*(work.new() for _ in range(20))))
    async with asyncio.timeout(10):  # by looks alone it would take 20 seconds
        await harness.drain(poll_every=60)
    assert await flow_row(harness, flow) == (20, 0, 20, 0, 0, 1)


async def test_a_node_is_not_idle_while_there_are_notes(
    harness: Harness, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    @job(registry=registry)
    async def work() -> None: ...

    tick, asked = Settler.tick, 0

    async def slow(self: Settler) -> float:
        nonlocal asked
        asked += 1
        return await tick(self) if asked > 5 else 0.3

    monkeypatch.setattr(Settler, "tick", slow)
    flow = await written(harness, chain(work.new(), work.new()))
    await harness.drain()
    assert await flow_row(harness, flow) == (2, 0, 2, 0, 0, 1)


async def test_the_booking_is_planned_once_for_tables_of_about_the_same_size(
    harness: Harness, settler: Settler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the largest statement of a runner: the driver would have it parsed, and the server planned, each time."""
    monkeypatch.setattr(settling, "PLANS_LAST", 600.0)
    planned = 0
    plan_anew = Line.plan_anew

    async def counted(self: Line) -> None:
        nonlocal planned
        planned += 1
        await plan_anew(self)

    monkeypatch.setattr(Line, "plan_anew", counted)
    for _ in range(4):
        flow = await written(harness, chain(Job("w"), Job("w")))
        await harness.sql(
            "UPDATE oban_jobs SET state = 'completed' WHERE meta ->> 'name' = '1' AND state = 'available'"
        )
        await harness.sql(
            "INSERT INTO oban_sa_endings (lane, job_id) SELECT :lane, job_id FROM oban_sa_members "
            "WHERE flow_id = :id AND name = '1'",
            lane=lane_of(flow.id),
            id=flow.id,
        )
        await settler.tick()
        assert (await flow_row(harness, flow))[2] == 1
    assert planned == 1
    connection = settler.line.connection
    assert connection is not None
    [(kept, custom)] = await connection.fetch(
        "SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE statement LIKE '%DELETE FROM %_endings%' "
        "AND statement NOT LIKE '%pg_prepared_statements%'"
    )
    assert (kept, custom) == (4, 0)

    flow = Workflow()
    flow.add_many("many", [Job("w") for _ in range(500)])
    await written(harness, flow)
    await harness.sql(
        "INSERT INTO oban_sa_endings (lane, job_id) SELECT :lane, max(job_id) FROM oban_sa_members",
        lane=lane_of(flow.id),
    )
    await settler.tick()
    assert planned == 2


async def test_with_the_trigger_an_end_that_another_program_writes_is_booked_at_once(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settling, "EVERY", 3600.0)
    monkeypatch.setattr(settling, "SWEEP_EVERY", 3600.0)
    async with harness.engine.begin() as connection:
        await connection.run_sync(lambda sync: migrate(sync, flow_trigger=True))
    await written(harness, chain(Job("a", queue="theirs"), Job("b", queue="theirs")))
    async with harness.runner():
        for before, after in (("1", "2"), ("2", None)):
            await harness.sql("UPDATE oban_jobs SET state = 'completed' WHERE meta ->> 'name' = :name", name=before)

            async def booked(after: str | None = after) -> None:
                found = await states(harness)
                assert after is None or found[after] == "available"
                assert await harness.sql("SELECT lane FROM oban_sa_endings") == []

            await eventually(booked)
    assert await harness.sql("SELECT completed FROM oban_sa_flows") == [(2,)]
