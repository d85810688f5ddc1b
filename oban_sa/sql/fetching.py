"""Take available jobs of one queue, so that no two producers ever hold the same one."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    SmallInteger,
    Table,
    Text,
    bindparam,
    cast,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.models import Job
from oban_sa.models.reading import readable
from oban_sa.sql.literals import inline
from oban_sa.sql.moments import utc_now
from oban_sa.sql.producing import registered

jobs: Table = Job.metadata.tables["public.oban_jobs"]

FETCHED = (
    "id",
    "worker",
    "attempt",
    "max_attempts",
    "priority",
    "args",
    "meta",
    "tags",
    "errors",
    "inserted_at",
    "scheduled_at",
    "attempted_at",
    "cancelled_at",
    "completed_at",
    "discarded_at",
)
"""The columns a fetch answers; `state`, `queue` and `attempted_by` are known to whoever asked."""


MOMENTS = tuple(name for name in FETCHED if name.endswith("_at"))
"""Those of `FETCHED` that are moments, aware."""

JSON_TEXT = frozenset({"args", "meta", "errors"})
"""Those of `FETCHED` that are answered as JSON text."""


class Place(NamedTuple):
    """A place in the order in which a queue's jobs are begun; `scheduled_at` is naive, in UTC."""

    priority: int
    scheduled_at: datetime
    id: int


BEGINNING: Final = Place(-(2**15), datetime.min, 0)  # noqa: DTZ901 - naive, as the column is
"""Before all jobs."""


def fetching(*conditions: ColumnElement[bool]) -> Executable:
    """Rows of `FETCHED`, at most `demand` of them, the first from a place on, in no promised order.

    Parameters: `queue`, `demand`, `holder` (`[node, producer uuid]`), `producer`, the same uuid, and a `Place` as
    `from_priority`, `from_scheduled_at` and `from_id`. Nothing is fetched unless the producer has its row, and
    only jobs for which the `conditions` hold as well.
    """
    taken = taking(*conditions)
    return select(*(taken.c[name] for name in FETCHED))


def taking(*conditions: ColumnElement[bool]) -> CTE:
    """The fetch as a data-modifying CTE, for statements that do more in the same round trip."""
    # The CTE is a fence: a LIMITed subquery may be planned inside a join and run again, claiming more than asked for.
    picked = (
        select(jobs.c.id)
        .where(
            # A literal, not a parameter: a generic plan must still know which corner of the index this is.
            jobs.c.state == inline("'available'"),
            jobs.c.queue == bindparam("queue", type_=Text()),
            jobs.c.attempt < jobs.c.max_attempts,
            # A statement may arrive late, when its producer has left or was taken for dead: it must take nothing then.
            # What still slips through, since the row isn't locked, the lifeline finds under no row.
            registered(),
            # Where the index is entered. What comes before it in a burst are entries of jobs that were fetched and are
            # not yet cleaned away, thousands of them, and each fetch would pass them all again.
            tuple_(jobs.c.priority, jobs.c.scheduled_at, jobs.c.id)
            >= tuple_(
                bindparam("from_priority", type_=SmallInteger()),
                bindparam("from_scheduled_at", type_=DateTime()),
                bindparam("from_id", type_=BigInteger()),
            ),
            *conditions,
        )
        .order_by(jobs.c.priority, jobs.c.scheduled_at, jobs.c.id)
        .limit(bindparam("demand", type_=Integer()))
        .with_for_update(skip_locked=True)
        .cte("picked")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    claim: Any = update(jobs)
    # As an array, which the planner takes for a handful whatever it thinks of the limit: the rows are then always found
    # by primary key. Joined with `picked`, a plan for any limit reckons with a tenth of the backlog, and may read the
    # whole table for it.
    ids: Any = func.array(select(picked.c.id).scalar_subquery())
    taken: CTE = (
        claim.where(jobs.c.id == func.any(ids))
        .values(
            state=inline("'executing'"),
            attempt=jobs.c.attempt + inline("1"),
            attempted_at=utc_now(),
            attempted_by=cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text())),
        )
        .returning(*(answered(name) for name in FETCHED))
        .cte("taken")
    )
    return taken


def answered(name: str) -> Any:
    """One of `FETCHED` as a fetch answers it."""
    column: Any = jobs.c[name]
    if name.endswith("_at"):
        # Those that others may have written, of which one that Python can't hold would keep the whole answer from being
        # read: the rows it claims would stay executing, and be fetched in vain for ever.
        if name != "attempted_at":
            column = readable(column, DateTime())
        # Aware, as jobs hold it: making it aware in Python costs more than reading all the rest of the row.
        return func.timezone(inline("'UTC'"), column, type_=DateTime(timezone=True)).label(name)
    if name == "errors":
        # jsonb[] in one family's table and jsonb in the other's; as jsonb both read alike.
        column = func.to_jsonb(column)
    # As text, whatever codec for JSON the engine has put on its connections.
    return cast(column, Text).label(name) if name in JSON_TEXT else column
