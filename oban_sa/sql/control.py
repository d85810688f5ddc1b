"""Change chosen jobs: cancel, retry, update, delete; any number of them by one statement.

Each statement is given a SELECT of one column, the ids. The rows are locked in the order of their ids, so that two such
statements cause no deadlock, and checked again once they are locked: a job that a runner took in the meantime is
treated as the executing job that it is, and one that is no longer what was asked for is left alone. PostgreSQL checks
again only the conditions of the SELECT that locks; see `oban_sa.sql.recheck`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Delete,
    Double,
    Executable,
    Integer,
    Select,
    Subquery,
    Text,
    Update,
    Uuid,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
)
from sqlalchemy import delete as sql_delete
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import JSONB

from oban_sa.jobs.hidden import ENCRYPTED
from oban_sa.jobs.unique import MARK as UNIQUE
from oban_sa.jobs.unique import WHILE
from oban_sa.models import Job
from oban_sa.models.base import Expression
from oban_sa.sql.cancel_request import MARK
from oban_sa.sql.expressions import array, inline, materialized, utc_clock
from oban_sa.sql.fetch import jobs
from oban_sa.sql.followers import FOLLOWED, Follower, changed_columns, follow
from oban_sa.sql.insert import recordset
from oban_sa.sql.recheck import condition_on_jobs
from oban_sa.sql.unique import claim

ENDED = ("completed", "cancelled", "discarded")

CANCELLABLE = ("available", "scheduled", "suspended", "retryable", "executing")

_STAYING = ("available", "executing")
"""The states in which a retry leaves jobs alone."""

_EMPTY = inline("'{}'::jsonb")
_UUID = inline("'^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$'")
"""What a unique key looks like: another program may have anything under its name."""

# As text, which no index serves: rows are found by their ids, and the planner must not prefer an index on the state.
_state = cast(jobs.c.state, Text)
_executing: ColumnElement[bool] = _state == inline("'executing'")
_not_executing: ColumnElement[bool] = _state != inline("'executing'")
_SIGNAL = bindparam("signal", type_=Text())
_INSERT = bindparam("insert", type_=Text())


def by_ids() -> Select[int]:
    """The jobs that have certain ids. Parameter: `ids`."""
    return select(jobs.c.id).where(jobs.c.id == func.any(array("ids", BigInteger())))


def cancel(wanted: Select[int], *, signalling: bool = True, followers: Sequence[Follower] = ()) -> Executable:
    """Cancel what hasn't begun, mark what is executing and signal its node: one row with their `count`.

    The `followers` see those that were cancelled, and none that was only marked. Parameters: `signal`, the channel,
    where it is `signalling`.
    """
    chosen = _chosen(wanted, _guard(cancel))
    now = utc_clock()
    changed = (
        _changing(chosen)
        .values(
            state=case((_executing, jobs.c.state), else_=_literal("cancelled")),
            cancelled_at=case((_executing, jobs.c.cancelled_at), else_=now),
            meta=_meta().op("||")(func.jsonb_build_object(inline(f"'{MARK}'"), now)),
        )
        .returning(
            *(changed_columns() if followers else [jobs.c.id]),
            _executing.label("executing"),
        )
        .cte("oban_changed")
    )
    payload = func.json_build_object(inline("'action'"), inline("'pkill'"), inline("'job_id'"), changed.c.id)
    signalled = func.count(func.pg_notify(_SIGNAL, cast(payload, Text))).filter(changed.c.executing)
    columns = (func.count().label("count"), signalled.label("signalled"))
    statement = select(*(columns if signalling else columns[:1])).select_from(changed)
    if not followers:
        return statement
    acked = select(*(changed.c[name] for name in FOLLOWED)).where(~changed.c.executing).cte("oban_acked")
    return follow(statement, acked, followers)


def retry(wanted: Select[int], *, attempts: int = 1, announcing: bool = True) -> Executable:
    """Make jobs available again, with so many `attempts` left at least: one row with their `count`.

    Those available or executing already stay as they are. So do unique jobs, which are locked; `unique` is a JSON array
    of `[id, key, while]` for each, or NULL: see `retry_unique`. Parameters: `insert`, the channel, where it is
    `announcing`.
    """
    key = jobs.c.meta.op("->>")(inline(f"'{UNIQUE}'"))
    chosen = _chosen(
        wanted, _guard(retry), key.label("key"), jobs.c.meta.op("->>")(inline(f"'{WHILE}'")).label("while")
    )
    is_unique = func.coalesce(chosen.c.key.bool_op("~")(_UUID), inline("false"), type_=Boolean())
    changed = (
        _changing(chosen)
        .where(~is_unique)
        .values(_retried(attempts))
        .returning(jobs.c.queue, jobs.c.state)
        .cte("oban_changed")
    )
    listed = func.json_agg(func.json_build_array(chosen.c.id, chosen.c.key, chosen.c["while"]))
    unique = select(cast(listed, Text)).where(is_unique).scalar_subquery()
    return _counted(changed, announcing=announcing).add_columns(unique.label("unique"))


def retry_unique(*, attempts: int = 1, announcing: bool = True, joining: bool = False) -> Executable:
    """Claim the keys of jobs that `retry` has locked, and make those available that get them: one row.

    It has their `count`; as JSON arrays `won`, their ids, and `left`, `[id, blocker, state]` for each in whose way
    another stands. A job that is in neither comes after another one of its key, or has lost that to a transaction that
    committed meanwhile; claim it once more. Parameters: `rows`, a JSON array of `RETRIED`, and `insert`, the channel,
    where it is `announcing`. `joining` says that some of the rows may.
    """
    each = recordset(RETRIED)
    columns: list[Expression] = [*(each.c[name] for name in RETRIED), utc_clock().label("scheduled_at")]
    claimed = claim(select(*columns), locks=("share",) if joining else (), stored=True)
    won = claimed.winners.cte("oban_won")
    changed = (
        sql_update(jobs)
        .where(jobs.c.id == won.c.id, _state.not_in(_literals(_STAYING)))
        .values(_retried(attempts))
        .returning(jobs.c.queue, jobs.c.state)
        .cte("oban_changed")
    )
    held = claimed.held
    left = func.json_agg(func.json_build_array(held.c.id, held.c.blocker, held.c.state))
    return _counted(changed, announcing=announcing).add_columns(
        select(cast(func.json_agg(won.c.id), Text)).scalar_subquery().label("won"),
        select(cast(left, Text)).where(held.c.blocker.is_not(None)).scalar_subquery().label("left"),
    )


RETRIED: Final[Mapping[str, object]] = {
    "number": Integer,
    "key": Uuid,
    "id": BigInteger,
    "states": JSONB,
    "period": Double,
    "joins": Boolean,
}
"""What is said of a unique job that is to be retried: columns of `sql.unique.WANTED`."""


def _retried(attempts: int) -> dict[str, object]:
    """What a retry changes."""
    pro = inline("'uniq_bmp'")
    return {
        "state": inline("'available'"),
        "max_attempts": func.greatest(jobs.c.max_attempts, jobs.c.attempt + literal_column(str(attempts), Integer)),
        "scheduled_at": utc_clock(),
        "completed_at": null(),
        "cancelled_at": null(),
        "discarded_at": null(),
        "meta": case(
            # The states in which an Elixir job is unique are forgotten, for those jobs that have any.
            (
                jobs.c.meta.op("->")(pro).is_not(None),
                _meta().op("||")(func.jsonb_build_object(pro, inline("'[]'::jsonb"))),
            ),
            else_=_meta(),
        ).op("-", return_type=JSONB())(inline(f"'{MARK}'")),
    }


def update(
    wanted: Select[int],
    values: Mapping[str, object],
    *,
    moment: ColumnElement[datetime] | None = None,
    announcing: bool = True,
) -> Executable:
    """Set columns of jobs: one row with their `count`, and `attempt`, the most that one of them has made.

    Where `values` holds a `max_attempts` below that attempt, nothing is changed. With a `moment` jobs are scheduled for
    it, and become scheduled or available by the database's clock. Parameters: `insert`, the channel, where it is
    `announcing`.
    """
    chosen = _chosen(wanted, _guard(update))
    most = select(func.max(chosen.c.attempt)).scalar_subquery()
    setting = dict(values)
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


def delete(wanted: Select[int], *, followers: Sequence[Follower] = ()) -> Delete:
    """Delete jobs that are not executing; an ORM statement, so that a session forgets them too.

    The `followers` see those that had not ended, as `deleted`. With some that insert, no session forgets jobs by it:
    SQLAlchemy then reads no ids from the answer. Use `lock_to_delete` before it instead.
    """
    chosen = _chosen(wanted, _guard(delete), *(changed_columns()[1:] if followers else ()))
    statement = sql_delete(Job).where(Job.id.in_(select(chosen.c.id)))
    return follow(statement, _told_of(chosen), followers) if followers else statement


def lock_to_delete(wanted: Select[int], *, followers: Sequence[Follower]) -> Select[int]:
    """Lock the jobs that `delete` would delete: their ids. The `followers` see what they would see of that."""
    chosen = _chosen(wanted, _guard(delete), *changed_columns()[1:])
    return follow(select(chosen.c.id), _told_of(chosen), followers)


def _told_of(chosen: CTE) -> CTE:
    # Of the rows as they were locked, which are those that are deleted: an ORM statement can't stand in a CTE.
    told = (chosen.c.id, cast(_literal("deleted"), Text).label("state"), chosen.c.queue, chosen.c.meta)
    return select(*told).where(chosen.c.state.not_in(_literals(ENDED))).cte("oban_acked")


def lock(command: Callable[..., Executable], wanted: Select[int]) -> Select[int]:
    """Lock the jobs that `command`, one of the above, would change: their ids."""
    return select(_chosen(wanted, _guard(command)).c.id)


def lock_to_seal(wanted: Select[int]) -> Select[Any, Any, Any]:
    """Lock the jobs that `update` would change: their `id`, `worker`, and whether their args are `encrypted`."""
    encrypted = _meta().op("@>", return_type=Boolean())(inline(f"'{{\"{ENCRYPTED}\": true}}'::jsonb"))
    chosen = _chosen(wanted, _guard(update), jobs.c.worker, encrypted.label(ENCRYPTED))
    return select(chosen.c.id, chosen.c.worker, chosen.c[ENCRYPTED])


def _guard(command: Callable[..., Executable]) -> ColumnElement[bool] | None:
    """The condition of jobs that a command may change; None where it may change all."""
    if command is cancel:
        return _state.in_(_literals(CANCELLABLE))
    if command is retry:
        return _state.not_in(_literals(_STAYING))
    return _not_executing if command is delete else None


def _chosen(wanted: Select[int], guard: ColumnElement[bool] | None, *more: Expression) -> CTE:
    statement = select(jobs.c.id, jobs.c.attempt, *more)
    if (condition := condition_on_jobs(wanted)) is not None:
        statement = statement.where(condition)
    else:
        # MATERIALIZED, because a SELECT with a LIMIT must not be run again when a row turns out to have changed.
        picked = materialized(wanted.cte("oban_picked"))
        statement = statement.where(jobs.c.id.in_(select(*picked.c)))
    if guard is not None:
        statement = statement.where(guard)
    return materialized(statement.order_by(jobs.c.id).with_for_update(of=jobs).cte("oban_chosen"))


def _changing(chosen: CTE) -> Update:
    return sql_update(jobs).where(jobs.c.id == chosen.c.id)


def _counted(changed: CTE, *, announcing: bool) -> Select[int]:
    count = select(func.count()).select_from(changed).scalar_subquery()
    statement = select(count.label("count"))
    if not announcing:
        return statement
    available = cast(changed.c.state, Text) == inline("'available'")
    queues: Subquery = select(changed.c.queue).where(available).distinct().subquery("queues")
    payload = func.json_build_object(inline("'queue'"), queues.c.queue)
    announced = select(func.count(func.pg_notify(_INSERT, cast(payload, Text)))).scalar_subquery()
    return statement.add_columns(announced.label("announced"))


def _meta() -> ColumnElement[object]:
    return func.coalesce(jobs.c.meta, _EMPTY, type_=JSONB())


def _literals(states: Iterable[str]) -> list[ColumnElement[object]]:
    return [_literal(state) for state in states]


def _is(state: str) -> ColumnElement[bool]:
    return _literal(state) == _state


def _literal(state: str) -> ColumnElement[object]:
    return inline(f"'{state}'")
