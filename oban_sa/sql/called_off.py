"""Which running attempts have to end, as their jobs are no longer theirs to run."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, ColumnElement, Executable, Integer, Text, cast, func, or_, select

from oban_sa.sql.cancel_request import marked
from oban_sa.sql.expressions import array, inline, unnest
from oban_sa.sql.fetch import HOLDER, answered, jobs

# As text, which no index serves: rows are found by their ids, and the planner must not prefer an index on the state.
_state = cast(jobs.c.state, Text)
_is_executing: Final[ColumnElement[bool]] = _state == inline("'executing'")


def called_off() -> Executable:
    """Those of some running attempts that have to end: rows of `id`, `attempted_at`, and whether the job is `lost`.

    Their jobs were marked during this attempt, or an Elixir node has set them cancelled already; they are lost where
    they were deleted, given to another attempt, or, as other members of the family do with jobs that run for long, made
    available or discarded. What an attempt's own session has just committed is neither.
    Parameters: arrays of equal length `ids`, `attempts` and `uuids`, the producers as text.
    """
    said = unnest(id=BigInteger(), attempt=Integer(), uuid=Text())
    given_on = or_(
        jobs.c.id.is_(None),
        jobs.c.attempt > said.c.attempt,
        (jobs.c.attempt == said.c.attempt) & _state.in_([inline("'available'"), inline("'discarded'")]),
        _is_executing & HOLDER.is_distinct_from(said.c.uuid),
    )
    cancelled = or_(inline("'cancelled'") == _state, _is_executing & marked())
    ids = array("ids", BigInteger())
    return (
        select(said.c.id, answered("attempted_at"), given_on.label("lost"))
        .select_from(said.outerjoin(jobs, (jobs.c.id == said.c.id) & (jobs.c.id == func.any(ids))))
        .where(or_(given_on, cancelled))
    )
