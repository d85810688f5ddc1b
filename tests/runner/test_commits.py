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
from oban_sa.runner import inquiry
from tests.runner.conftest import House

KINDS = ["async", "sync"]
INSERT = text("INSERT INTO effects VALUES (:n)")


@pytest.fixture
def shop(house: House) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(house.engine, sync_session_class=sessionmaker())


@pytest.fixture
async def worker(house: House, request: pytest.FixtureRequest) -> None:
    """A worker that writes; the first attempt and no other meets the fault."""
    await house.sql("CREATE TABLE effects (n int)")
    if request.param == "async":

        @job(name="worker", registry=house.registry, backoff=0)
        async def on_loop(job: Job, session: AsyncSession) -> None:
            session.info["attempt"] = job.attempt
            await session.execute(INSERT, {"n": 1})

    else:

        @job(name="worker", registry=house.registry, backoff=0)
        def in_thread(job: Job, session: Session) -> None:
            session.info["attempt"] = job.attempt
            session.execute(INSERT, {"n": 1})


def lost(session: Session) -> None:
    if session.info["attempt"] == 1:
        raise DBAPIError("COMMIT", None, asyncpg.ConnectionDoesNotExistError("gone"), connection_invalidated=True)


@pytest.mark.parametrize("worker", KINDS, indirect=True)
async def test_a_commit_whose_answer_was_lost_is_found_to_have_happened(
    house: House, worker: None, shop: Any, of: Any
) -> None:
    event.listen(shop.kw["sync_session_class"], "after_commit", lost)
    await house.enqueue(Job("worker"))
    await house.drain(sessions=shop)
    assert await house.states() == {"completed": 1}
    assert await house.sql("SELECT n FROM effects") == [(1,)]
    assert [stop.state for stop in of(telemetry.JobStop)] == ["completed"]
    assert of(telemetry.JobException) == of(telemetry.JobStale) == []


@pytest.mark.parametrize("worker", KINDS, indirect=True)
async def test_a_connection_that_breaks_before_the_commit_fails_the_attempt(
    house: House, worker: None, shop: Any, of: Any
) -> None:
    def broken(session: Session) -> None:
        if session.info["attempt"] == 1:
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    event.listen(shop.kw["sync_session_class"], "before_commit", broken)
    [job_id] = await house.enqueue(Job("worker"))
    async with house.runner(sessions=shop):
        found = await house.becomes(job_id, "completed")
    assert found.attempt == 2
    assert await house.sql("SELECT n FROM effects") == [(1,)]
    assert len(of(telemetry.JobException)) == 1
    assert of(telemetry.JobStale) == []


@pytest.mark.parametrize("worker", KINDS, indirect=True)
async def test_an_outcome_that_nobody_can_tell_is_fenced_and_not_reported_as_late(
    house: House, worker: None, shop: Any, of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inquiry, "WITHIN", 0)
    event.listen(shop.kw["sync_session_class"], "after_commit", lost)
    [job_id] = await house.enqueue(Job("worker"))
    await house.drain(sessions=shop)
    found = await house.job(job_id)
    assert (found.state, found.attempt, found.errors) == ("completed", 1, [])
    assert await house.sql("SELECT n FROM effects") == [(1,)]
    assert of(telemetry.JobStale) == []


async def test_an_attempt_that_is_cancelled_while_it_commits_ends_once(house: House, of: Any) -> None:
    """The commit waits for a lock that a deferred trigger asks for; a timeout strikes meanwhile."""
    await house.sql("CREATE TABLE effects (n int)")
    await house.sql(
        "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'"
    )
    await house.sql(
        "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW EXECUTE FUNCTION slow()"
    )

    @job(registry=house.registry, timeout=0.3, backoff=60)
    async def commits(session: AsyncSession) -> None:
        await session.execute(INSERT, {"n": 1})

    [job_id] = await house.enqueue(commits.new())
    async with asyncio.timeout(30), house.runner():
        found = await house.becomes(job_id, "retryable", 20)
    assert found.errors[0]["error"].startswith("AttemptTimedOut: ")
    assert await house.sql("SELECT n FROM effects") == []
    assert of(telemetry.JobStale) == []
