"""Find jobs by what a person asks for, at a cost that the size of the table does not change.

What a state and a queue have in common is found along the index on (state, queue, priority, scheduled_at, id): first
the places that hold jobs at all, then from each as many entries as are wanted. Nothing serves a search by worker, tag,
args or meta; it looks at so many of the newest jobs and no further, so the command that shows the answer says how many.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final
from typing import cast as typed

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    Select,
    Text,
    and_,
    cast,
    exists,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.orm import aliased

from oban_sa.jobs.states import JobState
from oban_sa.models import Job, Producer
from oban_sa.models.base import Expression
from oban_sa.sql.fetch import jobs
from oban_sa.sql.places import Place, by_moment, standing, top_of, unnested
from oban_sa.sql.wanted import Cursor, Wanted, conditions, looked_for, texts

_TRUE: Final[ColumnElement[bool]] = literal_column("true")
_BEFORE: Final[Expression] = literal_column("-2147483648", Integer)


def by_id(ids: Sequence[int]) -> ColumnElement[bool]:
    """The jobs with these ids, of which there may be any number."""
    return Job.id == func.any(cast(literal(list(ids), ARRAY(BigInteger())), ARRAY(BigInteger())))


def walk(states: Sequence[JobState], queues: Expression | None = None) -> CTE:
    """Rows of `state`, a text, `queue` and `priority` for all places that hold jobs, by one look into the index each.

    `queues` is an array of names; without it they are found too. A row that is no place has the lowest of priorities.
    """
    state = func.unnest(texts([str(state) for state in states])).table_valued("state", name="states").render_derived()
    if queues is not None:
        queue = func.unnest(queues).table_valued("queue", name="queues").render_derived()
        first = select(state.c.state, queue.c.queue, _BEFORE.label("priority")).select_from(state.join(queue, _TRUE))
    else:
        first = select(state.c.state, literal_column("''", Text).label("queue"), _BEFORE.label("priority"))
    found = first.cte("walk", recursive=True)
    at = cast(found.c.state, jobs.c.state.type)
    after = (
        and_(jobs.c.queue == found.c.queue, jobs.c.priority > found.c.priority)
        if queues is not None
        else tuple_(jobs.c.queue, jobs.c.priority) > tuple_(found.c.queue, found.c.priority)
    )
    following = (
        select(jobs.c.queue, jobs.c.priority)
        .where(jobs.c.state == at, after)
        .order_by(jobs.c.queue, jobs.c.priority)
        .limit(literal_column("1"))
        .correlate(found)
        .lateral("following")
    )
    return found.union_all(
        select(found.c.state, following.c.queue, following.c.priority).select_from(found.join(following, _TRUE))
    )


def places(wanted: Wanted, *, limit: int) -> Executable:
    """Rows of `state`, `queue`, `priority`: where jobs of the wanted states and queues stand; `limit` at most."""
    named = texts(list(dict.fromkeys(wanted.queues))) if wanted.queues else None
    found = walk(wanted.states or tuple(JobState), named)
    columns: tuple[Expression, ...] = (found.c.state, found.c.queue, found.c.priority)
    wanted_ones = [found.c.priority.in_(wanted.priorities)] if wanted.priorities else []
    return select(*columns).where(found.c.priority != _BEFORE, *wanted_ones).limit(literal(limit, Integer()))


def listing(
    wanted: Wanted,
    among: Sequence[Place],
    *,
    window: int,
    limit: int,
    oldest: bool = False,
    before: Cursor | None = None,
) -> Select[Job]:
    """The jobs at these places that are wanted, the last due first, or with `oldest` the first due; `limit` at most.

    They are looked for among the first `window` in that order, from those on that come after the cursor `before`.
    """
    top = top_of(wanted, among, window=window, oldest=oldest, before=before)
    return (
        select(Job)
        .join(top, Job.id == top.c.id)
        .where(*looked_for(wanted))
        .order_by(*by_moment(top.c, oldest=oldest))
        .limit(literal(limit, Integer()))
    )


def looked_at(wanted: Wanted, among: Sequence[Place], *, window: int, oldest: bool = False) -> Select[int]:
    """How many jobs `listing` looks at: `window`, or all there are where they are fewer."""
    return select(func.count()).select_from(top_of(wanted, among, window=window, oldest=oldest))


def listing_within(
    wanted: Wanted,
    among: Sequence[Place],
    *,
    window: int,
    limit: int,
    oldest: bool = False,
    before: Cursor | None = None,
) -> Select[Job | None, datetime, int, int]:
    """The same, and with each the last job that is looked at: its `scheduled_at` and id, and how many these are.

    In one row without a job where none is found, and in none where there is nothing to look at. One statement, since
    to find the window takes most of the time.
    """
    top = top_of(wanted, among, window=window, oldest=oldest, before=before)
    last = by_moment(top.c, oldest=not oldest)
    count = select(func.count()).select_from(top).scalar_subquery()
    end = (
        select(top.c.scheduled_at, top.c.id, count.label("count"))
        .order_by(*last)
        .limit(literal_column("1"))
        .subquery("window_end")
    )
    found = select(Job).join(top, Job.id == top.c.id).where(*looked_for(wanted))
    first = by_moment(top.c, oldest=oldest)
    one = aliased(Job, found.order_by(*first).limit(literal(limit, Integer())).subquery("found"))
    order = by_moment(one, oldest=oldest)
    both = (
        select(one, end.c.scheduled_at, end.c.id, end.c.count)
        .select_from(end)
        .join(one, _TRUE, isouter=True)
        .order_by(*order)
    )
    return typed("Select[Job | None, datetime, int, int]", both)


def newest(
    wanted: Wanted, *, window: int, limit: int, oldest: bool = False, before: Cursor | None = None
) -> Select[Job]:
    """The jobs that are wanted among the `window` with the highest ids, or the lowest, those first; `limit` at most.

    With a cursor `before`, those are looked at that come after it.
    """
    # A LIMIT inside, which the planner can't look behind: asked for a rare worker it would rather read the whole table.
    some = select(Job).order_by(Job.id if oldest else Job.id.desc()).limit(literal(window, Integer()))
    if before is not None:
        at = literal(before.id, BigInteger())
        some = some.where(Job.id > at if oldest else Job.id < at)
    seen = some.subquery("seen")
    one = aliased(Job, seen)
    order = one.id if oldest else one.id.desc()
    return select(one).where(*conditions(wanted, one)).order_by(order).limit(literal(limit, Integer()))


def by_ids(wanted: Wanted, *, limit: int, before: Cursor | None = None) -> Select[Job]:
    """The jobs with the wanted ids, where they are wanted otherwise too, the highest id first; `limit` at most."""
    found = select(Job).where(*conditions(wanted)).order_by(Job.id.desc()).limit(literal(limit, Integer()))
    return found if before is None else found.where(Job.id < literal(before.id, BigInteger()))


def executing(*, limit: int) -> Select[Job]:
    """The jobs that run, those that began first; `limit` at most."""
    some = select(Job).where(Job.state == JobState.EXECUTING).limit(literal(limit, Integer()))
    one = aliased(Job, some.subquery("some"))
    return select(one).order_by(one.attempted_at)


def last_of_cron(*, window: int) -> Select[Job]:
    """The jobs of crontabs among the `window` newest, those with the highest ids first; 500 at most."""
    some = select(Job).order_by(Job.id.desc()).limit(literal(window, Integer())).subquery("seen")
    one = aliased(Job, some)
    made = one.meta.op("->>")(literal_column("'cron_name'")).is_not(None)
    return select(one).where(made).order_by(one.id.desc()).limit(literal_column("500"))


def further(*, window: int, oldest: bool = False) -> Select[bool]:
    """Whether there are more jobs than those that `newest` looks at."""
    order = Job.id if oldest else Job.id.desc()
    return select(exists(select(Job.id).order_by(order).offset(literal(window, Integer()))))


def beyond(*, window: int, oldest: bool = False, before: Cursor | None = None) -> Select[int]:
    """The id of the last job that `newest` looks at, where there is another one beyond; or no row."""
    order = Job.id if oldest else Job.id.desc()
    found = select(Job.id).order_by(order).offset(literal(window - 1, Integer())).limit(literal_column("2"))
    if before is not None:
        at = literal(before.id, BigInteger())
        found = found.where(Job.id > at if oldest else Job.id < at)
    two = found.subquery("two")
    last = func.min(two.c.id) if oldest else func.max(two.c.id)
    return select(last).having(func.count() == literal_column("2"))


def counted_ids(wanted: Wanted) -> Executable:
    """Rows of `state`, a text, and `count` for the jobs with the wanted ids, where they are wanted otherwise too."""
    return select(*_by_state(Job.state)).where(*conditions(wanted)).group_by(Job.state)


def counted(wanted: Wanted, among: Sequence[Place], *, window: int) -> Executable:
    """Rows of `state`, a text, and `count` for the jobs at these places that are wanted, among the first `window`."""
    top = top_of(wanted, among, window=window, oldest=False)
    found = select(*_by_state(Job.state)).join(top, Job.id == top.c.id)
    return found.where(*looked_for(wanted)).group_by(Job.state)


def counted_places(wanted: Wanted, among: Sequence[Place], *, window: int) -> Executable:
    """Rows of `state`, a text, `count`, and `most` for the jobs at these places; of each place `window` are counted.

    `most` is the largest count of a place. What no index serves is left out of account.
    """
    place = unnested(among)
    here = standing(place.c.state, place.c.queue, place.c.priority, wanted)
    some = select(jobs.c.id).where(*here).limit(literal(window, Integer())).correlate(place)
    each = select(func.count().label("count")).select_from(some.subquery("some")).correlate(place).lateral("each_one")
    state = cast(place.c.state, Text).label("state")
    count, most = cast(func.sum(each.c.count), BigInteger).label("count"), func.max(each.c.count).label("most")
    return select(state, count, most).select_from(place.join(each, _TRUE)).group_by(place.c.state)


def counted_newest(wanted: Wanted, *, window: int) -> Executable:
    """The same among the `window` newest jobs of all."""
    seen = select(Job).order_by(Job.id.desc()).limit(literal(window, Integer())).subquery("seen")
    one = aliased(Job, seen)
    return select(*_by_state(one.state)).where(*conditions(wanted, one)).group_by(one.state)


def workers(*, window: int) -> Select[str]:
    """The names of the workers that the `window` newest jobs have."""
    seen = select(Job.worker).order_by(Job.id.desc()).limit(literal(window, Integer())).subquery("seen")
    return select(seen.c.worker).distinct()


def queues(states: Sequence[JobState], *, limit: int) -> Select[str]:
    """The names of queues that have jobs in some states, by one look into the index for each, up to `limit` of them.

    And those that nodes serve.
    """
    state = func.unnest(texts([str(state) for state in states])).table_valued("state", name="states").render_derived()
    found = select(state.c.state, literal_column("''", Text).label("queue")).cte("walk", recursive=True)
    following = (
        select(jobs.c.queue)
        .where(jobs.c.state == cast(found.c.state, jobs.c.state.type), jobs.c.queue > found.c.queue)
        .order_by(jobs.c.queue)
        .limit(literal_column("1"))
        .correlate(found)
        .lateral("following")
    )
    found = found.union_all(select(found.c.state, following.c.queue).select_from(found.join(following, _TRUE)))
    some = select(found.c.queue).where(found.c.queue != literal_column("''")).limit(literal(limit, Integer()))
    served = select(Producer.queue).limit(literal(limit, Integer()))
    return some.union(served)  # type: ignore[return-value]


def queues_with_jobs(names: Sequence[str]) -> Select[str]:
    """Those of some queues that have a job, by a look into the index for each and each state."""
    queue = func.unnest(texts(list(names))).table_valued("queue", name="queues").render_derived()
    state = func.unnest(texts([str(state) for state in JobState])).table_valued("state", name="states").render_derived()
    one = (
        select(jobs.c.id)
        .where(jobs.c.state == cast(state.c.state, jobs.c.state.type), jobs.c.queue == queue.c.queue)
        .limit(literal_column("1"))
        .correlate(queue, state)
        .lateral("one")
    )
    return select(queue.c.queue).where(exists(select(one.c.id).select_from(state.join(one, _TRUE)).correlate(queue)))


def lowest(*, below: int, window: int) -> Select[Any]:
    """The lowest id of the `window` jobs next below an id; NULL where there is none."""
    ids = select(Job.id).where(Job.id < literal(below, BigInteger())).order_by(Job.id.desc())
    seen = ids.limit(literal(window, Integer())).subquery("seen")
    return select(func.min(seen.c.id))


def between(wanted: Wanted, *, lowest: int, below: int) -> Select[int]:
    """The ids of the jobs that are wanted, of those from the id `lowest` to before the id `below`."""
    some = (
        select(Job)
        .where(Job.id >= literal(lowest, BigInteger()), Job.id < literal(below, BigInteger()))
        # Not for the limit, but because the planner can't look behind it.
        .offset(literal_column("0"))
        .subquery("some")
    )
    one = aliased(Job, some)
    return select(one.id).where(*conditions(wanted, one))


def _by_state(state: object) -> tuple[Expression, ...]:
    return cast(state, Text).label("state"), func.count().label("count")
