"""What `Oban` does with stored jobs: get, retry, cancel, delete, update and count them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar, cast

from sqlalchemy import ColumnElement, Double, literal

from oban_sa.client.encryption import concerns, sealed
from oban_sa.client.retry import Retried, retry
from oban_sa.client.selection import Selection, Which, one, parameters, selection
from oban_sa.client.transactions import Transactions, Work
from oban_sa.errors import InvalidArguments, InvalidJob, JobNotFound
from oban_sa.jobs.states import JobState
from oban_sa.jobs.values import has_references, to_json
from oban_sa.models import Job, validation
from oban_sa.models.types import UTCDateTime
from oban_sa.outbox.sessions import AnySession
from oban_sa.schedule.periods import Period, seconds
from oban_sa.sql.control import by_ids, cancel, delete, lock_to_delete, update
from oban_sa.sql.counts import count, estimates, explain
from oban_sa.sql.expressions import seconds_later, utc_clock
from oban_sa.sql.flow import note
from oban_sa.sql.planner import plainly

Count = TypeVar("Count", bound=int)

_ESTIMATED: Final = 100
"""Estimates of one statement."""


@dataclass(frozen=True, slots=True)
class JobCount:
    """How many jobs of a queue are in a state; an estimate where not `exact`."""

    state: JobState
    queue: str
    count: int
    exact: bool


class JobControl:
    """Methods on jobs that are stored.

    Jobs are given by id, as `Job`, as a list of these, by `select(Job)...`, or by conditions on `Job`. A job that
    another transaction changes meanwhile so that the SELECT or the conditions don't match any more is left alone. Each
    method is one statement, or two for a SELECT of more than conditions on jobs. It runs in a transaction of its own,
    or in that of `session`, which is flushed first and whose loaded jobs are refreshed. Methods on one job return it as
    it is afterwards and raise `JobNotFound`; those on several return how many were changed. What can't be read as a job
    or jobs raises `InvalidOption`, a `Job` that was never enqueued `InvalidJob`, no session `TypeError`.
    """

    _transactions: Transactions

    async def get_job(self, job: int | Job, *, session: AnySession | None = None) -> Job:
        """Return a job as it is now; raises `JobNotFound`."""
        chosen = one(job)
        return await self._transactions.run(lambda work: job_of(work, chosen), session)

    async def retry_job(self, job: int | Job, *, attempts: int = 1, session: AnySession | None = None) -> Job:
        """Make a job available at once, with at least `attempts` left; one that is available or executing stays so.

        A unique job claims its key. Where another job stands in its way it stays as it is, and `conflict` of the job
        that is returned tells of the other.
        """
        chosen, attempts = one(job), validation.attempts_left(attempts)

        def work(work: Work) -> Job:
            retried = retry(work, chosen, attempts)
            found = job_of(work, chosen)
            found.conflict = retried.conflicts.get(found.id)
            return found

        return await self._transactions.run(work, session)

    async def retry_jobs(
        self, which: Which, *more: ColumnElement[bool], attempts: int = 1, session: AnySession | None = None
    ) -> Retried:
        """Make jobs available at once, each with at least `attempts` left, but for those available or executing.

        The answer is how many were, as an int, and has `conflicts`: a unique job claims its key, and where another
        stands in its way it stays as it is. Of several with one key the newest is retried. Raises `UniqueBusy` where a
        session that has claimed keys before could wait for ever.
        """
        chosen, attempts = selection(which, more), validation.attempts_left(attempts)
        return await self._change(chosen, lambda work, chosen: retry(work, chosen, attempts), session)

    async def cancel_job(self, job: int | Job, *, session: AnySession | None = None) -> Job:
        """Cancel a job; one that is executing is asked to stop, and still executing when this returns.

        A job that has ended stays as it is.
        """
        return await self._change_one(job, _cancel, session)

    async def cancel_jobs(self, which: Which, *more: ColumnElement[bool], session: AnySession | None = None) -> int:
        """Cancel jobs; those executing are asked to stop, and count. Jobs that have ended are left alone."""
        return await self._change(selection(which, more), _cancel, session)

    async def delete_job(self, job: int | Job, *, session: AnySession | None = None) -> bool:
        """Delete a job and return True; return False for one that is executing, which is never deleted."""
        chosen = one(job)

        def work(work: Work) -> bool:
            job_of(work, chosen)
            return _delete(work, chosen) > 0

        return await self._transactions.run(work, session)

    async def delete_jobs(self, which: Which, *more: ColumnElement[bool], session: AnySession | None = None) -> int:
        """Delete jobs; those executing are left alone."""
        chosen = selection(which, more)
        return await self._transactions.run(lambda work: _delete(work, chosen), session)

    async def update_job(
        self, job: int | Job, changes: Mapping[str, object], *, session: AnySession | None = None
    ) -> Job:
        """Change a job in the tables as `Job.update` does in memory, with its checks; raises `InvalidJob`.

        `changes` are keywords of `Job`: `{"priority": 0, "schedule_in": "5 minutes"}`. A job that this schedules for
        later becomes `scheduled`, for a past moment `available`; spans are counted from the database's clock. The code
        of an executing job keeps the args it was called with. Args of an encrypted job are encrypted; raises
        `KeyMissing` where this process has no key.
        """
        changing = _Changes.read(changes)
        return await self._change_one(job, lambda work, chosen: _update(work, chosen, changing), session)

    async def update_jobs(
        self,
        which: Which,
        *more: ColumnElement[bool],
        changes: Mapping[str, object],
        session: AnySession | None = None,
    ) -> int:
        """Make the same changes to several jobs, as `update_job` does; raises `InvalidJob` and changes none of them
        where one of them can't be changed so."""
        chosen, changing = selection(which, more), _Changes.read(changes)
        return await self._change(chosen, lambda work, chosen: _update(work, chosen, changing), session)

    async def count_jobs(self, *, exactly_to: int = 10_000) -> list[JobCount]:
        """Return how many jobs of each queue are in each state; above `exactly_to` it is the planner's estimate.

        The cost does not grow with the table: for each state and queue at most `exactly_to` entries of an index are
        read. The estimate comes from the table's statistics, as old as its last ANALYZE, and is never less than what
        was counted.
        """

        def work(work: Work) -> list[JobCount]:
            work.execute(plainly())
            counts = [
                JobCount(JobState(row["state"]), row["queue"], row["count"], exact=row["count"] <= exactly_to)
                for row in work.execute(count(), {"limit": exactly_to + 1}).mappings()
            ]
            many = [at for at, each in enumerate(counts) if not each.exact]
            # One statement for many of them: a round trip for each takes several times as long as the counts.
            for first in range(0, len(many), _ESTIMATED):
                some = many[first : first + _ESTIMATED]
                given: dict[str, object] = {}
                for number, at in enumerate(some):
                    given |= {f"state_{number}": counts[at].state.value, f"queue_{number}": counts[at].queue}
                plan = work.execute(explain(work.schema, len(some)), given).scalar_one()
                for number, expected in estimates(plan).items():
                    at = some[number]
                    counts[at] = replace(counts[at], count=max(counts[at].count, expected))
            return counts

        return await self._transactions.run(work)

    async def _change_one(
        self, job: int | Job, change: Callable[[Work, Selection], int], session: AnySession | None
    ) -> Job:
        chosen = one(job)

        def work(work: Work) -> Job:
            change(work, chosen)
            return job_of(work, chosen)

        return await self._transactions.run(work, session)

    async def _change(
        self, chosen: Selection, change: Callable[[Work, Selection], Count], session: AnySession | None
    ) -> Count:
        def work(work: Work) -> Count:
            changed = change(work, chosen)
            work.refresh(None if chosen.query is not None else chosen.ids())
            return changed

        return await self._transactions.run(work, session)


