"""`Oban`: inspect and control jobs and queues; it talks to runners through the tables and NOTIFY alone."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, overload

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, async_sessionmaker
from sqlalchemy.orm import sessionmaker

from oban_sa.bulk.copy import copy
from oban_sa.bulk.insert import insert
from oban_sa.bulk.several import Jobs, several
from oban_sa.catalog.verify import verify
from oban_sa.client.cron_pauses import CronControl
from oban_sa.client.encryption import EncryptionControl
from oban_sa.client.enqueue import Enqueue
from oban_sa.client.jobs import JobControl, JobCount
from oban_sa.client.journal import Journal, JournalControl, JournalEntry
from oban_sa.client.progress import Progress, ProgressControl
from oban_sa.client.queues import QueueCheck, QueueControl, QueuePause
from oban_sa.client.relay import RelayControl
from oban_sa.client.selection import Which
from oban_sa.client.sequences import HaltedSequence, SequenceControl
from oban_sa.client.signals import SignalControl
from oban_sa.client.transactions import Transactions
from oban_sa.client.usage import LimitUse, PartitionUse, UsageControl, limit_use, not_observed
from oban_sa.client.waits import DEAD_AFTER, Wait, WaitControl
from oban_sa.client.workflows import WorkflowControl
from oban_sa.describe.caller import warn
from oban_sa.errors import InvalidOption, LimitsNotObserved
from oban_sa.models import Job
from oban_sa.outbox.sessions import AnySession
from oban_sa.sql.errors import sqlstate

if TYPE_CHECKING:  # most programs set no limits
    from oban_sa.client.slots import Slot
    from oban_sa.jobs.limits import Rate
    from oban_sa.schedule.periods import Period

_NOT_ALLOWED: Final = "42501"
"""The SQLSTATE insufficient_privilege."""


class Oban(
    CronControl,
    EncryptionControl,
    JobControl,
    JournalControl,
    ProgressControl,
    QueueControl,
    RelayControl,
    SequenceControl,
    SignalControl,
    UsageControl,
    WaitControl,
    WorkflowControl,
):
    """Controls the jobs and queues in the tables of one schema.

        oban = Oban(engine)
        await oban.cancel_jobs(select(Job).where(Job.queue == "mailers"))
        await oban.pause_queue("mailers")

    `engine` is an `AsyncEngine` on asyncpg or psycopg, which stays the caller's: nothing is opened before it is needed,
    and there is nothing to close. `name` is the instance whose queues are controlled, on all its nodes; a runner and a
    dashboard have the same default, "Oban". With `announce=False` runners are not told of jobs that become available,
    and find them by polling; signals to nodes always go out. `keys` are those of encrypted args, the newest first, for
    this whole process; by default those in OBAN_KEYS, or in the file that OBAN_KEYS_FILE names. Raises `InvalidOption`
    for options that can't be used.
    """

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        schema: str = "public",
        name: str = "Oban",
        announce: bool = True,
        keys: Iterable[str | bytes] = (),
    ) -> None:
        _check(engine)
        if not name.strip():
            raise InvalidOption(f"name is the name of an instance, such as 'Oban', got {name!r}")
        if not schema.strip():
            raise InvalidOption(f"schema is the name of a schema, such as 'public', got {schema!r}")
        if given := keys if isinstance(keys, (str, bytes)) else list(keys):
            from oban_sa.jobs import encryption

            encryption.use(given)
        self.engine = engine
        self.schema = schema
        self.name = name
        self.announce = announce
        self._transactions = Transactions(engine, schema, announce=announce)
        self._enqueue = Enqueue(engine, self._transactions.statements, self._transactions.engine, announce=announce)

    async def enqueue(self, job: Job) -> Job:
        """Store a job by one statement, which also announces it and commits, and return it, with its id.

        Where there is other work to commit with it, `enqueue(session, job)` writes both or neither, and raises
        the same errors.
        """
        return await self._enqueue.write(job)

    @overload
    async def enqueue_many(
        self, jobs: Jobs, *, session: AnySession | None = None, ids: Literal[False] = False
    ) -> int: ...
    @overload
    async def enqueue_many(self, jobs: Jobs, *, session: AnySession | None = None, ids: Literal[True]) -> list[Job]: ...
    @overload
    async def enqueue_many(self, jobs: Jobs, *, session: AnySession | None = None, ids: bool) -> int | list[Job]: ...
    async def enqueue_many(
        self, jobs: Jobs, *, session: AnySession | None = None, ids: bool = False
    ) -> int | list[Job]:
        """Store any number of jobs and return how many, or with `ids` the jobs themselves, with their ids.

        `jobs` may be a generator, also an asynchronous one: it is read job by job, so memory stays bounded, but for
        what `ids` returns. Raises `InvalidArguments` for values JSON can't hold, and `InvalidJob` for jobs that can't
        be enqueued; `index` says which one.

        Without a session all or none are stored, in a transaction that is open while the generator runs: streamed by
        COPY, which is many times faster than a session, or with `ids` by statements of a thousand jobs each.

        In a `session` of any kind they are written at once by such statements, in its own transaction or savepoint, and
        announced with its commit. The session does not keep them: with `ids` they come back detached, with `id`,
        `inserted_at` and `scheduled_at`. References are filled in; the objects that they point at are flushed first,
        unless `autoflush` is off. Where the call fails, what it had written is in the transaction until that rolls
        back. Raises `TypeError` for what is no session, `InvalidOption` for one of another database or schema,
        `SessionEnded` for one whose transaction has failed.
        """
        given = several(jobs)
        transactions = self._transactions
        if session is not None:
            count, made = await insert(
                session, given, engine=transactions.engine, announcing=self.announce, returning=ids
            )
        elif ids:
            async with AsyncSession(transactions.engine, expire_on_commit=False) as own, own.begin():
                count, made = await insert(
                    own, given, engine=transactions.engine, announcing=self.announce, returning=True
                )
        else:
            return await copy(transactions.engine, given, schema=self.schema, announcing=self.announce)
        return made if ids else count

    def limit(
        self,
        name: str,
        *,
        key: object = None,
        limit: int | None = None,
        rate: Rate | str | None = None,
        wait: Period | None = None,
    ) -> AbstractAsyncContextManager[Slot]:
        """Run a block of code within a limit that all processes share, in jobs and outside of them.

            async with oban.limit("stripe", key=account, limit=4, rate=Rate(100, per=1), wait=5):
                ...

        At most `limit` blocks of one `name` and `key` run at once, and at most so many begin in a time as `rate` says;
        one of both is needed. A block waits for its turn for `wait` at most, 0 to try once, None for as long as it
        takes. It runs on short statements of its own, in no session's transaction.

        The slot is kept by a thread while the block runs, and free when it ends, or 30 seconds after its process died.
        A block whose slot was lost all the same, since its process or connection stood still for longer, is cancelled
        and raises `LimitLost`. Raises `LimitReached` where there was no slot in time, `InvalidOption` for what can't be
        meant.
        """
        from oban_sa.client.slots import Limit, limited

        return limited(self.engine, self.schema, Limit.of(name, key=key, limit=limit, rate=rate, wait=wait))

    def limit_sync(
        self,
        name: str,
        *,
        key: object = None,
        limit: int | None = None,
        rate: Rate | str | None = None,
        wait: Period | None = None,
    ) -> AbstractContextManager[Slot]:
        """Do the same in synchronous code, on a connection of the thread that keeps slots.

            with oban.limit_sync("stripe", key=account, limit=4, wait=5) as slot:
                ...

        It can't interrupt a block whose slot was lost: `slot.lost` tells, and the end of the block raises `LimitLost`.
        Raises `InvalidOption` on an event loop too, which it would block.
        """
        from oban_sa.client.slots import Limit, limited_sync

        return limited_sync(self.engine, self.schema, Limit.of(name, key=key, limit=limit, rate=rate, wait=wait))

    async def verify(self) -> None:
        """Return when all tables are there as this version needs them.

        Raises `SchemaMissing` or `SchemaOutdated`, which say what is missing and the migration to write. Warns with
        `LimitsNotObserved` of each queue with limits that a node serves which does not observe them, as far as the role
        may see nodes.
        """
        await verify(self.engine, self.schema)
        try:
            uses = await self._transactions.run(lambda work: limit_use(work, self.name, DEAD_AFTER))
        except DBAPIError as error:
            if sqlstate(error) != _NOT_ALLOWED:  # a role that only enqueues
                raise
            return
        for warning in not_observed(uses):
            warn(warning, LimitsNotObserved)

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


__all__ = [
    "HaltedSequence",
    "JobCount",
    "Journal",
    "JournalEntry",
    "LimitUse",
    "Oban",
    "PartitionUse",
    "Progress",
    "QueueCheck",
    "QueuePause",
    "Wait",
    "Which",
    "verify",
]
