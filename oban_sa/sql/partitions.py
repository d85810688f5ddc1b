"""Take jobs key by key, so that no key has more of them executing than it may, and none hides the others.

A key is what a job's meta has as `partition`. The keys of a queue stand in a ring, in the order of an index, and a
fetch goes from key to key with one probe of the index each, as far as it needs to fill its demand. It begins where the
last one of this producer ended. How many jobs of a key wait costs nothing, so a tenant with a million of them hides no
other.

    room ──> ring ──> picked

`ring` is the walk, the function `oban_sa_ring` (`oban_sa.catalog.functions.partitions`): it passes keys that are
full, or whose lock another fetch holds, locks the others, and chooses of their first jobs each key's share, in the
order in which they are taken: by priority, and within one in rounds, each of which has `weight` jobs of each key.
`picked` locks these rows, and drops those that were taken meanwhile.

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
    Text,
    bindparam,
    cast,
    column,
    func,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.types import TypeEngine

from oban_sa.jobs import keys
from oban_sa.jobs.values import dumps
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import array, inline, materialized, parameter
from oban_sa.sql.fetch import Asked, Filter, Picked, Taken, jobs
from oban_sa.sql.functions import call
from oban_sa.sql.producers import registered
from oban_sa.sql.rates import name_of, weight_of

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits

T = TypeVar("T")


def _partition_of(meta: Expression) -> ColumnElement[str]:
    """The key of a job, as the indexes have it."""
    return meta.op("->>")(inline(f"'{keys.PARTITION}'"))


_RING: Final[Mapping[str, TypeEngine[Any]]] = {
    "ids": ARRAY(BigInteger()),
    "held_keys": ARRAY(Text()),
    "held_weights": ARRAY(Integer()),
    "skipped": Integer(),
    "next_in": Double(),
    "last_key": Text(),
}
"""What `oban_sa_ring` returns."""


def bound(limits: Limits, queue: str) -> tuple[Filter, dict[str, object]]:
    """Return the filter for a queue with partitions, and the values of its parameters; `ring` is the fetches' own."""
    rate = None if limits.rate is None or limits.rate.shared else limits.rate
    given: dict[str, object] = {
        "each": limits.each,
        "bursts": limits.burst,
        "in_turn": limits.fair,
        "heavy": list(limits.weights),
        "weights": list(limits.weights.values()),
        "key_rate": None,
        "ring": None,
    }
    if rate is None:
        return KEYED, given
    said: dict[str, object] = {
        "name": name_of(queue),
        "n": rate.n,
        "per": rate.span,
        "algorithm": rate.algorithm,
        "burst": rate.burst,
    }
    given["key_rate"] = dumps(said)
    if rate.weight is None:
        return RATED, given
    given |= {"rate_weight": rate.weight.split("."), "rate_n": rate.n, "rate_burst": rate.burst}
    return WEIGHTED, given


def _pick(asked: Asked) -> Picked:
    ring = _walked(asked, cast(null(), ARRAY(Text())))
    picked = materialized(_locking(asked, ring).cte("picked"))
    return Picked(picked, _told(ring, picked))


def _pick_by_weight(asked: Asked) -> Picked:
    ring = _walked(asked, array("rate_weight", Text()))
    locked = materialized(_locking(asked, ring).cte("locked"))
    heavy = func.unnest(ring.c.held_keys, ring.c.held_weights).table_valued(
        column("key", Text()), column("weight", Integer())
    )
    held = heavy.render_derived("held").lateral()
    both = union_all(
        select(locked.c.id, cast(null(), Text).label("key"), cast(null(), Integer).label("weight")),
        select(cast(null(), BigInteger), held.c.key, held.c.weight).select_from(ring.join(held, true())),
    )
    return Picked(materialized(both.cte("picked")), _told(ring, locked))


def _walked(asked: Asked, weighing: Expression) -> CTE:
    """Have the function choose jobs: one row of `_RING`, or none where nothing is wanted or the producer has left."""
    room = asked.room
    left: list[Expression] = [array("unknown", Text()), array("overdue", Text()), parameter("unknown_after", Double())]
    left_none: list[Expression] = [cast(null(), ARRAY(Text())), cast(null(), ARRAY(Text())), cast(null(), Double)]
    walk = call(
        "oban_sa_ring",
        Text(),
        bindparam("queue", type_=Text()),
        room.c.granted,
        parameter("each", Integer()),
        parameter("bursts", Boolean()),
        parameter("in_turn", Boolean()),
        array("heavy", Text()),
        array("weights", Integer()),
        parameter("key_rate", Text()),
        weighing,
        *(left if asked.leaves else left_none),
        room.c.at,
        parameter("ring", Text()),
    )
    walked = walk.table_valued(*(column(name, type_) for name, type_ in _RING.items())).lateral("walked")
    found = select(*(walked.c[name] for name in _RING)).select_from(room.join(walked, true())).where(registered())
    return materialized(found.cte("ring"))


def _locking(asked: Asked, ring: CTE) -> Select[Any]:
    """Lock the chosen jobs: their `id`."""
    # As an array, so that they are found by primary key with any plan. The state is asked for once more: by now another
    # fetch may have taken a job that was chosen. As text: where the planner has no statistics it would rather walk the
    # index of the state, which leads to the ids of all jobs that wait.
    ids = cast(select(ring.c.ids).scalar_subquery(), ARRAY(BigInteger()))
    return (
        select(jobs.c.id)
        .where(jobs.c.id == func.any(ids), cast(jobs.c.state, Text) == inline("'available'"), *asked.conditions)
        .with_for_update(skip_locked=True)
    )


def _told(ring: CTE, locked: CTE) -> dict[str, Expression]:
    # There may be more than was found where others have taken what was chosen.
    left = select(func.count(locked.c.id)).scalar_subquery()
    lost = func.coalesce(func.cardinality(ring.c.ids), inline("0")) - left
    skipped = select(ring.c.skipped + lost).scalar_subquery()
    return {
        "skipped": func.coalesce(skipped, inline("0")),
        "next_in": select(ring.c.next_in).scalar_subquery(),
        "last_key": select(ring.c.last_key).scalar_subquery(),
    }


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


KEYED: Final = Filter(pick=_pick)
"""Take jobs of each key: `weight` of them, then those of the next key.

Parameters: `each`, how many jobs of a key execute at once in the cluster, or NULL; `bursts`, whether a key may have
more where no other one has jobs waiting that may run; `in_turn`, whether keys take turns; `heavy` and `weights`, the
keys whose weight is not 1 and their weights; `key_rate`, NULL; `ring`, what the last answer told as `last_key`, or
NULL, with which a walk begins anywhere.

Where keys do not take turns, the oldest jobs are taken of the keys that a fetch looks at, whichever key they are of.
These are all keys where there are no more of them than jobs are asked for. Weights mean nothing then.
"""

RATED: Final = Filter(pick=_pick, tells=(_spend,))
"""The same, and of each key no more jobs are started than its rate has left.

`key_rate` is the rate as JSON: `name`, and `n`, `per` in seconds, `algorithm` and `burst` as in a `Rate`. Whoever has a
key's lock has its rate's, so that no fetch waits for a rate.
"""

WEIGHTED: Final = Filter(pick=_pick_by_weight, tells=(_spend_weights,))
"""As `RATED`, where jobs count more than 1: by a number in their args or meta.

A job that is too heavy for what its key has left holds up those of the key behind it, and none of another key. More
parameters: `rate_weight`, an array that is a path such as `args`, `points`; `rate_n` and `rate_burst` of the rate.
"""
