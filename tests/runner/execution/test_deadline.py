"""A job that was not begun before its deadline is cancelled, and its code never runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import cast, literal, select
from sqlalchemy import types as sql
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa import Job, Oban, Snooze, enqueue, enqueue_select, job, telemetry, worker
from oban_sa.errors import InvalidOption
from oban_sa.jobs import deadline
from oban_sa.jobs.cron_entry import CronEntry
from oban_sa.testing import drain, perform_job
from oban_sa.workers import Registry
from tests.runner.conftest import Harness
from tests.support import eventually

WAITED = "UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '{}'"


@pytest.fixture
def done(registry: Registry) -> list[int]:
    return []


@pytest.fixture
def due(registry: Registry, done: list[int]) -> Any:
    @job(registry=registry, name="due", deadline="1 hour", meta={"mine": 1})
    async def due(number: int) -> None:
        done.append(number)

    return due


async def test_what_begins_in_time_runs_and_what_comes_late_is_cancelled_with_words(
    harness: Harness, sessions: Any, due: Any, done: list[int], events: list[telemetry.Event]
) -> None:
    async with sessions.begin() as session:
        late = enqueue(session, due.new(1))
    await harness.sql(WAITED.format("61 minutes"))
    async with sessions.begin() as session:
        early = enqueue(session, due.new(2))
    await harness.sql(WAITED.format("59 minutes") + f" WHERE id = {early.id}")
    async with harness.runner():
        await harness.becomes(early.id, "completed")
        cancelled = await harness.becomes(late.id, "cancelled")
    assert done == [2]
    assert len(cancelled.errors) == 1
    assert "its deadline passed at " in str(cancelled.errors[0]["error"])
    assert "before it could begin" in str(cancelled.errors[0]["error"])
    assert [each.state for each in events if isinstance(each, telemetry.JobStop) and each.job_id == late.id] == [
        "cancelled"
    ]


async def test_the_span_stands_in_the_meta_of_each_job(harness: Harness, sessions: Any, due: Any) -> None:
    async with sessions.begin() as session:
        for number in range(3):
            enqueue(session, due.new(number))
    rows = await harness.sql("SELECT meta FROM oban_jobs")
    assert [row[0] for row in rows] == [{"mine": 1, "deadline": 3600.0}] * 3


async def test_every_way_in_gives_the_deadline(
    harness: Harness, sessions: Any, engine: AsyncEngine, due: Any, database_url: str
) -> None:
    oban = Oban(engine)
    async with sessions.begin() as session:
        enqueue(session, due.new(1))
        await oban.enqueue_many([due.new(2)], session=session)
        await enqueue_select(session, due, select(cast(literal(3), sql.Integer).label("number")))
        await enqueue_select(session, due.options(meta={"x": 1}), select(cast(literal(4), sql.Integer).label("number")))
    await oban.enqueue(due.new(5))
    await oban.enqueue_many(due.new(number) for number in (6, 7))  # COPY
    async with sessions.begin() as session:
        enqueue(session, due.options(schedule_in=5).new(8))
        enqueue(session, due.options(meta={"other": 2}).new(9))
    rows = await harness.sql("SELECT args ->> 'number', meta -> 'deadline' FROM oban_jobs")
    assert sorted(row[0] for row in rows) == [str(number) for number in range(1, 10)]
    assert {row[1] for row in rows} == {3600.0}


async def test_a_job_may_have_another_deadline_or_none(sessions: Any, harness: Harness, due: Any) -> None:
    async with sessions.begin() as session:
        enqueue(session, due.options(deadline="5 minutes", meta={"a": 1}).new(1))
        enqueue(session, due.options(deadline=None).new(2))
        await enqueue_select(
            session, due, select(cast(literal(3), sql.Integer).label("number")), deadline=timedelta(seconds=7)
        )
    rows = await harness.sql("SELECT meta FROM oban_jobs ORDER BY id")
    assert [row[0] for row in rows] == [
        {"a": 1, "deadline": 300.0},
        {"mine": 1},
        {"mine": 1, "deadline": 7.0},
    ]


async def test_cron_jobs_have_it_too(harness: Harness, due: Any, registry: Registry, done: list[int]) -> None:
    async with harness.runner(crontab=[CronEntry("* * * * * *", "due", args={"number": 7})]):

        async def ticked() -> None:
            assert 7 in done

        await eventually(ticked)
    assert {row[0] for row in await harness.sql("SELECT meta -> 'deadline' FROM oban_jobs")} == {3600.0}


async def test_the_deadline_stays_where_a_retry_or_a_snooze_moves_the_schedule(
    harness: Harness, sessions: Any, registry: Registry
) -> None:
    @job(registry=registry, name="again", deadline="1 hour", backoff=1000)
    async def again(snooze: bool) -> Snooze:
        if snooze:
            return Snooze(1000)
        raise ValueError("once more")

    async with sessions.begin() as session:
        failing, snoozing = enqueue(session, again.new(False)), enqueue(session, again.new(True))
    first = failing.scheduled_at
    async with harness.runner():
        await harness.becomes(failing.id, "retryable")
        await harness.becomes(snoozing.id, "scheduled")
    for each in (failing, snoozing):
        found = await harness.job(each.id)
        assert found.meta["deadline_at"] == (first + timedelta(hours=1)).isoformat()
    await harness.sql(
        "UPDATE oban_jobs SET state = 'available', scheduled_at = timezone('UTC', now()), "
        "meta = jsonb_set(meta, '{deadline_at}', '\"2020-01-01T00:00:00+00:00\"')"
    )
    async with harness.runner():
        for each in (failing, snoozing):
            ended = await harness.becomes(each.id, "cancelled")
            assert "its deadline passed at 2020-01-01 00:00:00 UTC" in str(ended.errors[-1]["error"])
            assert ended.meta["deadline_at"] is None


async def test_a_retry_by_hand_counts_anew(
    harness: Harness, sessions: Any, engine: AsyncEngine, due: Any, done: list[int]
) -> None:
    async with sessions.begin() as session:
        late = enqueue(session, due.new(1))
    await harness.sql(WAITED.format("2 hours"))
    async with harness.runner():
        await harness.becomes(late.id, "cancelled")
        await Oban(engine).retry_job(late.id)
        await harness.becomes(late.id, "completed")
    assert done == [1]


@pytest.mark.parametrize(
    "meta",
    [
        '{"deadline": "x"}',
        '{"deadline": 1e300}',
        '{"deadline": true}',
        '{"deadline": []}',
        '{"deadline": 1, "deadline_at": "soon"}',
        '{"deadline": null, "deadline_at": 7}',
    ],
)
async def test_a_deadline_that_another_program_spoiled_holds_nothing_up(
    harness: Harness, sessions: Any, due: Any, done: list[int], meta: str
) -> None:
    async with sessions.begin() as session:
        spoiled = enqueue(session, due.new(1))
    await harness.sql("UPDATE oban_jobs SET meta = CAST(:meta AS jsonb)", meta=meta)
    async with harness.runner():
        await harness.becomes(spoiled.id, "completed")
    assert done == [1]


async def test_drain_cancels_what_is_late_and_perform_job_runs_it(
    harness: Harness, engine: AsyncEngine, sessions: Any, due: Any, done: list[int], registry: Registry
) -> None:
    async with sessions.begin() as session:
        enqueue(session, due.new(1))
    await harness.sql(WAITED.format("2 hours"))
    counts = await drain(engine, registry=registry)
    assert counts["cancelled"] == 1
    assert done == []
    await perform_job(due, {"number": 3})
    assert done == [3]


def test_what_is_no_span_is_refused_where_the_worker_is_decorated(registry: Registry) -> None:
    async def code() -> None: ...

    for given, words in (("soon", "deadline: "), (0, "deadline of 0 would let no job start"), (-5, "deadline: ")):
        with pytest.raises(InvalidOption, match=words):
            job(registry=registry, name="refused", deadline=given)(code)  # type: ignore[arg-type]


def test_a_class_says_it_too(registry: Registry) -> None:
    @worker(registry=registry, name="classed", deadline="2 minutes")
    class Classed:
        async def process(self, job: Job) -> None: ...

    assert Classed.new({}).meta == {"deadline": 120.0}  # type: ignore[attr-defined]
    assert Classed.new({}, deadline=60, meta={"x": 1}).meta == {"x": 1, "deadline": 60.0}  # type: ignore[attr-defined]


def test_the_moment_counts_and_no_other() -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    in_time = {"scheduled_at": moment, "attempted_at": moment + timedelta(seconds=60)}
    assert deadline.missed({"deadline": 60}, **in_time) is None  # type: ignore[arg-type]
    assert deadline.missed({"deadline": 59}, **in_time) is not None  # type: ignore[arg-type]
    assert deadline.missed({}, **in_time) is None  # type: ignore[arg-type]
