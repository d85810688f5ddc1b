"""What a person wants to see of the tables: jobs by their filters, schedules, leaders, and what waits the longest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Select,
    String,
    Text,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    or_,
    select,
    true,
    type_coerce,
    values,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.models import Cron, Job
from oban_sa.sql.fetching import jobs
from oban_sa.sql.leading import leaders
from oban_sa.sql.moments import seconds_between, utc_clock
from oban_sa.states import JobState

crons = Cron.metadata.tables["public.oban_sa_crons"]

PRIORITIES = range(10)


def now() -> Select[Any]:
    """The database's clock."""
    return select(utc_clock())


def filtered(
    *, states: Sequence[JobState] = (), queues: Sequence[str] = (), workers: Sequence[str] = ()
) -> list[ColumnElement[bool]]:
    """Conditions on jobs: in one of the states, of one of the queues, of one of the workers; none where all are empty.

    A worker is meant by its whole name or by the last part of it.
    """
    conditions: list[ColumnElement[bool]] = []
    if states:
        conditions.append(Job.state.in_(states))
    if queues:
        conditions.append(Job.queue.in_(queues))
    if workers:
        conditions.append(
            or_(
                Job.worker.in_(workers),
                *(Job.worker.endswith(f".{worker}", autoescape=True) for worker in workers if "." not in worker),
            )
        )
    return conditions


def schedules() -> Executable:
    """The entries of crontabs that are known, by name."""
    return select(
        crons.c.name,
        crons.c.expression,
        crons.c.timezone,
        crons.c.worker,
        crons.c.opts,
        crons.c.last_at,
    ).order_by(crons.c.name)


def leases() -> Executable:
    """Who leads: rows of `name`, `node`, `elected_at`, `expired_for` in seconds, negative while it lasts.

    Parameter: `names`.
    """
    return select(
        leaders.c.name,
        leaders.c.node,
        leaders.c.elected_at,
        seconds_between(type_coerce(leaders.c.expires_at, DateTime()), utc_clock()).label("expired_for"),
    ).where(leaders.c.name == func.any(cast(bindparam("names", type_=ARRAY(String())), ARRAY(String()))))


def waiting_longest() -> Executable:
    """The available job that has waited the longest: `id`, `worker`, `queue`, `waiting_for` in seconds.

    One look into an index for each queue and priority, however many jobs wait. Parameter: `queues`, those that have
    available jobs.
    """
    names = func.unnest(cast(bindparam("queues", type_=ARRAY(Text())), ARRAY(Text()))).table_valued("name")
    priorities = values(column("number", Integer), name="priorities").data([(number,) for number in PRIORITIES]).alias()
    first = (
        select(jobs.c.id, jobs.c.worker, jobs.c.queue, jobs.c.scheduled_at)
        .where(
            jobs.c.state == literal_column("'available'"),
            jobs.c.queue == names.c.name,
            jobs.c.priority == priorities.c.number,
        )
        .order_by(jobs.c.scheduled_at, jobs.c.id)
        .limit(1)
        .lateral("first")
    )
    return (
        select(
            first.c.id,
            first.c.worker,
            first.c.queue,
            seconds_between(first.c.scheduled_at, utc_clock()).label("waiting_for"),
        )
        .select_from(names.join(priorities, true()).join(first, true()))
        .order_by(first.c.scheduled_at, first.c.id)
        .limit(1)
    )
