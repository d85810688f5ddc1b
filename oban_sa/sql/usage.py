"""Which queues have limits, and which of their partitions are full: as much of it as people can read."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Executable, Integer, SmallInteger, Text, bindparam, cast, func, literal_column, select, true

from oban_sa.jobs.keys import PARTITION
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline, materialized, parameter
from oban_sa.sql.fetch import jobs
from oban_sa.sql.halts import has
from oban_sa.sql.producers import LIMITS, producers
from oban_sa.sql.waits import EXECUTING, partition_of

FULL: Final = 10
"""Partitions that are told of, at most."""

WAITING: Final = 1_000
"""Jobs of each of them that are counted, at most."""


def limited() -> Executable:
    """The names of the queues that a node serves within limits."""
    noted = producers.c.meta.op("->")(inline(f"'{LIMITS}'"))
    return (
        select(producers.c.queue)
        .where(func.jsonb_typeof(noted) == inline("'object'"))
        .distinct()
        .order_by(producers.c.queue)
    )


def full() -> Executable:
    """The partitions of a queue of which `each` jobs execute: rows of `key`, `executing`, `waiting`, and `number`.

    `FULL` rows at most, those with the most jobs executing first; `number` is how many there are. `waiting` counts
    their available jobs, `WAITING` at most. Of the queue the first `EXECUTING` executing jobs are looked at.
    Parameters: `queue` and `each`.
    """
    queue = bindparam("queue", type_=Text())
    some = (
        select(partition_of().label("key"))
        .where(jobs.c.state == inline("'executing'"), has(PARTITION), jobs.c.queue == queue)
        .limit(literal_column(str(EXECUTING)))
        .subquery("some")
    )
    executing = func.count().label("executing")
    found = (
        select(some.c.key, executing, func.count().over().label("number"))
        .group_by(some.c.key)
        .having(func.count() >= parameter("each", Integer()))
        .order_by(executing.desc(), some.c.key)
        .limit(literal_column(str(FULL)))
        .cte("found")
    )
    found = materialized(found)
    available = (jobs.c.state == inline("'available'"), has(PARTITION), jobs.c.queue == queue)

    def next_level(after: Expression) -> Expression:
        lowest = select(jobs.c.priority).where(*available, jobs.c.priority > after)
        return lowest.order_by(jobs.c.priority).limit(literal_column("1")).scalar_subquery()

    levels = select(cast(next_level(inline("-32768")), SmallInteger).label("priority")).cte("levels", recursive=True)
    levels = levels.union_all(
        select(cast(next_level(levels.c.priority).correlate(levels), SmallInteger)).where(
            levels.c.priority.is_not(None)
        )
    )
    waits = (
        select(jobs.c.id)
        .select_from(levels.join(jobs, jobs.c.priority == levels.c.priority))
        .where(*available, partition_of() == found.c.key)
        .limit(literal_column(str(WAITING)))
        .correlate(found)
        .subquery("waits")
    )
    waiting = select(func.count().label("waiting")).select_from(waits).correlate(found).lateral("counted")
    return (
        select(found.c.key, found.c.executing, waiting.c.waiting, found.c.number)
        .select_from(found.join(waiting, true()))
        .order_by(found.c.executing.desc(), found.c.key)
    )
