"""What `jobs show` says of a unique job: its key, and the job that has it now."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.jobs.states import JobState
from oban_sa.jobs.unique import MARK, WHILE, Unique
from oban_sa.models import Job
from oban_sa.sql.unique import holder

_KEY: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
"""Another program may have anything under its name."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A unique key, and the job that it points at: None where that is deleted."""

    key: str
    id: int | None
    state: str | None

    def said(self, job: Job) -> str:
        """Say whose key it is."""
        if self.id is None:
            return f"{self.key}, which no job has"
        if self.id == job.id:
            return f"{self.key}, which this job has"
        rule = Unique.of_text(job.meta.get(WHILE))
        waits = job.state in (JobState.AVAILABLE, JobState.EXECUTING)
        stands = self.state in rule.blocking and rule.seconds is None and not waits
        return f"{self.key}, which job {self.id} has, {self.state}{'; a retry leaves this one alone' if stands else ''}"

    def as_json(self) -> dict[str, object]:
        """Return it for machines."""
        return {"key": self.key, "holder": None if self.id is None else {"id": self.id, "state": self.state}}


async def holder_of(session: AsyncSession, job: Job) -> Holder | None:
    """Return who has the key of a job, or None for a job that is not unique."""
    key: object = job.meta.get(MARK)
    if not isinstance(key, str) or _KEY.fullmatch(key) is None:
        return None
    found = (await session.execute(holder(), {"key": key})).first()
    return Holder(key, None, None) if found is None else Holder(key, found.id, found.state)
