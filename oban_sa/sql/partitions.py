"""Take jobs key by key, so that no key has more of them executing than it may, and none hides the others.

A key is what a job's meta has as `partition`. The keys of a queue stand in a ring, in the order of an index, and a
fetch goes from key to key with one probe of the index each, as far as it needs to fill its demand. It begins where the
last one of this producer ended. How many jobs of a key wait costs nothing, so a tenant with a million of them hides no
other.

    room ──> ring ──> chosen ──> picked

`ring` is the walk, the function `oban_sa_ring` (`oban_sa.catalog.functions.partitions`): it passes keys that are
full, or whose lock another fetch holds, and locks the others. `chosen` are their first jobs, each key's share of them,
in the order in which they are taken: by priority, and within one in rounds, each of which has `weight` jobs of each
key. `picked` locks these rows, and drops those that were taken meanwhile.

A job of another priority is another matter: all keys that have jobs of priority 0 are asked before any of priority 1.
Within a key the order is that of a queue. Jobs without a key are in no ring: they wait until they are given one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

from sqlalchemy import (
    CTE,
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    FromClause,
    Integer,
    Select,
    SmallInteger,
    Text,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeEngine

from oban_sa.jobs import keys
from oban_sa.jobs.values import dumps
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import array, inline, materialized, parameter
from oban_sa.sql.fetch import Asked, Filter, Picked, Taken, jobs, of_queue
from oban_sa.sql.functions import call
from oban_sa.sql.halts import has
from oban_sa.sql.rates import name_of, weight_of

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits

T = TypeVar("T")


def _partition_of(meta: Expression) -> ColumnElement[str]:
    """The key of a job, as the indexes have it."""
    return meta.op("->>")(inline(f"'{keys.PARTITION}'"))


_RING: Final[Mapping[str, TypeEngine[Any]]] = {
    "place": Integer(),
    "priority": SmallInteger(),
    "key": Text(),
    "weight": Integer(),
    "used": Integer(),
    "free": Integer(),
    "rate_left": Integer(),
    "most": Integer(),
    "quota": Integer(),
    "stopped": Text(),
    "next_in": Double(),
}
"""What `oban_sa_ring` returns."""


def bound(limits: Limits, queue: str) -> tuple[Filter, dict[str, object]]:
    """Return the filter for a queue with partitions, and the values of its parameters; `ring` is the fetches' own."""
    rate = None if limits.rate is None or limits.rate.shared else limits.rate
    given: dict[str, object] = {
        "each": limits.each,
        "bursts": limits.burst,
        "heavy": list(limits.weights),
        "weights": list(limits.weights.values()),
        "key_rate": None,
        "ring": None,
    }
    if rate is None:
        return (FAIR if limits.fair else IN_ORDER), given
    said: dict[str, object] = {
        "name": name_of(queue),
        "n": rate.n,
        "per": rate.span,
        "algorithm": rate.algorithm,
        "burst": rate.burst,
    }
    given["key_rate"] = dumps(said)
    if rate.weight is None:
        return (FAIR_RATED if limits.fair else RATED), given
    given |= {"rate_weight": rate.weight.split("."), "rate_n": rate.n, "rate_burst": rate.burst}
    return (FAIR_WEIGHTED if limits.fair else WEIGHTED), given


def _fair(asked: Asked) -> Picked:
    return _pick(asked, in_turn=True)


def _in_order(asked: Asked) -> Picked:
    return _pick(asked, in_turn=False)


def _fair_by_weight(asked: Asked) -> Picked:
    return _pick(asked, in_turn=True, weighted=True)


def _in_order_by_weight(asked: Asked) -> Picked:
    return _pick(asked, in_turn=False, weighted=True)


def _spend(done: Taken) -> Mapping[str, Expression]:
    key = _partition_of(cast(done.taken.c.meta, JSONB))
    started = select(key.label("key"), func.count().label("count")).group_by(key).subquery("started")
    return _spent(started, started.c.count, inline("1"), done)


def _spend_weights(done: Taken) -> Mapping[str, Expression]:
    """Spend the weights of what was taken, and ask when the job of each key may start that was too heavy for it."""
    held = done.picked
    of_key = _partition_of(cast(done.taken.c.meta, JSONB))
    weight = weight_of(cast(done.taken.c.args, JSONB), cast(done.taken.c.meta, JSONB))
    each = union_all(
        select(of_key.label("key"), weight.label("weight"), cast(null(), Integer).label("wants")),
        select(held.c.key, inline("0"), held.c.weight).where(held.c.id.is_(None)),
    ).subquery("each")
    started = (
        select(each.c.key, func.sum(each.c.weight).label("count"), func.min(each.c.wants).label("wants"))
        .group_by(each.c.key)
        .subquery("started")
    )
    return _spent(started, started.c.count, func.coalesce(started.c.wants, inline("1")), done)


