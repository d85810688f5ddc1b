"""What members of workflows waited for, read before their code begins."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextvars import Context
from typing import TYPE_CHECKING, Protocol, TypeAlias, cast

import asyncpg

from oban_sa.models import Job
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database
from oban_sa.runner.database.errors import is_away
from oban_sa.schedule import clock

if TYPE_CHECKING:
    from sqlalchemy import TextClause

AT_ONCE = 50
"""Members whose dependencies are read by one statement."""

PLANS_LAST = 1.0
"""Seconds for which its plan is kept: making one takes several times as long as reading for a few members."""

Records: TypeAlias = "Sequence[asyncpg.Record]"


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
        self._planned_at = -PLANS_LAST
        self._wanted: dict[int, asyncio.Future[Records]] = {}
        """By job, who waits for its rows; those that no statement under way reads."""
        self._reading: asyncio.Task[None] | None = None

    async def enter(self, job: Job) -> None:
        """Make `deps()` answer in this context, and give the job the arguments that others have recorded."""
        # Here, so that a runner without workflows imports nothing of them.
        from oban_sa.flows.dependencies import enter

        await enter(job, self._fetch)

    async def close(self) -> None:
        """Close the connection, where there is one."""
        if self._reading is not None:
            await cancelled(self._reading)
        if self._line is not None:
            await self._line.close()

    async def _fetch(self, make: Callable[[str], TextClause], given: Mapping[str, object]) -> Records:
        from oban_sa.sql.dependencies import dependencies

        # What each job reads before its code begins. All of it, which code asks for, may be large.
        if make is dependencies and given["limit"] is not None:
            [job] = cast("list[int]", given["jobs"])
            return await self._together(job, given)
        return await self._rows(make, given)

    async def _rows(self, make: Callable[[str], TextClause], given: Mapping[str, object]) -> Records:
        line = self._line
        if line is None:
            line = self._line = self._database.line(table="oban_sa_members", enough=0)
        if not line.is_planned or clock.monotonic() - self._planned_at >= PLANS_LAST:
            self._planned_at = clock.monotonic()
            await line.plan_anew()
        return await line.fetch(self._database.prepare(make, self._database.schema), **given)

    async def _together(self, job: int, given: Mapping[str, object]) -> Records:
        """Read the rows of a job, together with those of others that are wanted by now."""
        if (waiting := self._wanted.get(job)) is None:
            waiting = self._wanted[job] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            # In no context of a job, as it reads for many.
            self._reading = asyncio.create_task(self._read(given), name="oban_sa dependencies", context=Context())
        # A job that is cancelled or out of time waits no longer; another one may wait for the same.
        return await asyncio.shield(waiting)

    async def _read(self, given: Mapping[str, object]) -> None:
        try:
            while self._wanted:
                jobs = list(self._wanted)[:AT_ONCE]
                waiting = {job: self._wanted.pop(job) for job in jobs}
                await self._read_some(waiting, given)
        finally:
            self._reading = None

    async def _read_some(self, waiting: Mapping[int, asyncio.Future[Records]], given: Mapping[str, object]) -> None:
        from oban_sa.sql.dependencies import dependencies

        try:
            rows = await self._rows(dependencies, {**given, "jobs": list(waiting)})
        except asyncpg.PostgresError as error:
            if len(waiting) > 1 and not is_away(error):  # as of one of them, whose rows can't be read
                for job, alone in waiting.items():
                    await self._read_some({job: alone}, given)
                return
            _fail(waiting, error)
        except BaseException as error:
            _fail(waiting, error)
            if not isinstance(error, Exception):
                raise
        else:
            found: dict[int, list[asyncpg.Record]] = defaultdict(list)
            for row in rows:
                found[row["job_id"]].append(row)
            for job, each in waiting.items():
                if not each.done():
                    each.set_result(found[job])


def _fail(waiting: Mapping[int, asyncio.Future[Records]], error: BaseException) -> None:
    for each in waiting.values():
        if not each.done():
            if isinstance(error, asyncio.CancelledError):
                each.cancel()
            else:
                each.set_exception(error)
                each.exception()  # so that it is not told of where nobody waits for it any more
