"""Unique jobs of several transactions at once: who waits for whom, who gets the key, and what nobody may lose."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, sessionmaker

from oban_sa.errors import UniqueBusy
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Conflict, Unique
from oban_sa.models import Job
from oban_sa.outbox.enqueue import enqueue, enqueue_many

WAITING = Unique(group="waiting")
LOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
FETCH = text("SELECT id FROM oban_jobs WHERE state = 'available' ORDER BY id FOR UPDATE SKIP LOCKED")


def a_job(key: object, unique: Any = True, **options: Any) -> Job:
    return Job("app.Work", args={"key": key}, unique=unique, **options)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as threads:
        yield threads


def wait_for_locks(engine: Engine, number: int = 1) -> None:
    """Return once so many sessions of the database wait for a lock."""
    deadline = time.monotonic() + 10
    with engine.connect() as connection:
        while connection.execute(LOCKED).scalar_one() < number:
            assert time.monotonic() < deadline, "nothing waits"
            connection.rollback()
            time.sleep(0.01)


def keys(engine: Engine) -> Counter[object]:
    with engine.connect() as connection:
        return Counter(connection.execute(text("SELECT args->>'key' FROM oban_jobs")).scalars())


def enqueued(sessions: sessionmaker[Session], *jobs: Job) -> list[Job]:
    with sessions(expire_on_commit=False) as session, session.begin():
        enqueue_many(session, jobs)
    return list(jobs)


# one waits for the other


@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("had_holder", [False, True])
def test_a_key_that_another_transaction_holds_is_waited_for(
    sync_engine: Engine,
    sync_sessions: sessionmaker[Session],
    pool: ThreadPoolExecutor,
    ends: str,
    had_holder: bool,
) -> None:
    if had_holder:
        enqueued(sync_sessions, a_job(1))
        with sync_engine.begin() as connection:
            connection.execute(text("UPDATE oban_jobs SET state = 'discarded'"))
    with sync_sessions() as session:
        first = enqueue(session, a_job(1))
        session.flush()
        other = pool.submit(enqueued, sync_sessions, a_job(1))
        wait_for_locks(sync_engine)
        getattr(session, ends)()
        [second] = other.result(10)
        if ends == "commit":
            assert second.conflict == Conflict(first.id, JobState.AVAILABLE)
        else:
            assert second.conflict is None
    assert sum(keys(sync_engine).values()) == (2 if had_holder else 1)


def test_it_is_told_that_read_committed_would_wait(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    engine = sync_engine.execution_options(isolation_level="REPEATABLE READ")
    with Session(engine) as session:
        session.execute(text("SELECT 1"))
        enqueued(sync_sessions, a_job(1))
        enqueue(session, a_job(1))
        with pytest.raises(DBAPIError, match=r"READ COMMITTED, in which a claim waits(.|\n)*could not serialize"):
            session.flush()
        session.rollback()
        job = enqueue(session, a_job(1))
        session.commit()
        assert job.conflict is not None


# joining


def test_a_job_that_was_joined_starts_after_the_commit(
    sync_engine: Engine, sync_sessions: sessionmaker[Session]
) -> None:
    [first] = enqueued(sync_sessions, a_job(1, WAITING))
    with sync_engine.connect() as runner, sync_sessions() as session, sync_sessions() as another:
        for each in (session, another):  # sharing the lock
            enqueue(each, a_job(1, WAITING))
            each.flush()
            assert runner.execute(FETCH).all() == []
        session.commit()
        assert runner.execute(FETCH).all() == []
        another.commit()
        assert runner.execute(FETCH).scalars().all() == [first.id]


def test_a_job_that_starts_meanwhile_is_succeeded(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    [first] = enqueued(sync_sessions, a_job(1, WAITING))
    with sync_engine.connect() as runner:
        runner.execute(text("UPDATE oban_jobs SET state = 'executing'"))
        other = pool.submit(enqueued, sync_sessions, a_job(1, WAITING))
        wait_for_locks(sync_engine)
        runner.commit()
        [second] = other.result(10)
    assert second.conflict is None and second.id > first.id


def test_a_job_to_be_replaced_that_starts_meanwhile_still_stands_in_the_way(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    unique = Unique(keys=["key"], group="incomplete", replace=["priority"])
    [first] = enqueued(sync_sessions, a_job(1, unique))
    with sync_engine.connect() as runner:
        runner.execute(text("UPDATE oban_jobs SET state = 'executing'"))
        other = pool.submit(enqueued, sync_sessions, a_job(1, unique, priority=7))
        wait_for_locks(sync_engine)
        runner.commit()
        [second] = other.result(10)
    assert second.conflict == Conflict(first.id, JobState.EXECUTING) and second.priority == 0


def test_two_that_join_and_replace_do_not_wait_for_each_other_for_ever(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    unique = Unique(keys=["key"], group="waiting", replace="newest")
    enqueued(sync_sessions, a_job(1, unique))

    def replace(number: int) -> None:
        for _ in range(10):
            enqueued(sync_sessions, a_job(1, unique, meta={"by": number}))

    for done in [pool.submit(replace, number) for number in range(4)]:
        done.result(30)
    assert sum(keys(sync_engine).values()) == 1


# no deadlocks


def test_keys_that_two_transactions_claim_in_opposite_order_are_busy(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    with sync_sessions() as first, sync_sessions() as second:
        enqueue(first, a_job(1))
        first.flush()
        enqueue(second, a_job(2))
        second.flush()
        other = pool.submit(_flushed, second, a_job(1))
        wait_for_locks(sync_engine)
        job = enqueue(first, a_job(2))
        busy: list[UniqueBusy] = []
        for session, attempt in ((first, first.flush), (second, other.result)):
            try:
                attempt()
            except UniqueBusy as error:
                busy.append(error)
                # The session goes on, and its transaction keeps what it has written.
                with session.no_autoflush:
                    assert session.execute(text("SELECT count(*) FROM oban_jobs")).scalar_one() == 1
        assert busy and "the session can go on" in str(busy[0])
        second.rollback()
        first.commit()
        assert inspect(job).persistent and job.conflict is None
    assert keys(sync_engine) == Counter({"1": 1, "2": 1})


def _flushed(session: Session, job: Job) -> None:
    enqueue(session, job)
    session.flush()


def test_a_busy_key_leaves_the_session_and_its_settings_usable(
    sync_engine: Engine, sync_sessions: sessionmaker[Session]
) -> None:
    with sync_sessions() as holder, sync_sessions() as session:
        enqueue(holder, a_job(1))
        holder.flush()
        session.execute(text("SET LOCAL lock_timeout = '9s'"))
        enqueue(session, a_job(2))
        session.flush()
        job = enqueue(session, a_job(1))
        with pytest.raises(UniqueBusy):
            session.flush()
        with session.no_autoflush:
            assert session.execute(text("SHOW lock_timeout")).scalar_one() == "9s"
        session.expunge(job)
        third = enqueue(session, a_job(3))
        session.flush()
        assert third.conflict is None
        assert session.execute(text("SHOW lock_timeout")).scalar_one() == "9s"
        holder.rollback()
        session.add(job)
        session.commit()
        assert job.conflict is None
    assert keys(sync_engine) == Counter({"1": 1, "2": 1, "3": 1})


def test_many_keys_in_any_order_never_deadlock(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    before = deadlocks(sync_engine)

    def claim(seed: int) -> None:
        chance = random.Random(seed)
        for turn in range(8):
            with sync_sessions() as session:
                chosen = chance.sample(range(30), 25)
                enqueue_many(session, [a_job((turn, key)) for key in chosen])
                session.flush()
                if chance.random() < 0.5:
                    session.rollback()
                else:
                    session.commit()

    for done in [pool.submit(claim, seed) for seed in range(4)]:
        done.result(60)
    assert deadlocks(sync_engine) == before
    assert set(keys(sync_engine).values()) <= {1}


def test_two_flushes_claim_their_keys_in_one_order_whatever_that_of_their_jobs(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    with sync_sessions() as holder:
        enqueue(holder, a_job("between"))
        holder.flush()
        orders = (["one", "between", "two"], ["two", "between", "one"])
        both = [pool.submit(enqueued, sync_sessions, *map(a_job, order)) for order in orders]
        wait_for_locks(sync_engine, 2)
        holder.rollback()
        done = [job for each in both for job in each.result(20)]
    assert sum(job.conflict is None for job in done) == 3
    assert set(keys(sync_engine).values()) == {1}


def deadlocks(engine: Engine) -> int:
    with engine.connect() as connection:
        found: int = connection.execute(
            text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        ).scalar_one()
        return found


# races


def test_no_key_is_twice_and_no_job_is_lost(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    """Each success of a claimer is a row; each conflict points at a row that was committed."""

    def work(seed: int) -> tuple[list[int], list[int]]:
        chance = random.Random(seed)
        inserted: list[int] = []
        conflicts: list[int] = []
        for _ in range(40):
            with sync_sessions(expire_on_commit=False) as session:
                jobs = [a_job(chance.randrange(20)) for _ in range(chance.choice((1, 1, 3)))]
                try:
                    with session.begin_nested() if chance.random() < 0.3 else session.begin():
                        enqueue_many(session, jobs)
                        session.flush()
                        if chance.random() < 0.3:
                            raise ZeroDivisionError
                    if session.in_transaction():
                        session.commit()
                except ZeroDivisionError:
                    continue
            inserted += [job.id for job in jobs if job.conflict is None]
            conflicts += [job.id for job in jobs if job.conflict is not None]
        return inserted, conflicts

    results: list[Future[tuple[list[int], list[int]]]] = [pool.submit(work, seed) for seed in range(8)]
    inserted = [each for result in results for each in result.result(60)[0]]
    conflicts = {each for result in results for each in result.result()[1]}
    with sync_engine.connect() as connection:
        rows = {row[0]: row[1] for row in connection.execute(text("SELECT id, args->>'key' FROM oban_jobs"))}
    assert sorted(inserted) == sorted(rows)
    assert len(set(rows.values())) == len(rows)
    assert conflicts <= rows.keys()


def test_of_many_who_succeed_a_finished_job_one_does(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    for turn in range(5):
        enqueued(sync_sessions, a_job(turn))
        with sync_engine.begin() as connection:
            connection.execute(text("UPDATE oban_jobs SET state = 'discarded'"))
        make: Callable[[], list[Job]] = lambda: enqueued(sync_sessions, a_job(turn))  # noqa: B023, E731
        done = [job for each in [pool.submit(make) for _ in range(8)] for job in each.result(20)]
        assert sum(job.conflict is None for job in done) == 1
        assert len({job.id for job in done}) == 1
