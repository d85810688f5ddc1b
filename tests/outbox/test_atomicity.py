"""Sessions of which some tables are elsewhere: jobs are committed with their data, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, func, insert, literal, select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from oban_sa import Job, enqueue, enqueue_select, errors, job, schema_map
from oban_sa.workers import Registry
from tests.databases import Databases
from tests.support import sync_url


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    region: Mapped[str] = mapped_column(default="here")


@pytest.fixture
def here(sync_engine: Engine) -> Engine:
    """The database of the test, with jobs and orders."""
    Base.metadata.create_all(sync_engine)
    return sync_engine


@pytest.fixture
def there_url(databases: Databases) -> Iterator[str]:
    with databases.fresh() as url:
        yield url


@pytest.fixture
def there(there_url: str) -> Iterator[Engine]:
    """Another database, with jobs and orders of its own."""
    made = create_engine(sync_url(there_url))
    Base.metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
async def async_there(there_url: str, there: Engine) -> AsyncIterator[AsyncEngine]:
    made = create_async_engine(there_url)
    yield made
    await made.dispose()


def rows(*engines: Engine) -> list[tuple[int, int]]:
    """How many orders and jobs each database has."""
    found: list[tuple[int, int]] = []
    for engine in engines:
        with Session(engine) as session:
            orders = session.scalar(select(func.count()).select_from(Order))
            found.append((orders or 0, session.scalar(select(func.count()).select_from(Job)) or 0))
    return found


def apart(here: Engine, there: Engine, **options: Any) -> Session:
    return Session(binds={Base: here, Job: there}, **options)


def test_a_job_elsewhere_than_its_data_is_refused_and_neither_is_written(here: Engine, there: Engine) -> None:
    with pytest.raises(errors.JobElsewhere) as refused, apart(here, there) as session, session.begin():
        session.add(Order())
        enqueue(session, Job("mail"))
    words = str(refused.value)
    assert str(here.url.database) in words
    assert str(there.url.database) in words
    assert "binds={Base: engine, Job: engine}" in words
    assert rows(here, there) == [(0, 0), (0, 0)]


def test_jobs_that_a_select_makes_elsewhere_than_the_data_are_refused(here: Engine, there: Engine) -> None:
    @job(registry=Registry(), name="select.elsewhere")
    def mail(order_id: int) -> None: ...

    with pytest.raises(errors.JobElsewhere), apart(here, there) as session, session.begin():
        session.add(Order())
        enqueue_select(session, mail, select(literal(1).label("order_id")))
    assert rows(here, there) == [(0, 0), (0, 0)]


def test_data_that_was_flushed_before_the_job_counts(here: Engine, there: Engine) -> None:
    with apart(here, there) as session:
        session.add(Order())
        session.flush()
        enqueue(session, Job("mail"))
        with pytest.raises(errors.JobElsewhere):
            session.flush()


def test_data_that_is_flushed_after_the_job_counts(here: Engine, there: Engine) -> None:
    with apart(here, there) as session:
        enqueue(session, Job("mail"))
        session.flush()
        session.add(Order())
        with pytest.raises(errors.JobElsewhere):
            session.commit()
    assert rows(here, there) == [(0, 0), (0, 0)]


def test_data_that_no_flush_wrote_counts_too(here: Engine, there: Engine) -> None:
    with apart(here, there) as session:
        enqueue(session, Job("mail"))
        session.flush()
        session.execute(insert(Order).values(region="x"))
        with pytest.raises(errors.JobElsewhere):
            session.commit()
    assert rows(here, there) == [(0, 0), (0, 0)]


def test_a_listener_of_the_sessions_own_hides_nothing(here: Engine, there: Engine) -> None:
    with pytest.raises(errors.JobElsewhere), apart(here, there) as session, session.begin():
        event.listen(session, "before_commit", lambda session: None)
        enqueue(session, Job("mail"))
        session.flush()
        session.execute(insert(Order))

    assert rows(here, there) == [(0, 0), (0, 0)]


def test_a_savepoint_in_between_hides_nothing(here: Engine, there: Engine) -> None:
    with apart(here, there) as session:
        session.add(Order())
        with pytest.raises(errors.JobElsewhere), session.begin_nested():
            enqueue(session, Job("mail"))


def test_jobs_alone_may_be_anywhere(here: Engine, there: Engine) -> None:
    with apart(here, there) as session, session.begin():
        enqueue(session, Job("mail"))
    assert rows(here, there) == [(0, 0), (0, 1)]


def test_reading_elsewhere_takes_nothing_from_a_job(here: Engine, there: Engine) -> None:
    class Routing(Session):
        """The way the documentation of SQLAlchemy shows: writes go to one engine and reads to another."""

        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Engine:
            return there if self._flushing else here

    with Routing() as session, session.begin():
        session.scalars(select(Order)).all()
        session.add(Order())
        enqueue(session, Job("mail"))
    assert rows(here, there) == [(0, 0), (1, 1)]


def test_it_is_allowed_where_the_session_says_so(here: Engine, there: Engine) -> None:
    sessions = sessionmaker(binds={Base: here, Job: there}, info={"oban_elsewhere": True})
    with sessions.begin() as session:
        session.add(Order())
        enqueue(session, Job("mail"))
    assert rows(here, there) == [(1, 0), (0, 1)]


def test_two_phases_commit_both_or_neither(here: Engine, there: Engine) -> None:
    with apart(here, there, twophase=True) as session:
        session.add(Order())
        enqueue(session, Job("mail"))
        session.flush()  # not refused; to commit it the server must allow prepared transactions
        session.rollback()


def test_an_engine_with_other_options_is_another_engine(here: Engine) -> None:
    mapped = here.execution_options(schema_translate_map=schema_map("public"))
    words = "an engine with other execution_options is another"
    mixed = Session(here, binds={Job: mapped})
    with pytest.raises(errors.JobElsewhere, match=words), mixed as session, session.begin():
        session.add(Order())
        enqueue(session, Job("mail"))
    with Session(mapped) as session, session.begin():
        session.add(Order())
        enqueue(session, Job("mail"))


def test_after_a_rollback_the_session_may_do_the_other_thing(here: Engine, there: Engine) -> None:
    with apart(here, there) as session:
        enqueue(session, Job("mail"))
        session.flush()
        session.rollback()
        session.add(Order())
        session.commit()
    assert rows(here, there) == [(1, 0), (0, 0)]


def sharded(here: Engine, there: Engine, job_shard: Any) -> ShardedSession:
    def of(_mapper: Any, instance: Any, _clause: Any = None) -> str:
        return str(job_shard(instance)) if isinstance(instance, Job) else str(instance.region)

    return ShardedSession(
        shards={"here": here, "there": there},
        shard_chooser=of,
        identity_chooser=lambda *_, **__: ["here", "there"],
        execute_chooser=lambda _: ["here", "there"],
    )


def test_a_job_goes_to_the_shard_of_its_data(here: Engine, there: Engine) -> None:
    with sharded(here, there, lambda job: job.args["region"]) as session, session.begin():
        for region in ("here", "there", "there"):
            session.add(Order(region=region))
            enqueue(session, Job("mail", args={"region": region}))
    assert rows(here, there) == [(1, 1), (2, 2)]


def test_a_job_in_another_shard_than_its_data_is_refused(here: Engine, there: Engine) -> None:
    with pytest.raises(errors.JobElsewhere), sharded(here, there, lambda _: "here") as session, session.begin():
        session.add(Order(region="there"))
        enqueue(session, Job("mail"))
    assert rows(here, there) == [(0, 0), (0, 0)]


def test_data_in_another_kind_of_database_counts_as_written(here: Engine, tmp_path: Any) -> None:
    lite = create_engine(f"sqlite:///{tmp_path}/orders.db")
    Base.metadata.create_all(lite)
    with pytest.raises(errors.JobElsewhere, match="sqlite"), apart(lite, here) as session, session.begin():
        session.add(Order())
        enqueue(session, Job("mail"))
    lite.dispose()


def test_a_session_with_one_bind_is_asked_nothing(here: Engine) -> None:
    said: list[str] = []
    event.listen(here, "before_cursor_execute", lambda _c, _cursor, statement, *_: said.append(statement))
    with Session(here) as session, session.begin():
        session.add(Order())
        enqueue(session, Job("mail"))
    assert [words for words in said if "txid" in words] == []
    assert len(said) == 2  # the order, and the job with its announcement


async def test_async_sessions_are_no_different(engine: AsyncEngine, here: Engine, async_there: AsyncEngine) -> None:
    def session(**options: Any) -> AsyncSession:
        return AsyncSession(binds={Base: engine, Job: async_there}, **options)

    with pytest.raises(errors.JobElsewhere):
        async with session() as refused, refused.begin():
            refused.add(Order())
            enqueue(refused, Job("mail"))
    with pytest.raises(errors.JobElsewhere):
        async with session() as refused, refused.begin():
            enqueue(refused, Job("mail"))
            await refused.flush()
            await refused.execute(insert(Order).values(region="x"))
    async with session() as allowed, allowed.begin():
        await allowed.execute(text("SELECT 1"), bind_arguments={"mapper": Order.__mapper__})
        enqueue(allowed, Job("mail"))
    async with session() as allowed, allowed.begin():
        allowed.info["oban_elsewhere"] = True
        allowed.add(Order())
        enqueue(allowed, Job("mail"))
