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

from oban_sa import commits
from oban_sa.commits import Commit
from oban_sa.enqueueing import enqueue, enqueue_many
from oban_sa.models import Job
from oban_sa.models.base import schema_map
from oban_sa.outbox import ANNOUNCE
from tests.database.places import Place, User
from tests.support import run_python, sync_url

pytestmark = pytest.mark.usefixtures("patience")


def a_job(queue: str = "default") -> Job:
    return Job("app.Work", queue=queue)


def announced(*queues: str, schema: str = "public") -> list[tuple[str, str]]:
    return [(f"{schema}.oban_insert", f'{{"queue":"{queue}"}}') for queue in queues]


def notifies(statements: list[str]) -> int:
    return sum("pg_notify" in statement for statement in statements)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is, a commit that is under way is one."""
    monkeypatch.setattr(commits, "PATIENCE", 60.0)


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is always another that is about to announce, so that no flush does."""
    monkeypatch.setattr(commits, "announces_early", lambda *_: False)


# When


def test_a_lone_commit_announces_in_its_own_transaction(place: Place) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.commit()

    with place.counting() as sent:
        place.run(work)

    assert [statement.split()[0] for statement in sent] == ["INSERT", "SELECT"]
    assert place.heard() == announced("default")


def test_a_lone_flush_announces_so_that_its_commit_need_not(place: Place) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        with place.counting() as sent:
            session.flush()
        assert notifies(sent) == 1
        assert place.heard() == []
        with place.counting() as sent:
            session.commit()
        assert sent == []

    place.run(work)

    assert place.heard() == announced("default")


def test_one_flush_at_a_time_announces_a_queue_and_the_other_sessions_do_as_they_commit(place: Place) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        with Session(place.engine) as other:
            enqueue_many(other, [a_job(), a_job("apart")])
            with place.counting() as sent:
                other.flush()
            assert notifies(sent) == 0
            other.commit()
            assert place.heard() == announced("apart", "default")
        session.rollback()
        enqueue(session, a_job())
        with place.counting() as sent:
            session.flush()
        assert notifies(sent) == 1
        session.commit()

    place.run(work)

    assert place.heard() == announced("default")


def test_a_flush_beside_a_commit_that_announces_the_queue_leaves_it_to_the_end(place: Place) -> None:
    sent: list[str] = []

    def inner() -> None:
        with Session(place.engine) as other:
            enqueue(other, a_job())
            with place.counting() as statements:
                other.flush()
            sent.extend(statements)
            other.rollback()

    def work(session: Session) -> None:
        enqueue(session, a_job())
        during_commit(session, inner)
        session.commit()

    place.run(work)

    assert len(sent) == 1
    assert "INSERT" in sent[0]


def test_a_flush_in_a_savepoint_that_may_roll_back_leaves_it_to_the_commit(place: Place) -> None:
    def work(session: Session) -> None:
        savepoint = session.begin_nested()
        enqueue(session, a_job())
        with place.counting() as sent:
            session.flush()
        assert notifies(sent) == 0
        savepoint.rollback()
        enqueue(session, a_job())
        with place.counting() as sent:
            session.flush()
        assert notifies(sent) == 1
        session.commit()

    place.run(work)

    assert place.heard() == announced("default")


def test_a_savepoint_of_the_connections_own_takes_no_announcement_along(place: Place) -> None:
    def work(session: Session) -> None:
        savepoint = session.connection().begin_nested()
        enqueue(session, a_job())
        session.flush()
        savepoint.rollback()
        enqueue(session, a_job())
        session.commit()

    place.run(work)

    assert place.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_jobs_of_earlier_flushes_are_announced_by_the_commit_and_not_before(place: Place) -> None:
    def work(session: Session) -> None:
        with place.counting() as sent:
            enqueue(session, a_job())
            session.flush()
            with session.begin_nested():
                enqueue(session, a_job("nested"))
        assert notifies(sent) == 0
        with place.counting() as sent:
            session.commit()
        assert notifies(sent) == 1

    place.run(work)

    assert place.heard() == announced("default", "nested")


