"""What a producer holds by the tables, beside what it knows of."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Executable, Select, Text, bindparam, cast, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.sql.fetching import FETCHED, answered, jobs
from oban_sa.sql.literals import inline
from oban_sa.sql.marks import marked

_MINE = jobs.c.attempted_by == cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text()))


def holding() -> Select[Any]:
    """Those of some jobs that a producer still holds: rows of `id`, `attempted_at`. Parameters: `holder`, `ids`."""
    ids = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    held = (jobs.c.id == func.any(ids), cast(jobs.c.state, Text) == inline("'executing'"), _MINE)
    columns: list[Any] = [jobs.c.id, answered("attempted_at")]
    statement: Any = select(*columns).where(*held)
    return statement  # type: ignore[no-any-return]


def wanting() -> Executable:
    """The same, with whether the attempt was `called_off`: somebody asked for its job to be cancelled."""
    return holding().add_columns(marked().label("called_off"))


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
