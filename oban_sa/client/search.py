"""Search for jobs that pass filters, at a cost that does not grow with the table; hints for names that no job has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.client import Oban
from oban_sa.client.filters import Filters
from oban_sa.client.read import database_now, read_session
from oban_sa.errors import nearest
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.sql import browse
from oban_sa.sql.places import Place
from oban_sa.sql.wanted import Cursor, Wanted

NEWEST: Final = 100_000
"""Newest of all jobs that are read for a filter without an index. They lie side by side in the table."""
LATEST: Final = 10_000
"""The same for jobs of certain states and queues, which lie anywhere in the table."""
PLACES: Final = 1_000
"""Triples of state, queue and priority that are read one by one from the index; where there are more, the newest ids
are read instead."""
COUNTED: Final = 10_000
"""Jobs that are counted before they are changed; where there are more, the question says so."""

_ENTRIES: Final = 500_000
_HINTED: Final = 10_000
_FEW: Final = 6
_MOST_HINTS: Final = 5


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to a search; `looked_at` is how many jobs were read, or None where no others might pass.

    `following` is where a next search goes on: after the last of the jobs, or of those that were looked at.
    """

    jobs: list[Job]
    more: bool
    looked_at: int | None
    by_id: bool
    hints: list[str]
    now: datetime
    following: Cursor | None


@dataclass(frozen=True, slots=True)
class Counted:
    """How many jobs pass filters, by state; `all_of_them` where there can't be more."""

    states: dict[JobState, int]
    all_of_them: bool
    hints: list[str]
    wanted: Wanted


async def find(
    oban: Oban,
    filters: Filters,
    *,
    limit: int,
    window: int | None = None,
    oldest: bool = False,
    before: Cursor | None = None,
) -> Found:
    """Find at most `limit` jobs; `window` is how many are read for a filter without an index.

    With `before`, the `following` of an earlier answer, the search goes on from there.
    """
    async with read_session(oban) as session:
        now = await database_now(session)
        wanted = filters.at(now)
        among = None if wanted.ids else await _among(session, wanted)
        bounded = not wanted.ids and (wanted.by_looking or (wanted.anything and among is None))
        jobs: list[Job] = []
        looked_at, following = None, None
        if wanted.ids:
            jobs += await session.scalars(browse.by_ids(wanted, limit=limit + 1, before=before))
        elif among is None:
            width = (window or NEWEST) if bounded else limit + 1
            jobs += await session.scalars(
                browse.newest(wanted, window=width, limit=limit + 1, oldest=oldest, before=before)
            )
            if bounded and len(jobs) <= limit:
                looked_at, following = await _end_by_id(session, width, oldest=oldest, before=before)
        elif among and not bounded:
            found = browse.listing(wanted, among, window=limit + 1, limit=limit + 1, oldest=oldest, before=before)
            jobs += await session.scalars(found)
        elif among:
            width = window or _window(among)
            within = browse.listing_within(wanted, among, window=width, limit=limit + 1, oldest=oldest, before=before)
            for job, last_at, last_id, count in (await session.execute(within)).all():
                if job is not None:
                    jobs.append(job)
                if count == width:
                    looked_at, following = width, Cursor(last_id, last_at)
            if len(jobs) > limit:
                looked_at, following = None, None
        hints = [] if jobs or before is not None else await _hints(session, wanted)
    more = len(jobs) > limit
    if more:
        last_one = jobs[limit - 1]
        following = Cursor(last_one.id, None if among is None else last_one.scheduled_at)
    return Found(jobs[:limit], more, looked_at, among is None, hints, now, following)


async def _end_by_id(
    session: AsyncSession, width: int, *, oldest: bool, before: Cursor | None
) -> tuple[int | None, Cursor | None]:
    """Return how many jobs were looked at by id, and the last of them, where there are more beyond; else Nones."""
    end = await session.scalar(browse.beyond(window=width, oldest=oldest, before=before))
    return (None, None) if end is None else (width, Cursor(end))


async def count_wanted(oban: Oban, filters: Filters) -> Counted:
    """Count the jobs that pass filters, up to a bound."""
    async with read_session(oban) as session:
        wanted = filters.at(await database_now(session))
        among = None if wanted.ids else await _among(session, wanted)
        whole = True
        states: dict[JobState, int] = {}
        if wanted.ids:
            rows = await session.execute(browse.counted_ids(wanted))
            states = {JobState(row["state"]): row["count"] for row in rows.mappings()}
        elif among is None:
            rows = await session.execute(browse.counted_newest(wanted, window=NEWEST))
            states = {JobState(row["state"]): row["count"] for row in rows.mappings()}
            whole = not (await session.execute(browse.further(window=NEWEST))).scalar_one()
        elif among and wanted.by_looking:
            width = _window(among)
            rows = await session.execute(browse.counted(wanted, among, window=width))
            states = {JobState(row["state"]): row["count"] for row in rows.mappings()}
            whole = (await session.execute(browse.looked_at(wanted, among, window=width))).scalar_one() < width
        elif among:
            width = min(COUNTED, _window(among)) + 1
            rows = await session.execute(browse.counted_places(wanted, among, window=width))
            for row in rows.mappings():
                states[JobState(row["state"])] = row["count"]
                whole = whole and row["most"] < width
        hints = [] if states else await _hints(session, wanted)
    return Counted(states, whole, hints, wanted)


async def _among(session: AsyncSession, wanted: Wanted) -> list[Place] | None:
    """Return the states, queues and priorities in which to search the index; None where reading by id is cheaper."""
    if not wanted.by_index:
        return None
    rows = (await session.execute(browse.places(wanted, limit=PLACES + 1))).mappings().all()
    if len(rows) > PLACES:
        return None
    return [Place(JobState(row["state"]), row["queue"], row["priority"]) for row in rows]


def _window(among: Sequence[Place]) -> int:
    """Return how many entries to read of each, so that all together are at most about `_ENTRIES`."""
    return max(1_000, min(LATEST, _ENTRIES // max(1, len(among))))


async def _hints(session: AsyncSession, wanted: Wanted) -> list[str]:
    """Return a hint for each worker and queue of the filters that no job has, with the names that there are."""
    hints: list[str] = []
    terms = [name for term in wanted.terms if term.of == "worker" and not term.negated for name in term.values]
    if workers := (*wanted.workers, *terms):
        hints += await unknown_workers(session, workers)
    if wanted.queues:
        named = wanted.queues[:PLACES]
        with_jobs = set(await session.scalars(browse.queues_with_jobs(named)))
        if lacking := [name for name in named if name not in with_jobs]:
            states = wanted.states or tuple(JobState)
            known = set(await session.scalars(browse.queues(states, limit=PLACES)))
            hints += [f"no job is in the queue {name!r}{_instead(name, sorted(known - {name}))}" for name in lacking]
    return hints[:_MOST_HINTS]


async def unknown_workers(session: AsyncSession, names: Sequence[str]) -> list[str]:
    """Return a hint for each of these names that none of the newest jobs has, with the nearest that one has."""
    known = sorted(await session.scalars(browse.workers(window=_HINTED)))
    parts = {name.rpartition(".")[2] for name in known}
    return [
        f"none of the newest {_HINTED:,} jobs has the worker {name!r}{_instead(name, known, parts)}"
        for name in names
        if known and name not in known and name not in parts
    ]


def _instead(name: str, known: Sequence[str], parts: set[str] | None = None) -> str:
    near = nearest(name, [*known, *(parts or ())])
    return near or (f"; there are {', '.join(known)}" if 0 < len(known) <= _FEW else "")
