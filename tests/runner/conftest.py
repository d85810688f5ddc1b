"""A runner with short intervals and a registry of its own, and words for jobs that go through it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Job, Runner, enqueue_many, telemetry
from oban_sa.runner.concurrency.threads import Threads
from oban_sa.runner.queue.settings import Decisions
from oban_sa.workers import Registry
from tests.factories import Row
from tests.support import eventually


@pytest.fixture
def registry() -> Registry:
    """Workers of this test alone: `@job(registry=registry)`."""
    return Registry()


@pytest.fixture
def events() -> Iterator[list[telemetry.Event]]:
    """Every event that happens in this test."""
    seen: list[telemetry.Event] = []
    detach = telemetry.attach(seen.append)
    yield seen
    detach()


@pytest.fixture
async def threads() -> AsyncIterator[Threads]:
    made = Threads()
    yield made
    await made.close(5.0)


@dataclass
class Harness:
    """A database with jobs, and runners on it."""

    engine: AsyncEngine
    sessions: async_sessionmaker[AsyncSession]
    registry: Registry
    options: dict[str, Any] = field(
        default_factory=lambda: {
            "queues": {"default": 10},
            "grace": 5,
            "heartbeat_every": 0.2,
            "dead_after": 2,
            "poll_every": 0.2,
            "stage_every": 0.2,
        }
    )

    @asynccontextmanager
    async def runner(self, **options: Any) -> AsyncIterator[Runner]:
        async with Runner(self.engine, **{**self.options, "registry": self.registry, **options}) as runner:
            yield runner

    async def drain(self, **options: Any) -> None:
        """Run until idle."""
        await Runner(self.engine, **{**self.options, "registry": self.registry, **options}).run(until_idle=True)

    async def enqueue(self, *jobs: Job) -> list[int]:
        async with self.sessions.begin() as session:
            enqueue_many(session, jobs)
        return [job.id for job in jobs]

    async def job(self, job_id: int) -> Job:
        async with self.sessions() as session:
            return (await session.scalars(select(Job).where(Job.id == job_id))).one()

    async def states(self) -> dict[str, int]:
        rows = await self.sql("SELECT state::text, count(*) FROM oban_jobs GROUP BY 1")
        return dict(map(tuple, rows))

    async def sql(self, statement: str, **values: Any) -> list[Any]:
        async with self.engine.begin() as connection:
            result = await connection.execute(text(statement), values)
            return list(result.all()) if result.returns_rows else []

    async def add(self, row: Row) -> str:
        """Write a row of `tests.factories`; return the uuid of a producer."""
        await self.sql(row.statement, **row.values)
        return str(row.values.get("uuid"))

    async def becomes(self, job_id: int, state: str, within: float = 10.0) -> Job:
        async def reached() -> Job:
            job = await self.job(job_id)
            assert job.state == state, f"{job}: {job.errors}"
            return job

        found: Job = await eventually(reached, within)
        return found


@pytest.fixture
def harness(engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession], registry: Registry) -> Harness:
    return Harness(engine, sessions, registry)


@pytest.fixture
def of(events: list[telemetry.Event]) -> Callable[[type[telemetry.Event]], list[Any]]:
    """The events of one class seen so far."""
    return lambda kind: [event for event in events if isinstance(event, kind)]


@pytest.fixture
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runners read no decisions: they see no marks of cancelled jobs, and ask no queue for what it runs."""

    async def never(self: Decisions) -> float:
        return 60.0

    monkeypatch.setattr(Decisions, "tick", never)
