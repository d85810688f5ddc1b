"""How many jobs there are: counted while they are few, estimated from the planner's statistics where they are many."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import cast as cast_type

from sqlalchemy import (
    Executable,
    Integer,
    Text,
    TextClause,
    bindparam,
    cast,
    column,
    func,
    literal_column,
    select,
    text,
    true,
    values,
)

from oban_sa.catalog.names import in_text
from oban_sa.jobs import values as values_of
from oban_sa.jobs.states import JobState
from oban_sa.models.base import Expression
from oban_sa.sql.fetch import jobs

_ONE: Expression = literal_column("1")


def count(among: Sequence[JobState] = tuple(JobState)) -> Executable:
    """Rows of `state`, `queue`, `count` for all that have jobs; a count of `limit` means that many at least.

    The cost is bounded however large the table is: one look into an index for each state and queue, and `limit` of its
    entries at most. `among` are the states that are looked at. Parameter: `limit`.
    """
    states = values(column("state", Text), name="states").data([(state.value,) for state in among]).alias("states")
    state = cast(states.c.state, jobs.c.state.type)
    # A walk from queue to queue along the index; a DISTINCT would read every entry of it.
    first = select(func.min(jobs.c.queue)).where(jobs.c.state == state).scalar_subquery()
    pairs = select(state.label("state"), first.label("queue")).cte("pairs", recursive=True)
    following = (
        select(func.min(jobs.c.queue))
        .where(jobs.c.state == pairs.c.state, jobs.c.queue > pairs.c.queue)
        .scalar_subquery()
    )
    pairs = pairs.union_all(select(pairs.c.state, following).where(pairs.c.queue.is_not(None)))
    some = (
        select(_ONE)
        .select_from(jobs)
        .where(jobs.c.state == pairs.c.state, jobs.c.queue == pairs.c.queue)
        .limit(bindparam("limit", type_=Integer()))
        .correlate(pairs)
        .subquery("some")
    )
    counted = select(func.count().label("count")).select_from(some).correlate(pairs).lateral("counted")
    return (
        select(cast(pairs.c.state, Text).label("state"), pairs.c.queue, counted.c.count)
        .select_from(pairs.join(counted, true()))
        .where(pairs.c.queue.is_not(None))
        .order_by(pairs.c.state, pairs.c.queue)
    )


@lru_cache(maxsize=256)
def explain(schema: str, number: int) -> TextClause:
    """The plan, as JSON, for reading all jobs of several states and queues: one statement and plan for all of them.

    `estimates` finds in it how many the planner expects of each. Parameters: `state_0`, `queue_0`, and so on.
    """
    s = in_text(schema)
    each = (
        # A plan names a table as the statement does, by which the parts of it are told apart.
        f"SELECT 1 FROM {s}.oban_jobs AS part_{at} WHERE part_{at}.state = "  # noqa: S608 - the schema is quoted
        f"CAST(CAST(:state_{at} AS text) AS {s}.oban_job_state) AND part_{at}.queue = CAST(:queue_{at} AS text)"
        for at in range(number)
    )
    return text(f"EXPLAIN (FORMAT JSON) {' UNION ALL '.join(each)}").bindparams(
        *(bindparam(f"{name}_{at}", type_=Text()) for at in range(number) for name in ("state", "queue"))
    )


def estimates(plan: object) -> dict[int, int]:
    """Return how many rows the planner expects of each part, given the first column of what `explain` answers.

    A part that is not found in the plan is left out.
    """
    read = values_of.from_json(plan) if isinstance(plan, (str, bytes)) else plan
    top = cast_type("list[dict[str, dict[str, object]]]", read)[0]["Plan"]
    parts = cast_type("list[dict[str, object]]", top.get("Plans", [])) if top["Node Type"] == "Append" else [top]
    found: dict[int, int] = {}
    for part in parts:
        inner = part
        while "Alias" not in inner and (below := cast_type("list[dict[str, object]]", inner.get("Plans", []))):
            inner = below[0]
        name = str(inner.get("Alias", ""))
        if name.startswith("part_"):
            found[int(name.removeprefix("part_"))] = cast_type("int", part["Plan Rows"])
    return found
