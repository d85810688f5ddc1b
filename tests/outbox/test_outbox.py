"""What becomes of jobs and announcements with the transaction they were enqueued in."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker

from oban_sa.jobs.references import ref
from oban_sa.models import Job
from oban_sa.models.base import schema_map
from oban_sa.outbox.announcements import ANNOUNCE
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from oban_sa.outbox.outbox import KEY
from tests.factories import a_job, announced
from tests.places import AppDatabase, User
from tests.support import sync_url

# P1: a job exists if and only if its transaction committed


def test_a_rolled_back_job_neither_exists_nor_is_announced(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.add(User())
        enqueue(session, a_job())
        session.flush()
        session.rollback()

    app_db.run(work)

    assert (app_db.jobs(), app_db.count("users"), app_db.heard()) == ([], 0, [])


def test_an_exception_in_the_block_leaves_neither_data_nor_job(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with session.begin():
            session.add(User())
            enqueue(session, a_job())
            session.flush()
            raise LookupError("in the user's code")

    with pytest.raises(LookupError):
        app_db.run(work)

    assert (app_db.jobs(), app_db.count("users"), app_db.heard()) == ([], 0, [])


def test_a_closed_session_leaves_no_job(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()

    app_db.run(work)

    assert (app_db.jobs(), app_db.heard()) == ([], [])


def test_a_savepoint_that_rolls_back_takes_its_jobs_with_it(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        enqueue(session, a_job("before", args={"u": ref(user)}))
        savepoint = session.begin_nested()
        enqueue(session, a_job("within", args={"u": ref(user)}))
        session.flush()
        savepoint.rollback()
        enqueue(session, a_job("after", args={"u": ref(user)}))
        session.commit()

    app_db.run(work)

    assert [job["queue"] for job in app_db.jobs()] == ["before", "after"]
    assert sorted(app_db.heard()) == announced("after", "before")


def test_a_savepoint_that_rolls_back_takes_jobs_that_were_never_flushed(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        job = enqueue(session, a_job("within"))
        savepoint.rollback()
        assert job not in session
        session.commit()

    app_db.run(work)

    assert (app_db.jobs(), app_db.heard()) == ([], [])


def test_nested_savepoints_keep_what_each_of_them_kept(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with session.begin_nested():
            enqueue(session, a_job("outer"))
            inner = session.begin_nested()
            enqueue(session, a_job("inner"))
            session.flush()
            inner.rollback()
            with session.begin_nested():
                enqueue(session, a_job("released"))
        lost = session.begin_nested()
        with session.begin_nested():
            enqueue(session, a_job("released, then lost"))
        lost.rollback()
        session.commit()

    app_db.run(work)

    assert [job["queue"] for job in app_db.jobs()] == ["outer", "released"]
    assert sorted(app_db.heard()) == announced("outer", "released")


def test_a_job_whose_insert_was_rolled_back_is_transient_again_and_may_be_enqueued_once_more(
    app_db: AppDatabase,
) -> None:
    def work(session: Session) -> None:
        user = User()
        session.add(user)
        job = enqueue(session, a_job(args={"user": ref(user)}))
        session.flush()
        session.rollback()
        assert inspect(job).transient
        session.add(user)
        enqueue(session, job)
        session.commit()
        assert job.args == {"user": user.id}

    app_db.run(work)

    assert len(app_db.jobs()) == 1
    assert app_db.heard() == announced("default")


def test_a_flush_that_failed_after_its_job_was_written_leaves_nothing_to_the_next(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.add(User(id=1))
        session.commit()
        session.expunge_all()
        user = User(id=1, email="its key is taken")
        session.add(user)
        lost = enqueue(session, a_job("lost", args={"user": ref(user)}))
        with pytest.raises(IntegrityError):
            session.flush()
        session.rollback()
        assert inspect(lost).transient
        enqueue(session, a_job("kept"))
        session.commit()

    app_db.run(work)

    assert [job["queue"] for job in app_db.jobs()] == ["kept"]
    assert app_db.heard() == announced("kept")


def test_a_session_is_used_again_after_commit_rollback_and_close(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        for ending in (session.commit, session.rollback, session.close, session.commit):
            enqueue(session, a_job(ending.__name__))
            session.flush()
            ending()

    app_db.run(work)

    assert [job["queue"] for job in app_db.jobs()] == ["commit", "commit"]
    assert app_db.heard() == announced("commit", "commit")


def test_begin_contexts_commit_the_job_with_the_block(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with session.begin():
            enqueue(session, a_job("first"))
        with session.begin():
            enqueue(session, a_job("second"))

    app_db.run(work)

    assert [job["queue"] for job in app_db.jobs()] == ["first", "second"]


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only", "conditional_savepoint"])
def test_a_session_inside_an_outer_transaction_leaves_nothing_when_that_rolls_back(
    app_db: AppDatabase, mode: Any
) -> None:
    def outer(connection: Any) -> None:
        savepoint = connection.begin_nested()
        with Session(connection, join_transaction_mode=mode) as session:
            user = User()
            session.add(user)
            first = enqueue(session, a_job(args={"user": ref(user)}))
            session.commit()
            assert first.args == {"user": user.id}
            enqueue(session, a_job())
            session.flush()
            session.rollback()
            if mode == "create_savepoint":
                enqueue(session, a_job(args={"n": 2}))
                session.commit()
                assert session.query(Job).count() == 2
        if savepoint.is_active:
            savepoint.rollback()

    app_db.work_on_engine(outer)

    assert (app_db.jobs(), app_db.heard()) == ([], [])


def test_a_two_phase_transaction_carries_jobs_and_no_announcement(app_db: AppDatabase) -> None:
    if app_db.driver == "asyncpg":
        pytest.skip("asyncpg has no two-phase transactions")

    def work(session: Session) -> None:
        user = User()
        session.add(user)
        enqueue(session, a_job(args={"user": ref(user)}))
        with session.begin_nested():
            enqueue(session, a_job())
        session.prepare()
        session.commit()

    try:
        app_db.run(work, twophase=True)
    except Exception as error:
        if "max_prepared_transactions" in str(error):
            pytest.skip("this server prepares no transactions")
        raise

    assert len(app_db.jobs()) == 2
    assert app_db.heard() == []


# Announcements


def test_one_notification_for_each_queue_of_a_transaction(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue_many(session, [a_job("b"), a_job("a"), a_job("b")])
        session.flush()
        enqueue_many(session, [a_job("b"), a_job("c")])
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("a", "b", "c")


def test_each_transaction_announces_anew(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        for _ in range(2):
            enqueue(session, a_job())
            session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default", "default")


def test_only_available_jobs_are_announced(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job("later", schedule_in=1))
        enqueue(session, a_job("held", state="suspended"))
        session.add(a_job("past", state="completed"))
        session.commit()

    app_db.run(work)

    assert len(app_db.jobs()) == 3
    assert app_db.heard() == []


def test_what_a_rolled_back_savepoint_announced_is_announced_again(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        enqueue(session, a_job())
        session.flush()
        savepoint.rollback()
        enqueue(session, a_job())
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default")


def test_what_a_released_savepoint_announced_is_lost_with_the_savepoint_around_it(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        outer = session.begin_nested()
        with session.begin_nested():
            enqueue(session, a_job())
        outer.rollback()
        enqueue(session, a_job())
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default")


def test_a_queue_is_announced_by_one_statement_of_a_transaction_however_many_flushes_and_savepoints(
    app_db: AppDatabase,
) -> None:
    def work(session: Session) -> None:
        with session.begin_nested():
            with session.begin_nested():
                enqueue(session, a_job())
            enqueue(session, a_job())
        for _ in range(3):
            enqueue(session, a_job())
            session.flush()
        session.commit()

    with app_db.counting() as sent:
        app_db.run(work)

    assert len([statement for statement in sent if "pg_notify" in statement]) == 1
    assert app_db.heard() == announced("default")


SILENCE: list[Callable[[Any], dict[str, Any]]] = [
    lambda bind: {"info": {ANNOUNCE: False}},
    lambda bind: {"bind": bind.execution_options(**{ANNOUNCE: False})},
]


@pytest.mark.parametrize("silence", SILENCE, ids=["session", "engine"])
def test_announcements_can_be_switched_off(app_db: AppDatabase, silence: Callable[[Any], dict[str, Any]]) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()

    app_db.run(work, **silence(app_db.bind))

    assert len(app_db.jobs()) == 1
    assert app_db.heard() == []


def test_announcements_can_be_switched_off_on_a_connection(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        session.connection(execution_options={ANNOUNCE: False})
        enqueue(session, a_job())
        session.commit()

    app_db.run(work)

    assert app_db.heard() == []


def test_jobs_and_announcements_follow_the_schema_of_the_engine(app_db: AppDatabase) -> None:
    app_db.execute("DROP SCHEMA IF EXISTS jobs CASCADE")
    app_db.execute("CREATE SCHEMA jobs")
    bind = app_db.bind.execution_options(schema_translate_map=schema_map("jobs"))
    app_db.execute("CREATE TYPE jobs.oban_job_state AS ENUM ('available', 'scheduled', 'executing')")
    app_db.execute("CREATE TABLE jobs.oban_jobs (LIKE public.oban_jobs INCLUDING DEFAULTS INCLUDING IDENTITY)")
    app_db.execute("ALTER TABLE jobs.oban_jobs ALTER state DROP DEFAULT")
    app_db.execute("ALTER TABLE jobs.oban_jobs ALTER state TYPE jobs.oban_job_state USING 'available'")

    def work(session: Session) -> None:
        user = User()
        session.add(user)
        enqueue(session, a_job("elsewhere", args={"user": ref(user)}))
        session.commit()

    app_db.run(work, bind=bind)

    assert app_db.jobs() == []
    (stored,) = app_db.jobs("jobs")
    assert stored["args"]["user"] > 0
    assert app_db.heard() == announced("elsewhere", schema="jobs")


def test_a_schema_whose_name_makes_no_channel_still_takes_jobs(app_db: AppDatabase) -> None:
    long = "j" * 60
    app_db.execute(f"CREATE SCHEMA IF NOT EXISTS {long}")
    app_db.execute(f"DROP TABLE IF EXISTS {long}.oban_jobs")
    app_db.execute(f"DROP TYPE IF EXISTS {long}.oban_job_state")
    app_db.execute(f"CREATE TYPE {long}.oban_job_state AS ENUM ('available')")
    app_db.execute(f"CREATE TABLE {long}.oban_jobs (LIKE public.oban_jobs INCLUDING DEFAULTS INCLUDING IDENTITY)")
    app_db.execute(f"ALTER TABLE {long}.oban_jobs ALTER state DROP DEFAULT")
    app_db.execute(f"ALTER TABLE {long}.oban_jobs ALTER state TYPE {long}.oban_job_state USING 'available'")

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()

    app_db.run(work, bind=app_db.bind.execution_options(schema_translate_map=schema_map(long)))

    assert len(app_db.jobs(long)) == 1


def test_a_job_is_announced_in_the_database_it_was_written_to(app_db: AppDatabase, database_url: str) -> None:
    if app_db.driver == "asyncpg":
        pytest.skip("this one only needs engines of two databases")
    elsewhere = create_engine(sync_url(database_url))
    User.metadata.create_all(elsewhere)

    def work(session: Session) -> int:
        session.info["oban_elsewhere"] = True
        user = User()
        session.add(user)
        enqueue(session, a_job(args={"user": ref(user)}))
        session.commit()
        return user.id

    number = app_db.run(work, binds={Job: app_db.engine, User: elsewhere})
    elsewhere.dispose()

    assert (app_db.count("users"), [job["args"] for job in app_db.jobs()]) == (0, [{"user": number}])
    assert app_db.heard() == announced("default")


# P10: bounded cost


@pytest.mark.parametrize("count", [1, 50])
def test_the_statements_of_a_flush_do_not_grow_with_its_jobs(app_db: AppDatabase, count: int) -> None:
    def work(session: Session) -> None:
        users = [User() for _ in range(count)]
        session.add_all(users)
        enqueue_many(session, [a_job(f"q{n}", args={"u": ref(user)}) for n, user in enumerate(users)])
        session.commit()

    app_db.run(work)
    with app_db.counting() as sent:
        app_db.run(work)

    assert ["users" in statement for statement in sent] == [True, False]
    assert ["INSERT" in statement for statement in sent] == [True, True]
    assert "pg_notify" in sent[1]


def test_a_flush_without_jobs_costs_nothing(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()
        with app_db.counting() as sent:
            session.add(User())
            session.commit()
        assert [statement.split()[0] for statement in sent] == ["INSERT"]

    app_db.run(work)


# A guest in the session


def test_only_one_key_is_left_in_the_sessions_info(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()
        assert set(session.info) == {KEY, "mine"}

    app_db.run(work, info={"mine": 1})


def test_a_session_gets_no_listeners_of_its_own(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()
        for name in ("before_flush", "after_flush", "before_commit", "after_commit"):
            assert not getattr(session.dispatch, name).listeners

    app_db.run(work)


def test_an_info_copied_from_another_session_does_no_harm(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job("first"))
        session.flush()
        with Session(session.get_bind(), info=session.info) as other:
            enqueue(other, a_job("second"))
            other.commit()
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("second", "first")


def test_a_session_is_freed_with_its_last_reference(sync_engine: Engine) -> None:
    gc.disable()
    try:
        session = Session(sync_engine)
        first = enqueue(session, a_job())
        enqueue(session, a_job(args={"after": ref(first)}))
        session.commit()
        session.close()
        del first
        gone = weakref.ref(session)
        del session
        assert gone() is None
    finally:
        gc.enable()


def test_neither_the_jobs_of_a_transaction_nor_its_connection_are_kept(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        first = enqueue(session, a_job())
        second = enqueue(session, a_job(args={"first": ref(first)}))
        held = [weakref.ref(first), weakref.ref(second), weakref.ref(session.connection())]
        session.commit()
        del first, second
        gc.collect()
        assert [each() for each in held] == [None, None, None]

    app_db.run(work)


def test_enqueueing_neither_commits_nor_expires(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        user = User(email="ada@example.com")
        session.add(user)
        session.commit()
        assert user.email
        ended: list[str] = []
        for name in ("after_commit", "after_rollback"):
            event.listen(session, name, lambda *rest, name=name: ended.append(name))
        enqueue(session, a_job(args={"u": ref(user)}))
        session.flush()
        assert ended == []
        assert not inspect(user).expired_attributes

    app_db.run(work)


def test_the_users_own_listeners_see_the_job(app_db: AppDatabase) -> None:
    seen: list[Any] = []

    def work(session: Session) -> None:
        event.listen(session, "after_flush", lambda session, context: seen.extend(session.new))
        job = enqueue(session, a_job())
        session.commit()
        assert seen == [job]

    app_db.run(work)


# Async, as an application would write it


async def test_an_async_block_commits_data_and_job_together(sessions: async_sessionmaker[AsyncSession]) -> None:
    async def sign_up(email: str, after: Callable[[], Any]) -> Job:
        async with sessions.begin() as session:
            user = User(email=email)
            session.add(user)
            async with session.begin_nested():
                job = enqueue(session, a_job(args={"to": ref(user, "email"), "slug": ref(user, "slug")}))
            after()
        return job

    async with sessions.begin() as session:
        await session.run_sync(lambda sync: User.metadata.create_all(sync.connection()))
    with pytest.raises(ZeroDivisionError):
        await sign_up("lost@example.com", lambda: 1 / 0)
    job = await sign_up("ada@example.com", lambda: None)

    assert job.args == {"to": "ada@example.com", "slug": "made-by-the-database"}
    async with sessions() as session:
        assert [stored.args for stored in await session.scalars(select(Job))] == [job.args]


def test_sessions_of_two_threads_do_not_meet(sync_sessions: sessionmaker[Session]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def work(number: int) -> int:
        with sync_sessions.begin() as session:
            first = enqueue(session, a_job(args={"n": number}))
            second = enqueue(session, a_job(args={"after": ref(first)}))
        assert second.args == {"after": first.id}
        return first.id

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(work, range(20)))) == 20


# Jobs that are due in a moment


def test_a_job_due_in_a_moment_is_announced_so_that_it_starts_in_time(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with session.begin():
            enqueue(session, a_job("soon", schedule_in=0.3))
            enqueue(session, a_job("later", schedule_in=60))

    app_db.run(work)

    assert app_db.heard() == announced("soon")
