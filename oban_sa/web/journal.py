"""What the page of a job shows of its journal: how far it has come, and its steps, without what they came to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.client.progress import Progress, read, said
from oban_sa.describe.redaction import redacted
from oban_sa.jobs import redaction
from oban_sa.jobs.durable import PROGRESS
from oban_sa.models import Entry, Job

MOST: Final = 100
"""Steps that are shown, the last ones."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A step of a job, a sleep or a wait: `code` says which, and of a step its function."""

    name: str
    code: str
    done: bool
    until: datetime | None
    attempt: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Journal:
    """The progress of a job, and its last steps; there may be `more`."""

    progress: Progress | None
    steps: list[Taken]
    more: bool

    def hidden(self) -> Journal:
        """Return what is seen of it where a job's args and meta are not: how far it has come, and no words."""
        return Journal(None if self.progress is None else replace(self.progress, note=None), [], more=False)


async def journal_of(session: AsyncSession, job: Job) -> Journal:
    """Read the journal of a job, but for values, which may be long and are not hidden by `redact=`."""
    row = (await session.execute(said(job.id))).first()
    progress = None if row is None else read(row.value, row.recorded_at)
    if progress is not None and progress.note is not None:
        progress = replace(progress, note=redacted(redaction.text(progress.note, job.args, job.meta)))
    columns = (Entry.name, Entry.code, Entry.done, Entry.until, Entry.attempt, Entry.recorded_at)
    query = select(*columns).where(Entry.job_id == job.id, Entry.name != PROGRESS)
    last = await session.execute(query.order_by(Entry.recorded_at.desc(), Entry.name.desc()).limit(MOST + 1))
    steps = [Taken(*each) for each in last.all()]
    return Journal(progress, steps[MOST - 1 :: -1], len(steps) > MOST)
