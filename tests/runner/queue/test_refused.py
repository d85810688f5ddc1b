"""Rules of the application's on the table, such as a unique index of its own, that refuse what a runner writes."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import asyncpg
import pytest

from oban_sa import Job, Snooze, job, telemetry
from oban_sa.jobs.states import JobState
from oban_sa.jobs.verdicts import Attempt, Verdict, given_back
from oban_sa.runner.cluster.leader import Leader
from oban_sa.runner.database.database import Database
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.maintenance.lifeline import Lifeline
from oban_sa.runner.maintenance.stager import Stager
from oban_sa.runner.queue.refused import instead_of
from tests.runner.conftest import Harness
from tests.runner.maintenance.test_lifeline import executing, producer_row

UNIQUE = asyncpg.UniqueViolationError('duplicate key value violates unique constraint "one_waits"')


async def one_waits(harness: Harness, states: str = "'available', 'scheduled', 'retryable'") -> None:
    await harness.sql(f"CREATE UNIQUE INDEX one_waits ON oban_jobs (worker, args) WHERE state IN ({states})")


async def test_a_failed_job_whose_retry_is_refused_keeps_its_own_error(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await one_waits(harness)
    begun, twin = asyncio.Event(), asyncio.Event()

    @job(registry=harness.registry, name="once", queue="default")
    async def once() -> None:
        begun.set()
        await twin.wait()
        raise ValueError("out of paper")

    @job(registry=harness.registry, name="other")
    async def other() -> None:
        await twin.wait()

    failing, fine = await harness.enqueue(once.new(), other.new())
    async with harness.runner(queues={"default": 2}):
        await begun.wait()
        await harness.enqueue(once.options(queue="idle").new())
        twin.set()
        failed = await harness.becomes(failing, "discarded")
        await harness.becomes(fine, "completed")
    (entry,) = failed.errors
    assert entry["error"].startswith("ValueError: out of paper\nTraceback")
    assert 'UniqueViolationError: duplicate key value violates unique constraint "one_waits"' in entry["error"]
    assert entry["error"].endswith("The outcome of this attempt (retryable) could not be written.")
    assert any(f"the database refused to make job {failing} retryable" in said for said in caplog.messages)


async def test_a_due_job_that_may_not_be_available_yet_holds_up_no_other(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    await one_waits(harness, "'available'")
    await harness.enqueue(Job("once"), *(Job("many", args={"n": n}, schedule_in=60) for n in range(6)))
    (twin,) = await harness.enqueue(Job("once", schedule_in=60))
    await harness.sql(
        "UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '2 minutes' WHERE state = 'scheduled'"
    )
    staged: list[str] = []
    stager = Stager(Database(harness.engine), source=telemetry.Source(node="here"), every=1, staged=staged.append)
    try:
        await stager.tick()
        assert await harness.states() == {"available": 7, "scheduled": 1}
        assert set(staged) == {"default"}
        waits = "SELECT extract(epoch FROM scheduled_at - timezone('UTC', now())) FROM oban_jobs WHERE id = :id"
        ((seconds,),) = await harness.sql(waits, id=twin)
        assert 50 < seconds <= 60
        # Once the other has begun, it is this one's turn.
        await harness.sql("UPDATE oban_jobs SET state = 'completed' WHERE state = 'available'")
        await harness.sql(
            "UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '2 minutes' WHERE id = :id", id=twin
        )
        await stager.tick()
    finally:
        await stager.close()
    assert (await harness.job(twin)).state == "available"
    assert [said for said in caplog.messages if f"refused to make job {twin} available" in said] != []


@pytest.mark.parametrize(("states", "ends"), [("'available'", "retryable"), ("'available', 'retryable'", "discarded")])
async def test_a_rescue_that_is_refused_for_one_job_rescues_the_others(
    harness: Harness, states: str, ends: str
) -> None:
    await one_waits(harness, states)
    leader = Leader(Database(harness.engine), source=telemetry.Source(node="leading"), lasts=60)
    await leader.tick()
    lifeline = Lifeline(Database(harness.engine), leader, source=telemetry.Source(node="leading"), every=1)
    dead = await producer_row(harness, silent_for=10)
    fine, twin = await executing(harness, dead, args={"n": 1}), await executing(harness, dead)
    await harness.enqueue(Job("worker"))
    await lifeline.tick()
    await lifeline.close()
    await leader.close()
    assert (await harness.job(fine)).state == "available"
    rescued = await harness.job(twin)
    assert (rescued.state, rescued.attempt) == (ends, 1)
    (entry,) = rescued.errors
    assert entry["error"].startswith("AttemptOrphaned: ")
    assert ("one_waits" in entry["error"]) == (ends == "discarded")
    assert await harness.sql("SELECT * FROM oban_producers") == []


def test_a_job_that_is_given_back_waits_where_it_may_not_be_available() -> None:
    back = Outcome(Running.of(Job("w", id=1)), given_back(Attempt(1, 2, 20)))
    waits = instead_of(back, UNIQUE)
    assert waits is not None
    assert (waits.verdict.state, waits.verdict.delay, waits.verdict.refund) == ("scheduled", 60, True)
    ended = instead_of(waits, UNIQUE)
    assert ended is not None
    assert (ended.verdict.state, ended.verdict.delay, ended.verdict.refund) == ("discarded", None, False)


@pytest.mark.parametrize(
    "error",
    [
        UNIQUE,
        asyncpg.CheckViolationError("no"),
        asyncpg.ForeignKeyViolationError("no"),
        asyncpg.NotNullViolationError("no"),
        asyncpg.ExclusionViolationError("no"),
        asyncpg.RaiseError("not at night"),
        asyncpg.WithCheckOptionViolationError("no"),
    ],
)
@pytest.mark.parametrize("state", [JobState.RETRYABLE, JobState.SCHEDULED, JobState.CANCELLED, JobState.COMPLETED])
def test_what_a_rule_refuses_is_discarded_with_both_errors_and_what_was_recorded(error: Any, state: JobState) -> None:
    verdict = Verdict(1, 2, state, 17.0, "ValueError: é", {"snoozed": 1}, refund=True)
    ended = instead_of(Outcome(Running.of(Job("w", id=1)), verdict), error)
    assert ended is not None
    written = ended.verdict
    assert (written.state, written.delay, written.meta, written.refund) == ("discarded", None, {"snoozed": 1}, False)
    assert written.error is not None
    assert written.error.startswith(f"ValueError: é\n\n{type(error).__name__}: ")
    assert written.error.endswith(f"({state}) could not be written.")
    barest = instead_of(ended, error)
    assert barest is not None and barest.verdict.meta is None
    assert instead_of(barest, error) is None


async def test_a_snooze_that_is_refused_is_told_in_words(harness: Harness, caplog: pytest.LogCaptureFixture) -> None:
    await harness.sql("ALTER TABLE oban_jobs ADD CONSTRAINT never_later CHECK (state <> 'scheduled')")

    @job(registry=harness.registry)
    async def later() -> Snooze:
        return Snooze(60)

    (snoozed,) = await harness.enqueue(later.new())
    caplog.set_level(logging.WARNING)
    await harness.drain()
    (entry,) = (await harness.job(snoozed)).errors
    assert entry["error"].endswith("The outcome of this attempt (scheduled) could not be written.")
    assert not [record for record in caplog.records if record.exc_info]
