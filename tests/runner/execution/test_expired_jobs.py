"""A job that its own code has given to a session, which has expired it: it can't be loaded, and ends as any other."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Chunk, Job, job, telemetry
from oban_sa.describe.job_facts import job_facts
from oban_sa.runner.execution.attempt import waited
from oban_sa.workers import Registry
from tests.runner.conftest import Harness

DUE = datetime(2026, 1, 1, tzinfo=UTC)


def test_an_event_of_it_has_what_the_row_has(sync_sessions: sessionmaker[Session]) -> None:
    with sync_sessions() as session:
        job = Job("shop.Pay", queue="mailers", max_attempts=7)
        job.scheduled_at, job.attempted_at = DUE, DUE + timedelta(seconds=3)
        session.add(job)
        session.commit()
        job_id = job.id
        session.expire(job)
        event = telemetry.JobStart.of(telemetry.Source(node="a"), job)
        assert (event.job_id, event.worker, event.queue, event.max_attempts) == (job_id, "shop.Pay", "mailers", 7)
        session.expire(job)
        assert waited(job) == 3.0


def test_a_record_of_the_log_has_what_is_known_of_it(sync_sessions: sessionmaker[Session]) -> None:
    with sync_sessions() as session:
        job = Job("shop.Pay", queue="mailers")
        session.add(job)
        session.flush()
        known = {"job_id": job.id, "worker": "shop.Pay", "queue": "mailers", "attempt": 0}
        session.refresh(job)
        assert job_facts(job) == known
        session.expire(job, ["worker", "queue", "attempt"])
        assert job_facts(job) == {"job_id": known["job_id"]}


@pytest.fixture(params=["loop", "thread", "session", "chunk"])
def forgetful(request: pytest.FixtureRequest, harness: Harness, registry: Registry) -> Any:
    """Makes workers whose code has a session expire their jobs, and then returns or raises something."""

    def made(ends: Any) -> Any:
        async def forget(session: AsyncSession, *jobs: Job) -> None:
            session.add_all(jobs)
            await session.flush()
            session.expire_all()

        async def on_loop(job: Job) -> Any:
            async with AsyncSession(harness.engine) as session:
                await forget(session, job)
            logging.getLogger("app").info("it is forgotten")
            return ends()

        def in_thread(job: Job) -> Any:
            session = Session()
            session.add(job)
            session.expire_all()
            session.close()
            return ends()

        async def in_session(job: Job, session: AsyncSession) -> Any:
            await forget(session, job)
            return ends()

        async def in_chunk(jobs: list[Job]) -> Any:
            async with AsyncSession(harness.engine) as session:
                await forget(session, *jobs)
            return ends()

        codes: dict[str, Any] = {"loop": on_loop, "thread": in_thread, "session": in_session, "chunk": in_chunk}
        options: dict[str, Any] = {"chunk": Chunk(2, within=0.1)} if request.param == "chunk" else {}
        return job(registry=registry, name="shop.Pay", backoff=lambda job: 60 + job.attempt, **options)(
            codes[request.param]
        )

    return made


async def test_it_is_completed_once_and_told_of(harness: Harness, forgetful: Any, of: Any) -> None:
    ran: list[int] = []
    worker = forgetful(lambda: ran.append(1))
    await harness.enqueue(worker.new(), worker.new())
    await harness.drain(metrics=True)
    assert await harness.states() == {"completed": 2}
    assert 1 <= len(ran) <= 2
    assert [(each.worker, each.queue, each.state) for each in of(telemetry.JobStop)] == [
        ("shop.Pay", "default", "completed")
    ] * 2


async def test_its_own_error_is_kept_and_its_backoff_asked(harness: Harness, forgetful: Any, of: Any) -> None:
    def fail() -> None:
        raise ValueError("no such card")

    [job_id] = await harness.enqueue(forgetful(fail).new())
    await harness.drain(metrics=True)
    [error] = (await harness.job(job_id)).errors
    assert error["error"].startswith("ValueError: no such card")
    [told] = of(telemetry.JobException)
    assert (told.worker, told.retry_in) == ("shop.Pay", 61)
