"""Outcomes reach the database in batches, in order, exactly once, whatever happens on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy.dialects.postgresql.asyncpg import AsyncAdapt_asyncpg_dbapi

from oban_sa import Job, Oban, Record, Snooze, job, telemetry
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Verdict
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.maintenance.stager import Stager
from oban_sa.runner.queue import cycle
from oban_sa.runner.queue.acker import Acker
from oban_sa.runner.queue.exchange import Tables
from oban_sa.runner.queue.settings import Decisions
from oban_sa.schedule import periods
from oban_sa.sql.ack import as_arrays
from tests.runner.conftest import Harness
from tests.sql.compiling import STATEMENTS, compiled
from tests.support import eventually

Wrapped = Callable[..., Any]


@pytest.fixture
def between(monkeypatch) -> Callable[[Wrapped], None]:
    """Put a function around every statement of the runner: `await fn(send, names)`."""

    def put(fn: Wrapped) -> None:
        fetch = Line.fetch

        async def around(self: Line, prepared, **values):
            return await fn(lambda: fetch(self, prepared, **values), values)

        monkeypatch.setattr(Line, "fetch", around)

    return put


async def test_statements_per_job_are_bounded(harness: Harness, between) -> None:
    sent: Counter[str] = Counter()

    async def counting(send, values):
        acks = bool(values.keys() & {"states", "fences"})
        if acks:
            sent["outcomes"] += len(values["ids"])
        sent["ack" if acks else "fetch" if "demand" in values else "other"] += 1
        return await send()

    @job(registry=harness.registry)
    async def nothing() -> None: ...

    await harness.enqueue(*(nothing.new() for _ in range(400)))
    between(counting)
    await harness.drain(queues={"default": 100}, poll_every=60)
    assert sent["outcomes"] == 400
    # One round trip for 100 jobs, acks and refill together; with acks of their own it would be twice as many.
    assert sent["ack"] + sent["fetch"] <= 12
    assert await harness.states() == {"completed": 400}


async def test_a_failed_statement_is_repeated_in_order(harness: Harness, between) -> None:
    refused: list[list[int]] = []
    written: list[int] = []
    ran: list[int] = []
    gate = asyncio.Event()

    async def failing(send, values):
        if values.keys() & {"attempts", "fences"}:
            if len(refused) < 3:
                refused.append(values["ids"])
                raise ConnectionResetError("gone")
            written.extend(values["ids"])
        return await send()

    @job(registry=harness.registry)
    async def together(job: Job) -> None:
        ran.append(job.id)
        await gate.wait()

    ids = await harness.enqueue(*(together.new() for _ in range(5)))
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == 5)
        between(failing)
        gate.set()
        await eventually(lambda: len(written) >= 5)
    assert len(refused) == 3
    assert written == ids
    assert sorted(ran) == ids
    assert await harness.states() == {"completed": 5}


async def test_acks_whose_answer_was_lost_are_neither_lost_nor_called_stale(harness: Harness, between, of) -> None:
    cut: list[bool] = []

    async def cutting(send, values):
        rows = await send()
        if values.keys() & {"attempts", "fences"} and not cut:
            cut.append(True)
            raise ConnectionResetError("the answer was lost")
        return rows

    runs: Counter[int] = Counter()

    @job(registry=harness.registry)
    async def counted(job: Job) -> Record:
        runs[job.id] += 1
        return Record(job.id)

    between(cutting)
    ids = await harness.enqueue(*(counted.new() for _ in range(30)))
    await harness.drain(queues={"default": 5})
    assert cut
    assert runs == dict.fromkeys(ids, 1)
    assert await harness.states() == {"completed": 30}
    assert of(telemetry.JobStale) == []


async def test_jobs_fetched_without_an_answer_are_given_back_unspent_and_run_once(
    harness: Harness, between, caplog
) -> None:
    cut: list[int] = []

    async def cutting(send, values):
        rows = await send()
        # What was lost before is given back by an outcome, which the same statement may bring.
        fetched = [row for row in rows if row.get("acked") is None]
        if "demand" in values and fetched and len(cut) < 2:
            cut.append(len(fetched))
            raise ConnectionResetError("the answer was lost")
        return rows

    runs: Counter[int] = Counter()

    @job(registry=harness.registry)
    async def counted(job: Job) -> None:
        runs[job.id] += 1
        assert job.attempt == 1

    between(cutting)
    ids = await harness.enqueue(*(counted.new() for _ in range(30)))
    await harness.drain(queues={"default": 4})
    assert cut == [4, 4]
    assert runs == dict.fromkeys(ids, 1)
    assert await harness.sql("SELECT DISTINCT state::text, attempt FROM oban_jobs") == [("completed", 1)]
    assert "gave back 4 jobs that it had fetched without hearing so" in caplog.text


@pytest.mark.usefixtures("undecided")
async def test_a_job_cancelled_while_its_fetch_went_unanswered_never_runs(harness: Harness, between) -> None:
    ran: list[int] = []
    cut: list[int] = []
    oban = Oban(harness.engine)

    async def cutting(send, values):
        rows = await send()
        if "demand" in values and rows and not cut:
            cut.extend(row["id"] for row in rows)
            assert await oban.cancel_job(cut[0])
            raise ConnectionResetError("the answer was lost")
        return rows

    @job(registry=harness.registry)
    async def counted(job: Job) -> None:
        ran.append(job.id)

    between(cutting)
    cancelled, other = await harness.enqueue(counted.new(), counted.new())
    async with harness.runner():
        await harness.becomes(other, "completed")
        done = await harness.becomes(cancelled, "cancelled")
    assert cut == [cancelled, other]
    assert ran == [other]
    assert done.attempt == 0
    assert done.cancelled_at is not None


@pytest.mark.usefixtures("undecided")
async def test_a_late_duplicate_of_a_give_back_leaves_what_runs_now_alone(
    harness: Harness, between, monkeypatch
) -> None:
    """What is held without knowing is given back by an outcome, which may arrive a second time, long after."""
    cut: list[int] = []
    said: list[Outcome] = []
    written = Acker.written
    gate = asyncio.Event()

    def noting(self: Acker, acked, *, duration: float) -> None:
        said.extend(self._writing)
        written(self, acked, duration=duration)

    async def cutting(send, values):
        rows = await send()
        if "demand" in values and rows and not cut:
            cut.append(len(rows))
            raise ConnectionResetError("the answer was lost")
        return rows

    @job(registry=harness.registry)
    async def waits() -> None:
        await gate.wait()

    monkeypatch.setattr(Acker, "written", noting)
    between(cutting)
    [job_id] = await harness.enqueue(waits.new())
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: said and producer.running)
        assert [outcome.verdict.state for outcome in said] == ["available"]
        late = Tables(runner._database, "default", producer.holder, schema="public")
        assert await late.exchange(said, 0) == ([], [])
        await late.close()
        assert (await harness.job(job_id)).state == "executing"
        gate.set()
        assert (await harness.becomes(job_id, "completed")).attempt == 1


def test_what_is_held_without_knowing_is_only_read() -> None:
    text, _, _ = compiled(STATEMENTS["unheard"])
    assert text.startswith("SELECT")
    assert "UPDATE" not in text


async def test_what_is_not_answered_within_the_time_is_found_by_looking_now_and_then(
    harness: Harness, monkeypatch
) -> None:
    """A statement may be committed after its connection was given up, and after the look that follows a failure."""
    monkeypatch.setattr(cycle, "RECLAIM_EVERY", 0.1)

    @job(registry=harness.registry)
    async def nothing() -> None: ...

    async with harness.runner() as runner:
        [producer] = runner._queues.all
        [job_id] = await harness.enqueue(nothing.options(queue="elsewhere").new())
        await harness.sql(
            "UPDATE oban_jobs SET state = 'executing', queue = 'default', attempt = 1, "
            "attempted_by = CAST(:holder AS text[]) WHERE id = :id",
            holder=producer.holder,
            id=job_id,
        )
        done = await harness.becomes(job_id, "completed")
    assert done.attempt == 1


async def test_what_others_hold_is_never_reclaimed(harness: Harness, monkeypatch) -> None:
    monkeypatch.setattr(cycle, "RECLAIM_EVERY", 0.0)
    ids = await harness.enqueue(*(Job("worker", queue="elsewhere") for _ in range(3)))
    async with harness.runner(poll_every=0.02) as runner:
        [producer] = runner._queues.all
        node, uuid = producer.holder
        for job_id, queue, holder in zip(
            ids, ["default", "other", "default"], [["other", uuid], [node, uuid], [node, "another"]], strict=True
        ):
            await harness.sql(
                "UPDATE oban_jobs SET state = 'executing', queue = :queue, attempt = 1, "
                "attempted_by = CAST(:holder AS text[]) WHERE id = :id",
                queue=queue,
                holder=holder,
                id=job_id,
            )
        looked = producer._cycle._reclaimed_at
        await eventually(lambda: producer._cycle._reclaimed_at > looked + 0.1)
        assert await harness.states() == {"executing": 3}


@pytest.mark.parametrize(
    ("poison", "error"),
    [
        (Verdict(0, 1, JobState.COMPLETED, meta={"text": "\0"}), None),
        (Verdict(0, 1, JobState.RETRYABLE, delay=1e300, error="x"), "Error"),
        (Verdict(0, 1, JobState.RETRYABLE, delay=3600.0, error="\0"), "\\ufffd"),
        (Verdict(0, 1, JobState.RETRYABLE, delay=3600.0, error="\ud800"), "\\ufffd"),
        (Verdict(0, 2**40, JobState.COMPLETED), "DataError"),
        (Verdict(0, 1, JobState.COMPLETED, meta={"not": object(), "snoozed": 2}), "Error"),
    ],
)
async def test_an_outcome_is_written_without_what_the_database_refuses_of_it(
    harness: Harness, monkeypatch, poison: Verdict, error: str | None
) -> None:
    gate = asyncio.Event()

    @job(registry=harness.registry)
    async def together() -> None:
        await gate.wait()

    ids = await harness.enqueue(*(together.new() for _ in range(5)))
    bad = ids[2]
    add = Acker.add

    def poisoned(self: Acker, outcome: Outcome) -> None:
        if outcome.verdict.job_id == bad:
            values = {name: getattr(poison, name) for name in ("attempt", "state", "delay", "error", "meta", "refund")}
            held = {name: getattr(outcome.verdict, name) for name in ("holder", "attempted_at")}
            outcome = Outcome(outcome.attempt, Verdict(bad, **values, **held))
        add(self, outcome)

    monkeypatch.setattr(Acker, "add", poisoned)
    async with harness.runner() as runner:
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == 5)
        gate.set()
        if poison.attempt == 1:
            refused = await harness.becomes(bad, poison.state)
            assert refused.attempt == 1
            assert [error in each["error"] for each in refused.errors] == ([] if error is None else [True])
            assert refused.meta.get("text") in (None, "\\ufffd")
            if poison.meta is not None and "not" in poison.meta:
                assert refused.meta == {"snoozed": 2}
                assert "The meta of this attempt (completed) could not be written." in refused.errors[0]["error"]
            if poison.delay is not None:
                [[delay]] = await harness.sql(
                    "SELECT extract(epoch FROM scheduled_at - attempted_at)::float FROM oban_jobs WHERE id = :id",
                    id=bad,
                )
                assert abs(delay - min(poison.delay, periods.LONGEST)) < 60
        await eventually(lambda: producer.idle())
        states = await harness.states()
    assert states == Counter({"completed": 4}) + Counter([poison.state if poison.attempt == 1 else "executing"])


async def test_an_outcome_whose_very_state_is_refused_discards_its_job_and_holds_up_no_other(harness: Harness) -> None:
    @job(registry=harness.registry)
    async def done(n: int) -> None: ...

    await harness.sql(
        "ALTER TABLE oban_jobs ADD CONSTRAINT no_third CHECK (args <> '{\"n\": 3}' OR state <> 'completed')"
    )
    ids = await harness.enqueue(*(done.new(n) for n in range(5)))
    await harness.drain()
    assert await harness.states() == {"completed": 4, "discarded": 1}
    [error] = (await harness.job(ids[3])).errors
    assert "CheckViolationError" in error["error"]
    assert error["error"].endswith("The outcome of this attempt (completed) could not be written.")


def outcome(job_id: int, **values: Any) -> Outcome:
    return Outcome(Running.of(Job("worker", id=job_id)), Verdict(job_id, 1, JobState.COMPLETED), **values)


def acker() -> Acker:
    return Acker(source=telemetry.Source(node="node"), queue="default")


def test_what_failed_comes_before_what_was_said_meanwhile() -> None:
    kept = acker()
    for job_id in (1, 2, 3):
        kept.add(outcome(job_id))
    assert [each.verdict.job_id for each in kept.take(2)] == [1, 2]
    kept.add(outcome(4))
    assert (len(kept), kept.ids()) == (4, [1, 2, 3, 4])
    kept.failed(perhaps_written=False)
    assert [each.verdict.job_id for each in kept.take()] == [1, 2, 3, 4]


def test_only_those_that_were_surely_not_written_before_are_reported_as_stale(of) -> None:
    kept = acker()
    kept.add(outcome(1))
    kept.add(outcome(2))
    kept.take()
    kept.failed(perhaps_written=True)
    kept.add(outcome(3))
    kept.take()
    kept.written([2], duration=0.0)
    assert [event.job_id for event in of(telemetry.JobStale)] == [3]
    assert len(kept) == 0


def test_arrays_hold_what_verdicts_say() -> None:
    said = as_arrays([Verdict(1, 2, JobState.SCHEDULED, 3.5, "e", {"a": 1}, True)])
    assert said == {
        "ids": [1],
        "attempts": [2],
        "states": ["scheduled"],
        "delays": [3.5],
        "errors": ["e"],
        "metas": ['{"a":1}'],
        "refunds": [True],
        "attempted_ats": [None],
    }


async def test_delays_and_moments_come_from_the_clock_of_the_database(harness: Harness, monkeypatch) -> None:
    from datetime import UTC, datetime, timedelta

    from oban_sa.schedule import clock

    monkeypatch.setattr(clock, "now", lambda: datetime.now(UTC) + timedelta(hours=1))

    @job(registry=harness.registry)
    async def snoozes() -> Snooze:
        return Snooze(600)

    @job(registry=harness.registry)
    async def done() -> None: ...

    await harness.enqueue(snoozes.new(), done.new())
    await harness.drain()
    rows = await harness.sql(
        "SELECT extract(epoch FROM coalesce(completed_at, scheduled_at) - timezone('UTC', now()))::float "
        "FROM oban_jobs ORDER BY id"
    )
    assert 500 < rows[0][0] <= 600
    assert -100 < rows[1][0] <= 0


async def test_a_batch_that_deadlocks_is_repeated_whole(harness: Harness, between) -> None:
    failed: list[int] = []

    async def deadlocking(send, values):
        if values.keys() & {"attempts", "fences"} and not failed:
            failed.append(len(values["ids"]))
            raise asyncpg.DeadlockDetectedError("deadlock detected")
        return await send()

    @job(registry=harness.registry)
    async def nothing() -> None: ...

    await harness.enqueue(*(nothing.new() for _ in range(10)))
    between(deadlocking)
    await harness.drain()
    assert failed
    assert await harness.states() == {"completed": 10}


async def test_what_keeps_a_connection_from_being_made_is_no_outcomes_fault(harness: Harness, monkeypatch) -> None:
    gate, refused, runs = asyncio.Event(), [], Counter[int]()
    connect = Database.connect

    async def starting_up(self: Database, **kept: bool) -> asyncpg.Connection:
        if len(refused) < 3:
            refused.append(True)
            raise refusals.pop()
        return await connect(self, **kept)

    adapted = AsyncAdapt_asyncpg_dbapi.Error("the database system is starting up")
    adapted.__cause__ = asyncpg.CannotConnectNowError("the database system is starting up")
    refusals = [adapted, RuntimeError("a creator of the application's own failed"), adapted]
    # No reconnection of another part must use them up.
    monkeypatch.setattr(Decisions, "tick", rests)
    monkeypatch.setattr(Stager, "tick", rests)

    @job(registry=harness.registry)
    async def together(job: Job) -> None:
        runs[job.id] += 1
        await gate.wait()

    ids = await harness.enqueue(*(together.new() for _ in range(5)))
    async with harness.runner(heartbeat_every=60, dead_after=600) as runner:
        [producer] = runner._queues.all
        await eventually(lambda: len(producer.running) == 5)
        await producer._tables.close()
        monkeypatch.setattr(Database, "connect", starting_up)
        gate.set()
        for job_id in ids:
            assert (await harness.becomes(job_id, "completed")).errors == []
    assert len(refused) == 3
    assert runs == dict.fromkeys(ids, 1)


async def rests(self: Any) -> float:
    return 60
