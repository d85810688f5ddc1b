"""Jobs of queues with partitions that have no key: found page by page, and given one.

No index knows of a key that is not there, and one that did would cost every job of every queue. So the table is looked
at in pages: by the ids downwards, which shows what was written lately, and along the index of the available jobs, which
shows what was missed. Each page is bounded, however many jobs wait.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    CTE,
    BigInteger,
    DateTime,
    Executable,
    Integer,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    null,
    select,
    tuple_,
    union_all,
)
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import JSONB

from oban_sa.jobs.keys import PARTITION
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import array, inline, materialized, parameter, seconds_between, unnest, utc_now
from oban_sa.sql.fetch import jobs
from oban_sa.sql.halts import has

_WAITING: Final = [inline(f"'{state}'") for state in ("available", "scheduled", "retryable", "suspended")]

_PAGE: Final = [
    jobs.c[name]
    for name in ("id", "state", "queue", "worker", "args", "meta", "priority", "scheduled_at", "inserted_at")
]


def newest() -> Executable:
    """The jobs without a key among the newest ones: see `_lacking`. Parameters: `before`, an id, `limit`, `queues`."""
    page = materialized(
        select(*_PAGE)
        .where(jobs.c.id < bindparam("before", type_=BigInteger()))
        .order_by(jobs.c.id.desc())
        .limit(bindparam("limit", type_=Integer()))
        .cte("page")
    )
    return _lacking(page, page.c.id)


def along() -> Executable:
    """The jobs without a key among the available ones of `queue`, in their order, after a place in it: see `_lacking`.

    Parameters: `queue`; `priority`, `scheduled_at` and `id` of the place; `limit`, `queues`, which has the queue.
    """
    place = tuple_(
        parameter("priority", Integer()), parameter("scheduled_at", DateTime()), parameter("id", BigInteger())
    )
    page = materialized(
        select(*_PAGE)
        .where(
            jobs.c.state == inline("'available'"),
            jobs.c.queue == parameter("queue", Text()),
            tuple_(jobs.c.priority, jobs.c.scheduled_at, jobs.c.id) > place,
        )
        .order_by(jobs.c.priority, jobs.c.scheduled_at, jobs.c.id)
        .limit(bindparam("limit", type_=Integer()))
        .cte("page")
    )
    return _lacking(page, page.c.priority.desc(), page.c.scheduled_at.desc(), page.c.id.desc())


def give() -> Executable:
    """Add to the meta of jobs what it lacks: the ids of those that got it. Rows that are locked are passed over.

    Parameters: `ids`, and `metas`, a JSON object for each as text, whose values don't replace those that are there.
    """
    said = unnest(id=BigInteger(), meta=Text())
    chosen = materialized(
        select(jobs.c.id)
        .where(
            jobs.c.id == func.any(array("ids", BigInteger())),
            # As text, so that they are found by their ids, and not along an index of all that wait.
            cast(jobs.c.state, Text).in_(_WAITING),
            has(PARTITION).is_not(inline("true")),
        )
        .order_by(jobs.c.id)
        .with_for_update(skip_locked=True)
        .cte("chosen")
    )
    # As an array, so that they are found by primary key with any plan; see `oban_sa.sql.fetch.begin`.
    return (
        sql_update(jobs)
        .where(jobs.c.id == func.any(func.array(select(chosen.c.id).scalar_subquery())), said.c.id == jobs.c.id)
        .values(meta=cast(said.c.meta, JSONB).op("||", return_type=JSONB())(jobs.c.meta))
        .returning(jobs.c.id)
    )


def _lacking(page: CTE, *backwards: Expression) -> Executable:
    """Rows of `id`, `queue`, `worker`, `args` and `meta` as text, `waited` in seconds, `priority`, `scheduled_at`.

    And one more where the page has jobs, the last of them, in which `seen` is how many were looked at; in the others it
    is NULL. `backwards` is the order in which that one is the first.
    """
    columns = (
        page.c.id,
        page.c.queue,
        page.c.worker,
        cast(page.c.args, Text).label("args"),
        cast(page.c.meta, Text).label("meta"),
        seconds_between(page.c.inserted_at, utc_now()).label("waited"),
        page.c.priority,
        page.c.scheduled_at,
    )
    lacks = has(PARTITION, page.c.meta).is_not(inline("true"))
    mine = page.c.queue == func.any(array("queues", Text()))
    found = select(*columns, cast(null(), BigInteger).label("seen")).where(mine, page.c.state.in_(_WAITING), lacks)
    seen = select(func.count()).select_from(page).scalar_subquery()
    last = select(*columns, seen.label("seen")).order_by(*backwards).limit(literal_column("1")).subquery("last")
    return union_all(found, select(last))
