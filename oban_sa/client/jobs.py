"""Jobs, looked at and steered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, Double, Select, literal

from oban_sa.client.selection import Selection, Which, one, selection
from oban_sa.client.transactions import Transactions, Work
from oban_sa.enqueueing import AnySession
from oban_sa.errors import InvalidArguments, InvalidJob, JobNotFound
from oban_sa.models import Job, rules
from oban_sa.models.types import UTCDateTime
from oban_sa.periods import seconds
from oban_sa.sql.counting import counting, estimate, estimating
from oban_sa.sql.moments import seconds_later, utc_clock
from oban_sa.sql.plainly import plainly
from oban_sa.sql.steering import cancelling, deleting, locking, retrying, updating
from oban_sa.states import JobState
from oban_sa.values import has_references, to_json


@dataclass(frozen=True, slots=True)
class JobCount:
    """How many jobs of a queue are in a state; an estimate where not `exact`."""

    state: JobState
    queue: str
    count: int
    exact: bool


class JobControl:
    """What can be done about jobs that are stored.

    Jobs are named by id, as `Job`, by a list of these, by `select(Job)...`, or by conditions on `Job`; one that others
    change meanwhile, so that it is not meant any more, is left alone. Each method is one statement, or two for a SELECT
    of more than conditions on jobs, in a transaction of its own or, given a `session`, in that session's transaction,
    which is flushed first; jobs that the session holds are brought up to date. Methods on one job return it as it is
    afterwards and raise `JobNotFound` where there is none; those on several return how many were changed.
    """

    _transactions: Transactions

    async def get_job(self, job: int | Job, *, session: AnySession | None = None) -> Job:
        """Return a job as it is now; raises `JobNotFound`."""
        chosen = one(job)
        return await self._transactions.run(lambda work: _found(work, chosen), session)

    async def retry_job(self, job: int | Job, *, attempts: int = 1, session: AnySession | None = None) -> Job:
        """Make a job available at once, with so many `attempts` left at least; one that is available or executing
        stays so."""
        chosen, attempts = one(job), rules.attempts_left(attempts)

        def work(work: Work) -> Job:
            _retry(work, chosen, attempts)
            return _found(work, chosen)

        return await self._transactions.run(work, session)

    async def retry_jobs(
        self, which: Which, *more: ColumnElement[bool], attempts: int = 1, session: AnySession | None = None
    ) -> int:
        """Make jobs available at once, each with so many `attempts` left at least; those available or executing are
        left alone."""
        chosen, attempts = selection(which, more), rules.attempts_left(attempts)

        def work(work: Work) -> int:
            count = _retry(work, chosen, attempts)
            _refresh(work, chosen)
            return count

        return await self._transactions.run(work, session)

    async def cancel_job(self, job: int | Job, *, session: AnySession | None = None) -> Job:
        """Cancel a job; one that is executing is asked to stop, and still executing when this returns.

        A job that has ended stays as it is.
        """
        chosen = one(job)

        def work(work: Work) -> Job:
            _cancel(work, chosen)
            return _found(work, chosen)

        return await self._transactions.run(work, session)

    async def cancel_jobs(self, which: Which, *more: ColumnElement[bool], session: AnySession | None = None) -> int:
        """Cancel jobs; those executing are asked to stop, and count. Jobs that have ended are left alone."""
        chosen = selection(which, more)

        def work(work: Work) -> int:
            count = _cancel(work, chosen)
            _refresh(work, chosen)
            return count

        return await self._transactions.run(work, session)

    async def delete_job(self, job: int | Job, *, session: AnySession | None = None) -> bool:
        """Delete a job and return True; one that is executing is never deleted, which False says."""
        chosen = one(job)

        def work(work: Work) -> bool:
            job = work.get(chosen.ids()[0])
            if job is None:
                raise _not_found(chosen.ids()[0], work)
            return _delete(work, chosen) > 0

        return await self._transactions.run(work, session)

    async def delete_jobs(self, which: Which, *more: ColumnElement[bool], session: AnySession | None = None) -> int:
        """Delete jobs; those executing are left alone."""
        chosen = selection(which, more)
        return await self._transactions.run(lambda work: _delete(work, chosen), session)

    async def update_job(self, job: int | Job, changes: Mapping[str, Any], *, session: AnySession | None = None) -> Job:
        """Change a job in the tables as `Job.update` does in memory, and with its checks.

        A job scheduled for later by this is `scheduled`, one scheduled for a moment past is `available`; spans are
        counted by the database's clock. What an executing job's code was called with does not change.
        """
        chosen, changing = one(job), _Changes.read(changes)

        def work(work: Work) -> Job:
            _update(work, chosen, changing)
            return _found(work, chosen)

        return await self._transactions.run(work, session)

    async def update_jobs(
        self,
        which: Which,
        *more: ColumnElement[bool],
        changes: Mapping[str, Any],
        session: AnySession | None = None,
    ) -> int:
        """Change jobs alike, as `update_job` does; raises `InvalidJob`, changing none, where one of them can't be."""
        chosen, changing = selection(which, more), _Changes.read(changes)

        def work(work: Work) -> int:
            count = _update(work, chosen, changing)
            _refresh(work, chosen)
            return count

        return await self._transactions.run(work, session)

    async def count_jobs(self, *, exactly_to: int = 10_000) -> list[JobCount]:
        """Return how many jobs of each queue are in each state; past `exactly_to` the planner's estimate is given.

        What it costs does not grow with the table, but with the number of states and queues, of each of which
        `exactly_to` entries of an index are read at most. The estimate is from the table's statistics, as old as its
        last ANALYZE, and is never less than what was counted.
        """

        def work(work: Work) -> list[JobCount]:
            work.execute(plainly())
            counts: list[JobCount] = []
            for row in work.execute(counting(), {"limit": exactly_to + 1}).mappings():
                counted = JobCount(JobState(row["state"]), row["queue"], row["count"], exact=row["count"] <= exactly_to)
                if not counted.exact:
                    plan = work.execute(estimating(), {"state": row["state"], "queue": row["queue"]}).scalar_one()
                    counted = replace(counted, count=max(counted.count, estimate(plan)))
                counts.append(counted)
            return counts

        return await self._transactions.run(work)


