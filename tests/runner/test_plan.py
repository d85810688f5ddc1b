"""Fetches take filters, and every statement by which a job ends takes followers: each is seen on a real database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy import CTE, BigInteger, Column, Integer, MetaData, Table, Text, bindparam, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from oban_sa import Cancel, Job, job, telemetry
from oban_sa.jobs.attempted_by import new_producer
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Verdict
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.maintenance.lifeline import Lifeline
from oban_sa.runner.queue import producer as producers
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.sessions.attempt_session import AttemptSessions
from oban_sa.sql.control import by_ids, cancel, delete
from oban_sa.sql.fetch import Filter, jobs
from oban_sa.sql.plan import Plan
from oban_sa.testing.drain import Draining
from tests.runner.conftest import Harness
from tests.support import eventually

METADATA = MetaData()

booked = Table("booked", METADATA, Column("state", Text, primary_key=True), Column("n", BigInteger))
"""How many jobs came into which state."""

slots = Table("slots", METADATA, Column("queue", Text, primary_key=True), Column("free", Integer))
"""How many jobs of a queue may still be taken."""


def book(acked: CTE) -> CTE:
    counted = select(acked.c.state, func.count()).where(acked.c.meta.is_not(None)).group_by(acked.c.state)
    row = insert(booked).from_select(["state", "n"], counted)
    added = row.on_conflict_do_update(index_elements=[booked.c.state], set_={"n": booked.c.n + row.excluded.n})
    return added.returning(booked.c.state).cte("booked_now")


BOOKS = Plan(followers=(book,))

MINE = Plan(filters=(Filter(conditions=(jobs.c.worker == bindparam("mine", "mine", type_=Text()),)),))


def use_slots(taken: CTE) -> CTE:
    used = select(func.count()).select_from(taken).scalar_subquery()
    return update(slots).where(_slots).values(free=slots.c.free - used).returning(slots.c.free).cte("slots_left")


_slots = slots.c.queue == bindparam("of_slots", type_=Text())

FREE = Filter(at_most=select(slots.c.free).where(_slots).with_for_update().scalar_subquery(), then=(use_slots,))


@pytest.fixture(autouse=True)
async def made(harness: Harness) -> None:
    async with harness.engine.begin() as connection:
        await connection.run_sync(METADATA.create_all)


async def books(harness: Harness) -> dict[str, int]:
    return dict(map(tuple, await harness.sql("SELECT state, n FROM booked")))


@asynccontextmanager
async def exchanging(harness: Harness, plan: Plan) -> AsyncIterator[Tables]:
    """A producer's statements, with its row."""
    uuid = new_producer()
    tables = Tables(Database(harness.engine), "default", ["web.7", str(uuid)], schema="public", plan=plan)
    await tables.register({"uuid": uuid, "name": "Oban", "node": "web.7", "queue": "default", "meta": "{}"})
    try:
        yield tables
    finally:
        await tables.close()


def outcome(row: Any, state: JobState = JobState.COMPLETED, error: str | None = None) -> Outcome:
    said = Verdict(row["id"], row["attempt"], state, error=error, attempted_at=row["attempted_at"])
    return Outcome(Running.of(Job("worker", id=row["id"])), said)


# Followers


async def test_a_follower_sees_what_a_queue_acks(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "Tables", partial(Tables, plan=BOOKS))

    @job(registry=harness.registry)
    async def plain() -> None: ...

    @job(registry=harness.registry)
    async def refuses() -> Cancel:
        return Cancel("no")

    @job(registry=harness.registry, max_attempts=1)
    async def fails() -> None:
        raise ValueError("no")

    @job(registry=harness.registry)
    async def fails_once() -> None:
        raise ValueError("again")

    await harness.enqueue(*(plain.new() for _ in range(5)), refuses.new(), fails.new(), fails_once.new())
    await harness.drain()
    assert await books(harness) == {"completed": 5, "cancelled": 1, "discarded": 1, "retryable": 1}


