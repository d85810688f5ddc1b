"""What a person wants to see of the tables: jobs by their filters, schedules, leaders, and what waits the longest."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    CTE,
    DateTime,
    Executable,
    FromClause,
    Select,
    String,
    Text,
    func,
    literal_column,
    select,
    true,
    type_coerce,
)

from oban_sa.jobs.states import JobState
from oban_sa.models import Cron
from oban_sa.sql.browse import walk
from oban_sa.sql.cron_pauses import pauses
from oban_sa.sql.expressions import array, seconds_between, utc_clock
from oban_sa.sql.fetch import jobs
from oban_sa.sql.lease import leaders

crons = Cron.metadata.tables["public.oban_sa_crons"]


def now() -> Select[datetime]:
    """The database's clock."""
    return select(utc_clock())


def schedules() -> Executable:
    """The entries of crontabs that are known, by name; `paused_at` is NULL where one is not paused."""
    known = select(
        crons.c.name,
        crons.c.expression,
        crons.c.timezone,
        crons.c.worker,
        crons.c.opts,
        crons.c.last_at,
        pauses.c.paused_at,
    ).select_from(crons.outerjoin(pauses, pauses.c.name == crons.c.name))
    return known.order_by(crons.c.name)


def leases() -> Executable:
    """Who leads: rows of `name`, `node`, `elected_at`, `expired_for` in seconds, negative while it lasts.

    Parameter: `names`.
    """
    return select(
        leaders.c.name,
        leaders.c.node,
        leaders.c.elected_at,
        seconds_between(type_coerce(leaders.c.expires_at, DateTime()), utc_clock()).label("expired_for"),
    ).where(leaders.c.name == func.any(array("names", String())))


def waiting_longest() -> Executable:
    """The available job that has waited the longest: `id`, `worker`, `queue`, `waiting_for` in seconds.

    Two looks into an index for each queue and priority, however many jobs wait. Parameter: `queues`, those that have
    available jobs.
    """
    first, found = _first()
    return (
        select(
            first.c.id,
            first.c.worker,
            first.c.queue,
            seconds_between(first.c.scheduled_at, utc_clock()).label("waiting_for"),
        )
        .select_from(found.join(first, true()))
        .order_by(first.c.scheduled_at, first.c.id)
        .limit(1)
    )


def oldest() -> Executable:
    """How long the first available job of each queue has waited: rows of `queue`, `waiting_for` in seconds.

    Costs what `waiting_longest` does. Parameter: `queues`, those that have available jobs.
    """
    first, found = _first()
    waiting_for = seconds_between(func.min(first.c.scheduled_at), utc_clock())
    return (
        select(first.c.queue, waiting_for.label("waiting_for"))
        .select_from(found.join(first, true()))
        .group_by(first.c.queue)
    )


def _first() -> tuple[FromClause, CTE]:
    """The available job of each queue and priority that was due first, and those queues and priorities."""
    found = walk((JobState.AVAILABLE,), array("queues", Text()))
    first = (
        select(jobs.c.id, jobs.c.worker, jobs.c.queue, jobs.c.scheduled_at)
        .where(
            jobs.c.state == literal_column("'available'"),
            jobs.c.queue == found.c.queue,
            jobs.c.priority == found.c.priority,
        )
        .order_by(jobs.c.scheduled_at, jobs.c.id)
        .limit(1)
        .lateral("first")
    )
    return first, found
