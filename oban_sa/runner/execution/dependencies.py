"""What members of workflows waited for, read before their code begins."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from oban_sa.models import Job
from oban_sa.runner.database.connection import Line
from oban_sa.runner.database.database import Database

if TYPE_CHECKING:
    import asyncpg
    from sqlalchemy import TextClause


class Dependencies(Protocol):
    """Reads what a job waited for."""

    async def enter(self, job: Job) -> None:
        """Make `deps()` answer in this context, and give the job the arguments that others have recorded."""
        ...

    async def close(self) -> None:
        """Read no more."""
        ...


class RunnersDependencies:
    """Reads it on a connection that is opened for the first job that waited for another."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._line: Line | None = None

    async def enter(self, job: Job) -> None:
        """Make `deps()` answer in this context, and give the job the arguments that others have recorded."""
        # Here, so that a runner without workflows imports nothing of them.
        from oban_sa.flows.dependencies import enter

        await enter(job, self._fetch)

    async def close(self) -> None:
        """Close the connection, where there is one."""
        if self._line is not None:
            await self._line.close()

    def _fetch(
        self, make: Callable[[str], TextClause], given: Mapping[str, object]
    ) -> Awaitable[Sequence[asyncpg.Record]]:
        if self._line is None:
            self._line = self._database.line()
        return self._line.fetch(self._database.prepare(make, self._database.schema), **given)
