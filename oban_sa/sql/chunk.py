"""Take more jobs for a chunk: those of its worker, and with its key."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sqlalchemy import ColumnElement, Executable, Text, bindparam, func
from sqlalchemy.dialects.postgresql import JSONB

from oban_sa.jobs.keys import SEQUENCE, Path, Paths
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import array, inline
from oban_sa.sql.fetch import Filter, jobs
from oban_sa.sql.halts import has
from oban_sa.sql.keys import inside, key_of
from oban_sa.sql.plan import Plan

_ROOTS: Final = {"args": jobs.c.args, "meta": jobs.c.meta}


IN_QUEUE: Final[ColumnElement[bool]] = jobs.c.queue == bindparam("chunk_queue", type_=Text())
"""Whether a job is in the queue of a chunk, for a fetch from several queues."""


@lru_cache(maxsize=256)
def of_chunk(by: Paths | None) -> Filter:
    """The jobs of a chunk. Parameters: `chunk_workers`, the names of its worker, and with `by` `chunk_key`, its key."""
    # A job of a sequence is asked for its turn, which only the first job of a chunk is.
    conditions = [jobs.c.worker == func.any(array("chunk_workers", Text())), has(SEQUENCE).is_not(inline("true"))]
    if by is not None:
        key = bindparam("chunk_key", type_=Text())
        conditions.append(key_of(by, _part).is_not_distinct_from(key))
    return Filter(conditions=tuple(conditions))


def fetch_chunk(by: Paths | None) -> Executable:
    """Take jobs of one queue for a chunk: as `Plan.fetch`, with its parameters and those of `of_chunk`.

    Limits of the queue do not hold here: a chunk counts as the job that it began with.
    """
    return Plan(filters=(of_chunk(by),)).fetch()


def _part(path: Path) -> Expression:
    if path == ("worker",):
        return func.to_jsonb(jobs.c.worker, type_=JSONB())
    return inside(_ROOTS[path[0]], path[1:])
