"""What a producer holds by the tables, beside what it knows of."""

from __future__ import annotations

from sqlalchemy import BigInteger, Executable, Text, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.sql.fetching import FETCHED, answered, jobs
from oban_sa.sql.literals import inline
from oban_sa.sql.marks import marked

_MINE = jobs.c.attempted_by == cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text()))


def holding() -> Executable:
    """Those of some jobs that a producer still holds: rows of `id`, `attempted_at`. Parameters: `holder`, `ids`."""
    ids = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    held = (jobs.c.id == func.any(ids), cast(jobs.c.state, Text) == inline("'executing'"), _MINE)
    return select(jobs.c.id, answered("attempted_at")).where(*held)


def wanting() -> Executable:
    """The same, with whether the attempt was `called_off`: somebody asked for its job to be cancelled."""
    ids = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    held = (jobs.c.id == func.any(ids), cast(jobs.c.state, Text) == inline("'executing'"), _MINE)
    return select(jobs.c.id, answered("attempted_at"), marked().label("called_off")).where(*held)


def unheard() -> Executable:
    """What a producer holds by the tables but does not know of: rows of `FETCHED`.

    An answer that was lost on the way leaves such rows: fetched, committed, and never started. They are only read here.
    A statement that gave them back by itself might arrive late and take what was fetched since; an outcome of theirs
    has to pass the fence. Parameters: `queue`, `holder`, `known` (ids the producer still works on).
    """
    return select(*(answered(name) for name in FETCHED)).where(
        jobs.c.state == inline("'executing'"),
        jobs.c.queue == bindparam("queue", type_=Text()),
        _MINE,
        jobs.c.id != func.all(cast(bindparam("known", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))),
    )
