"""Unique jobs of a query: their keys are claimed by the statement that inserts them."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from sqlalchemy import (
    ColumnElement,
    DateTime,
    Engine,
    Integer,
    Select,
    column,
    create_engine,
    func,
    select,
    text,
    values,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession
from sqlalchemy.orm import Session, sessionmaker

from oban_sa import Job, JobState, Unique, enqueue, enqueue_many, enqueue_select
from oban_sa.bulk import unique as bulk_unique
from oban_sa.bulk.select import Enqueued
from oban_sa.errors import InvalidOption, UniqueBusy
from oban_sa.migrations import migrate
from oban_sa.workers import Registry, job
from tests.clients import ears
from tests.support import plain_url, sync_url

REGISTRY = Registry()
SCHEMAS = Path(__file__).parent.parent / "migrations"
LOCKED = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")


@job(registry=REGISTRY, name="app.Index", unique=True)
async def index(key: int, by: int = 0) -> None: ...


def rows(*pairs: tuple[int, int]) -> Select[Any]:
    """A query with a row of `key` and `by` for each, in this order."""
    given = values(column("key", Integer), column("by", Integer), name="given").data(list(pairs))
    return select(given.c.key, given.c.by)


def keyed(*keys: int) -> Select[Any]:
    return rows(*((key, 0) for key in keys))


def stored(engine: Engine) -> list[tuple[int, int]]:
    with Session(engine) as session:
        return [(job.args["key"], job.args["by"]) for job in session.scalars(select(Job).order_by(Job.id))]


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as threads:
        yield threads


def wait_for_locks(engine: Engine, number: int = 1) -> None:
    deadline = time.monotonic() + 20
    with engine.connect() as connection:
        while connection.execute(LOCKED).scalar_one() < number:
            assert time.monotonic() < deadline, "nothing waits"
            connection.rollback()
            time.sleep(0.01)


def test_rows_whose_key_is_taken_become_no_jobs_and_are_counted(sync_engine: Engine) -> None:
    with Session(sync_engine) as session, session.begin():
        assert enqueue_select(session, index, keyed(1, 2, 3)) == 3
    with Session(sync_engine) as session, session.begin():
        written = enqueue_select(session, index, keyed(2, 4, 3, 5))
        assert (written, written.conflicts) == (2, 2)
    assert stored(sync_engine) == [(1, 0), (2, 0), (3, 0), (4, 0), (5, 0)]
    with Session(sync_engine) as session, session.begin():
        assert enqueue_select(session, index, keyed(1).where(text("false"))).conflicts == 0


def test_of_several_rows_with_one_key_the_first_becomes_a_job(sync_engine: Engine) -> None:
    worker = index.options(unique=Unique(keys=["key"]))
    given = rows((1, 7), (2, 5), (1, 3), (1, 9), (2, 4)).subquery()
    with Session(sync_engine) as session, session.begin():
        written = enqueue_select(session, worker, select(given).order_by(given.c.by))
        assert (written, written.conflicts) == (2, 3)
    assert stored(sync_engine) == [(1, 3), (2, 4)]


async def test_asynchronous_sessions_announce_what_they_wrote_alone(driven: AsyncEngine, database_url: str) -> None:
    async with ears(database_url) as listening, AsyncSession(driven) as session:
        assert await enqueue_select(session, index, keyed(1, 2)) == 2
        await session.commit()
        assert len(await listening.heard()) == 1
        assert await enqueue_select(session, index, keyed(1, 2)) == 0
        assert await enqueue_select(session, index, keyed(3), schedule_in=60) == 1
        await session.commit()
        assert await listening.heard() == []


def test_all_ways_make_the_same_key_and_meta(sync_engine: Engine) -> None:
    rule = Unique(fields=["worker", "args", "meta"], group="incomplete")
    options: dict[str, Any] = {"meta": {"a": 1, "unique_while": "all"}, "unique": rule, "partition": "args.key"}
    worker = index.options(**options)
    with Session(sync_engine) as session, session.begin():
        made = enqueue(session, worker.new(1))
        session.flush()
        assert enqueue_select(session, worker, keyed(1, 2)) == 1
        conflicts = [enqueue(session, worker.new(key)) for key in (1, 2)]
        session.flush()
        assert conflicts[0].id == made.id
        assert conflicts[1].conflict is not None
        assert set(conflicts[1].meta) == set(made.meta) == {"a", "partition", "unique", "unique_while"}
        assert conflicts[1].meta["unique_while"] == "incomplete"
        assert conflicts[1].meta["partition"] == "2"


def test_states_and_period_are_obeyed(sync_engine: Engine) -> None:
    worker = index.options(unique=Unique(period="1 hour"))

    def select_one() -> int:
        with Session(sync_engine) as session, session.begin():
            return enqueue_select(session, worker, keyed(1, 1))

    def change(statement: str) -> None:
        with sync_engine.begin() as connection:
            connection.execute(text(statement))

    assert select_one() == 1
    change("UPDATE oban_jobs SET state = 'completed', scheduled_at = scheduled_at - interval '59 minutes'")
    assert select_one() == 0
    change("UPDATE oban_jobs SET scheduled_at = scheduled_at - interval '2 minutes'")
    assert select_one() == 1
    change("UPDATE oban_jobs SET state = 'cancelled'")
    assert select_one() == 1


def test_jobs_that_wait_are_joined(sync_engine: Engine) -> None:
    worker = index.options(unique=Unique(group="waiting"))
    free = text("SELECT id FROM oban_jobs WHERE state = 'available' FOR UPDATE SKIP LOCKED")
    with Session(sync_engine) as session, session.begin():
        assert enqueue_select(session, worker, keyed(1), schedule_in=60) == 1
    with sync_engine.begin() as connection:
        connection.execute(text("UPDATE oban_jobs SET state = 'available'"))
    with Session(sync_engine) as session, sync_engine.connect() as runner:
        assert enqueue_select(session, worker, keyed(1)) == 0
        assert runner.execute(free).all() == []
        session.commit()
        assert len(runner.execute(free).all()) == 1


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_a_key_that_another_transaction_holds_is_waited_for(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor, ends: str
) -> None:
    def write() -> Enqueued:
        with sync_sessions.begin() as other:
            return enqueue_select(other, index, keyed(1, 2, 1))

    with sync_sessions() as session:
        enqueue(session, index.new(1))
        session.flush()
        writing = pool.submit(write)
        wait_for_locks(sync_engine)
        getattr(session, ends)()
        written = writing.result(20)
    assert (written, written.conflicts) == ((1, 2) if ends == "commit" else (2, 1))
    assert sorted(stored(sync_engine)) == [(1, 0), (2, 0)]


@pytest.mark.parametrize("option", ["priority", "queue"])
def test_a_row_that_lost_its_key_to_a_job_that_is_no_hindrance_becomes_a_job(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor, option: str
) -> None:
    """Its columns come again with the second statement, all of them as the query said."""
    given = rows((1, 5), (2, 6)).subquery()
    chosen: dict[str, Any] = {"priority": given.c.by, "queue": given.c.by.op("||")("q").label("queue")}
    worker = index.options(tags=["x", 'y"'], max_attempts=3, meta={"m": [1]})

    def write() -> Enqueued:
        with sync_sessions.begin() as other:
            rule = Unique(fields=["worker", "args"])
            return enqueue_select(other, worker, select(given), schedule_in=60, unique=rule, **{option: chosen[option]})

    with sync_sessions() as session:
        other = enqueue(session, index.options(unique=Unique(fields=["worker", "args"])).new(1, by=5))
        session.flush()
        writing = pool.submit(write)
        wait_for_locks(sync_engine)
        session.execute(text("UPDATE oban_jobs SET state = 'cancelled'"))
        session.commit()
        written = writing.result(20)
    assert (written, written.conflicts) == (2, 0)
    with Session(sync_engine) as session:
        found = {job.args["by"]: job for job in session.scalars(select(Job).where(Job.id != other.id))}
        assert set(found) == {5, 6}
        for by, made in found.items():
            assert (made.tags, made.max_attempts, made.meta["m"]) == (["x", 'y"'], 3, [1])
            assert made.state == JobState.SCHEDULED
            assert getattr(made, option) == (by if option == "priority" else f"{by}q")


def test_two_flushes_and_selects_in_opposite_order_are_busy(
    sync_engine: Engine, sync_sessions: sessionmaker[Session], pool: ThreadPoolExecutor
) -> None:
    with sync_sessions() as first, sync_sessions() as second:
        enqueue_select(first, index, keyed(1))
        enqueue(second, index.new(2))
        second.flush()
        waiting = pool.submit(lambda: enqueue_select(first, index, keyed(2)))
        with pytest.raises(UniqueBusy):
            waiting.result(20)
        second.rollback()
        assert enqueue_select(first, index, keyed(2)) == 1
        first.commit()
    assert stored(sync_engine) == [(1, 0), (2, 0)]


def test_repeatable_read_says_what_to_do(sync_engine: Engine) -> None:
    with Session(sync_engine.execution_options(isolation_level="REPEATABLE READ")) as session:
        session.execute(text("SELECT 1"))
        with Session(sync_engine) as other, other.begin():
            enqueue(other, index.new(1))
        with pytest.raises(DBAPIError, match=r"READ COMMITTED, in which a claim waits(.|\n)*could not serialize"):
            enqueue_select(session, index, keyed(1))


def test_it_gives_up_where_others_are_always_faster(sync_engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_unique, "TURNS", 0)
    with Session(sync_engine) as session, pytest.raises(UniqueBusy, match="again and again"):
        enqueue_select(session, index, keyed(1))


@pytest.mark.parametrize("family", ["elixir_v14", "python_0_7"])
async def test_the_tables_of_either_family(empty_database_url: str, family: str) -> None:
    raw = await asyncpg.connect(plain_url(empty_database_url))
    await raw.execute((SCHEMAS / f"{family}.sql").read_text())
    await raw.close()
    engine = create_engine(sync_url(empty_database_url))
    with engine.begin() as connection:
        migrate(connection)
    with Session(engine) as session:
        assert enqueue_select(session, index, keyed(1, 2, 1)) == 2
        enqueue_many(session, [index.new(2), index.new(3)])
        session.commit()
        assert enqueue_select(session, index, keyed(1, 2, 3, 4)) == 1
        assert enqueue_select(session, index.options(unique=False), keyed(1)) == 1
        session.commit()
    assert stored(engine) == [(1, 0), (2, 0), (3, 0), (4, 0), (1, 0)]
    engine.dispose()


MOMENT: ColumnElement[Any] = func.now(type_=DateTime(timezone=True))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"unique": Unique(replace=["priority"])}, "enqueue_select does not; .* enqueue_many"),
        ({"unique": Unique(group="scheduled")}, "may be available: two rows .*group='incomplete'.* enqueue_many"),
        ({"unique": Unique(group="scheduled"), "schedule_in": 0}, "may be available"),
        ({"unique": Unique(group="scheduled"), "scheduled_at": datetime.max}, "may be available"),
        ({"unique": Unique(states=["executing"]), "schedule_in": 60}, "may be scheduled"),
        ({"unique": Unique(states=["executing"]), "scheduled_at": MOMENT}, "may be available or scheduled"),
        ({"unique": Unique(states=["available"]), "scheduled_at": MOMENT}, "may be scheduled"),
        ({"unique": Unique(period=60), "scheduled_at": MOMENT}, "scheduled_at differs by row.* without period"),
        ({"unique": 7}, "unique is True or Unique"),
    ],
)
def test_what_one_statement_cannot_decide_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        enqueue_select(Session(), index, keyed(1), **options)


def test_what_one_statement_can_decide_is_not(sync_engine: Engine) -> None:
    given: list[Callable[[Session], int]] = [
        lambda session: enqueue_select(session, index, keyed(1, 1), unique=Unique(states=["available"])),
        lambda session: enqueue_select(session, index, keyed(2, 2), unique=Unique(period=1), schedule_in=60),
        lambda session: enqueue_select(session, index, keyed(3, 3), scheduled_at=MOMENT),
        lambda session: enqueue_select(session, index, keyed(4, 4), unique=None),
        lambda session: enqueue_select(session, index, keyed(5, 5), unique=Unique(group="scheduled"), schedule_in=60),
    ]
    with Session(sync_engine) as session, session.begin():
        assert [write(session) for write in given] == [1, 1, 1, 2, 1]


def test_the_answer_is_a_number_that_knows_more() -> None:
    written = Enqueued(2, 5)
    assert written == 2 and f"{written}" == "2" and written.conflicts == 5 and Enqueued().conflicts == 0
    copied = pickle.loads(pickle.dumps(written))
    assert (copied, copied.conflicts) == (2, 5)
