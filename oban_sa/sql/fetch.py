"""Take available jobs, so that no two producers ever hold the same one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple, TypeVar

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    DateTime,
    Integer,
    SmallInteger,
    Table,
    Text,
    bindparam,
    cast,
    func,
    select,
    tuple_,
    type_coerce,
    update,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.sql.selectable import HasCTE

from oban_sa.models import Job
from oban_sa.models.base import Expression
from oban_sa.models.readable import readable
from oban_sa.sql.expressions import array, inline, materialized, utc_now
from oban_sa.sql.producers import registered

S = TypeVar("S", bound=HasCTE)

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
"""The columns that a fetch returns; its caller knows `state`, `queue` and `attempted_by`."""


MOMENTS = tuple(name for name in FETCHED if name.endswith("_at"))
"""Those of `FETCHED` that are timestamps; they are returned with their time zone."""

JSON_TEXT = frozenset({"args", "meta", "errors"})
"""Those of `FETCHED` that are returned as JSON text."""


class Position(NamedTuple):
    """A position in the order in which a queue's jobs are begun; `scheduled_at` is naive, in UTC."""

    priority: int
    scheduled_at: datetime
    id: int


HOLDER: Final[ColumnElement[str]] = type_coerce(jobs.c.attempted_by, ARRAY(Text()))[inline("2")]
"""The uuid of the producer that holds a job, as text."""

BEGINNING: Final = Position(-(2**15), datetime.min, 0)  # noqa: DTZ901 - naive, as the column is
"""Before all jobs."""


@dataclass(frozen=True, slots=True, eq=False)
class Filter:
    """What a fetch asks of jobs, beside that they are available.

    All `conditions` hold for each job that is taken; a CTE that they refer to becomes part of the statement. `at_most`
    is how many jobs are taken at once, an integer of SQL such as a subquery; NULL sets no limit. `then` are made of the
    CTE `taken`, rows of `FETCHED`, as one that counts what was taken in another table; like a follower they are
    data-modifying CTEs and write no jobs. `leaves` says that the conditions are those of workers that this program does
    not know, which a `pick` has to hear of, since it chooses jobs before the conditions are asked.

    Two fetches at once see the same tables. Where both must not count on the same number, the subquery locks its row.

    With `looks`, `pick`, `narrow` or `tells` a filter is one of a limit, and the statement is another one; see
    `oban_sa.sql.room`, which has the order in which all of it happens.

    Statements are cached by their filters, and one filter is equal to no other: make each once, and let what differs
    between queues be parameters (see `Plan`).
    """

    conditions: tuple[ColumnElement[bool], ...] = ()
    leaves: bool = False
    at_most: ColumnElement[int] | None = None
    then: tuple[Callable[[CTE], CTE], ...] = ()
    looks: tuple[Callable[[CTE], CTE], ...] = ()
    pick: Callable[[Asked], Picked] | None = None
    narrow: Callable[[CTE, CTE], CTE] | None = None
    tells: tuple[Callable[[Taken], Mapping[str, Expression]], ...] = ()

    @property
    def limits(self) -> bool:
        """Whether it is one of a limit."""
        return bool(self.looks or self.tells or self.pick is not None or self.narrow is not None)


class Asked(NamedTuple):
    """What a `pick` has to observe: `conditions` on each job, and `room`, whose `granted` is how many are picked.

    It picks only where the producer is `registered`. With `leaves` one of the conditions is that of unknown workers.
    """

    conditions: tuple[ColumnElement[bool], ...]
    room: CTE
    leaves: bool


class Picked(NamedTuple):
    """The jobs that a `pick` has locked, a CTE with their `id`, and what the answer says of them beside."""

    jobs: CTE
    tells: Mapping[str, Expression]


class Taken(NamedTuple):
    """What a `tell` is made of: `taken`, rows of `FETCHED`; `room`; and `picked`, or what `narrow` has made of it."""

    taken: CTE
    room: CTE
    picked: CTE


def of_producer() -> tuple[ColumnElement[bool], ...]:
    """Which jobs a producer takes: those of its queue from a position on."""
    return (
        of_queue(),
        NOT_SPENT,
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
    )


def of_queue() -> ColumnElement[bool]:
    """Whether a job is of the queue that is asked for. Parameter: `queue`."""
    return jobs.c.queue == bindparam("queue", type_=Text())


NOT_SPENT: Final[ColumnElement[bool]] = jobs.c.attempt < jobs.c.max_attempts
"""Whether a job has an attempt left; without one it is never taken."""


def take(which: Sequence[ColumnElement[bool]], filters: Sequence[Filter] = (), columns: Sequence[str] = FETCHED) -> CTE:
    """Take the first available jobs for which all conditions of `which` hold, as a data-modifying CTE of `columns`.

    Parameters: `demand`, `holder`, and those of `which` and the filters.
    """
    demand: ColumnElement[int] = bindparam("demand", type_=Integer())
    if bounds := [each.at_most for each in filters if each.at_most is not None]:
        demand = func.greatest(func.least(demand, *bounds), inline("0"))
    return begin(pick(which, filters, demand), utc_now(), columns)


def pick(which: Sequence[ColumnElement[bool]], filters: Sequence[Filter], most: ColumnElement[int]) -> CTE:
    """Lock the first available jobs for which all conditions hold, at most so many: a CTE of `id`."""
    # The CTE is a fence: a LIMITed subquery may be planned inside a join and run again, claiming more than asked for.
    return materialized(
        select(jobs.c.id)
        .where(
            # A literal, not a parameter: a generic plan must still know which corner of the index this is.
            jobs.c.state == inline("'available'"),
            *which,
            *(condition for each in filters for condition in each.conditions),
        )
        .order_by(jobs.c.priority, jobs.c.scheduled_at, jobs.c.id)
        .limit(most)
        .with_for_update(skip_locked=True)
        .cte("picked")
    )


def begin(picked: CTE, moment: ColumnElement[datetime], columns: Sequence[str] = FETCHED) -> CTE:
    """Begin an attempt at each of the picked jobs, at a `moment`: a data-modifying CTE of `columns`."""
    # As an array, for which the planner expects a handful of rows with any limit: they are always found by primary
    # key. Joined with `picked`, a plan for any limit expects a tenth of the backlog and may read the whole table.
    ids = func.array(select(picked.c.id).scalar_subquery())
    return (
        update(jobs)
        .where(jobs.c.id == func.any(ids))
        .values(
            state=inline("'executing'"),
            attempt=jobs.c.attempt + inline("1"),
            attempted_at=moment,
            attempted_by=array("holder", Text()),
        )
        .returning(*(answered(name) for name in columns))
        .cte("taken")
    )


def then(statement: S, taken: CTE, filters: Sequence[Filter]) -> S:
    """Add to a statement what its filters do with the jobs that were taken."""
    return statement.add_cte(*(make(taken) for each in filters for make in each.then)) if filters else statement


def answered(name: str) -> Expression:
    """A column of jobs as a fetch returns it."""
    column: Expression = jobs.c[name]
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
    # As text: the engine may have put any codec for JSON on its connections.
    return cast(column, Text).label(name) if name in JSON_TEXT else column
