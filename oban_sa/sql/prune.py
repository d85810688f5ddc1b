"""Delete jobs that are over, oldest first, without ever waiting for a lock."""

from __future__ import annotations

from typing import Final, TypeVarTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Delete,
    Double,
    Executable,
    Integer,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    delete,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.jobs.keys import HALTS
from oban_sa.jobs.retention import Rule
from oban_sa.jobs.states import JobState
from oban_sa.models import Job
from oban_sa.models.flow import Flow
from oban_sa.models.member import Member
from oban_sa.models.readable import readable
from oban_sa.models.types import UTCDateTime
from oban_sa.sql.expressions import array, inline, materialized, parameter, seconds_earlier, utc_now
from oban_sa.sql.fetch import jobs
from oban_sa.sql.halts import has

Columns = TypeVarTuple("Columns")

MOMENTS: Final = {
    JobState.COMPLETED: jobs.c.completed_at,
    JobState.CANCELLED: jobs.c.cancelled_at,
    JobState.DISCARDED: jobs.c.discarded_at,
}
"""When a job came to its end; each has an index of its own, partial on its state."""

_flows: Final[Table] = Flow.metadata.tables["public.oban_sa_flows"]
_members: Final[Table] = Member.metadata.tables["public.oban_sa_members"]


def too_old() -> Executable:
    """One row, `at`: jobs that ended then are `age` seconds old by the database's clock."""
    return select(seconds_earlier(utc_now(), bindparam("age", type_=Double())).label("at"))


def too_many(rule: Rule) -> Executable:
    """The newest job of a rule that is one too many, as `at` and `id`; no row where there are not too many.

    Reads as many entries of the index as jobs are kept, and those of other rules between them. Parameter: `keep`.
    """
    moment = MOMENTS[rule.state]
    return (
        select(moment.label("at"), jobs.c.id)
        .where(*_within(rule))
        .order_by(moment.desc(), jobs.c.id.desc())
        .offset(bindparam("keep", type_=BigInteger()))
        .limit(literal_column("1"))
    )


def any_flow() -> Executable:
    """Whether there is a flow, so that some jobs may be members: one row of `found`."""
    return select(select(_flows.c.id).exists().label("found"))


def strangers(rule: Rule) -> Executable:
    """Those that are no members of a flow among the next jobs that `prune` would delete: one row.

    `ids` are theirs, in no order; `seen` is how many jobs were looked at, `last` when the latest of them ended. Nothing
    is locked. That a job is no member stays true, as members are written with their jobs. The parameters are the same.
    """
    moment = MOMENTS[rule.state]
    looked = materialized(_next(select(jobs.c.id, moment.label("at")), rule).cte("looked"))
    # By the keys of the batch. As a condition of the walk it would read on and on over the members of a large flow.
    owned = select(_members.c.job_id).where(
        _members.c.job_id == func.any(func.array(select(looked.c.id).scalar_subquery()))
    )
    return select(
        func.array(select(looked.c.id).except_(owned).scalar_subquery()).label("ids"),
        select(func.count()).select_from(looked).scalar_subquery().label("seen"),
        select(readable(func.max(looked.c.at), UTCDateTime())).scalar_subquery().label("last"),
    )


def prune(rule: Rule, *, among: bool = False) -> Executable:
    """Delete the oldest jobs of a rule up to a bound, `batch` at most: one row of `count` and `last`, when one ended.

    Rows that are locked are passed over. Parameters: `since`, where the last batch came to (or NULL for the first),
    `at` and `id` of the bound, `held` (ids that can't be deleted), `batch`; instead of that `ids`, `among` which to
    delete.
    """
    moment = MOMENTS[rule.state]
    batch = _batch(select(jobs.c.id, moment.label("at")), rule, among=among)
    picked = materialized(batch.cte("picked"))
    # An array, not a join: rows are found by their primary key even where the table's statistics are wrong.
    ids = func.array(select(picked.c.id).scalar_subquery())
    gone = delete(jobs).where(jobs.c.id == func.any(ids)).returning(moment.label("at")).cte("gone")
    return select(func.count().label("count"), func.max(gone.c.at).label("last")).select_from(gone)


def archivable(rule: Rule, *, among: bool = False) -> Select[Job]:
    """The jobs that `prune` would delete, locked. The parameters are the same."""
    return _batch(select(Job), rule, among=among)


def holdable(rule: Rule, *, among: bool = False) -> Executable:
    """The jobs that `prune` would delete, locked: rows of `id` and `at`. The parameters are the same."""
    return _batch(select(jobs.c.id, MOMENTS[rule.state].label("at")), rule, among=among)


def delete_by_ids() -> Delete:
    """Delete jobs by their ids. Parameter: `ids`."""
    chosen = jobs.c.id == func.any(array("ids", BigInteger()))
    return delete(jobs).where(chosen).execution_options(synchronize_session=False)


def _batch(jobs_of_rule: Select[*Columns], rule: Rule, *, among: bool) -> Select[*Columns]:
    if among:
        chosen = jobs_of_rule.where(jobs.c.id == func.any(array("ids", BigInteger())), *_prunable(rule))
        return chosen.order_by(MOMENTS[rule.state]).with_for_update(skip_locked=True)
    return _next(jobs_of_rule, rule).with_for_update(skip_locked=True)


def _next(jobs_of_rule: Select[*Columns], rule: Rule) -> Select[*Columns]:
    return (
        jobs_of_rule.where(*_prunable(rule))
        # By the moment alone, as the index is: with the id, thousands that ended in one transaction would be sorted.
        .order_by(MOMENTS[rule.state])
        .limit(bindparam("batch", type_=Integer()))
    )


def _prunable(rule: Rule) -> list[ColumnElement[bool]]:
    moment = MOMENTS[rule.state]
    at = parameter("at", DateTime())
    # An index is walked from its low end, over the entries of all that was deleted since the last vacuum: `since` skips
    # them, and those that other rules keep.
    since = func.coalesce(parameter("since", DateTime()), inline("'-infinity'::timestamp"))
    return [
        *_within(rule),
        moment >= since,
        moment <= at,
        (moment < at) | (jobs.c.id <= parameter("id", BigInteger())),
        jobs.c.id != func.all(array("held", BigInteger())),
    ]


def _within(rule: Rule) -> list[ColumnElement[bool]]:
    """The jobs of a rule; the state is written out, as the partial indexes have it."""
    wanted: list[ColumnElement[bool]] = [jobs.c.state == inline(f"'{rule.state.value}'")]
    if rule.state is JobState.DISCARDED:
        # A job that halts its sequence is kept until people decide: without it the later ones would go on.
        wanted.append(has(HALTS).is_not(inline("true")))
    if rule.worker is not None:
        wanted.append(jobs.c.worker == bindparam("of_worker", rule.worker, type_=Text()))
    if rule.queue is not None:
        wanted.append(jobs.c.queue == bindparam("of_queue", rule.queue, type_=Text()))
    wanted += _but(jobs.c.queue, "but_queues", rule.but_queues)
    wanted += _but(jobs.c.worker, "but_workers", rule.but_workers)
    return wanted


def _but(column: ColumnElement[str], name: str, values: tuple[str, ...]) -> list[ColumnElement[bool]]:
    if not values:
        return []
    others = cast(bindparam(name, list(values), type_=ARRAY(Text())), ARRAY(Text()))
    return [column != func.all(others)]
