"""Locks: advisory ones, rows that others have locked, and the sessions that a statement waits for."""

from __future__ import annotations

import zlib
from typing import Final

from sqlalchemy import BigInteger, Executable, TextClause, bindparam, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.sql.expressions import array, materialized
from oban_sa.sql.fetch import jobs


def locked() -> Executable:
    """The ids of those of some jobs whose rows are locked by another transaction. Parameter: `ids`.

    Never waits for a row; for a lock on the whole table it waits as any statement does.
    """
    ids = array("ids", BigInteger())
    free = materialized(
        select(jobs.c.id)
        .where(jobs.c.id == func.any(ids))
        # As strong as an update of what is no key, and not stronger.
        .with_for_update(skip_locked=True, key_share=True)
        .cte("free")
    )
    return select(jobs.c.id).where(jobs.c.id == func.any(ids), jobs.c.id.not_in(select(free.c.id)))


def try_lock() -> Executable:
    """Try to take the advisory lock `key` for this transaction: whether it was free. Parameter: `key`."""
    return select(func.pg_try_advisory_xact_lock(bindparam("key", type_=BigInteger())))


def try_locks() -> TextClause:
    """Try to take advisory locks for this transaction: rows of `key`, those that were free. Parameter: `keys`."""
    free = "SELECT key FROM unnest(CAST(:keys AS bigint[])) AS key WHERE pg_try_advisory_xact_lock(key)"
    return text(free).bindparams(bindparam("keys", type_=ARRAY(BigInteger())))


def lock() -> Executable:
    """Take the advisory lock `key` for this transaction, once it is free. Parameter: `key`."""
    return select(func.pg_advisory_xact_lock(bindparam("key", type_=BigInteger())))


def lane_key(schema: str, lane: int) -> int:
    """The advisory lock under which the notes of a lane are booked, a bigint."""
    return _key(0x0BA5, schema, lane)


def claims_of_many(schema: str) -> int:
    """The advisory lock under which many flushes of one transaction claim unique keys, a bigint."""
    return _key(0x0BA6, schema, 0)


def _key(space: int, schema: str, number: int) -> int:
    """A key of ours: `space` tells it from those of other programs; `number` is less than 256."""
    return space << 48 | zlib.crc32(schema.encode()) << 8 | number


def blockers() -> TextClause:
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
