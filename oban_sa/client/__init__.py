"""`Oban`: jobs and queues, inspected and steered; it speaks to runners through the tables and NOTIFY alone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from oban_sa import enqueueing
from oban_sa.client.copying import Jobs, copy
from oban_sa.client.jobs import JobControl, JobCount
from oban_sa.client.queues import QueueCheck, QueueControl, QueuePause
from oban_sa.client.selection import Which
from oban_sa.client.transactions import Transactions
from oban_sa.client.verifying import verify
from oban_sa.errors import InvalidOption
from oban_sa.models import Job
from oban_sa.outbox import ANNOUNCE


class Oban(JobControl, QueueControl):
    """Steers the jobs and queues in the tables of one schema.

        oban = Oban(engine)
        await oban.cancel_jobs(select(Job).where(Job.queue == "mailers"))
        await oban.pause_queue("mailers")

    `engine` is an `AsyncEngine` on asyncpg or psycopg, which stays the caller's: nothing is opened before it is needed,
    and there is nothing to close. `name` is the instance that queues are steered of, on all its nodes; a runner's and a
    dashboard's is the same, "Oban". With `announce=False` runners are not told of jobs that become available, and find
    them by polling; signals to nodes always go out. Raises `InvalidOption` for options that can't be used.
    """

    def __init__(
        self, engine: AsyncEngine, *, schema: str = "public", name: str = "Oban", announce: bool = True
    ) -> None:
        _check(engine)
        if not name.strip():
            raise InvalidOption(f"name is the name of an instance, such as 'Oban', got {name!r}")
        if not schema.strip():
            raise InvalidOption(f"schema is the name of a schema, such as 'public', got {schema!r}")
        self.engine = engine
        self.schema = schema
        self.name = name
        self.announce = announce
        self._transactions = Transactions(engine, schema, announce=announce)

    async def enqueue(self, job: Job) -> Job:
        """Store a job in a transaction of its own and return it, with its id.

        Where there is other work to commit with it, `enqueue(session, job)` writes both or neither, and raises
        the same errors.
        """
        async with AsyncSession(self._transactions.engine, expire_on_commit=False) as session, session.begin():
            session.info[ANNOUNCE] = self.announce
            return enqueueing.enqueue(session, job)

    async def enqueue_many(self, jobs: Jobs) -> int:
        """Store any number of jobs, all or none of them, and return how many; their ids stay unknown.

        `jobs` may be a generator, also an asynchronous one: it is read job by job and the transaction is open while it
        runs, so memory stays bounded. They are streamed by COPY, which is many times faster than a session, while the
        next ones are being made. Raises `InvalidArguments` for values JSON can't hold and for references, `InvalidJob`
        for jobs that can't be enqueued; `index` says which one, and nothing was stored.
        """
        return await copy(self._transactions.engine, jobs, schema=self.schema, announcing=self.announce)

    async def verify(self) -> None:
        """Return when all tables are there as this version needs them.

        Raises `SchemaMissing` or `SchemaOutdated`, which say what is missing and the migration to write.
        """
        await verify(self.engine, self.schema)

    def __repr__(self) -> str:
        return f"<Oban name={self.name} schema={self.schema} at {self.engine.url!r}>"


def _check(engine: Any) -> None:
    given: object = engine
    match engine:
        case AsyncEngine():
            if engine.dialect.name != "postgresql":
                raise InvalidOption(f"jobs live in PostgreSQL, and this engine speaks to {engine.dialect.name}")
            return
        case Engine():
            hint = (
                'make one with create_async_engine("postgresql+asyncpg://..."); to enqueue jobs from a synchronous '
                "session write enqueue(session, job)"
            )
        case Connection() | AsyncConnection() | sessionmaker() | async_sessionmaker():
            hint = "give the engine that it came from"
        case _:
            hint = 'make one with create_async_engine("postgresql+asyncpg://...")'
    raise InvalidOption(f"Oban takes an AsyncEngine, got {type(given).__name__}; {hint}")


__all__ = ["JobCount", "Oban", "QueueCheck", "QueuePause", "Which", "verify"]