def _found(work: Work, chosen: Selection) -> Job:
    job_id = chosen.ids()[0]
    job = work.get(job_id)
    if job is None:
        raise _not_found(job_id, work)
    return job


def _not_found(job_id: int, work: Work) -> JobNotFound:
    return JobNotFound(f"no job in schema {work.schema!r} has the id {job_id}; it was deleted or pruned, or never was")


def _parameters(
    work: Work, command: Callable[..., Any], chosen: Selection, **channels: str | None
) -> tuple[Select[Any], dict[str, Any]] | None:
    """Return the SELECT of the jobs chosen and what it takes, or None where none was chosen."""
    parameters: dict[str, Any] = {name: channel for name, channel in channels.items() if channel is not None}
    if chosen.query is not None and chosen.again is None:
        return chosen.query, parameters
    if chosen.query is None:
        parameters["ids"] = chosen.ids()
    else:
        # By a statement of its own: the next one then sees the rows as those left them who held their locks.
        parameters["ids"] = list(work.execute(locking(command, chosen.query)).scalars())
    if not parameters["ids"]:
        return None
    return chosen.statement(), parameters


def _retry(work: Work, chosen: Selection, attempts: int) -> int:
    channel = work.channel("insert")
    given = _parameters(work, retrying, chosen, insert=channel)
    if given is None:
        return 0
    row = work.execute(retrying(given[0], attempts=attempts, announcing=channel is not None), given[1]).one()
    return int(row[0])


def _cancel(work: Work, chosen: Selection) -> int:
    channel = work.channel("signal", always=True)
    given = _parameters(work, cancelling, chosen, signal=channel)
    if given is None:
        return 0
    row = work.execute(cancelling(given[0], signalling=channel is not None), given[1]).one()
    return int(row[0])


def _delete(work: Work, chosen: Selection) -> int:
    given = _parameters(work, deleting, chosen)
    if given is None:
        return 0
    # Only a session that holds jobs needs to hear which are gone.
    result: Any = work.execute(deleting(given[0]), given[1], synchronize_session="fetch" if work.known() else False)
    return int(result.rowcount)


def _update(work: Work, chosen: Selection, changes: _Changes) -> int:
    if not changes.columns and changes.moment is None:
        return 0
    channel = work.channel("insert") if changes.may_make_available else None
    given = _parameters(work, updating, chosen, insert=channel)
    if given is None:
        return 0
    statement = updating(given[0], changes.columns, moment=changes.moment, announcing=channel is not None)
    row = work.execute(statement, given[1]).one()._mapping
    limit = changes.columns.get("max_attempts")
    if limit is not None and row["attempt"] is not None and row["attempt"] > limit:
        raise InvalidJob(f"max_attempts can't be {limit}: one of these jobs is at attempt {row['attempt']} already")
    return int(row["count"])


def _refresh(work: Work, chosen: Selection) -> None:
    work.refresh(None if chosen.query is not None else chosen.ids())


@dataclass(frozen=True, slots=True)
class _Changes:
    """Columns and their values, checked; `moment` is when to schedule for."""

    columns: dict[str, Any]
    moment: ColumnElement[Any] | None

    @classmethod
    def read(cls, changes: Any) -> _Changes:
        given: dict[str, Any] = changes
        if not isinstance(changes, Mapping):
            raise InvalidJob(f"changes are a dict, such as {{'priority': 0}}, got {given!r}")
        columns = rules.changes(given)
        for column in columns.keys() & {"args", "meta"}:
            columns[column] = to_json(columns[column], where=column)
            if has_references(columns[column]):
                raise InvalidArguments(f"{column} of a stored job can't hold ref(...); write the value", path=column)
        at = columns.pop("scheduled_at", None)
        span = given.get("schedule_in", given.get("scheduled_in"))
        moment: ColumnElement[Any] | None = None
        if span is not None:
            moment = seconds_later(utc_clock(), literal(float(seconds(span)), Double()))
        elif at is not None:
            moment = literal(at, UTCDateTime())
        return cls(columns, moment)

    @property
    def may_make_available(self) -> bool:
        """Whether a runner may have something to do after these."""
        return self.moment is not None or "queue" in self.columns
