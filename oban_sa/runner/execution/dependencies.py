"""What members of workflows waited for, read before their code begins."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Protocol, TypeAlias

import asyncpg

from oban_sa.models import Job
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_away
from oban_sa.schedule import clock

if TYPE_CHECKING:
    from sqlalchemy import TextClause

    from oban_sa.flows.dependencies import Deps
    from oban_sa.flows.stream import Fetch

AT_ONCE = 50
"""Members whose dependencies are read by one statement."""

PLANS_LAST = 1.0
"""Seconds for which its plan is kept: making one takes several times as long as reading for a few members."""

Records: TypeAlias = "Sequence[asyncpg.Record]"

_Wanted: TypeAlias = "tuple[int, asyncio.Future[Records]]"


class Dependencies(Protocol):
    """Reads what a job waited for."""

    async def enter(self, job: Job) -> None:
        """Make `deps()` answer in this context, and give the job the arguments that others have recorded."""
        ...

    async def close(self) -> None:
        """Read no more."""
        ...


class RunnersDependencies:
    """Reads it on a connection that is opened for the first job that waited for another.

    Jobs that begin at the same time, or while the connection is used, share a statement.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._line: Line | None = None
        self._begin: Callable[[Job, Fetch, Records], Deps] | None = None
        self._planned_at = -PLANS_LAST
        self._wanted: list[_Wanted] = []
        """The jobs whose rows no statement under way reads, and who waits for these."""
        self._reading: asyncio.Task[None] | None = None

    async def enter(self, job: Job) -> None:
        """Make `deps()` answer in this context, and give the job the arguments that others have recorded."""
        rows = await self._rows_of(vars(job)["id"])
        if self._begin is None:
            # Here, so that a runner without workflows imports nothing of them; and once, as an import takes its time.
            from oban_sa.flows.dependencies import begin

            self._begin = begin
        found = self._begin(job, self._rows, rows)
        if found.gives_arguments:
            await found.fill()

    async def close(self) -> None:
        """Close the connection, where there is one."""
        if self._reading is not None:
            await cancelled(self._reading)
        if self._line is not None:
            await self._line.close()

    async def _rows(self, make: Callable[[str], TextClause], given: Mapping[str, object]) -> Records:
        line = self._line
        if line is None:
            line = self._line = self._database.line(table="oban_sa_members", enough=0)
        if not line.is_planned or clock.monotonic() - self._planned_at >= PLANS_LAST:
            self._planned_at = clock.monotonic()
            await line.plan_anew()
        return await line.fetch(self._database.prepare(make, self._database.schema), **given)

    def _rows_of(self, job: int) -> asyncio.Future[Records]:
        """Read the rows of a job, together with those of others that are wanted by now."""
        # A future for each, which is cancelled with its job and then waits no longer: shielding one that several wait
        # for would take ten objects more, and many jobs begin at once.
        waiting: asyncio.Future[Records] = asyncio.get_running_loop().create_future()
        self._wanted.append((job, waiting))
        if self._reading is None:
            # In no context of a job, as it reads for many.
            self._reading = asyncio.create_task(self._read(), name="oban_sa dependencies", context=Context())
        return waiting

    async def _read(self) -> None:
        try:
            while self._wanted:
                some, self._wanted = self._wanted[:AT_ONCE], self._wanted[AT_ONCE:]
                await self._read_some(some)
        finally:
            self._reading = None

    async def _read_some(self, wanted: Sequence[_Wanted]) -> None:
        from oban_sa.sql.dependencies import dependencies, first

        try:
            rows = await self._rows(dependencies, first([job for job, _ in wanted]))
        except asyncpg.PostgresError as error:
            if len(wanted) > 1 and not is_away(error):  # as of one of them, whose rows can't be read
                for job, waiting in wanted:
                    if not waiting.done():  # as where its job was cancelled
                        await self._read_some([(job, waiting)])
                return
            _fail(wanted, error)
        except BaseException as error:
            _fail(wanted, error)
            if not isinstance(error, Exception):
                raise
        else:
            found: dict[int, list[asyncpg.Record]] = defaultdict(list)
            for row in rows:
                found[row["job_id"]].append(row)
            for job, waiting in wanted:
                if not waiting.done():
                    waiting.set_result(found[job])


def _fail(wanted: Sequence[_Wanted], error: BaseException) -> None:
    for _, each in wanted:
        if not each.done():
            if isinstance(error, asyncio.CancelledError):
                each.cancel()
            else:
                each.set_exception(error)
                each.exception()  # so that it is not told of where nobody waits for it any more