def test_commits_one_after_the_other_each_announce(place: Place) -> None:
    def work(session: Session) -> None:
        for _ in range(3):
            enqueue(session, a_job())
            session.commit()

    with place.counting() as sent:
        place.run(work)

    assert notifies(sent) == 3
    assert place.heard() == announced("default") * 3


def test_a_job_that_was_only_added_is_announced_by_the_commit_that_writes_it(place: Place) -> None:
    ended: list[Any] = []
    note = ended.append

    def work(session: Session) -> None:
        session.add(a_job())
        session.commit()
        session.add(a_job("second"))
        session.flush()
        session.commit()

    event.listen(place.engine, "commit", note)
    place.run(work)
    event.remove(place.engine, "commit", note)

    assert len(ended) == 2  # none of them after the jobs' own
    assert place.heard() == announced("default", "second")


def test_what_was_committed_over_open_savepoints_is_announced(place: Place) -> None:
    def work(session: Session) -> None:
        with session.begin():
            session.begin_nested()
            enqueue(session, a_job())
            session.flush()

    place.run(work)

    assert place.heard() == announced("default")


def test_a_commit_that_was_refused_leaves_nothing_to_the_next(place: Place) -> None:
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

    place.run(work)

    assert place.heard() == announced("kept")


# Listeners of the application's own


@pytest.mark.parametrize("flush", [True, False])
def test_a_sessions_first_job_may_be_enqueued_by_a_listener_of_its_commit(place: Place, flush: bool) -> None:
    def add(session: Session) -> None:
        enqueue(session, a_job())
        if flush:
            session.flush()

    def work(session: Session) -> None:
        event.listen(session, "before_commit", add)
        event.listen(session, "before_commit", lambda session: None)
        session.connection()
        session.commit()

    place.run(work)

    assert place.heard() == announced("default")


def test_a_listener_of_all_sessions_may_enqueue_at_their_commits(place: Place) -> None:
    class Mine(Session):
        pass

    @event.listens_for(Mine, "before_commit")
    def _(session: Session) -> None:
        enqueue(session, a_job())

    def work(session: Session) -> None:
        for _ in range(2):
            session.connection()
            session.commit()

    place.run(work, kind=Mine)

    assert place.heard() == announced("default", "default")


@pytest.mark.parametrize("name", ["before_flush", "after_flush"])
def test_a_sessions_first_job_may_be_enqueued_by_a_listener_of_its_flush(place: Place, name: str) -> None:
    def add(session: Session, *rest: Any) -> None:
        if not any(isinstance(each, Job) for each in session.new) and not session.info.get("done"):
            session.info["done"] = True
            enqueue(session, a_job())

    def work(session: Session) -> None:
        event.listen(session, name, add)
        session.add(User())
        session.commit()

    place.run(work)

    assert place.heard() == announced("default")


# Transactions that are not the session's own


@pytest.mark.parametrize("mode", ["create_savepoint", "rollback_only", "conditional_savepoint", "control_fully"])
def test_a_session_in_a_transaction_of_others_announces_with_its_flush(place: Place, mode: Any) -> None:
    def outer(connection: Any) -> None:
        with Session(connection, join_transaction_mode=mode) as session:
            enqueue(session, a_job())
            with place.counting() as sent:
                session.flush()
            assert notifies(sent) == 1
            session.commit()

    place.work_on_engine(outer)

    assert place.heard() == announced("default")


def test_on_autocommit_queues_are_announced_as_soon_as_their_jobs_can_be_seen(place: Place) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        assert place.heard() == announced("default")

    place.run(work, bind=place.bind.execution_options(isolation_level="AUTOCOMMIT"))


# Side by side


def during_commit(session: Session, work: Callable[[], None]) -> None:
    """Run `work` when the session has announced and is about to commit; its jobs must be flushed."""
    event.listen(session, "before_commit", lambda session: work(), once=True)


