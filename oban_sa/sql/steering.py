"""Change jobs that somebody chose: cancel, retry, update, delete; any number of them by one statement.

What each statement is given is a SELECT of one column, the ids. The rows are locked in the order of their ids, so that
two such statements never wait for each other, and looked at again once they are locked: a job that a runner took in
the meantime is treated as the executing job that it is, and one that is no longer what was asked for is left alone.
PostgreSQL looks again at the conditions of the SELECT that locks, and at no other's; see `rechecking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Delete,
    Executable,
    Integer,
    Select,
    Subquery,
    Text,
    Update,
    bindparam,
    case,
    cast,
    column,
    delete,
    func,
    literal_column,
    null,
    or_,
    select,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from oban_sa.models import Job
from oban_sa.sql.fetching import answered, jobs
from oban_sa.sql.marks import MARK, marked
from oban_sa.sql.moments import utc_clock
from oban_sa.sql.rechecking import condition_on_jobs

CANCELLABLE = ("available", "scheduled", "suspended", "retryable", "executing")

_EMPTY: ColumnElement[Any] = literal_column("'{}'::jsonb")

# As text, which no index serves: rows are found by their ids, and the planner must not prefer an index on the state.
_state = cast(jobs.c.state, Text)
_executing: ColumnElement[bool] = _state == literal_column("'executing'")
_not_executing: ColumnElement[bool] = _state != literal_column("'executing'")
_SIGNAL = bindparam("signal", type_=Text())
_INSERT = bindparam("insert", type_=Text())


def by_ids() -> Select[Any]:
    """The jobs that have certain ids. Parameter: `ids`."""
    ids = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    return select(jobs.c.id).where(jobs.c.id == func.any(ids))


def cancelling(wanted: Select[Any], *, signalling: bool = True) -> Any:
    """Cancel what hasn't begun, mark what is executing and signal its node: one row with their `count`.

    Parameters: `signal`, the channel, where it is `signalling`.
    """
    chosen = _chosen(wanted, _guard(cancelling))
    now = utc_clock()
    changed = (
        _changing(chosen)
        .values(
            state=case((_executing, jobs.c.state), else_=_literal("cancelled")),
            cancelled_at=case((_executing, jobs.c.cancelled_at), else_=now),
            meta=_meta().op("||")(func.jsonb_build_object(literal_column(f"'{MARK}'"), now)),
        )
        .returning(jobs.c.id, _executing.label("executing"))
        .cte("oban_changed")
    )
    payload = func.json_build_object(
        literal_column("'action'"), literal_column("'pkill'"), literal_column("'job_id'"), changed.c.id
    )
    signalled = func.count(func.pg_notify(_SIGNAL, cast(payload, Text))).filter(changed.c.executing)
    columns: list[Any] = [func.count().label("count")]
    if signalling:
        columns.append(signalled.label("signalled"))
    return select(*columns).select_from(changed)


def retrying(wanted: Select[Any], *, attempts: int = 1, announcing: bool = True) -> Any:
    """Make jobs available again, with so many `attempts` left at least: one row with their `count`.

    Those available or executing already stay as they are. Parameters: `insert`, the channel, where it is `announcing`.
    """
    chosen = _chosen(wanted, _guard(retrying))
    unique: ColumnElement[Any] = literal_column("'uniq_bmp'")
    changed = (
        _changing(chosen)
        .values(
            state=literal_column("'available'"),
            max_attempts=func.greatest(jobs.c.max_attempts, jobs.c.attempt + literal_column(str(attempts), Integer)),
            scheduled_at=utc_clock(),
            completed_at=null(),
            cancelled_at=null(),
            discarded_at=null(),
            meta=case(
                # The states in which an Elixir job is unique are forgotten, for those jobs that have any.
                (
                    jobs.c.meta.op("->")(unique).is_not(None),
                    _meta().op("||")(func.jsonb_build_object(unique, literal_column("'[]'::jsonb"))),
                ),
                else_=_meta(),
            ).op("-", return_type=JSONB())(literal_column(f"'{MARK}'")),
        )
        .returning(jobs.c.queue, jobs.c.state)
        .cte("oban_changed")
    )
    return _counted(changed, announcing=announcing)


def updating(
    wanted: Select[Any], values: Mapping[str, Any], *, moment: ColumnElement[Any] | None = None, announcing: bool = True
) -> Any:
    """Set columns of jobs: one row with their `count`, and `attempt`, the most that one of them has made.

    Where `values` holds a `max_attempts` below that attempt, nothing is changed. With a `moment` jobs are scheduled for
    it, and become scheduled or available by the database's clock. Parameters: `insert`, the channel, where it is
    `announcing`.
    """
    chosen = _chosen(wanted, _guard(updating))
    most = select(func.max(chosen.c.attempt)).scalar_subquery()
    setting: dict[str, Any] = dict(values)
    if moment is not None:
        setting["scheduled_at"] = moment
        setting["state"] = case(
            (_is("available") & (moment > utc_clock()), _literal("scheduled")),
            (_is("scheduled") & (moment <= utc_clock()), _literal("available")),
            else_=jobs.c.state,
        )
    statement = _changing(chosen).values(setting)
    if "max_attempts" in values:
        statement = statement.where(most <= values["max_attempts"])
    changed = statement.returning(jobs.c.queue, jobs.c.state).cte("oban_changed")
    return _counted(changed, announcing=announcing).add_columns(most.label("attempt"))


def deleting(wanted: Select[Any]) -> Delete:
    """Delete jobs that are not executing; an ORM statement, so that a session forgets them too."""
    chosen = _chosen(wanted, _guard(deleting))
    return delete(Job).where(Job.id.in_(select(chosen.c.id)))


def locking(command: Callable[..., Any], wanted: Select[Any]) -> Any:
    """Lock the jobs that `command`, one of the above, would change: their ids."""
    return select(_chosen(wanted, _guard(command)).c.id)


def _guard(command: Callable[..., Any]) -> ColumnElement[bool] | None:
    """Which jobs a command leaves alone whatever it is given."""
    if command is cancelling:
        return _state.in_(_literals(CANCELLABLE))
    if command is retrying:
        return _state.not_in(_literals(("available", "executing")))
    return _not_executing if command is deleting else None


def called_off() -> Executable:
    """Those of some running attempts that are to end: rows of `id`, `attempted_at`, and whether the job is `lost`.

    Their jobs were marked during this very attempt, or an Elixir node has set them cancelled already; they are lost
    where somebody deleted them, gave them to another attempt, or, as other members of the family do with jobs that run
    for long, made them available or discarded them. What an attempt's own session has just committed is neither.
    Parameters: arrays of equal length `ids`, `attempts` and `uuids`, the producers as text.
    """
    arrays: dict[str, tuple[str, Any]] = {
        "id": ("ids", BigInteger()),
        "attempt": ("attempts", Integer()),
        "uuid": ("uuids", Text()),
    }
    given = [cast(bindparam(name, type_=ARRAY(type_)), ARRAY(type_)) for name, type_ in arrays.values()]
    said = func.unnest(*given).table_valued(*(column(name, type_) for name, (_, type_) in arrays.items()))
    said = said.render_derived("said")
    holder = type_coerce(jobs.c.attempted_by, ARRAY(Text()))[literal_column("2")]
    given_on = or_(
        jobs.c.id.is_(None),
        jobs.c.attempt > said.c.attempt,
        (jobs.c.attempt == said.c.attempt) & _state.in_(_literals(("available", "discarded"))),
        _executing & holder.is_distinct_from(said.c.uuid),
    )
    cancelled = or_(literal_column("'cancelled'") == _state, _executing & marked())
    columns: list[Any] = [said.c.id, answered("attempted_at"), given_on.label("lost")]
    return (
        select(*columns)
        .select_from(said.outerjoin(jobs, (jobs.c.id == said.c.id) & (jobs.c.id == func.any(given[0]))))
        .where(or_(given_on, cancelled))
    )


def _chosen(wanted: Select[Any], guard: ColumnElement[bool] | None) -> CTE:
    statement = select(jobs.c.id, jobs.c.attempt)
    if (condition := condition_on_jobs(wanted)) is not None:
        statement = statement.where(condition)
    else:
        # MATERIALIZED, because a SELECT with a LIMIT must not be run again when a row turns out to have changed.
        picked = wanted.cte("oban_picked").prefix_with("MATERIALIZED", dialect="postgresql")
        statement = statement.where(jobs.c.id.in_(select(*picked.c)))
    if guard is not None:
        statement = statement.where(guard)
    return (
        statement.order_by(jobs.c.id)
        .with_for_update(of=jobs)
        .cte("oban_chosen")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )


def _changing(chosen: CTE) -> Update:
    return update(jobs).where(jobs.c.id == chosen.c.id)


def _counted(changed: CTE, *, announcing: bool) -> Any:
    count = select(func.count()).select_from(changed).scalar_subquery()
    statement = select(count.label("count"))
    if not announcing:
        return statement
    available = cast(changed.c.state, Text) == literal_column("'available'")
    queues: Subquery = select(changed.c.queue).where(available).distinct().subquery("queues")
    payload = func.json_build_object(literal_column("'queue'"), queues.c.queue)
    announced = select(func.count(func.pg_notify(_INSERT, cast(payload, Text)))).scalar_subquery()
    return statement.add_columns(announced.label("announced"))


def _meta() -> ColumnElement[Any]:
    return func.coalesce(jobs.c.meta, _EMPTY, type_=JSONB())


def _literals(states: Iterable[str]) -> list[ColumnElement[Any]]:
    return [_literal(state) for state in states]


def _is(state: str) -> ColumnElement[bool]:
    return _literal(state) == _state


def _literal(state: str) -> ColumnElement[Any]:
    return literal_column(f"'{state}'")
