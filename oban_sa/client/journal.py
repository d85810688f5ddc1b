"""What `Oban` knows of the journals of jobs: their steps, and what they wait for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import datetime
from typing import Final

from sqlalchemy import select

from oban_sa.client.progress import Progress, read
from oban_sa.client.transactions import Transactions, Work
from oban_sa.jobs.durable import PROGRESS
from oban_sa.models import Entry
from oban_sa.outbox.sessions import AnySession


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """A line in the journal of a job.

    `code` is the function that a step called, or `sleep`, `wait_for`, `version`, `each`. `until` is when a sleep or a
    wait is over; one that is not `done` has no signal yet. `value` is JSON. `attempt` has written it.
    """

    name: str
    code: str
    value: object
    done: bool
    until: datetime | None
    attempt: int
    recorded_at: datetime


@dataclass(frozen=True, slots=True)
class Journal:
    """The `entries` of a job in the order in which they were written, and its `progress`."""

    entries: list[JournalEntry]
    progress: Progress | None


class JournalControl:
    """The method that reads the journal of a job."""

    _transactions: Transactions

    async def journal(self, job_id: int, *, session: AnySession | None = None) -> Journal:
        """Return what a job has journalled so far; nothing where it takes no steps, or there is no such job."""

        def work(work: Work) -> Journal:
            # The columns, not objects: nothing is to be left in the caller's session.
            query = select(*(getattr(Entry, name) for name in _COLUMNS)).where(Entry.job_id == job_id)
            rows = work.execute(query.order_by(Entry.recorded_at, Entry.name)).mappings().all()
            progress = next((read(row["value"], row["recorded_at"]) for row in rows if row["name"] == PROGRESS), None)
            return Journal([JournalEntry(**row) for row in rows if row["name"] != PROGRESS], progress)

        return await self._transactions.run(work, session)


_COLUMNS: Final = tuple(each.name for each in fields(JournalEntry))
