"""A commit that nobody answers: whatever became of it, the job's outcome is written once and told rightly."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Job, job, telemetry
from oban_sa.runner.sessions import in_doubt
from tests.runner.conftest import Harness

KINDS = ["async", "sync"]
INSERT = text("INSERT INTO effects VALUES (:n)")


@pytest.fixture
def shop(harness: Harness) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(harness.engine, sync_session_class=sessionmaker())


@pytest.fixture
async def worker(harness: Harness, request: pytest.FixtureRequest) -> None:
    """A worker that writes; the first attempt and no other meets the fault."""
    await harness.sql("CREATE TABLE effects (n int)")
    if request.param == "async":

        @job(name="worker", registry=harness.registry, backoff=0)
        async def on_loop(job: Job, session: AsyncSession) -> None:
            session.info["attempt"] = job.attempt
            await session.execute(INSERT, {"n": 1})

    else:

        @job(name="worker", registry=harness.registry, backoff=0)
        def in_thread(job: Job, session: Session) -> None:
            session.info["attempt"] = job.attempt
            session.execute(INSERT, {"n": 1})


def lost(session: Session) -> None:
    if session.info["attempt"] == 1:
        raise DBAPIError("COMMIT", None, asyncpg.ConnectionDoesNotExistError("gone"), connection_invalidated=True)


@pytest.mark.parametrize("worker", KINDS, indirect=True)
async def test_a_commit_whose_answer_was_lost_is_found_to_have_happened(
    harness: Harness, worker: None, shop: Any, of: Any
) -> None:
    event.listen(shop.kw["sync_session_class"], "after_commit", lost)
    await harness.enqueue(Job("worker"))
    await harness.drain(sessions=shop)
    assert await harness.states() == {"completed": 1}
    assert await harness.sql("SELECT n FROM effects") == [(1,)]
    assert [stop.state for stop in of(telemetry.JobStop)] == ["completed"]
    assert of(telemetry.JobException) == of(telemetry.JobStale) == []


@pytest.mark.parametrize("worker", KINDS, indirect=True)
async def test_a_connection_that_breaks_before_the_commit_fails_the_attempt(
    harness: Harness, worker: None, shop: Any, of: Any
) -> None:
    def broken(session: Session) -> None:
        if session.info["attempt"] == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    event.listen(shop.kw["sync_session_class"], "before_commit", broken)
    [job_id] = await harness.enqueue(Job("worker"))
    async with harness.runner(sessions=shop):
        found = await harness.becomes(job_id, "completed")
    assert found.attempt == 2
    assert await harness.sql("SELECT n FROM effects") == [(1,)]
    assert len(of(telemetry.JobException)) == 1
    assert of(telemetry.JobStale) == []


@pytest.mark.parametrize("worker", KINDS, indirect=True)
async def test_an_outcome_that_nobody_can_tell_is_fenced_and_not_reported_as_late(
    harness: Harness, worker: None, shop: Any, of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_doubt, "WITHIN", 0)
    event.listen(shop.kw["sync_session_class"], "after_commit", lost)
    [job_id] = await harness.enqueue(Job("worker"))
    await harness.drain(sessions=shop)
    found = await harness.job(job_id)
    assert (found.state, found.attempt, found.errors) == ("completed", 1, [])
    assert await harness.sql("SELECT n FROM effects") == [(1,)]
    assert of(telemetry.JobStale) == []


async def test_an_attempt_that_is_cancelled_while_it_commits_ends_once(harness: Harness, of: Any) -> None:
    """The commit waits for a lock that a deferred trigger asks for; a timeout strikes meanwhile."""
    await harness.sql("CREATE TABLE effects (n int)")
    await harness.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'"
    )
    await harness.sql(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()"
    )

    @job(registry=harness.registry, timeout=0.3, backoff=60)
    async def commits(session: AsyncSession) -> None:
        await session.execute(INSERT, {"n": 1})

    [job_id] = await harness.enqueue(commits.new())
    async with asyncio.timeout(30), harness.runner():
        found = await harness.becomes(job_id, "retryable", 20)
    assert found.errors[0]["error"].startswith("AttemptTimedOut: ")
    assert await harness.sql("SELECT n FROM effects") == []
    assert of(telemetry.JobStale) == []
