"""Jobs that pass filters, looked for at a cost that does not grow with the table; and what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.cli._connecting import clock, looking
from oban_sa.cli.jobs.filters import Filters
from oban_sa.client import Oban
from oban_sa.errors import nearest
from oban_sa.models import Job
from oban_sa.sql import browsing
from oban_sa.sql.browsing import Place, Wanted
from oban_sa.states import JobState

NEWEST: Final = 100_000
"""Of all jobs, the newest that are looked at for what no index serves. They stand side by side in the table."""
LATEST: Final = 10_000
"""The same for jobs of certain states and queues, which stand anywhere."""
PLACES: Final = 1_000
"""States, queues and priorities that are looked into one by one; where there are more, ids lead to the newest jobs."""
COUNTED: Final = 10_000
"""Jobs that are counted before they are changed; of more it is said that there are more."""

_ENTRIES: Final = 500_000
_HINTED: Final = 10_000
_FEW: Final = 6
_MOST_HINTS: Final = 5


@dataclass(frozen=True, slots=True)
class Found:
    """The answer to `jobs list`; `looked_at` is how many jobs were, where there are more that might pass."""

    jobs: list[Job]
    more: bool
    looked_at: int | None
    by_id: bool
    hints: list[str]
    now: datetime


@dataclass(frozen=True, slots=True)
class Counted:
    """How many jobs of which state are meant; `all_of_them` where there can't be more."""

    states: dict[JobState, int]
    all_of_them: bool
    hints: list[str]
    wanted: Wanted


async def found(oban: Oban, filters: Filters, *, limit: int, window: int | None, oldest: bool = False) -> Found:
    """Find at most `limit` jobs; `window` is how many are looked at where no index serves what is wanted."""
    async with looking(oban) as session:
        now = await clock(session)
        wanted = filters.at(now)
        among = await _among(session, wanted)
        bounded = wanted.by_looking or (wanted.anything and among is None)
        jobs: list[Job] = []
        looked_at = None
        if among is None:
            width = (window or NEWEST) if bounded else limit + 1
            statement = browsing.newest(wanted, window=width, limit=limit + 1, oldest=oldest)
            jobs += await session.scalars(statement)
            if bounded and len(jobs) <= limit:
                beyond = await session.execute(browsing.further(window=width, oldest=oldest))
                looked_at = width if beyond.scalar_one() else None
        elif among:
            width = (window or _window(among)) if bounded else limit + 1
            statement = browsing.listing(wanted, among, window=width, limit=limit + 1, oldest=oldest)
            jobs += await session.scalars(statement)
            if bounded and len(jobs) <= limit:
                seen = await session.execute(browsing.looked_at(wanted, among, window=width, oldest=oldest))
                looked_at = width if seen.scalar_one() == width else None
        hints = [] if jobs else await _hints(session, wanted)
    return Found(jobs[:limit], len(jobs) > limit, looked_at, among is None, hints, now)


async def counted(oban: Oban, filters: Filters) -> Counted:
    """Count the jobs that pass, as far as counting costs little."""
    async with looking(oban) as session:
        wanted = filters.at(await clock(session))
        among = await _among(session, wanted)
        whole = True
        states: dict[JobState, int] = {}
        if among is None:
            rows = await session.execute(browsing.counted_newest(wanted, window=NEWEST))
            states = {JobState(row["state"]): row["count"] for row in rows.mappings()}
            whole = not (await session.execute(browsing.further(window=NEWEST))).scalar_one()
        elif among and wanted.by_looking:
            width = _window(among)
            rows = await session.execute(browsing.counted(wanted, among, window=width))
            states = {JobState(row["state"]): row["count"] for row in rows.mappings()}
            whole = (await session.execute(browsing.looked_at(wanted, among, window=width))).scalar_one() < width
        elif among:
            width = min(COUNTED, _window(among)) + 1
            rows = await session.execute(browsing.counted_places(wanted, among, window=width))
            for row in rows.mappings():
                states[JobState(row["state"])] = row["count"]
                whole = whole and row["most"] < width
        hints = [] if states else await _hints(session, wanted)
    return Counted(states, whole, hints, wanted)


async def _among(session: AsyncSession, wanted: Wanted) -> list[Place] | None:
    """Where such jobs stand in the index; None where ids lead to them sooner."""
    if not wanted.by_index:
        return None
    rows = (await session.execute(browsing.places(wanted, limit=PLACES + 1))).mappings().all()
    if len(rows) > PLACES:
        return None
    return [Place(JobState(row["state"]), row["queue"], row["priority"]) for row in rows]


def _window(among: Sequence[Place]) -> int:
    """So many that all places together are not asked for too much."""
    return max(1_000, min(LATEST, _ENTRIES // max(1, len(among))))


async def _hints(session: AsyncSession, wanted: Wanted) -> list[str]:
    """Say which names there are, where one that was given is not among them."""
    said: list[str] = []
    if wanted.workers:
        said += await unknown_workers(session, wanted.workers)
    if wanted.queues:
        known = sorted(await session.scalars(browsing.queues(limit=PLACES)))
        said += [
            f"no job is in the queue {name!r}{_instead(name, known)}" for name in wanted.queues if name not in known
        ]
    return said[:_MOST_HINTS]


async def unknown_workers(session: AsyncSession, names: Sequence[str]) -> list[str]:
    """Say which of these none of the newest jobs has, and which is near."""
    known = sorted(await session.scalars(browsing.workers(window=_HINTED)))
    parts = {name.rpartition(".")[2] for name in known}
    return [
        f"none of the newest {_HINTED:,} jobs has the worker {name!r}{_instead(name, known, parts)}"
        for name in names
        if known and name not in known and name not in parts
    ]


def _instead(name: str, known: Sequence[str], parts: set[str] | None = None) -> str:
    near = nearest(name, [*known, *(parts or ())])
    return near or (f"; there are {', '.join(known)}" if 0 < len(known) <= _FEW else "")
