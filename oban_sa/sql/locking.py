"""Who stands in the way: rows that others hold locks on, and the sessions that a statement waits for."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Executable, TextClause, bindparam, cast, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.sql.fetching import jobs


def locked() -> Executable:
    """Those of some jobs whose row can't be written now, since somebody else holds a lock on it: ids. Parameter: `ids`.

    Never waits for a row; for a lock on the whole table it waits as any statement does.
    """
    ids = cast(bindparam("ids", type_=ARRAY(BigInteger())), ARRAY(BigInteger()))
    free = (
        select(jobs.c.id)
        .where(jobs.c.id == func.any(ids))
        # As strong as an update of what is no key, and not stronger.
        .with_for_update(skip_locked=True, key_share=True)
        .cte("free")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )
    return select(jobs.c.id).where(jobs.c.id == func.any(ids), jobs.c.id.not_in(select(free.c.id)))


def blocking() -> TextClause:
    """The sessions that some server processes wait for, as much of each as this user may see.

    Rows of `pid`, `began` (its transaction), `application`, `username`, `state`, `since` (seconds in the
    transaction) and `query`. Parameter: `pids`.
    """
    return text(_BLOCKING).bindparams(bindparam("pids", type_=ARRAY(BigInteger())))


_BLOCKING: Final = """
SELECT DISTINCT by.pid, them.xact_start AS began, them.application_name AS application,
    them.usename::text AS username, them.state,
    extract(epoch FROM now() - them.xact_start)::float AS since, them.query
FROM unnest(CAST(:pids AS bigint[])) AS waiting(pid)
CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid::int)) AS by(pid)
LEFT JOIN pg_stat_activity AS them ON them.pid = by.pid
"""