async def test_a_follower_sees_what_an_attempts_session_commits(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = partial(AttemptSessions, ack_one=BOOKS.ack_one())
    monkeypatch.setattr("oban_sa.runner.runner.AttemptSessions", sessions)

    @job(registry=harness.registry)
    async def on_the_loop(session: AsyncSession) -> None:
        await session.execute(select(func.now()))

    @job(registry=harness.registry)
    def in_a_thread(session: Session) -> None:
        session.execute(select(func.now()))

    @job(registry=harness.registry)
    async def without() -> None: ...

    await harness.enqueue(on_the_loop.new(), in_a_thread.new(), without.new())
    await harness.drain()
    assert await harness.states() == {"completed": 3}
    assert await books(harness) == {"completed": 2}


async def test_a_follower_sees_nothing_of_an_outcome_that_comes_too_late(harness: Harness) -> None:
    await harness.enqueue(Job("one"), Job("two"))
    async with exchanging(harness, BOOKS) as tables:
        _, rows = await tables.exchange([], 2)
        plain = [outcome(row) for row in rows]
        said = [outcome(rows[0], JobState.CANCELLED, "no"), plain[1]]
        for outcomes, demand in ((said, 0), (said, 0), (said, 5), (plain, 5)):
            await tables.exchange(outcomes, demand)
    assert await books(harness) == {"cancelled": 1, "completed": 1}


async def test_a_follower_sees_what_the_lifeline_rescues_and_discards(harness: Harness) -> None:
    leader = Leader(Database(harness.engine), source=telemetry.Source(node="leading"), lasts=60)
    await leader.tick()
    made = Lifeline(
        Database(harness.engine),
        leader,
        source=telemetry.Source(node="leading"),
        every=1,
        abandoned_after=60,
        followers=BOOKS.followers,
    )
    ids = await harness.enqueue(*(Job("worker", max_attempts=limit) for limit in (1, 2, 3, 4, 1)))
    async with exchanging(harness, Plan()) as tables:
        await tables.exchange([], 3)
    await harness.sql(
        "UPDATE oban_producers SET meta = '{\"dead_after\": 1}', updated_at = updated_at - interval '1 hour'"
    )
    # One of another member of the family, and one that no fetch takes any more.
    await harness.sql(
        "UPDATE oban_jobs SET state = 'executing', attempt = 4, attempted_by = '{elixir}', "
        "attempted_at = timezone('UTC', now()) - interval '1 hour' WHERE id = :id",
        id=ids[3],
    )
    await harness.sql("UPDATE oban_jobs SET attempt = 1 WHERE id = :id", id=ids[4])
    await made.tick()
    await made.close()
    await leader.close()
    assert await harness.states() == {"available": 2, "discarded": 3}
    assert await books(harness) == {"available": 2, "discarded": 3}


async def test_a_follower_sees_what_a_rule_lets_no_longer_wait(harness: Harness) -> None:
    """Such a job is rescued by itself, and discarded."""
    leader = Leader(Database(harness.engine), source=telemetry.Source(node="leading"), lasts=60)
    await leader.tick()
    made = Lifeline(
        Database(harness.engine), leader, source=telemetry.Source(node="leading"), every=1, followers=BOOKS.followers
    )
    await harness.enqueue(Job("worker"))
    async with exchanging(harness, Plan()) as tables:
        await tables.exchange([], 1)
    await harness.sql(
        "UPDATE oban_producers SET meta = '{\"dead_after\": 1}', updated_at = updated_at - interval '1 hour'"
    )
    await harness.sql("ALTER TABLE oban_jobs ADD CHECK (state NOT IN ('available', 'retryable'))")
    await made.tick()
    await made.close()
    await leader.close()
    assert await books(harness) == {"discarded": 1}


async def test_a_follower_sees_what_is_cancelled_and_not_what_is_only_asked_to_stop(harness: Harness) -> None:
    waiting, running, over = await harness.enqueue(Job("worker", priority=1), Job("worker"), Job("worker", priority=2))
    await harness.sql("UPDATE oban_jobs SET state = 'completed' WHERE id = :id", id=over)
    async with exchanging(harness, Plan()) as tables:
        await tables.exchange([], 1)
    for signalling in (True, False):  # the second one finds nothing but the running job
        statement = cancel(by_ids(), signalling=signalling, followers=BOOKS.followers)
        async with harness.sessions.begin() as session:
            given = {"ids": [waiting, running, over], **({"signal": "oban_signal"} if signalling else {})}
            [row] = await session.execute(statement, given)
        assert row[0] == 1 + signalling
    assert await books(harness) == {"cancelled": 1}


async def test_a_follower_sees_what_is_deleted_before_it_ended(harness: Harness) -> None:
    ids = await harness.enqueue(*(Job("worker") for _ in range(4)))
    await harness.sql("UPDATE oban_jobs SET state = 'completed' WHERE id = :id", id=ids[0])
    async with harness.sessions.begin() as session:
        result: Any = await session.execute(delete(by_ids(), followers=BOOKS.followers), {"ids": ids[:3]})
        assert result.rowcount == 3
    assert await books(harness) == {"deleted": 2}
    assert [row.id for row in await harness.sql("SELECT id FROM oban_jobs")] == ids[3:]


async def test_a_follower_sees_what_is_drained(harness: Harness) -> None:
    @job(registry=harness.registry)
    async def plain() -> None: ...

    @job(registry=harness.registry)
    async def in_a_session(session: AsyncSession) -> None:
        await session.execute(select(func.now()))

    await harness.enqueue(plain.new(), in_a_session.new(), plain.new())
    counts = await draining(harness, BOOKS).run(harness.engine)
    assert counts == {JobState.COMPLETED: 3}
    assert await books(harness) == {"completed": 3}


def draining(harness: Harness, plan: Plan) -> Draining:
    return Draining(with_scheduled=False, with_retries=False, with_safety=False, registry=harness.registry, plan=plan)


# Filters


@pytest.mark.parametrize(("acks", "said"), [(0, None), (1, None), (1, "no")])
@pytest.mark.parametrize("unknown", [None, {"unknown": ["theirs"], "overdue": [], "unknown_after": 60.0}])
async def test_a_filter_chooses_among_the_jobs_of_a_queue(
    harness: Harness, acks: int, said: str | None, unknown: Any
) -> None:
    """Whether the fetch comes alone, or with outcomes of which nothing is said, or something."""
    await harness.enqueue(Job("other"), Job("mine"), Job("other"), Job("mine"), Job("mine"))
    async with exchanging(harness, MINE) as tables:
        _, rows = await tables.exchange([], 1)
        outcomes = [outcome(rows[0], error=said)] if acks else []
        acked, more = await tables.exchange(outcomes, 5, unknown=unknown)
        assert acked == [rows[0]["id"]] * acks
        assert [row["worker"] for row in (*rows, *more)] == ["mine"] * 3
    assert (await harness.states())["available"] == 2


async def test_a_filter_bounds_a_fetch_by_another_table(harness: Harness) -> None:
    plan = Plan(filters=(FREE,), parameters={"of_slots": "default"})
    await harness.enqueue(*(Job("worker") for _ in range(9)))
    async with exchanging(harness, plan) as tables:
        # NULL, as where there is no row, sets no limit.
        assert len((await tables.exchange([], 2))[1]) == 2
        await harness.sql("INSERT INTO slots VALUES ('default', 3), ('other', 9)")
        assert [len((await tables.exchange([], 2))[1]) for _ in range(3)] == [2, 1, 0]
        await harness.sql("UPDATE slots SET free = free - 1")
        assert (await tables.exchange([], 2))[1] == []
    assert await harness.sql("SELECT free FROM slots ORDER BY 1") == [(-1,), (8,)]


async def test_two_fetches_at_once_share_what_a_filter_has_locked(harness: Harness) -> None:
    plan = Plan(filters=(FREE,), parameters={"of_slots": "default"})
    await harness.enqueue(*(Job("worker") for _ in range(9)))
    await harness.sql("INSERT INTO slots VALUES ('default', 3)")

    async def waiting() -> None:
        found = await harness.sql(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        assert found[0][0] == 2

    async with exchanging(harness, plan) as one, exchanging(harness, plan) as other:
        async with harness.sessions.begin() as session:
            await session.execute(select(slots).with_for_update())
            both = asyncio.gather(one.exchange([], 2), other.exchange([], 2))
            await eventually(waiting)
        assert sorted(len(rows) for _, rows in await both) == [1, 2]
    assert await harness.sql("SELECT free FROM slots") == [(0,)]


async def test_a_filter_chooses_what_is_drained(harness: Harness) -> None:
    @job(registry=harness.registry, name="mine")
    async def mine() -> None: ...

    await harness.enqueue(Job("other"), mine.new(), mine.options(queue="elsewhere").new())
    assert await draining(harness, MINE).run(harness.engine) == {JobState.COMPLETED: 2}
    assert await harness.states() == {"completed": 2, "available": 1}


def test_queues_whose_plans_differ_only_in_values_share_their_statements(harness: Harness) -> None:
    database = Database(harness.engine)
    one, other = (Plan(filters=(FREE,), parameters={"of_slots": queue}) for queue in ("one", "other"))
    assert database.prepare(Plan.fetch, one).text is database.prepare(Plan.fetch, other).text
    assert database.prepare(Plan.fetch, one).text is not database.prepare(Plan.fetch, Plan()).text
