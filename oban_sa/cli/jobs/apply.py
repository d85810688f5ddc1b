"""Jobs changed: all at once, a part of the table at a time, or one by one where the database refuses some."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import ColumnElement, func, select

from oban_sa.client import Oban, Retried
from oban_sa.client.read import read_session
from oban_sa.client.search import NEWEST
from oban_sa.describe.printable import line
from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import Conflict
from oban_sa.models import Job
from oban_sa.runner.database.errors import is_refused, unwrapped
from oban_sa.sql import browse
from oban_sa.sql.wanted import Wanted, conditions

Verb: TypeAlias = Literal["retry", "cancel", "delete"]

AT_ONCE: Final = 1_000
"""Jobs that are changed in one transaction where no index finds them."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done to jobs, and the states in which it can be done."""

    verb: Verb
    changeable: frozenset[JobState]
    options: dict[str, Any]
    """Keywords of the client's method."""
    refused: dict[int, str] = field(default_factory=dict[int, str])
    """What the database said of jobs that it refused to change, by their ids."""
    conflicts: dict[int, Conflict] = field(default_factory=dict[int, Conflict])
    """The jobs that stood in the way of unique ones, by the ids of these, which were left as they are."""

    async def by_id(self, oban: Oban, ids: Sequence[int]) -> int:
        """Change these jobs; return how many were."""
        return await self._apply(oban, browse.by_id(ids))

    async def all(self, oban: Oban, wanted: Wanted) -> int:
        """Change all that are wanted, in one transaction where an index finds them; return how many were."""
        # The condition on the state is what the index is searched by; and all that keeps `cancel` from reading the
        # jobs that have ended, which are most of them.
        meant = [*conditions(wanted), Job.state.in_(sorted(self.changeable))]
        if wanted.ids or wanted.by_index or self.verb == "cancel":
            return await self._apply(oban, *meant)
        changed = 0
        async for ids in _find(oban, wanted):
            changed += await self._apply(oban, Job.id.in_(ids), *meant)
        return changed

    async def _apply(self, oban: Oban, *conditions: ColumnElement[bool]) -> int:
        methods: dict[Verb, Callable[..., Awaitable[int]]] = {
            "retry": oban.retry_jobs,
            "cancel": oban.cancel_jobs,
            "delete": oban.delete_jobs,
        }
        method = partial(methods[self.verb], **self.options)

        async def change(*conditions: ColumnElement[bool]) -> int:
            changed = await method(*conditions)
            if isinstance(changed, Retried):
                self.conflicts.update(changed.conflicts)
            return changed

        try:
            return await change(*conditions)
        except Exception as error:
            if not is_refused(error):
                raise
        # One job that a rule of the application's refuses, such as a unique index, must not keep the others from
        # being changed.
        async with read_session(oban) as session:
            changeable = Job.state.in_(sorted(self.changeable))
            ids = list(await session.scalars(select(Job.id).where(*conditions, changeable).order_by(Job.id)))
        return await self._bisect(ids, lambda part: change(*conditions, Job.id.in_(part)))

    async def _bisect(self, ids: list[int], change: Callable[[list[int]], Awaitable[int]]) -> int:
        """Change all of these jobs but those that the database refuses, by halving what it refuses; how many were."""
        changed, parts = 0, [ids]
        while parts:
            part = parts.pop()
            try:
                changed += await change(part)
            except Exception as error:
                if not is_refused(error):
                    raise
                if len(part) == 1:
                    self.refused[part[0]] = line(" ".join(str(unwrapped(error)).split()))
                else:
                    middle = len(part) // 2
                    parts += [part[middle:], part[:middle]]
        return changed


async def _find(oban: Oban, wanted: Wanted) -> AsyncGenerator[list[int]]:
    """Search the whole table for jobs that are wanted, from the newest on; give their ids, `AT_ONCE` at a time."""
    async with read_session(oban) as session:
        below: int | None = (await session.execute(select(func.max(Job.id) + 1))).scalar_one()
    while below is not None:
        async with read_session(oban) as session:
            lowest = (await session.execute(browse.lowest(below=below, window=NEWEST))).scalar_one()
            if lowest is None:
                return
            ids = list(await session.scalars(browse.between(wanted, lowest=lowest, below=below)))
        for first in range(0, len(ids), AT_ONCE):
            yield ids[first : first + AT_ONCE]
        below = lowest
