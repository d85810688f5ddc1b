"""What is told of a job that its own code has given to a session, which has to load it again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Job, telemetry
from oban_sa.runner.execution.attempt import waited

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
