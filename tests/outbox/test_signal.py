"""A signal is written by its session, with a note for settlers, by every driver."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.orm import Session

from oban_sa import Job, Oban, enqueue, ref, signal
from oban_sa.errors import InvalidArguments, InvalidJob, InvalidOption, JobNotFound, JobOver
from tests.places import AppDatabase, User


@pytest.fixture(autouse=True)
def empty(app_db: AppDatabase) -> None:
    app_db.execute("TRUNCATE oban_sa_signals, oban_sa_endings RESTART IDENTITY")


def found(db: AppDatabase, statement: str) -> list[tuple[Any, ...]]:
    return db.run(lambda session: [tuple(row) for row in session.execute(text(statement))])


def sent(db: AppDatabase) -> list[tuple[Any, ...]]:
    return found(db, "SELECT job_id, name, payload FROM oban_sa_signals ORDER BY id")


def notes(db: AppDatabase) -> list[tuple[Any, ...]]:
    return found(db, "SELECT lane, job_id FROM oban_sa_endings ORDER BY id")


def a_job(db: AppDatabase) -> Job:
    def work(session: Session) -> Job:
        job = enqueue(session, Job("shop.work"))
        session.commit()
        session.refresh(job)
        session.expunge(job)
        return job

    return db.run(work)


def test_it_is_written_with_the_commit_and_noted(app_db: AppDatabase) -> None:
    job = a_job(app_db)

    def work(session: Session) -> None:
        session.add(User(email="a@b"))
        signal(session, job, "approval", {"ok": True, "by": ["me"]})
        signal(session, job.id, "approval")
        session.commit()

    app_db.run(work)
    assert sent(app_db) == [(job.id, "approval", {"ok": True, "by": ["me"]}), (job.id, "approval", None)]
    assert notes(app_db) == [(8, job.id)]
    assert app_db.count("users") == 1


def test_it_may_go_to_a_job_of_the_same_transaction(app_db: AppDatabase) -> None:
    def work(session: Session) -> int:
        user = User(email="a@b")
        session.add(user)
        job = enqueue(session, Job("shop.work", args={"user": ref(user)}))
        signal(session, job, "go", 1)
        session.commit()
        return job.id

    job_id = app_db.run(work)
    assert sent(app_db) == [(job_id, "go", 1)]
    assert notes(app_db) == [(8, job_id)]


def test_nothing_is_left_of_what_rolls_back(app_db: AppDatabase) -> None:
    job = a_job(app_db)

    def work(session: Session) -> None:
        signal(session, job, "go")
        session.flush()
        session.rollback()
        with session.begin_nested() as savepoint:
            signal(session, job, "go")
            session.flush()
            savepoint.rollback()
        session.add(User(email="a@b"))
        session.commit()

    app_db.run(work)
    assert (sent(app_db), notes(app_db)) == ([], [])


def test_a_job_that_is_over_or_was_never_there_is_refused(app_db: AppDatabase) -> None:
    job = a_job(app_db)
    app_db.execute("UPDATE oban_jobs SET state = 'completed', completed_at = now()")

    def work(session: Session) -> None:
        signal(session, job, "go")
        with pytest.raises(JobOver, match=f"job {job.id} is completed"):
            session.flush()
        session.rollback()
        signal(session, job.id + 1, "go")
        with pytest.raises(JobNotFound, match=f"no job has the id {job.id + 1}"):
            session.commit()
        session.rollback()

    app_db.run(work)
    assert (sent(app_db), notes(app_db)) == ([], [])


def test_what_can_t_be_sent_is_refused_at_once(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with pytest.raises(InvalidOption, match="a signal has a name"):
            signal(session, 1, " ")
        for name in ("go#2", ":go", "\ud800", "a\0", 3, None):  # for which nothing can wait
            with pytest.raises(InvalidOption, match=r"name of a signal|a signal has a name"):
                signal(session, 1, name, 1)  # type: ignore[arg-type]
        with pytest.raises(JobNotFound, match="no job has the id 9223372036854775808"):
            signal(session, 2**63, "go")
        with pytest.raises(InvalidArguments, match=r"payload\.a"):
            signal(session, 1, "go", {"a": object()})
        with pytest.raises(InvalidArguments, match="can't hold ref"):
            signal(session, 1, "go", [ref(User(email="a"))])
        with pytest.raises(InvalidOption, match="goes to a job or its id, not to a str"):
            signal(session, "1", "go")  # type: ignore[arg-type]
        with pytest.raises(InvalidJob, match="neither stored nor in this session"):
            signal(session, Job("shop.work"), "go")
        session.commit()

    app_db.run(work)
    with pytest.raises(TypeError, match="a session comes first"):
        signal("session", 1, "go")  # type: ignore[arg-type]


async def test_the_client_refuses_a_job_that_is_not_stored(engine: AsyncEngine) -> None:
    with pytest.raises(InvalidJob, match=r"is not stored yet; store it first, or .*: signal\(session, job, \.\.\.\)"):
        await Oban(engine).signal(Job("shop.work"), "go")