def _spent(started: FromClause, count: Expression, wants: Expression, done: Taken) -> Mapping[str, Expression]:
    rate = cast(parameter("key_rate", Text()), JSONB)

    def said(name: str, type_: TypeEngine[T]) -> ColumnElement[T]:
        return cast(rate.op("->>")(inline(f"'{name}'")), type_)

    next_in: ColumnElement[float] = call(
        "oban_sa_rate",
        Double(),
        said("name", Text()),
        started.c.key,
        said("n", Integer()),
        said("per", Double()),
        said("algorithm", Text()),
        said("burst", Integer()),
        count,
        wants,
        done.room.c.at,
    )
    spent = select(next_in.label("next_in")).select_from(started.join(done.room, true())).cte("spent")
    return {"next_in": select(func.min(materialized(spent).c.next_in)).scalar_subquery()}


FAIR: Final = Filter(pick=_fair)
"""Take jobs of each key in turn: `weight` of them, then those of the next key.

Parameters: `each`, how many jobs of a key execute at once in the cluster, or NULL; `bursts`, whether a key may have
more where no other one has jobs waiting that may run; `heavy` and `weights`, the keys whose weight is not 1 and their
weights; `key_rate`, NULL; `ring`, what the last answer told as `last_key`, or NULL.
"""

IN_ORDER: Final = Filter(pick=_in_order)
"""The same, but of the keys that a fetch looks at the oldest jobs are taken, whichever key they are of.

These are all keys where there are no more of them than jobs are asked for. Weights mean nothing.
"""

FAIR_RATED: Final = Filter(pick=_fair, tells=(_spend,))
"""As `FAIR`, and of each key no more jobs are started than its rate has left.

`key_rate` is the rate as JSON: `name`, and `n`, `per` in seconds, `algorithm` and `burst` as in a `Rate`. Whoever has a
key's lock has its rate's, so that no fetch waits for a rate.
"""

RATED: Final = Filter(pick=_in_order, tells=(_spend,))
"""As `IN_ORDER`, with such a rate."""

FAIR_WEIGHTED: Final = Filter(pick=_fair_by_weight, tells=(_spend_weights,))
"""As `FAIR_RATED`, where jobs count more than 1: by a number in their args or meta.

A job that is too heavy for what its key has left holds up those of the key behind it, and none of another key. More
parameters: `rate_weight`, an array that is a path such as `args`, `points`; `rate_n` and `rate_burst` of the rate.
"""

WEIGHTED: Final = Filter(pick=_in_order_by_weight, tells=(_spend_weights,))
"""As `RATED`, with such weights."""


def _pick(asked: Asked, *, in_turn: bool, weighted: bool = False) -> Picked:
    ring = _walked(asked.room)
    chosen, held = _chosen(asked, ring, in_turn=in_turn, weighted=weighted)
    picked = _locked(chosen, held)
    return Picked(picked, _told(asked.room, ring, chosen, picked, in_turn=in_turn))


def _walked(room: CTE) -> CTE:
    walk = call(
        "oban_sa_ring",
        Text(),
        bindparam("queue", type_=Text()),
        room.c.granted,
        parameter("each", Integer()),
        parameter("bursts", Boolean()),
        array("heavy", Text()),
        array("weights", Integer()),
        parameter("key_rate", Text()),
        room.c.at,
        parameter("ring", Text()),
    )
    walked = walk.table_valued(*(column(name, type_) for name, type_ in _RING.items())).lateral("walked")
    return materialized(select(*(walked.c[name] for name in _RING)).select_from(room.join(walked, true())).cte("ring"))