def job_of(work: Work, chosen: Selection) -> Job:
    """Return the one job that was chosen, as it is now; raises `JobNotFound`."""
    job_id = chosen.ids()[0]
    job = work.get(job_id)
    if job is None:
        raise JobNotFound(
            f"no job in schema {work.schema!r} has the id {job_id}; it was deleted or pruned, or never was"
        )
    return job


def _cancel(work: Work, chosen: Selection) -> int:
    channel = work.channel("signal", always=True)
    given = parameters(work, cancel, chosen, signal=channel)
    if given is None:
        return 0
    row = work.execute(cancel(given[0], signalling=channel is not None, followers=(note,)), given[1]).one()
    return int(row[0])


def _delete(work: Work, chosen: Selection) -> int:
    given = parameters(work, delete, chosen)
    if given is None:
        return 0
    if work.known():  # a session with loaded jobs has to evict deleted ones
        ids = list(work.execute(lock_to_delete(given[0], followers=(note,)), given[1]).scalars())
        result: Any = work.execute(delete(by_ids()), {"ids": ids}, synchronize_session="fetch")
    else:
        result = work.execute(delete(given[0], followers=(note,)), given[1], synchronize_session=False)
    return int(result.rowcount)


def _update(work: Work, chosen: Selection, changes: _Changes) -> int:
    if not changes.columns and changes.moment is None:
        return 0
    channel = work.channel("insert") if changes.may_make_available else None
    given = parameters(work, update, chosen, insert=channel)
    if given is None:
        return 0
    (wanted, values), columns = given, changes.columns
    if concerns(columns):
        wanted, values, columns = sealed(work, wanted, values, columns)
    statement = update(wanted, columns, moment=changes.moment, announcing=channel is not None)
    row = work.execute(statement, values).mappings().one()
    limit = changes.columns.get("max_attempts")
    if limit is not None and row["attempt"] is not None and row["attempt"] > limit:
        raise InvalidJob(f"max_attempts can't be {limit}: one of these jobs is at attempt {row['attempt']} already")
    return int(row["count"])


@dataclass(frozen=True, slots=True)
class _Changes:
    """Columns and their checked values; `moment` is an expression for `scheduled_at`."""

    columns: dict[str, object]
    moment: ColumnElement[Any] | None

    @classmethod
    def read(cls, changes: Mapping[str, object]) -> _Changes:
        if not isinstance(changes, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - it may come from anywhere
            raise InvalidJob(f"changes are a dict, such as {{'priority': 0}}, got {changes!r}")
        columns = validation.changes(changes)
        for column in columns.keys() & {"args", "meta"}:
            columns[column] = to_json(columns[column], where=column)
            if has_references(columns[column]):
                raise InvalidArguments(f"{column} of a stored job can't hold ref(...); write the value", path=column)
        at = columns.pop("scheduled_at", None)
        span = changes.get("schedule_in", changes.get("scheduled_in"))
        moment: ColumnElement[Any] | None = None
        if span is not None:
            moment = seconds_later(utc_clock(), literal(float(seconds(cast("Period", span))), Double()))
        elif at is not None:
            moment = literal(at, UTCDateTime())
        return cls(columns, moment)

    @property
    def may_make_available(self) -> bool:
        """Whether jobs may become available to a runner by these changes."""
        return self.moment is not None or "queue" in self.columns
