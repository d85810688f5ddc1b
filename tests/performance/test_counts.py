"""What a drain sends, commits and writes for each job. Counts, never times; a slower machine counts the same."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from oban_sa import Job, Runner, enqueue_many, job, telemetry
from oban_sa.workers import Registry
from tests.performance.sent import Sent
from tests.support import eventually, plain_url

JOBS = 2_000
CONCURRENCY = 50


@pytest.fixture
async def looking(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection that looks at the counters of the server."""
    connection = await asyncpg.connect(plain_url(database_url))
    yield connection
    await connection.close()


async def test_a_drain_takes_two_round_trips_for_each_batch_at_most(
    database_url: str, looking: asyncpg.Connection
) -> None:
    sent = await drained(database_url, looking)
    # A batch is fetched, and its outcomes are written with the next fetch.
    changing = [statement for statement in sent.about_jobs() if "UPDATE" in statement]
    assert len(changing) <= 2.2 * JOBS / CONCURRENCY
    # The rest is starting, stopping, and what happens once a second: a look at all queues, for one.
    assert len(sent.statements) - len(changing) <= 60


async def test_a_drain_commits_once_for_each_round_trip(database_url: str, looking: asyncpg.Connection) -> None:
    before = await committed(looking)
    sent = await drained(database_url, looking)

    async def counted() -> int:
        # Each connection reports what it did when it is closed, at the latest.
        commits = await committed(looking) - before
        assert commits >= len(sent.about_jobs())
        return commits

    assert await eventually(counted) <= len(sent.statements) + 20


async def test_a_drain_writes_each_row_twice_and_reads_no_other(database_url: str, looking: asyncpg.Connection) -> None:
    await drained(database_url, looking)

    async def counted() -> asyncpg.Record:
        found = await looking.fetchrow(
            "SELECT n_tup_upd, n_tup_del, seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'oban_jobs'"
        )
        assert found["n_tup_upd"] >= 2 * JOBS
        return found

    found = await eventually(counted)
    assert found["n_tup_upd"] == 2 * JOBS
    assert found["n_tup_del"] == found["seq_scan"] == 0
    # By the queue's order and by its key to be fetched, by its key to be acked.
    assert found["idx_tup_fetch"] <= 3.2 * JOBS


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)


@job(registry=Registry(), name="counted")
async def send(number: int) -> None: ...


@pytest.mark.parametrize(("jobs", "more"), [(0, 0), (1, 1), (500, 1)])
async def test_a_transaction_with_jobs_takes_one_statement_more(engine: AsyncEngine, jobs: int, more: int) -> None:
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    statements: list[str] = []
    event.listen(engine.sync_engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    async with AsyncSession(engine, expire_on_commit=False) as session, session.begin():
        session.add(Order())
        if jobs:
            enqueue_many(session, [send.new(number) for number in range(jobs)])
    assert len(statements) == 1 + more, statements


async def drained(database_url: str, looking: asyncpg.Connection) -> Sent:
    """Let one runner drain as many jobs as there are, and tell what it sent meanwhile."""
    registry = Registry()
    executed: list[int] = []
    written = 0

    @job(registry=registry, name="counted")
    async def counted(job: Job) -> None:
        executed.append(job.id)

    def acked(event: telemetry.ProducerAck) -> None:
        nonlocal written
        written += event.count

    await looking.execute(f"INSERT INTO oban_jobs (worker) SELECT 'counted' FROM generate_series(1, {JOBS})")
    sent, engine = Sent(), create_async_engine(database_url)
    detach = telemetry.attach(acked, telemetry.ProducerAck)
    with sent.watching(engine):
        async with Runner(engine, queues={"default": CONCURRENCY}, registry=registry):
            await eventually(lambda: written >= JOBS, within=60)
    detach()
    await engine.dispose()
    assert len(executed) == len(set(executed)) == JOBS
    return sent


async def committed(looking: asyncpg.Connection) -> int:
    query = "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    found: int = await looking.fetchval(query)
    return found
