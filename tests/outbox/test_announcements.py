"""When queues are announced, and what sessions that commit side by side leave to each other."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import Session

from oban_sa.models import Job
from oban_sa.models.base import schema_map
from oban_sa.outbox import concurrent_commits
from oban_sa.outbox.announcements import ANNOUNCE
from oban_sa.outbox.concurrent_commits import Commit
from oban_sa.outbox.enqueue import enqueue, enqueue_many
from tests.factories import a_job, announced
from tests.places import AppDatabase, User
from tests.support import run_python, sync_url

pytestmark = pytest.mark.usefixtures("patience")


def notifies(statements: list[str]) -> int:
    return sum("pg_notify" in statement for statement in statements)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a commit that is under way is one."""
    monkeypatch.setattr(concurrent_commits, "PATIENCE", 60.0)


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is always another that is about to announce, so that no flush does."""
    monkeypatch.setattr(concurrent_commits, "announces_early", lambda *_: False)


# When


def test_a_lone_commit_announces_in_its_own_transaction(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()

    with app_db.counting() as sent:
        app_db.run(work)

    assert ["INSERT" in statement and "pg_notify" in statement for statement in sent] == [True]
    assert app_db.heard() == announced("default")


def test_a_lone_flush_announces_so_that_its_commit_need_not(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        with app_db.counting() as sent:
            session.flush()
        assert notifies(sent) == 1
        assert app_db.heard() == []
        with app_db.counting() as sent:
            session.commit()
        assert sent == []

    app_db.run(work)

    assert app_db.heard() == announced("default")


def test_one_flush_at_a_time_announces_a_queue_and_the_other_sessions_do_as_they_commit(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        with Session(app_db.engine) as other:
            enqueue_many(other, [a_job(), a_job("apart")])
            with app_db.counting() as sent:
                other.flush()
            assert notifies(sent) == 0
            other.commit()
            assert app_db.heard() == announced("apart", "default")
        session.rollback()
        enqueue(session, a_job())
        with app_db.counting() as sent:
            session.flush()
        assert notifies(sent) == 1
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default")


def test_a_flush_beside_a_commit_that_announces_the_queue_leaves_it_to_the_end(app_db: AppDatabase) -> None:
    sent: list[str] = []

    def inner() -> None:
        with Session(app_db.engine) as other:
            enqueue(other, a_job())
            with app_db.counting() as statements:
                other.flush()
            sent.extend(statements)
            other.rollback()

    def work(session: Session) -> None:
        enqueue(session, a_job())
        during_commit(session, inner)
        session.commit()

    app_db.run(work)

    assert len(sent) == 1
    assert "INSERT" in sent[0]


def test_a_flush_in_a_savepoint_that_may_roll_back_leaves_it_to_the_commit(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        enqueue(session, a_job())
        with app_db.counting() as sent:
            session.flush()
        assert notifies(sent) == 0
        savepoint.rollback()
        enqueue(session, a_job())
        with app_db.counting() as sent:
            session.flush()
        assert notifies(sent) == 1
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default")


def test_a_savepoint_of_the_connections_own_takes_no_announcement_along(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        savepoint = session.connection().begin_nested()
        enqueue(session, a_job())
        session.flush()
        savepoint.rollback()
        enqueue(session, a_job())
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_jobs_of_earlier_flushes_are_announced_by_the_commit_and_not_before(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with app_db.counting() as sent:
            enqueue(session, a_job())
            session.flush()
            with session.begin_nested():
                enqueue(session, a_job("nested"))
        assert notifies(sent) == 0
        with app_db.counting() as sent:
            session.commit()
        assert notifies(sent) == 1

    app_db.run(work)

    assert app_db.heard() == announced("default", "nested")


def test_commits_one_after_the_other_each_announce(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        for _ in range(3):
            enqueue(session, a_job())
            session.commit()

    with app_db.counting() as sent:
        app_db.run(work)

    assert notifies(sent) == 3
    assert app_db.heard() == announced("default") * 3


def test_a_job_that_was_only_added_is_announced_by_the_commit_that_writes_it(app_db: AppDatabase) -> None:
    ended: list[Any] = []
    note = ended.append

    def work(session: Session) -> None:
        session.add(a_job())
        session.commit()
        session.add(a_job("second"))
        session.flush()
        session.commit()

    event.listen(app_db.engine, "commit", note)
    app_db.run(work)
    event.remove(app_db.engine, "commit", note)

    assert len(ended) == 2  # none of them after the jobs' own
    assert app_db.heard() == announced("default", "second")


def test_what_was_committed_over_open_savepoints_is_announced(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        with session.begin():
            session.begin_nested()
            enqueue(session, a_job())
            session.flush()

    app_db.run(work)

    assert app_db.heard() == announced("default")


def test_a_commit_that_was_refused_leaves_nothing_to_the_next(app_db: AppDatabase) -> None:
    def refuse(session: Session) -> None:
        raise LookupError

    def work(session: Session) -> None:
        enqueue(session, a_job("lost"))
        event.listen(session, "before_commit", refuse)
        with pytest.raises(LookupError):
            session.commit()
        session.rollback()
        event.remove(session, "before_commit", refuse)
        enqueue(session, a_job("kept"))
        session.flush()
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("kept")


# Listeners of the application's own


@pytest.mark.parametrize("flush", [True, False])
def test_a_sessions_first_job_may_be_enqueued_by_a_listener_of_its_commit(app_db: AppDatabase, flush: bool) -> None:
    def add(session: Session) -> None:
        enqueue(session, a_job())
        if flush:
            session.flush()

    def work(session: Session) -> None:
        event.listen(session, "before_commit", add)
        event.listen(session, "before_commit", lambda session: None)
        session.connection()
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default")


def test_a_listener_of_all_sessions_may_enqueue_at_their_commits(app_db: AppDatabase) -> None:
    class Mine(Session):
        pass

    @event.listens_for(Mine, "before_commit")
    def _(session: Session) -> None:
        enqueue(session, a_job())

    def work(session: Session) -> None:
        for _ in range(2):
            session.connection()
            session.commit()

    app_db.run(work, kind=Mine)

    assert app_db.heard() == announced("default", "default")


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_a_sessions_first_job_may_be_enqueued_by_a_listener_of_its_flush(app_db: AppDatabase, name: str) -> None:
    def add(session: Session, *rest: Any) -> None:
        if not any(isinstance(each, Job) for each in session.new) and not session.info.get("done"):
            session.info["done"] = True
            enqueue(session, a_job())

    def work(session: Session) -> None:
        event.listen(session, name, add)
        session.add(User())
        session.commit()

    app_db.run(work)

    assert app_db.heard() == announced("default")


# Transactions that are not the session's own


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only", "conditional_savepoint", "control_fully"])
def test_a_session_in_a_transaction_of_others_announces_with_its_flush(app_db: AppDatabase, mode: Any) -> None:
    def outer(connection: Any) -> None:
        with Session(connection, join_transaction_mode=mode) as session:
            enqueue(session, a_job())
            with app_db.counting() as sent:
                session.flush()
            assert notifies(sent) == 1
            session.commit()

    app_db.work_on_engine(outer)

    assert app_db.heard() == announced("default")


def test_on_autocommit_queues_are_announced_as_soon_as_their_jobs_can_be_seen(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        assert app_db.heard() == announced("default")

    app_db.run(work, bind=app_db.bind.execution_options(isolation_level="AUTOCOMMIT"))


# Side by side


def during_commit(session: Session, work: Callable[[], None]) -> None:
    """Run `work` when the session has announced and is about to commit; its jobs must be flushed."""
    event.listen(session, "before_commit", lambda session: work(), once=True)


def beside(app_db: AppDatabase, queue: str = "default", *, times: int = 1, bind: Any = None) -> Callable[[], None]:
    """Enqueue and commit in other sessions."""

    def work() -> None:
        for _ in range(times):
            with Session(bind or app_db.engine) as session:
                enqueue(session, a_job(queue))
                session.commit()

    return work


@pytest.mark.usefixtures("crowd")
def test_what_a_commit_leaves_to_another_is_announced_once_both_are_committed(app_db: AppDatabase) -> None:
    sent: list[str] = []

    def inner() -> None:
        with app_db.counting() as statements:
            beside(app_db)()
        sent.extend(statements)

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, inner)
        session.commit()

    app_db.run(work)

    assert notifies(sent) == 0
    # With the commit of the first, and again after it, for it can't know when the other could be seen.
    assert app_db.heard() == announced("default", "default")


@pytest.mark.usefixtures("crowd")
def test_the_last_one_out_announces_for_all(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, beside(app_db, times=5))
        session.commit()

    with app_db.counting() as sent:
        app_db.run(work)

    assert notifies(sent) == 2
    assert len(app_db.jobs()) == 6


@pytest.mark.usefixtures("crowd")
def test_one_that_left_it_to_another_and_commits_later_announces_itself(app_db: AppDatabase) -> None:
    if app_db.driver == "asyncpg":
        pytest.skip("its sessions need their own loop's thread")
    departed, go = threading.Event(), threading.Event()

    def hold() -> None:
        departed.set()
        assert go.wait(30)

    def late() -> None:
        with Session(app_db.engine) as session:
            enqueue(session, a_job("q"))
            session.flush()
            during_commit(session, hold)
            session.commit()

    other = threading.Thread(target=late)

    def meanwhile() -> None:
        other.start()
        assert departed.wait(30)

    def work(session: Session) -> None:
        enqueue(session, a_job("q"))
        session.flush()
        during_commit(session, meanwhile)
        session.commit()

    with app_db.counting() as sent:
        app_db.run(work)
        assert app_db.heard() == announced("q")
        assert len(app_db.jobs()) == 1
        go.set()
        other.join(30)

    assert app_db.heard() == announced("q")
    assert notifies(sent) == 2


@pytest.mark.usefixtures("crowd")
def test_what_was_left_to_a_commit_that_failed_is_announced_by_the_next(app_db: AppDatabase) -> None:
    def fail() -> None:
        beside(app_db)()
        raise LookupError

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, fail)
        with pytest.raises(LookupError):
            session.commit()
        session.rollback()
        assert app_db.heard() == []
        beside(app_db)()

    app_db.run(work)

    assert len(app_db.jobs()) == 2
    assert app_db.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_nothing_is_left_to_a_commit_that_takes_long(app_db: AppDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(concurrent_commits, "PATIENCE", -1.0)

    heard: list[tuple[str, str]] = []

    def inner() -> None:
        beside(app_db)()
        heard.extend(app_db.heard())

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, inner)
        session.commit()

    app_db.run(work)

    assert heard == announced("default")
    assert app_db.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("other", ["queue", "schema", "database"])
def test_nothing_is_left_to_a_commit_that_announces_something_else(
    app_db: AppDatabase, other: str, database_url: str
) -> None:
    elsewhere = create_engine(sync_url(app_db.url))  # as good as another database
    app_db.execute("DROP SCHEMA IF EXISTS jobs CASCADE")
    app_db.execute("CREATE SCHEMA jobs")
    app_db.execute("CREATE TYPE jobs.oban_job_state AS ENUM ('available')")
    app_db.execute("CREATE TABLE jobs.oban_jobs (LIKE public.oban_jobs INCLUDING DEFAULTS INCLUDING IDENTITY)")
    app_db.execute("ALTER TABLE jobs.oban_jobs ALTER state DROP DEFAULT")
    app_db.execute("ALTER TABLE jobs.oban_jobs ALTER state TYPE jobs.oban_job_state USING 'available'")
    works = {
        "queue": beside(app_db, "other"),
        "schema": beside(app_db, bind=app_db.engine.execution_options(schema_translate_map=schema_map("jobs"))),
        "database": beside(app_db, bind=elsewhere),
    }
    heard: list[tuple[str, str]] = []

    def inner() -> None:
        works[other]()
        heard.extend(app_db.heard())

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, inner)
        session.commit()

    app_db.run(work)
    elsewhere.dispose()

    expected = announced("other" if other == "queue" else "default", schema="jobs" if other == "schema" else "public")
    assert heard == expected
    assert app_db.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_nothing_is_left_to_a_session_that_is_gone(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, lambda: (_ for _ in ()).throw(LookupError))
        with pytest.raises(LookupError):
            session.commit()

    app_db.run(work)  # closes the session, without a rollback
    gc.collect()
    app_db.run(lambda session: beside(app_db)())

    assert app_db.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_a_transaction_of_others_and_a_silent_one_are_left_out_of_it(app_db: AppDatabase) -> None:
    def outer(connection: Any) -> None:
        with Session(connection) as session:
            enqueue(session, a_job("outer"))
            session.flush()
            beside(app_db, "outer")()  # announces: nobody knows when the other commits
            assert app_db.heard() == announced("outer")
        with Session(app_db.engine, info={ANNOUNCE: False}) as silent:
            enqueue(silent, a_job("silent"))
            silent.flush()
            during_commit(silent, beside(app_db, "silent"))
            silent.commit()
            assert app_db.heard() == announced("silent")

    app_db.work_on_engine(outer)

    assert app_db.heard() == announced("outer")


@pytest.mark.usefixtures("crowd")
def test_a_connection_lost_after_the_commit_does_no_harm(app_db: AppDatabase) -> None:
    pid: list[int] = []

    def work(session: Session) -> None:
        pid.append(session.scalar(text("SELECT pg_backend_pid()")) or 0)
        event.listen(session, "after_commit", lambda _: app_db.execute(f"SELECT pg_terminate_backend({pid[0]})"))
        enqueue(session, a_job())
        session.flush()
        during_commit(session, beside(app_db))
        session.commit()

    try:
        app_db.run(work)
    finally:
        app_db.hang_up()

    assert len(app_db.jobs()) == 2
    # Before the program's own listener it has announced what the other session had left to it.
    assert app_db.heard() == announced("default", "default")


@pytest.mark.usefixtures("crowd")
def test_what_a_listener_does_with_the_connection_after_the_commit_stays_its_own(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        connection = session.connection()
        event.listen(session, "after_commit", lambda _: connection.execute(text("INSERT INTO accounts DEFAULT VALUES")))
        enqueue(session, a_job())
        session.flush()
        during_commit(session, beside(app_db))
        session.commit()

    app_db.run(work)

    assert app_db.count("accounts") == 0


async def test_sessions_that_commit_at_once_share_announcements(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    sent: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *of: sent.append(of[2]))

    async def write() -> None:
        async with sessions.begin() as session:
            enqueue_many(session, [a_job("a"), a_job("b")])

    for _ in range(5):
        await asyncio.gather(*(write() for _ in range(5)))

    assert 5 <= notifies(sent) < 25


def test_a_session_whose_jobs_were_taken_from_it_pays_nothing_and_keeps_nobody_from_paying(app_db: AppDatabase) -> None:
    def take(session: Session, *rest: Any) -> None:
        for each in list(session.new):
            session.expunge(each)

    def work(session: Session) -> None:
        enqueue(session, a_job())
        event.listen(session, "before_flush", take)
        during_commit(session, beside(app_db))
        session.commit()
        assert app_db.heard() == announced("default")
        beside(app_db)()
        assert app_db.heard() == announced("default")

    app_db.run(work)

    assert len(app_db.jobs()) == 2


def test_jobs_that_a_rollback_took_away_are_expected_no_more(app_db: AppDatabase) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.rollback()
        with app_db.counting() as sent:
            session.connection()
            session.commit()
        assert sent == []

    app_db.run(work)

    assert app_db.heard() == []


# The bookkeeping


class Ending:
    is_active = True


class Database:
    pass


@pytest.fixture
def database() -> Database:
    return Database()


def test_nothing_is_kept_of_queues_that_nobody_writes_to(database: Database) -> None:
    ending = Ending()
    for number in range(3):
        first, second = Commit(database, ending), Commit(database, ending)
        first.join([f"q{number}"])
        assert second.announces([f"q{number}"], ending) == [f"q{number}"]
        assert first.announces([f"q{number}"], ending) == []
        second.sent()
        assert second.committed() == []
        assert first.committed() == [f"q{number}"]

    assert concurrent_commits._queues_of(database) == {}


def test_nothing_is_kept_of_transactions_that_announced_early_and_are_gone(database: Database) -> None:
    first, second = Ending(), Ending()
    assert concurrent_commits.announces_early(database, ["a", "b"], first)
    assert concurrent_commits.announces_early(database, ["a", "c"], first)
    assert not concurrent_commits.announces_early(database, ["d", "c"], second)
    assert concurrent_commits.announces_early(database, ["d"], second)
    assert concurrent_commits.announces_early(Database(), ["a"], second)

    first.is_active = False
    assert concurrent_commits.announces_early(database, ["c"], second)
    del first
    gc.collect()

    assert [set(taken) for taken in concurrent_commits._early[database].values()] == [{"c", "d"}]


def test_what_was_committed_before_another_announced_is_covered_by_that(database: Database) -> None:
    ending = Ending()
    first, second = Commit(database, ending), Commit(database, ending)
    first.announces(["q"], ending)
    second.announces(["q"], ending)

    assert second.committed() == []
    first.sent()
    assert first.committed() == []


def test_the_next_announcement_pays_for_those_before_it(database: Database) -> None:
    ending = Ending()
    first, second, third = (Commit(database, ending) for _ in range(3))
    first.announces(["q"], ending)
    second.announces(["q"], ending)
    first.sent()
    third.join(["q"])
    assert first.committed() == []
    assert second.committed() == []  # the third is on its way
    assert third.announces(["q"], ending) == ["q"]
    third.sent()
    assert third.committed() == []


def test_a_commit_that_only_passes_by_pays_what_is_owed(database: Database) -> None:
    ending = Ending()
    first, second, third = (Commit(database, ending) for _ in range(3))
    third.join(["q"])
    first.announces(["q"], ending)
    first.sent()
    second.announces(["q"], ending)
    assert (first.committed(), second.committed()) == ([], [])
    assert third.committed() == ["q"]


def test_what_is_owed_stays_so_where_the_last_one_can_not_pay(database: Database) -> None:
    ending = Ending()
    first, second, third, fourth = (Commit(database, ending) for _ in range(4))
    third.join(["q"])
    first.announces(["q"], ending)
    first.sent()
    second.announces(["q"], ending)
    assert (first.committed(), second.committed()) == ([], [])
    third.passed()
    fourth.join(["q"])
    assert fourth.committed() == ["q"]


def test_a_child_process_knows_nothing_of_its_parents_commits() -> None:
    code = """
import os, sys
from oban_sa.outbox.concurrent_commits import Commit, announces_early
class Thing: is_active = True
database, ending, early = Thing(), Thing(), Thing()
assert announces_early(database, ["e"], early)
parents = Commit(database, ending)
assert parents.announces(["q"], ending) == ["q"]
assert Commit(database, ending).announces(["q"], ending) == []
if (child := os.fork()) == 0:
    announced = Commit(database, ending).announces(["q"], ending) == ["q"]
    os._exit(7 if announced and announces_early(database, ["e"], ending) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python("-c", code).returncode == 7
