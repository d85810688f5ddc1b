"""`enqueue` and `enqueue_many`, from every kind of session and on every driver."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import create_engine, func, inspect, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from oban_sa.errors import InvalidArguments, InvalidJob, JobNeverWritten, ReferenceOutsideSession
from oban_sa.jobs.references import ref
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from tests.factories import a_job
from tests.places import Account, AppDatabase, User

# What the flush does


def test_a_committed_job_is_stored_with_its_args_meta_and_queue(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job(args={"a": [1, {"b": None}]}, meta={"m": "ü"}, queue="mailers"))
        session.commit()

    app_db.run(work)

    (stored,) = app_db.jobs()
    assert (stored["args"], stored["meta"], stored["queue"]) == ({"a": [1, {"b": None}]}, {"m": "ü"}, "mailers")


def test_enqueue_returns_the_job_it_was_given(app_db: AppDatabase) -> None:
    job = a_job()

    def work(session: Session) -> None:
        assert enqueue(session, job) is job
        session.rollback()

    app_db.run(work)


def test_nothing_is_written_before_the_flush(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with app_db.counting() as sent:
            enqueue(session, a_job())
            assert sent == []
            session.flush()
            assert sent

    app_db.run(work)


@pytest.mark.parametrize("expire", [True, False])
def test_after_the_flush_the_job_knows_what_the_database_made_of_it_without_another_query(
    app_db: AppDatabase, expire: bool
) -> None:
    def work(session: Session) -> None:
        job = enqueue(session, a_job())
        session.flush()
        with app_db.counting() as sent:
            assert job.id > 0
            assert job.state == JobState.AVAILABLE
            assert job.inserted_at.tzinfo is not None
            assert job.scheduled_at == job.inserted_at
        assert sent == []

    app_db.run(work, expire_on_commit=expire)


def test_after_the_commit_the_job_is_readable_where_the_session_does_not_expire(app_db: AppDatabase) -> None:
    def work(session: Session) -> Job:
        job = enqueue(session, a_job(args={"a": 1}))
        session.commit()
        return job

    job = app_db.run(work, expire_on_commit=False)

    assert job.id == app_db.jobs()[0]["id"]
    assert (job.args, job.state) == ({"a": 1}, JobState.AVAILABLE)


def test_after_the_commit_an_expiring_session_reads_the_job_again(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        job = enqueue(session, a_job(args={"a": 1}))
        session.commit()
        assert inspect(job).expired_attributes
        assert job.args == {"a": 1}

    app_db.run(work, expire_on_commit=True)


def test_an_expired_job_still_knows_its_id_whether_its_session_is_there_or_not(app_db: AppDatabase) -> None:
    def work(session: Session) -> Job:
        job = enqueue(session, a_job())
        session.commit()
        with app_db.counting() as sent:
            assert job.id > 0
        assert sent == []
        session.refresh(job)
        session.expire(job, ["id", "args"])
        with app_db.counting() as sent:
            assert job.id > 0
        assert sent == []
        session.commit()
        return job

    job = app_db.run(work, expire_on_commit=True)

    assert job.id == app_db.jobs()[0]["id"]
    assert "args" in inspect(job).unloaded


def test_a_job_is_written_by_the_autoflush_of_a_query(app_db: AppDatabase) -> None:
    def work(session: Session) -> Any:
        enqueue(session, a_job())
        return session.scalar(select(func.count()).select_from(Job))

    assert app_db.run(work) == 1


def test_a_query_without_autoflush_does_not_see_the_job(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        assert session.scalar(select(func.count()).select_from(Job)) == 0
        session.commit()

    app_db.run(work, autoflush=False)

    assert len(app_db.jobs()) == 1


def test_a_scheduled_job_is_stored_as_scheduled(app_db: AppDatabase) -> None:
    def work(session: Session) -> Job:
        job = enqueue(session, a_job(schedule_in=60))
        session.commit()
        return job

    job = app_db.run(work, expire_on_commit=False)

    assert job.state == JobState.SCHEDULED
    assert app_db.jobs()[0]["state"] == "scheduled"


def test_args_and_meta_are_json_as_soon_as_they_are_enqueued(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        mine = {"items": (1, 2)}
        job = enqueue(session, a_job(args=mine, meta=mine))
        assert (job.args, job.meta) == ({"items": [1, 2]}, {"items": [1, 2]})
        mine["items"] = (3,)
        session.commit()

    app_db.run(work)

    assert (app_db.jobs()[0]["args"], app_db.jobs()[0]["meta"]) == ({"items": [1, 2]}, {"items": [1, 2]})


def test_many_jobs_are_written_in_their_order(app_db: AppDatabase) -> None:
    def work(session: Session) -> list[int]:
        jobs = enqueue_many(session, (a_job(args={"n": n}) for n in range(2_500)))
        session.commit()
        return [job.id for job in jobs]

    ids = app_db.run(work, expire_on_commit=False)

    assert [(job["id"], job["args"]["n"]) for job in app_db.jobs()] == list(zip(ids, range(2_500), strict=True))
    assert ids == sorted(ids)


def test_no_jobs_are_enqueued_without_a_trace(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        assert enqueue_many(session, []) == []
        session.commit()
        assert session.info == {}

    with app_db.counting() as sent:
        app_db.run(work)

    assert sent == []


def test_a_job_may_bring_its_own_id(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job(id=4_000_000_000))
        session.commit()

    app_db.run(work)

    assert [job["id"] for job in app_db.jobs()] == [4_000_000_000]


def test_enqueueing_a_pending_job_again_changes_nothing(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        job = a_job()
        session.add(job)
        assert enqueue(session, enqueue(session, job)) is job
        session.commit()

    app_db.run(work)

    assert len(app_db.jobs()) == 1


def test_adding_a_job_to_the_session_means_the_same(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User(email="ada@example.com")
        session.add(user)
        job = a_job(args={"id": ref(user), "to": [ref(user, "email")], "when": (1, 2)})
        session.add(job)
        session.commit()
        assert job.args == {"id": user.id, "to": ["ada@example.com"], "when": [1, 2]}

    app_db.run(work)

    assert app_db.jobs()[0]["args"]["to"] == ["ada@example.com"]
    assert app_db.heard() == [("public.oban_insert", '{"queue":"default"}')]


def test_a_job_reached_by_a_cascade_is_announced_and_resolved(app_db: AppDatabase) -> None:
    from tests.places import Report

    def work(session: Session) -> None:
        report = Report()
        report.job = a_job(args={"report": ref(report)})
        session.add(report)
        session.commit()
        assert report.job_id == report.job.id
        assert report.job.args == {"report": report.id}

    app_db.run(work)

    assert app_db.count("reports WHERE job_id IS NOT NULL") == 1
    assert app_db.heard() == [("public.oban_insert", '{"queue":"default"}')]


def test_a_merged_job_is_written_and_announced(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        merged = session.merge(a_job(args={"user": ref(user)}))
        session.commit()
        assert merged.args == {"user": user.id}

    app_db.run(work)

    assert len(app_db.jobs()) == 1
    assert app_db.heard() == [("public.oban_insert", '{"queue":"default"}')]


def test_an_expunged_job_is_not_written(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        job = enqueue(session, a_job(args={"kept": False}))
        enqueue(session, a_job(args={"kept": True}))
        session.expunge(job)
        session.commit()

    app_db.run(work)

    assert [job["args"] for job in app_db.jobs()] == [{"kept": True}]


@pytest.mark.parametrize("let_go", [Session.expunge_all, Session.close, Session.reset], ids=lambda fn: fn.__name__)
def test_a_session_that_let_go_of_everything_forgets_its_jobs_and_works_on(
    app_db: AppDatabase, let_go: Callable[[Session], None]
) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        enqueue(session, a_job(args={"id": ref(user)}))
        ends = let_go is not Session.expunge_all
        with pytest.warns(JobNeverWritten) if ends else nullcontext():
            let_go(session)
        session.commit()
        again = User()
        session.add(again)
        enqueue(session, a_job(args={"again": ref(again)}))
        session.commit()

    app_db.run(work)

    assert [list(job["args"]) for job in app_db.jobs()] == [["again"]]
    assert app_db.count("users") == 1


def test_a_job_enqueued_by_the_users_own_before_flush_is_part_of_that_flush(app_db: AppDatabase) -> None:
    from sqlalchemy import event

    def work(session: Session) -> None:
        def audit(session: Session, *rest: Any) -> None:
            for each in list(session.new):
                if isinstance(each, User):
                    jobs.append(enqueue(session, a_job(args={"new": ref(each)})))

        jobs: list[Job] = []
        event.listen(session, "before_flush", audit)
        user = User()
        session.add(user)
        session.flush()
        assert [job.args for job in jobs] == [{"new": user.id}]
        session.commit()

    app_db.run(work)

    assert len(app_db.jobs()) == 1


def test_a_job_enqueued_by_the_users_own_after_flush_is_part_of_the_commit(app_db: AppDatabase) -> None:
    from sqlalchemy import event

    def work(session: Session) -> None:
        def follow(session: Session, *rest: Any) -> None:
            for each in session.new:
                if isinstance(each, User):
                    enqueue(session, a_job(args={"new": ref(each)}, queue="after"))
                    break

        event.listen(session, "after_flush", follow)
        session.add(User())
        session.commit()

    app_db.run(work)

    assert [job["queue"] for job in app_db.jobs()] == ["after"]
    assert app_db.heard() == [("public.oban_insert", '{"queue":"after"}')]


def test_an_update_of_a_stored_job_may_hold_references(app_db: AppDatabase) -> None:
    def work(session: Session) -> int:
        job = enqueue(session, a_job(meta={"kept": True}))
        session.commit()
        user = User()
        session.add(user)
        job.update({"args": {"user": ref(user)}})
        session.commit()
        assert job.args == {"user": user.id}
        return user.id

    number = app_db.run(work)

    assert [(job["args"], job["meta"]) for job in app_db.jobs()] == [({"user": number}, {"kept": True})]


# Kinds of sessions


def test_scoped_sessions_are_sessions(app_db: AppDatabase) -> None:
    if app_db.driver == "asyncpg":
        pytest.skip("see the asynchronous one")
    sessions = scoped_session(sessionmaker(app_db.engine))

    enqueue(sessions, a_job())
    enqueue_many(sessions, [a_job()])
    sessions.commit()
    sessions.remove()

    assert len(app_db.jobs()) == 2


async def test_async_sessions_are_sessions(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions.begin() as session:
        user = User(email="ada@example.com")
        job = enqueue(session, a_job())
        (other,) = enqueue_many(session, [a_job()])
    assert user.id is None
    assert job.id < other.id


async def test_async_scoped_sessions_are_sessions(engine: AsyncEngine) -> None:
    sessions = async_scoped_session(async_sessionmaker(engine), scopefunc=asyncio.current_task)
    enqueue(sessions, a_job())
    job = enqueue(sessions, a_job(args={"n": 2}))
    await sessions.flush()
    assert job.id
    await sessions.commit()
    assert await sessions.scalar(select(func.count()).select_from(Job)) == 2
    await sessions.remove()


async def test_psycopgs_own_asynchronous_driver_works_too(database_url: str) -> None:
    from sqlalchemy.ext.asyncio import create_async_engine

    from tests.support import sync_url

    engine = create_async_engine(sync_url(database_url))
    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        first = enqueue(session, a_job())
        second = enqueue(session, a_job(args={"after": ref(first)}))
    assert second.args == {"after": first.id}
    await engine.dispose()


async def test_an_expired_attribute_is_read_inside_the_flush(sessions: async_sessionmaker[AsyncSession]) -> None:
    async with sessions() as session:
        account = enqueue(session, a_job(meta={"name": "ada"}))
        await session.commit()
        session.expire(account)
        job = enqueue(session, a_job(args={"id": ref(account), "meta": ref(account, "meta")}))
        await session.commit()
        assert job.args == {"id": account.id, "meta": {"name": "ada"}}


def test_two_sessions_in_one_thread_keep_apart(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with Session(session.get_bind()) as other:
            enqueue(session, a_job(queue="first"))
            enqueue(other, a_job(queue="second"))
            other.flush()
            other.rollback()
            session.commit()

    app_db.run(work)

    assert [job["queue"] for job in app_db.jobs()] == ["first"]
    assert app_db.heard() == [("public.oban_insert", '{"queue":"first"}')]


# What is refused

REFUSED: list[tuple[Any, type[Exception], str]] = [
    (lambda s: enqueue(s, a_job(args={"x": {1}})), InvalidArguments, "args.x is a set"),
    (lambda s: enqueue(s, a_job(meta={"x": [float("nan")]})), InvalidArguments, r"meta.x\[0\] is nan"),
    (lambda s: enqueue(s, a_job(args={"x": "a\0"})), InvalidArguments, "args.x contains a NUL"),
    (lambda s: enqueue_many(s, [a_job(), a_job(args={"x": object()})]), InvalidArguments, "args.x is an object"),
    (lambda s: enqueue(s, a_job(args={"u": ref(User())})), ReferenceOutsideSession, r"args.u .* session.add\(obj\)"),
    (lambda s: enqueue(s, a_job(args={"u": ref(7)})), InvalidArguments, "args.u .* write the value itself"),
    (lambda s: enqueue(s, a_job(args={"u": ref(User)})), InvalidArguments, "args.u .* write the value itself"),
    (lambda s: enqueue(s, a_job(state=JobState.EXECUTING)), InvalidJob, "executing can't be enqueued"),
    (lambda s: enqueue(s, a_job(state=JobState.COMPLETED)), InvalidJob, "completed can't be enqueued"),
    (lambda s: enqueue(s, "app.Work"), TypeError, "a Job is enqueued, and this is a str; .*SendWelcome.new"),
    (lambda s: enqueue(s, {"id": 1}), TypeError, "this is a dict"),
    (lambda s: enqueue(s, None), TypeError, "this is a NoneType"),
    (lambda s: enqueue(s, [a_job()]), TypeError, r"enqueue_many\(session, jobs\)"),
    (lambda s: enqueue(s, s), TypeError, r"the session comes first: enqueue\(session, job\)"),
    (lambda s: enqueue(s, SendWelcome), TypeError, r"the class SendWelcome; write enqueue\(session, SendWelcome.new"),
    (lambda s: enqueue(s, SendWelcome()), TypeError, r"a SendWelcome; write enqueue\(session, SendWelcome.new"),
    (lambda s: enqueue(s, Plain), TypeError, r"put @worker\(\) before the class"),
    (lambda s: enqueue(s, plain), TypeError, r"put @job\(\) before the function"),
    (lambda s: enqueue(s, plain()), TypeError, r"function.new\("),
    (lambda s: enqueue_many(s, a_job()), TypeError, r"for one write enqueue\(session, job\)"),
    (lambda s: enqueue_many(s, several()), TypeError, r"\[job async for job in jobs\]"),
    (lambda s: enqueue_many(s, [a_job(), None]), TypeError, "this is a NoneType"),
    (lambda s: enqueue_many(s, [a_job()] * 2), InvalidJob, "stands twice"),
    (
        lambda s: enqueue(a_job(), s),
        TypeError,
        r"a session comes first, and this is a Job; write enqueue\(session, job",
    ),
    (lambda s: enqueue(sessionmaker(), a_job()), TypeError, "a sessionmaker; open one: with sessions.begin"),
    (lambda s: enqueue(async_sessionmaker(), a_job()), TypeError, "an async_sessionmaker; open one: async with"),
    (lambda s: enqueue(async_sessionmaker().begin(), a_job()), TypeError, "enter it: async with"),
    (lambda s: enqueue(create_engine("postgresql+psycopg://"), a_job()), TypeError, r"with Session\(engine\)"),
    (lambda s: enqueue(sessionmaker().begin(), a_job()), TypeError, "enter it: with"),
    (lambda s: enqueue(None, a_job()), TypeError, "enqueue takes Session, AsyncSession"),
]


class SendWelcome:
    @classmethod
    def new(cls) -> Job:
        return a_job()


class Plain:
    pass


async def plain() -> None: ...


async def several() -> Any:
    yield a_job()


@pytest.mark.parametrize(("mistake", "error", "words"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_a_mistake_is_refused_before_anything_is_staged(
    mistake: Callable[[Session], Any], error: type[Exception], words: str
) -> None:
    with Session() as session:  # without a database: nothing here may ask for one
        with pytest.raises(error, match=words):
            mistake(session)
        assert not session.new
        assert session.info == {}


async def test_an_entered_async_session_is_wanted_not_its_factory(engine: AsyncEngine) -> None:
    with pytest.raises(TypeError, match="an AsyncEngine; open one: async with AsyncSession"):
        enqueue(engine, a_job())  # type: ignore[arg-type]


def test_a_stored_job_is_not_enqueued_again(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        job = enqueue(session, a_job())
        session.flush()
        with pytest.raises(InvalidJob, match="is stored already; retry that one"):
            enqueue(session, job)
        session.commit()
        session.expunge_all()
        with pytest.raises(InvalidJob, match="is stored already"):
            enqueue(session, job)

    app_db.run(work)


def test_a_job_that_is_pending_elsewhere_is_refused_by_sqlalchemy() -> None:
    with Session() as session, Session() as other:
        job = enqueue(other, a_job())
        with pytest.raises(InvalidRequestError, match="already attached to session"):
            enqueue(session, job)
        other.rollback()


def test_an_added_job_with_args_that_are_not_json_is_refused_by_the_flush(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.add(Account(name="ada"))
        session.add(a_job(args={"deep": [{"x": {1}}]}))
        with pytest.raises(InvalidArguments, match=r"args.deep\[0\].x is a set") as refused:
            session.flush()
        assert refused.value.path == "args.deep[0].x"
        session.rollback()
        session.commit()

    app_db.run(work)

    assert (app_db.jobs(), app_db.count("accounts")) == ([], 0)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        (lambda user: ref(7), r"args\.x is ref\(<int>\), and ref\(\) takes an object of a mapped class"),
        (lambda user: ref(user, "emial"), "did you mean 'email'"),
    ],
    ids=["unmapped", "misspelled"],
)
def test_an_added_job_with_a_reference_that_means_nothing_is_refused_by_the_flush(
    app_db: AppDatabase, reference: Callable[[User], Any], words: str
) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        session.add(a_job(args={"x": reference(user)}))
        with app_db.counting() as sent, pytest.raises(InvalidArguments, match=words):
            session.flush()
        assert not [statement for statement in sent if "oban_jobs" in statement]

    app_db.run(work)


def test_an_added_job_with_a_reference_to_nowhere_is_refused_by_the_flush(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.add(a_job(args={"user": ref(User())}))
        with app_db.counting() as sent, pytest.raises(ReferenceOutsideSession, match=r"args\.user .* is in no session"):
            session.flush()
        assert sent == []

    app_db.run(work)


# What it costs


@pytest.mark.parametrize(("count", "inserts"), [(1, 1), (10, 1), (100, 1), (1_000, 1), (10_001, 2)])
def test_ten_thousand_jobs_share_an_insert_and_all_an_announcement(
    app_db: AppDatabase, count: int, inserts: int
) -> None:
    def work(session: Session) -> None:
        enqueue_many(session, [a_job() for _ in range(count)])
        session.commit()

    if count > 1_000 and app_db.driver != "asyncpg":
        pytest.skip("one driver is enough for so many")
    with app_db.counting() as sent:
        app_db.run(work)

    assert ["INSERT" in statement for statement in sent] == [True] * inserts
    assert ["pg_notify" in statement for statement in sent] == [False] * (inserts - 1) + [True]
    assert len(app_db.jobs()) == count


def test_one_job_costs_a_transaction_one_statement_that_also_announces_it(app_db: AppDatabase) -> None:
    def work(session: Session, *jobs: Job) -> None:
        session.add(User())
        enqueue_many(session, jobs)
        session.commit()

    with app_db.counting() as without:
        app_db.run(work)
    with app_db.counting() as sent:
        app_db.run(lambda session: work(session, a_job()))

    added = [statement for statement in sent if statement not in without]
    assert len(sent) == len(without) + 1
    assert [("oban_jobs" in statement, "pg_notify" in statement) for statement in added] == [(True, True)]


def test_what_has_no_value_yet_is_neither_sent_nor_fetched_back(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        first, second = enqueue_many(session, [a_job(), a_job()])
        session.flush()
        with app_db.counting() as sent:
            for moment in ("attempted_at", "completed_at", "cancelled_at", "discarded_at"):
                assert getattr(first, moment) is None
                assert moment not in inspect(second).unloaded
        assert sent == []

    with app_db.counting() as sent:
        app_db.run(work)

    (insert,) = sent
    for moment in ("attempted_at", "completed_at", "cancelled_at", "discarded_at"):
        assert moment not in insert
    returned = insert.partition("RETURNING")[2]
    for column in ("state", "queue", "worker", "args", "meta", "tags", "priority", "attempted_by"):
        assert f"{column}" not in returned


def test_a_moment_that_was_given_is_written(app_db: AppDatabase) -> None:
    moment = datetime(2030, 1, 2, tzinfo=UTC)

    def work(session: Session) -> datetime | None:
        session.add(a_job(state=JobState.COMPLETED, completed_at=moment))
        session.add(a_job())
        session.commit()
        found = session.scalars(select(Job.completed_at).order_by(Job.id)).all()
        assert found[1] is None
        return found[0]

    assert app_db.run(work) == moment


def test_a_session_that_enqueues_nothing_runs_no_statement_and_is_left_alone(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with app_db.counting() as sent:
            session.add(User())
            session.commit()
        assert len(sent) == 1
        assert "info" not in vars(session)  # looked for, and not made
        for name in ("before_flush", "after_flush", "before_commit", "after_commit"):
            listening = getattr(session.dispatch, name)  # to all sessions
            assert len([each for each in listening if each.__module__ != "oban_sa.outbox.flow"]) == 1
        assert not list(session.dispatch.after_soft_rollback)
        for name in ("before_insert", "after_insert", "before_update", "expire"):
            assert not list(getattr(inspect(User).dispatch, name, ()))

    app_db.run(work)
