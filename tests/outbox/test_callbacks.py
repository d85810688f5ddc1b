"""A batch is written by its session, with its jobs and what its callbacks are made of, by every driver."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from oban_sa import Batch, Job, Workflow, enqueue, ref
from oban_sa.errors import ReferenceOutsideSession
from tests.places import AppDatabase, User


@pytest.fixture(autouse=True)
def empty(app_db: AppDatabase) -> None:
    app_db.execute("TRUNCATE oban_sa_flows, oban_sa_members, oban_sa_edges, oban_sa_gates, oban_sa_endings")


def counts(db: AppDatabase) -> tuple[int, ...]:
    return tuple(db.count(f"oban_{name}") for name in ("jobs", "sa_flows", "sa_members", "sa_endings"))


def test_references_of_callbacks_become_keys(app_db: AppDatabase) -> None:
    user = User(email="a@b")
    made = Batch([Job("w")], on_success=Job("report", args={"user": ref(user)}, meta={"by": ref(user)}))

    def work(session: Session) -> tuple[int, dict[str, object]]:
        session.add(user)
        enqueue(session, made)
        session.commit()
        return user.id, session.execute(text("SELECT callbacks FROM oban_sa_flows")).scalar_one()

    key, callbacks = app_db.run(work)
    assert callbacks == {
        "on_success": {
            "worker": "report",
            "queue": "default",
            "args": {"user": key},
            "meta": {"by": key},
            "tags": [],
            "priority": 0,
            "max_attempts": 20,
        }
    }
    assert counts(app_db) == (1, 1, 1, 0)


def test_a_reference_that_is_nowhere_is_refused_and_nothing_is_staged(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with pytest.raises(ReferenceOutsideSession):
            enqueue(session, Batch([Job("w")], on_success=Job("report", args={"user": ref(User())})))
        assert not session.new
        session.commit()

    app_db.run(work)
    assert counts(app_db) == (0, 0, 0, 0)


@pytest.mark.parametrize("made", [lambda: Batch([], on_complete=Job("report")), lambda: empty_group()])
def test_what_has_no_jobs_is_written_with_a_note(app_db: AppDatabase, made) -> None:  # type: ignore[no-untyped-def]
    def work(session: Session) -> None:
        enqueue(session, made())
        session.rollback()
        enqueue(session, Job("other"))
        session.commit()
        assert counts(app_db)[:2] == (1, 0)
        savepoint = session.begin_nested()
        enqueue(session, made())
        savepoint.rollback()
        session.commit()
        assert counts(app_db)[:2] == (1, 0)
        enqueue(session, made())
        session.commit()

    app_db.run(work)
    jobs, flows, members, endings = counts(app_db)
    assert (jobs, members) == (1, 0)
    assert flows == endings >= 1


def empty_group() -> Workflow:
    flow = Workflow()
    flow.add_many("none", [])
    return flow