def beside(place: Place, queue: str = "default", *, times: int = 1, bind: Any = None) -> Callable[[], None]:
    """Enqueue and commit in other sessions."""

    def work() -> None:
        for _ in range(times):
            with Session(bind or place.engine) as session:
                enqueue(session, a_job(queue))
                session.commit()

    return work


@pytest.mark.usefixtures("crowd")
def test_what_a_commit_leaves_to_another_is_announced_once_both_are_committed(place: Place) -> None:
    sent: list[str] = []

    def inner() -> None:
        with place.counting() as statements:
            beside(place)()
        sent.extend(statements)

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, inner)
        session.commit()

    place.run(work)

    assert notifies(sent) == 0
    # With the commit of the first, and again after it, for it can't know when the other could be seen.
    assert place.heard() == announced("default", "default")


@pytest.mark.usefixtures("crowd")
def test_the_last_one_out_announces_for_all(place: Place) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, beside(place, times=5))
        session.commit()

    with place.counting() as sent:
        place.run(work)

    assert notifies(sent) == 2
    assert len(place.jobs()) == 6


@pytest.mark.usefixtures("crowd")
def test_one_that_left_it_to_another_and_commits_later_announces_itself(place: Place) -> None:
    if place.driver == "asyncpg":
        pytest.skip("its sessions need their own loop's thread")
    departed, go = threading.Event(), threading.Event()

    def hold() -> None:
        departed.set()
        assert go.wait(30)

    def late() -> None:
        with Session(place.engine) as session:
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

    with place.counting() as sent:
        place.run(work)
        assert place.heard() == announced("q")
        assert len(place.jobs()) == 1
        go.set()
        other.join(30)

    assert place.heard() == announced("q")
    assert notifies(sent) == 2


@pytest.mark.usefixtures("crowd")
def test_what_was_left_to_a_commit_that_failed_is_announced_by_the_next(place: Place) -> None:
    def fail() -> None:
        beside(place)()
        raise LookupError

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, fail)
        with pytest.raises(LookupError):
            session.commit()
        session.rollback()
        assert place.heard() == []
        beside(place)()

    place.run(work)

    assert len(place.jobs()) == 2
    assert place.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_nothing_is_left_to_a_commit_that_takes_long(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "PATIENCE", -1.0)

    heard: list[tuple[str, str]] = []

    def inner() -> None:
        beside(place)()
        heard.extend(place.heard())

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, inner)
        session.commit()

    place.run(work)

    assert heard == announced("default")
    assert place.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
@pytest.mark.parametrize("other", ["queue", "schema", "database"])
def test_nothing_is_left_to_a_commit_that_announces_something_else(place: Place, other: str, database_url: str) -> None:
    elsewhere = create_engine(sync_url(place.url))  # as good as another database
    place.execute("DROP SCHEMA IF EXISTS jobs CASCADE")
    place.execute("CREATE SCHEMA jobs")
    place.execute("CREATE TYPE jobs.oban_job_state AS ENUM ('available')")
    place.execute("CREATE TABLE jobs.oban_jobs (LIKE public.oban_jobs INCLUDING DEFAULTS INCLUDING IDENTITY)")
    place.execute("ALTER TABLE jobs.oban_jobs ALTER state DROP DEFAULT")
    place.execute("ALTER TABLE jobs.oban_jobs ALTER state TYPE jobs.oban_job_state USING 'available'")
    works = {
        "queue": beside(place, "other"),
        "schema": beside(place, bind=place.engine.execution_options(schema_translate_map=schema_map("jobs"))),
        "database": beside(place, bind=elsewhere),
    }
    heard: list[tuple[str, str]] = []

    def inner() -> None:
        works[other]()
        heard.extend(place.heard())

    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, inner)
        session.commit()

    place.run(work)
    elsewhere.dispose()

    expected = announced("other" if other == "queue" else "default", schema="jobs" if other == "schema" else "public")
    assert heard == expected
    assert place.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_nothing_is_left_to_a_session_that_is_gone(place: Place) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.flush()
        during_commit(session, lambda: (_ for _ in ()).throw(LookupError))
        with pytest.raises(LookupError):
            session.commit()

    place.run(work)  # closes the session, without a rollback
    gc.collect()
    place.run(lambda session: beside(place)())

    assert place.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_a_transaction_of_others_and_a_silent_one_are_left_out_of_it(place: Place) -> None:
    def outer(connection: Any) -> None:
        with Session(connection) as session:
            enqueue(session, a_job("outer"))
            session.flush()
            beside(place, "outer")()  # announces: nobody knows when the other commits
            assert place.heard() == announced("outer")
        with Session(place.engine, info={ANNOUNCE: False}) as silent:
            enqueue(silent, a_job("silent"))
            silent.flush()
            during_commit(silent, beside(place, "silent"))
            silent.commit()
            assert place.heard() == announced("silent")

    place.work_on_engine(outer)

    assert place.heard() == announced("outer")