def _chosen(asked: Asked, ring: CTE, *, in_turn: bool, weighted: bool) -> tuple[CTE, CTE | None]:
    """Return the `id` of the jobs to be taken, with their key, and the number of each in its key's share.

    And where they are `weighted`, the first one of each key that is too heavy: its `key` and `cost`.
    """
    costs = [weight_of(jobs.c.args, jobs.c.meta).label("cost")] if weighted else []
    first = (
        select(jobs.c.id, jobs.c.scheduled_at, *costs)
        .where(
            jobs.c.state == inline("'available'"),
            has(keys.PARTITION),
            of_queue(),
            jobs.c.priority == ring.c.priority,
            ring.c.key == _partition_of(jobs.c.meta),
            *asked.conditions,
        )
        .order_by(jobs.c.scheduled_at, jobs.c.id)
        .limit(ring.c.quota if in_turn else ring.c.most)
        .correlate(ring)
        .subquery("first")
    )
    in_key = func.row_number().over(order_by=(first.c.scheduled_at, first.c.id))
    job = select(first.c.id, first.c.scheduled_at, in_key.label("n"), *(first.c[each.name] for each in costs)).lateral(
        "job"
    )
    # A key may have jobs of several priorities; what it may have executing is for all of them.
    turns = (ring.c.priority, job.c.n)
    of_all = func.row_number().over(partition_by=ring.c.key, order_by=turns)
    columns = [*ring.c, job.c.id, job.c.scheduled_at, cast(job.c.n, Integer).label("n"), of_all.label("of_all")]
    if weighted:
        columns += [job.c.cost, func.sum(job.c.cost).over(partition_by=ring.c.key, order_by=turns).label("total")]
    if in_turn:
        # Where a key has had its share there may be more jobs of that priority, and those go before all others.
        last = case(((job.c.n >= ring.c.quota) & (ring.c.quota < ring.c.most), ring.c.priority))
        columns.append(func.coalesce(func.min(last).over(), inline("32767")).label("last"))
    seen = select(*columns).select_from(ring.join(job, true())).where(ring.c.place.is_not(None))
    found = materialized(seen.cte("found")) if weighted else seen.subquery("found")
    within = [found.c.of_all <= found.c.most]
    held = None
    if weighted:
        within.append(found.c.total <= found.c.rate_left)
        held = materialized(
            select(found.c.key, found.c.cost)
            .where(
                found.c.of_all <= found.c.most,
                # The first one: each job counts 1 at least.
                found.c.rate_left < found.c.total,
                found.c.rate_left >= found.c.total - found.c.cost,
            )
            .cte("held")
        )
    if in_turn:
        within.append(found.c.priority <= found.c.last)
    bursts = found.c.of_all > found.c.free
    turn = (found.c.n - inline("1") + found.c.used) // found.c.weight
    order: list[Expression] = [bursts, found.c.priority]
    order += [turn, found.c.place, found.c.n] if in_turn else [found.c.scheduled_at, found.c.id]
    number = func.row_number().over(order_by=order)
    chosen = materialized(
        select(*found.c, number.label("number"))
        .where(*within)
        .order_by(*order)
        .limit(select(asked.room.c.granted).scalar_subquery())
        .cte("chosen")
    )
    return chosen, held


def _locked(chosen: CTE, held: CTE | None) -> CTE:
    """Lock the chosen jobs: a CTE of `id`; with those that are held up, which have no `id` and `key` and `weight`."""
    # As an array, so that they are found by primary key with any plan. The state is asked for once more: by now another
    # fetch may have taken a job that this statement's snapshot shows as available. As text: where the planner has no
    # statistics it would rather walk the index of the state, which leads to the ids of all jobs that wait.
    ids = func.array(select(chosen.c.id).scalar_subquery())
    locking = (
        select(jobs.c.id)
        .where(jobs.c.id == func.any(ids), cast(jobs.c.state, Text) == inline("'available'"))
        .with_for_update(skip_locked=True)
    )
    if held is None:
        return materialized(locking.cte("picked"))
    locked = materialized(locking.cte("locked"))
    return materialized(
        union_all(
            select(locked.c.id, cast(null(), Text).label("key"), cast(null(), Integer).label("weight")),
            select(cast(null(), BigInteger), held.c.key, held.c.cost),
        ).cte("picked")
    )


def _told(room: CTE, ring: CTE, chosen: CTE, picked: CTE, *, in_turn: bool) -> dict[str, Expression]:
    end = ring.c.place.is_(None)
    stopped = select(ring.c.stopped).where(end).scalar_subquery()
    refused = select(ring.c.free).where(end).scalar_subquery()
    count = select(func.count(chosen.c.id)).scalar_subquery()
    left = select(func.count(picked.c.id)).scalar_subquery()
    more: ColumnElement[bool] = stopped.is_not(None)
    if in_turn:
        last_full = select(func.coalesce(func.min(chosen.c.last), inline("32767"))).scalar_subquery()
        more = more | (last_full < inline("32767"))
    # There may be more than was found: where the walk ended before its time, or a share was less than is there.
    more = more & (count < select(room.c.granted).scalar_subquery())
    skipped = func.coalesce(refused, inline("0")) + (count - left) + cast(more, Integer)

    before = func.coalesce(cast(parameter("ring", Text()), JSONB), inline("'{}'::jsonb")).op("-")(inline("'stopped'"))
    where = cast(stopped, JSONB)
    if in_turn:
        used = (chosen.c.n - inline("1") + chosen.c.used) % chosen.c.weight + inline("1")
        last: Select[object] = select(
            func.jsonb_build_object(
                *(inline("'key'"), chosen.c.key),
                *(inline("'used'"), case((used == chosen.c.weight, inline("0")), else_=used)),
            )
        )
        moved = last.order_by(chosen.c.number.desc()).limit(literal_column("1")).scalar_subquery()
    else:
        # All keys that were looked at had their turn.
        moved = select(
            case(
                (
                    where.is_not(None),
                    func.jsonb_build_object(
                        inline("'key'"), where.op("->>")(inline("2")), inline("'used'"), inline("0")
                    ),
                ),
                else_=before,
            )
        ).scalar_subquery()
    stays = case((where.is_(None), before), else_=before.op("||")(func.jsonb_build_object(inline("'stopped'"), where)))
    taken = count > inline("0")
    soonest = select(ring.c.next_in).where(end).scalar_subquery()
    return {
        "skipped": cast(skipped, BigInteger),
        "next_in": soonest,
        "last_key": cast(case((taken, moved), else_=stays), Text),
    }
