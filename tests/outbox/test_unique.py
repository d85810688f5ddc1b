"""Unique jobs of a session: what a flush inserts, and what becomes the job that stands in its way, on every driver."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import inspect, text
from sqlalchemy.orm import Session

from oban_sa import hooks
from oban_sa.errors import InvalidArguments
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Conflict, Unique
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from tests.places import AppDatabase, Report, User


def a_job(unique: Any = True, *, worker: str = "app.Work", **options: Any) -> Job:
    return Job(worker, unique=unique, **options)


def stored(app_db: AppDatabase, *jobs: Job) -> list[int]:
    """Commit jobs, and return the ids that they have got."""

    def work(session: Session) -> list[int]:
        enqueue_many(session, jobs)
        session.commit()
        return [job.id for job in jobs]

    return app_db.run(work)


def inserts(sent: list[str]) -> int:
    return sum("INSERT INTO public.oban_jobs" in each for each in sent)


# the job that stands in the way


def test_the_second_job_becomes_the_first(app_db: AppDatabase) -> None:
    [first] = stored(app_db, a_job(args={"a": 1}, tags=["x"], meta={"m": 2}, priority=3))

    def work(session: Session) -> None:
        job = enqueue(session, a_job(args={"a": 1}))
        session.flush()
        assert (job.id, job.state, job.priority, job.tags) == (first, JobState.AVAILABLE, 3, ["x"])
        assert job.meta["m"] == 2 and job.errors == []
        assert job.inserted_at.tzinfo is UTC
        assert job.conflict == Conflict(first, JobState.AVAILABLE)
        assert inspect(job).persistent and session.get(Job, first) is job
        assert not session.dirty and not session.new
        session.commit()
        assert job.conflict is not None and job.id == first
        session.refresh(job)
        assert job.args == {"a": 1}

    app_db.run(work)
    assert len(app_db.jobs()) == 1


def test_what_is_inserted_has_no_conflict_and_bears_its_key(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        job = enqueue(session, a_job(args={"a": 1}, meta={"m": 1}))
        session.commit()
        assert job.conflict is None
        assert job.scheduled_at == job.inserted_at and job.meta["m"] == 1

    app_db.run(work)
    [row] = app_db.jobs()
    assert len(row["meta"]["unique"]) == 36


def test_a_unique_job_takes_two_statements_more_than_none(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.execute(text("SELECT 1"))
        enqueue(session, a_job())
        with app_db.counting() as sent:
            session.flush()
        assert [each.split()[0] for each in sent] == ["WITH", "INSERT"]

    app_db.run(work)


def test_a_foreign_key_of_the_same_flush_points_at_the_job_that_stood_in_the_way(app_db: AppDatabase) -> None:
    [first] = stored(app_db, a_job())

    def work(session: Session) -> None:
        job = a_job()
        report = Report(job=job)
        session.add(report)
        session.commit()
        assert (report.job_id, job.id) == (first, first) and report.job is job
        assert job.conflict is not None and inspect(job).persistent

    app_db.run(work)
    assert len(app_db.jobs()) == 1


def test_it_is_still_that_row_after_a_rollback(app_db: AppDatabase) -> None:
    [first] = stored(app_db, a_job())

    def work(session: Session) -> None:
        job = enqueue(session, a_job())
        session.flush()
        session.rollback()
        assert inspect(job).persistent and job.id == first and job.worker == "app.Work"
        session.expunge(job)
        assert inspect(job).detached and job.id == first

    app_db.run(work)


def test_a_job_that_was_rolled_back_is_no_conflict_for_the_next(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        first = enqueue(session, a_job())
        session.flush()
        session.rollback()
        again = enqueue(session, a_job())
        session.commit()
        assert again.conflict is None
        session.add(first)
        session.commit()
        assert first.conflict == Conflict(again.id, JobState.AVAILABLE)

    app_db.run(work)
    assert len(app_db.jobs()) == 1


def test_one_that_the_session_has_loaded_stays_that_object(app_db: AppDatabase) -> None:
    [first] = stored(app_db, a_job())

    def work(session: Session) -> None:
        loaded = session.get(Job, first)
        report = Report(job=a_job())
        session.add(report)
        job = report.job
        assert job is not None
        session.flush()
        assert job.conflict is not None and job.conflict.id == job.id == first
        assert inspect(job).detached and not session.new
        assert report.job is loaded and report.job_id == first
        session.commit()
        assert report.job is loaded

    app_db.run(work)


def test_two_of_one_flush_are_one(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        jobs = enqueue_many(session, [a_job(args={"n": n % 2}) for n in range(6)])
        session.commit()
        assert [job.conflict is None for job in jobs] == [True, True, False, False, False, False]
        assert [job.id for job in jobs] == [jobs[0].id, jobs[1].id] * 3
        assert jobs[5].state == JobState.AVAILABLE and jobs[5].inserted_at == jobs[1].inserted_at

    app_db.run(work)
    assert len(app_db.jobs()) == 2


def test_the_second_of_a_later_flush_is_outside_of_the_session(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        first = enqueue(session, a_job())
        session.flush()
        second = enqueue(session, a_job())
        session.flush()
        assert second.conflict == Conflict(first.id, JobState.AVAILABLE)
        assert inspect(second).detached and session.get(Job, second.id) is first
        session.commit()

    app_db.run(work)
    assert len(app_db.jobs()) == 1


def test_plain_jobs_of_the_same_flush_are_written_as_ever(app_db: AppDatabase) -> None:
    stored(app_db, a_job(args={"n": 0}))

    def work(session: Session) -> None:
        jobs = enqueue_many(session, [a_job(args={"n": n // 2}, unique=n % 2 == 0) for n in range(6)])
        session.commit()
        assert [job.conflict is not None for job in jobs] == [True, False, False, False, False, False]

    app_db.run(work)
    assert len(app_db.jobs()) == 6


def test_no_key_is_left_of_a_savepoint_that_is_rolled_back(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with pytest.raises(ZeroDivisionError), session.begin_nested():
            enqueue(session, a_job())
            session.flush()
            1 / 0  # noqa: B018
        again = enqueue(session, a_job())
        session.commit()
        assert again.conflict is None

    app_db.run(work)
    assert len(app_db.jobs()) == 1


def test_a_flush_that_fails_gives_a_job_back_what_it_was(app_db: AppDatabase) -> None:
    [first] = stored(app_db, a_job(args={"a": 1}, priority=5))

    def work(session: Session) -> None:
        job = enqueue(session, a_job(args={"a": 1}, priority=2))
        with pytest.raises(InvalidArguments):
            report = Report()
            session.add(report)
            enqueue(session, Job("x", args={"r": ref(report, "job_id")}))
            enqueue(session, a_job(args={"u": ref(report, "nothing")}))
        session.add(Report(job_id=987_654_321))
        with pytest.raises(Exception, match="foreign key"):
            session.flush()
        session.rollback()
        assert inspect(job).transient and job.priority == 2 and "id" not in vars(job)
        session.add(job)
        session.commit()
        assert job.id == first and job.priority == 5

    app_db.run(work)


# ways into the session


def test_added_and_cascaded_jobs_are_unique_too(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        first, second = a_job(), a_job()
        session.add(first)
        session.commit()
        session.add(second)
        session.commit()
        assert (first.conflict, second.id) == (None, first.id)

    app_db.run(work)
    assert len(app_db.jobs()) == 1


def test_a_job_that_only_the_mapper_writes_is_unique_too(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        first = a_job(errors=[{"at": "2020", "error": "x", "attempt": 1}])
        session.add(first)
        session.commit()
        second = a_job(errors=[{"at": "2020", "error": "y", "attempt": 1}])
        report = Report(job=second)
        third = a_job(args={"other": True}, errors=[{"at": "2020", "error": "z", "attempt": 1}])
        session.add_all([report, third])
        session.commit()
        assert (first.conflict, third.conflict) == (None, None)
        assert second.conflict == Conflict(first.id, JobState.AVAILABLE)
        assert report.job_id == first.id

    app_db.run(work)
    assert len(app_db.jobs()) == 2


def test_references_count_as_what_they_point_at(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User(email="a@b")
        session.add(user)
        first = enqueue(session, a_job(args={"user": ref(user)}))
        session.commit()
        second = enqueue(session, a_job(args={"user": user.id}))
        session.commit()
        assert (first.conflict, second.id) == (None, first.id)

    app_db.run(work)


def test_a_key_of_what_is_known_only_after_the_job_is_refused(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        report = Report()
        report.job = a_job(args={"report": ref(report)})
        session.add(report)
        with pytest.raises(InvalidArguments, match="unique key"):
            session.flush()

    app_db.run(work)


def test_what_a_reference_turns_out_to_be_does_not_reach_the_job_in_the_way(app_db: AppDatabase) -> None:
    by_worker = Unique(fields=["worker"])
    stored(app_db, a_job(by_worker, args={"first": True}))

    def work(session: Session) -> None:
        report = Report()
        report.job = a_job(by_worker, args={"report": ref(report)})
        session.add(report)
        session.commit()
        assert report.job.args == {"first": True}

    app_db.run(work)
    assert [job["args"] for job in app_db.jobs()] == [{"first": True}]


def test_a_key_that_is_claimed_before_the_flush_and_in_it_points_at_the_first(app_db: AppDatabase) -> None:
    by_worker = Unique(fields=["worker"])

    def work(session: Session) -> int:
        enqueue(session, a_job(by_worker, worker="app.Other"))
        session.flush()
        user = User(email="a@b")
        session.add(user)
        first = enqueue(session, a_job(by_worker))
        late = enqueue(session, a_job(by_worker, args={"user": ref(user)}))
        session.commit()
        assert (first.conflict, late.conflict) == (None, Conflict(first.id, JobState.AVAILABLE))
        assert (late.id, late.args) == (first.id, {})
        return first.id

    first = app_db.run(work)
    assert stored(app_db, a_job(by_worker)) == [first]
    assert len(app_db.jobs()) == 2


def test_hooks_see_unique_jobs_once_before_their_key_is_claimed(app_db: AppDatabase) -> None:
    seen: list[Any] = []

    def note(job: Job) -> None:
        seen.append(job.args)
        job.args = {"changed": True}

    remove = hooks.before_insert(note)
    try:

        def work(session: Session) -> None:
            first, second = enqueue(session, a_job(args={"a": 1})), enqueue(session, a_job(args={"a": 2}))
            session.commit()
            assert second.id == first.id

        app_db.run(work)
    finally:
        remove()
    assert seen == [{"a": 1}, {"a": 2}]


# announcements


def test_a_conflict_announces_nothing(app_db: AppDatabase) -> None:
    stored(app_db, a_job())
    assert len(app_db.heard()) == 1
    stored(app_db, a_job())
    assert app_db.heard() == []
    stored(app_db, a_job(), a_job(args={"b": 1}), a_job(args={"b": 2}))
    assert len(app_db.heard()) == 1 and [news.jobs for news in app_db.news] == [2]


def test_one_that_became_available_earlier_is_announced(app_db: AppDatabase) -> None:
    later = a_job(Unique(group="waiting"), schedule_in=3600)
    [first] = stored(app_db, later)
    assert app_db.heard() == []
    sooner = a_job(Unique(group="waiting", replace="newest"))
    assert stored(app_db, sooner) == [first]
    assert len(app_db.heard()) == 1
    [row] = app_db.jobs()
    assert row["state"] == "available"


# what two jobs are compared by


@pytest.mark.parametrize(
    ("unique", "other", "same"),
    [
        (Unique(), {"args": {"a": 1, "b": 2}}, True),
        (Unique(), {"args": {"b": 2, "a": 1}, "priority": 2}, True),
        (Unique(), {"args": {"a": 1, "b": 3}}, False),
        (Unique(), {"args": {"a": 1, "b": 2}, "worker": "app.Other"}, False),
        (Unique(), {"args": {"a": 1, "b": 2}, "queue": "other"}, False),
        (Unique(fields=["worker"]), {"args": {}, "queue": "other"}, True),
        (Unique(fields=["args"]), {"args": {"a": 1, "b": 2}, "worker": "app.Other", "queue": "other"}, True),
        (Unique(keys=["a"]), {"args": {"a": 1, "b": 3}}, True),
        (Unique(keys=["a"]), {"args": {"a": "1", "b": 2}}, False),
        (Unique(keys=["a", "c"]), {"args": {"a": 1, "b": 9}}, True),
        (Unique(fields=["worker", "meta"]), {"meta": {"m": 1}}, True),
        (Unique(fields=["worker", "meta"]), {"meta": {"m": 2}}, False),
        (Unique(fields=["worker"], meta_keys=["m"]), {"meta": {"m": 1, "n": 2}}, True),
        (Unique(fields=["worker"], meta_keys=["m"]), {"meta": {"n": 1}}, False),
    ],
)
def test_two_jobs_are_the_same(app_db: AppDatabase, unique: Unique, other: dict[str, Any], same: bool) -> None:
    [first] = stored(app_db, a_job(unique, args={"a": 1, "b": 2}, meta={"m": 1}))
    [second] = stored(app_db, a_job(unique, **other))
    assert (first == second) is same


@pytest.mark.parametrize(
    ("group", "blocking"),
    [
        ("waiting", "available scheduled retryable suspended"),
        ("incomplete", "available scheduled retryable suspended executing"),
        ("scheduled", "scheduled"),
        ("successful", "available scheduled retryable suspended executing completed"),
        ("all", "available scheduled retryable suspended executing completed cancelled discarded"),
    ],
)
def test_a_group_says_in_which_states_a_job_stands_in_the_way(app_db: AppDatabase, group: Any, blocking: str) -> None:
    for state in JobState:
        [first] = stored(app_db, a_job(args={"state": state}))
        app_db.execute(f"UPDATE oban_jobs SET state = '{state}', scheduled_at = timezone('UTC', clock_timestamp())")
        # A changed group holds at once: the older job was enqueued with another.
        [second] = stored(app_db, a_job(Unique(group=group), args={"state": state}))
        assert (first == second) == (state in blocking.split()), state


def test_a_period_is_counted_from_when_jobs_are_scheduled(app_db: AppDatabase) -> None:
    hour, start = Unique(period="1 hour"), datetime(2050, 1, 1, tzinfo=UTC)

    def at(minutes: int) -> Job:
        return a_job(hour, scheduled_at=start + timedelta(minutes=minutes))

    [first] = stored(app_db, at(0))
    assert stored(app_db, at(59)) == [first]
    [second] = stored(app_db, at(60))
    assert second != first
    assert stored(app_db, at(119)) == [second]
    # In one flush as in several.
    ids = stored(app_db, *(at(minutes) for minutes in (200, 210, 260, 270, 319, 320)))
    assert [ids.index(each) for each in ids] == [0, 0, 2, 2, 2, 5]


def test_what_has_been_due_for_a_second_is_not_joined_any_more(app_db: AppDatabase) -> None:
    waiting = Unique(group="waiting")
    [first] = stored(app_db, a_job(waiting))
    assert stored(app_db, a_job(waiting)) == [first]
    app_db.execute("UPDATE oban_jobs SET scheduled_at = timezone('UTC', clock_timestamp()) - interval '1.1 seconds'")
    [second] = stored(app_db, a_job(waiting))
    assert second != first
    assert stored(app_db, a_job(waiting)) == [second]


# replacing


def test_fields_of_the_older_job_are_replaced(app_db: AppDatabase) -> None:
    unique = Unique(keys=["doc"], replace={"scheduled": ["args", "scheduled_at", "tags"], "available": ["priority"]})
    at = datetime(2050, 1, 1, tzinfo=UTC)
    [first] = stored(app_db, a_job(unique, args={"doc": 1, "n": 1}, scheduled_at=at))

    def work(session: Session) -> None:
        job = enqueue(
            session,
            a_job(unique, args={"doc": 1, "n": 2}, scheduled_at=at + timedelta(1), tags=['a"b'], priority=4),
        )
        session.commit()
        assert job.conflict == Conflict(first, JobState.SCHEDULED, ("args", "scheduled_at", "tags"))
        assert (job.id, job.args, job.scheduled_at) == (first, {"doc": 1, "n": 2}, at + timedelta(1))
        assert (job.tags, job.priority, job.state) == (['a"b'], 0, JobState.SCHEDULED)
        app_db.execute("UPDATE oban_jobs SET state = 'available'")
        job = enqueue(session, a_job(unique, args={"doc": 1, "n": 3}, priority=4))
        session.commit()
        assert job.conflict == Conflict(first, JobState.AVAILABLE, ("priority",))
        loaded = session.get(Job, first)
        assert loaded is not None and (loaded.args, loaded.priority) == ({"doc": 1, "n": 2}, 4)
        app_db.execute("UPDATE oban_jobs SET state = 'executing'")
        job = enqueue(session, a_job(unique, args={"doc": 1, "n": 4}, priority=5))
        session.commit()
        assert job.conflict == Conflict(first, JobState.EXECUTING)

    app_db.run(work)
    [row] = app_db.jobs()
    assert row["args"] == {"doc": 1, "n": 2} and "unique" in row["meta"]


def test_the_newest_of_one_flush_replaces_the_others(app_db: AppDatabase) -> None:
    unique = Unique(keys=["doc"], group="waiting", replace="newest")

    def work(session: Session) -> None:
        jobs = enqueue_many(session, [a_job(unique, args={"doc": 1, "n": n}, meta={"n": n}) for n in range(3)])
        session.commit()
        assert jobs[2].conflict == Conflict(jobs[0].id, JobState.AVAILABLE, ("args", "meta", "scheduled_at"))
        jobs = enqueue_many(session, [a_job(unique, args={"doc": 1, "n": n}, meta={"n": n}) for n in range(3, 6)])
        session.commit()
        assert jobs[0].conflict is not None

    app_db.run(work)
    [row] = app_db.jobs()
    assert row["args"] == {"doc": 1, "n": 5} and row["meta"]["n"] == 5 and "unique" in row["meta"]


def test_replaced_attempts_are_never_fewer_than_were_made(app_db: AppDatabase) -> None:
    unique = Unique(replace=["max_attempts"])
    stored(app_db, a_job(unique))
    app_db.execute("UPDATE oban_jobs SET state = 'retryable', attempt = 7")

    def work(session: Session) -> None:
        job = enqueue(session, a_job(unique, max_attempts=3))
        session.commit()
        assert (job.max_attempts, job.attempt) == (8, 7)

    app_db.run(work)