@pytest.mark.usefixtures("crowd")
def test_a_connection_lost_after_the_commit_does_no_harm(place: Place) -> None:
    pid: list[int] = []

    def work(session: Session) -> None:
        pid.append(session.scalar(text("SELECT pg_backend_pid()")) or 0)
        event.listen(session, "after_commit", lambda _: place.execute(f"SELECT pg_terminate_backend({pid[0]})"))
        enqueue(session, a_job())
        session.flush()
        during_commit(session, beside(place))
        session.commit()

    try:
        place.run(work)
    finally:
        place.hang_up()

    assert len(place.jobs()) == 2
    assert place.heard() == announced("default")


@pytest.mark.usefixtures("crowd")
def test_what_a_listener_does_with_the_connection_after_the_commit_stays_its_own(place: Place) -> None:
    def work(session: Session) -> None:
        connection = session.connection()
        event.listen(session, "after_commit", lambda _: connection.execute(text("INSERT INTO accounts DEFAULT VALUES")))
        enqueue(session, a_job())
        session.flush()
        during_commit(session, beside(place))
        session.commit()

    place.run(work)

    assert place.count("accounts") == 0


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


def test_a_session_whose_jobs_were_taken_from_it_pays_nothing_and_keeps_nobody_from_paying(place: Place) -> None:
    def take(session: Session, *rest: Any) -> None:
        for each in list(session.new):
            session.expunge(each)

    def work(session: Session) -> None:
        enqueue(session, a_job())
        event.listen(session, "before_flush", take)
        during_commit(session, beside(place))
        session.commit()
        assert place.heard() == announced("default")
        beside(place)()
        assert place.heard() == announced("default")

    place.run(work)

    assert len(place.jobs()) == 2


def test_jobs_that_a_rollback_took_away_are_expected_no_more(place: Place) -> None:
    def work(session: Session) -> None:
        enqueue(session, a_job())
        session.rollback()
        with place.counting() as sent:
            session.connection()
            session.commit()
        assert sent == []

    place.run(work)

    assert place.heard() == []


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

    assert commits._lines_of(database) == {}


def test_nothing_is_kept_of_transactions_that_announced_early_and_are_gone(database: Database) -> None:
    first, second = Ending(), Ending()
    assert commits.announces_early(database, ["a", "b"], first)
    assert commits.announces_early(database, ["a", "c"], first)
    assert not commits.announces_early(database, ["d", "c"], second)
    assert commits.announces_early(database, ["d"], second)
    assert commits.announces_early(Database(), ["a"], second)

    first.is_active = False
    assert commits.announces_early(database, ["c"], second)
    del first
    gc.collect()

    assert [set(taken) for taken in commits._early[database].values()] == [{"c", "d"}]


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
from oban_sa.commits import Commit, announces_early
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
