"""Tell those who wait for a job that it has ended."""

from __future__ import annotations

from typing import Final

from sqlalchemy import CTE, SmallInteger, Text, case, cast, func, insert, literal_column, select

from oban_sa.jobs.durable import RELAY, WAKING
from oban_sa.jobs.flow import ENDED
from oban_sa.sql.expressions import inline
from oban_sa.sql.flow import endings

CHANNEL: Final = "oban_sa_relay"
"""Where the ids of jobs are told that have ended, whichever schema they are in: who hears one looks at the job."""


def tell(acked: CTE) -> CTE:
    """A `Follower`: notify of each job that ended and that a program waits for.

    It inserts nothing: a statement that only selects would never be run.
    """
    waited_for = acked.c.meta.bool_op("?")(inline(f"'{RELAY}'"))
    over = acked.c.state.in_([literal_column(f"'{state}'") for state in ENDED])
    told = func.pg_notify(inline(f"'{CHANNEL}'"), cast(acked.c.id, Text)).is_(None)
    return (
        insert(endings)
        .from_select(
            ["lane", "job_id"],
            select(literal_column(str(WAKING), SmallInteger), acked.c.id).where(
                case((waited_for & over, told), else_=inline("false"))
            ),
        )
        .cte("told")
    )
