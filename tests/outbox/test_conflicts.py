"""What is told of unique jobs that a flush did not insert."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from oban_sa import telemetry
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Unique
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from tests.places import AppDatabase
from tests.support import run_python


@pytest.fixture
def told() -> Iterator[list[telemetry.UniqueConflict]]:
    seen: list[telemetry.UniqueConflict] = []
    detach = telemetry.attach(seen.append, telemetry.UniqueConflict)
    yield seen
    detach()


def test_each_conflict_is_told_of_at_its_flush(app_db: AppDatabase, told: list[telemetry.UniqueConflict]) -> None:
    def work(session: Session) -> None:
        first = enqueue(session, Job("app.Work", unique=True, args={"a": 1}))
        enqueue(session, Job("app.Plain"))
        session.flush()
        assert told == []
        enqueue_many(
            session,
            [
                Job("app.Work", unique=True, args={"a": 1}, queue="default"),
                Job("app.Work", unique=True, args={"a": 2}),
                Job("app.Work", unique=Unique(replace=["priority"]), args={"a": 1}, priority=5),
            ],
        )
        session.flush()
        assert [(each.worker, each.queue, each.job_id, each.state, each.replaced) for each in told] == [
            ("app.Work", "default", first.id, JobState.AVAILABLE, ()),
            ("app.Work", "default", first.id, JobState.AVAILABLE, ("priority",)),
        ]
        session.flush()
        session.commit()
        assert len(told) == 2
        assert (told[0].runner.name, told[0].runner.schema) == ("Oban", "public")

    app_db.run(work)


def test_a_program_without_handlers_does_not_import_telemetry() -> None:
    code = """
import sys
from oban_sa.outbox import conflicts
conflicts.tell(None, [({}, None)])
assert "oban_sa.telemetry" not in sys.modules
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
