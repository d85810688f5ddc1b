"""What a job waits for: who serves its queue, what is full, what comes before it, and what its workflow has not done.

Each statement reads along an index, and no more entries than it says. Nothing is locked or written, so a role that only
reads may ask.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Double,
    Executable,
    FromClause,
    Integer,
    String,
    Text,
    TextClause,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
    text,
    true,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text
from oban_sa.jobs.keys import HALTS, PARTITION
from oban_sa.models import Rate
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline, materialized, parameter, seconds_between, utc_clock, utc_now
from oban_sa.sql.fetch import HOLDER, jobs
from oban_sa.sql.halts import has
from oban_sa.sql.producers import producers
from oban_sa.sql.sequences import executing_of, unfinished_of

EXECUTING: Final = 10_000
"""Executing jobs of a queue that are counted, at most."""

MEMBERS: Final = 10
"""Members and groups of a workflow that are told of, at most."""

DEPENDENCIES: Final = 1_000
"""Dependencies of a job that are looked at, at most, to find those."""

rates: FromClause = Rate.metadata.tables["public.oban_sa_rates"]


def serving() -> Executable:
    """Who takes jobs of a queue: rows of `name`, `node`, `uuid`, `meta`, `silent_for` in seconds, and `running`.

    The last is how many jobs it executes of this queue, of the first `EXECUTING` of all. A node without a row, as
    Elixir's, is told by what it executes: its `name` and `silent_for` are NULL. Parameter: `queue`.
    """
    node = func.coalesce(type_coerce(jobs.c.attempted_by, ARRAY(Text()))[literal_column("1")], inline("'unknown'"))
    some = (
        select(HOLDER.label("holder"), node.label("node"))
        .where(jobs.c.state == inline("'executing'"), jobs.c.queue == bindparam("queue", type_=Text()))
        .limit(literal_column(str(EXECUTING)))
        .subquery("some")
    )
    running = func.count().label("running")
    held = materialized(
        select(some.c.holder, func.min(some.c.node).label("node"), running).group_by(some.c.holder).cte("held")
    )
    rows = select(
        producers.c.name,
        producers.c.node,
        cast(producers.c.uuid, String).label("uuid"),
        producers.c.meta,
        seconds_between(producers.c.updated_at, utc_now()).label("silent_for"),
        func.coalesce(held.c.running, inline("0")).label("running"),
    ).select_from(producers.outerjoin(held, held.c.holder == cast(producers.c.uuid, String)))
    known = select(producers.c.uuid).where(cast(producers.c.uuid, String) == held.c.holder)
    nothing = [
        cast(literal_column("NULL"), producers.c.name.type).label("name"),
        held.c.node,
        held.c.holder.label("uuid"),
        cast(literal_column("NULL"), producers.c.meta.type).label("meta"),
        cast(literal_column("NULL"), Double).label("silent_for"),
        held.c.running,
    ]
    found = union_all(
        rows.where(producers.c.queue == bindparam("queue", type_=Text())),
        select(*nothing).where(~known.exists()),
    ).subquery("found")
    return select(*found.c).order_by(found.c.node, found.c.name)


def used() -> Executable:
    """What is used of the limits of a queue: a row of `executing`, `of_key`, and of the row of its rate.

    `executing` is how many jobs of the queue do, up to `most`; `of_key` how many with the partition `key`, up to
    `each`; `full_at` and `now`, the clock, are seconds since 1970, and what is said of a rate is NULL where it has no
    row. Parameters: these and `queue`, `rate_name` and `rate_key`.
    """
    queue = jobs.c.queue == bindparam("queue", type_=Text())
    executing = jobs.c.state == inline("'executing'")
    of_queue = select(inline("1")).where(executing, queue).limit(parameter("most", Integer()))
    of_key = (
        select(inline("1"))
        .where(executing, has(PARTITION), queue, partition_of() == bindparam("key", type_=Text()))
        .limit(parameter("each", Integer()))
    )
    now = select(_epoch(utc_clock()).label("now")).subquery("clock")
    kept = (
        select(*rates.c)
        .where(rates.c.name == bindparam("rate_name", type_=Text()), rates.c.key == bindparam("rate_key", type_=Text()))
        .subquery("kept")
    )
    return select(
        select(func.count()).select_from(of_queue.subquery("of_queue")).scalar_subquery().label("executing"),
        select(func.count()).select_from(of_key.subquery("of_key")).scalar_subquery().label("of_key"),
        now.c.now,
        kept.c.width,
        kept.c.newest,
        # Only arrays that begin at 1 are ours.
        case(
            (func.coalesce(func.array_lower(kept.c.counts, inline("1")), inline("1")) == inline("1"), kept.c.counts)
        ).label("counts"),
        _epoch(kept.c.full_at).label("full_at"),
    ).select_from(now.outerjoin(kept, true()))


def ahead() -> Executable:
    """What comes before a job in its sequence: rows of `id`, `state` and `halts`, two at most.

    The first unfinished one before it, or the one that halted the sequence; and one that executes, whichever it is.
    Parameters: `queue`, `key` and `job_id`.
    """
    first, running = jobs.alias("first"), jobs.alias("running")
    queue, key = bindparam("queue", type_=Text()), bindparam("key", type_=Text())
    job_id: ColumnElement[int] = bindparam("job_id", type_=BigInteger())
    head = (
        select(*_told(first))
        .where(*unfinished_of(first, queue, key), first.c.id < job_id)
        .order_by(first.c.id)
        .limit(literal_column("1"))
        .subquery("head")
    )
    other = (
        select(*_told(running))
        .where(*executing_of(running, queue, key), running.c.id != job_id)
        .limit(literal_column("1"))
        .subquery("other")
    )
    return union_all(select(head), select(other))


@lru_cache(maxsize=16)
def unmet(schema: str) -> TextClause:
    """What a member of a workflow waits for: rows of `name` and `waiting`, `MEMBERS` at most.

    Members, and flows such as groups, that have not ended; looked for among the first `DEPENDENCIES` of each. `waiting`
    is how many there are as far as that is booked, or NULL. Parameter: `job_id`.
    """
    s = in_text(schema)
    return text(
        f"""
        SELECT found.name, (SELECT waiting FROM {s}.oban_sa_members WHERE job_id = CAST(:job_id AS bigint)) AS waiting
        FROM (
            (
                SELECT m.name
                FROM (
                    SELECT parent_id FROM {s}.oban_sa_edges WHERE child_id = CAST(:job_id AS bigint)
                    LIMIT {DEPENDENCIES}
                ) AS asked
                JOIN {s}.oban_sa_members m ON m.job_id = asked.parent_id
                WHERE m.settled IS NULL ORDER BY m.job_id LIMIT {MEMBERS}
            )
            UNION ALL
            (
                SELECT coalesce(f.name, CAST(f.id AS text))
                FROM (
                    SELECT flow_id FROM {s}.oban_sa_gates WHERE child_id = CAST(:job_id AS bigint)
                    LIMIT {DEPENDENCIES}
                ) AS asked
                JOIN {s}.oban_sa_flows f ON f.id = asked.flow_id
                WHERE f.completed_at IS NULL ORDER BY f.id LIMIT {MEMBERS}
            )
        ) AS found
        LIMIT {MEMBERS}
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("job_id", type_=BigInteger()))


def partition_of(meta: Expression = jobs.c.meta) -> ColumnElement[str]:
    """The key of a job's partition, as the indexes have it."""
    return meta.op("->>", return_type=Text())(inline(f"'{PARTITION}'"))


def _told(job: FromClause) -> list[Expression]:
    halts = (job.c.state == inline("'discarded'")) & has(HALTS, job.c.meta)
    return [job.c.id, cast(job.c.state, Text).label("state"), halts.label("halts")]


def _epoch(moment: Expression) -> ColumnElement[float]:
    return func.date_part(inline("'epoch'"), moment, type_=Double())
