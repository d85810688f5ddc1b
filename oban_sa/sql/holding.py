"""What a producer holds by the tables, beside what it knows of."""

from __future__ import annotations

from sqlalchemy import BigInteger, Executable, Text, Update, bindparam, cast, func, select, update
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.sql.fetching import jobs
from oban_sa.sql.literals import inline

_MINE = jobs.c.attempted_by == cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text()))


def holding() -> Executable:
    """Those of some jobs that a producer still holds: ids. Parameters: `holder`, `ids`."""
    ids = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    return select(jobs.c.id).where(jobs.c.id == func.any(ids), cast(jobs.c.state, Text) == "executing", _MINE)


def reclaiming() -> Update:
    """Give back, unspent, what a producer holds by the tables but does not know of: ids.

    An answer that was lost on the way leaves such rows: fetched, committed, and never started.
    Parameters: `queue`, `holder`, `known` (ids the producer still works on).
    """
    return (
        update(jobs)
        .where(
            jobs.c.state == inline("'executing'"),
            jobs.c.queue == bindparam("queue", type_=Text()),
            _MINE,
            jobs.c.id != func.all(cast(bindparam("known", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))),
        )
        .values(state=inline("'available'"), attempt=jobs.c.attempt - inline("1"))
        .returning(jobs.c.id)
    )
