"""What `Oban` knows of the progress of jobs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from sqlalchemy import Select, select

from oban_sa.client.transactions import Transactions, Work
from oban_sa.jobs.durable import PROGRESS
from oban_sa.models import Entry
from oban_sa.outbox.sessions import AnySession


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job has come: `done` from 0 to 1, in its own `note`, and when it said so, by the database's clock."""

    done: float
    note: str | None
    at: datetime


class ProgressControl:
    """The method that reads the progress of a job."""

    _transactions: Transactions

    async def progress(self, job_id: int, *, session: AnySession | None = None) -> Progress | None:
        """Return what a job has said last by `progress`; None where it said nothing."""
        return await self._transactions.run(lambda work: progress_of(work, job_id), session)


def progress_of(work: Work, job_id: int) -> Progress | None:
    """Return the progress of a job."""
    row = work.execute(said(job_id)).first()
    return None if row is None else read(row.value, row.recorded_at)


def said(job_id: int) -> Select[object, datetime]:
    """Select what `read` takes of a job; no row where it said nothing."""
    return select(Entry.value, Entry.recorded_at).where(Entry.job_id == job_id, Entry.name == PROGRESS)


def read(value: object, at: datetime) -> Progress:
    """Return the progress that an entry of the journal has."""
    said = cast("dict[str, object]", value)
    note = said.get("note")
    return Progress(float(str(said["done"])), None if note is None else str(note), at.replace(tzinfo=UTC))
