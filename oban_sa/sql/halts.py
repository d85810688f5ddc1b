"""Sequences that a discarded job has halted: which they are, and how they go on.

A job that is discarded with `halts` in its meta stays the first of its sequence, so that no later one is fetched. Where
it is retried it runs once more, and the others wait for it; where `halts` is taken from it, they go on without it.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, Executable, Integer, Text, func, select
from sqlalchemy import update as sql_update
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.sql.dml import ReturningUpdate

from oban_sa.jobs.keys import HALTS, SEQUENCE
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline, parameter
from oban_sa.sql.fetch import jobs

UNFINISHED: Final = [
    inline(f"'{state}'") for state in ("available", "scheduled", "executing", "retryable", "suspended")
]
"""The states of unfinished jobs, written out as the index on sequences has them."""


def has(key: str, meta: Expression = jobs.c.meta) -> ColumnElement[bool]:
    """Whether the meta of a job has a key; NULL where another program wrote none."""
    return meta.op("?", is_comparison=True)(inline(f"'{key}'"))


def sequence_of(meta: Expression) -> ColumnElement[str]:
    """The key of a job's sequence, as the index says it."""
    return meta.op("->>", return_type=Text())(inline(f"'{SEQUENCE}'"))


def halting() -> list[ColumnElement[bool]]:
    """The jobs that halt their sequences."""
    return [jobs.c.state == inline("'discarded'"), has(SEQUENCE), has(HALTS)]


def halted() -> Executable:
    """The sequences that halted first: rows of `queue`, `key`, `id`, `worker`, `discarded_at`, the first one first.

    And `waiting`, how many unfinished jobs stand behind the one that halts, `counted` at most. Parameters: `counted`
    and `limit`, how many rows at most, NULL for all.
    """
    later = jobs.alias("later")
    behind = (
        select(later.c.id)
        .where(
            later.c.queue == jobs.c.queue,
            sequence_of(later.c.meta) == sequence_of(jobs.c.meta),
            has(SEQUENCE, later.c.meta),
            later.c.state.in_(UNFINISHED),
            later.c.id != jobs.c.id,
        )
        .limit(parameter("counted", Integer()))
        .correlate(jobs)
        .lateral("behind")
    )
    waiting = select(func.count()).select_from(behind).correlate(jobs).scalar_subquery()
    return (
        select(
            jobs.c.queue,
            sequence_of(jobs.c.meta).label("key"),
            jobs.c.id,
            jobs.c.worker,
            jobs.c.discarded_at,
            waiting.label("waiting"),
        )
        .where(*halting())
        .order_by(jobs.c.discarded_at, jobs.c.id)
        .limit(parameter("limit", Integer()))
    )


def resume() -> ReturningUpdate[int]:
    """Let the jobs behind the one that halts a sequence go on: the ids of those that halted it.

    Parameters: `of_queue` and `key`.
    """
    return (
        sql_update(jobs)
        .where(
            *halting(),
            jobs.c.queue == parameter("of_queue", Text()),
            sequence_of(jobs.c.meta) == parameter("key", Text()),
        )
        .values(meta=jobs.c.meta.op("-", return_type=JSONB())(inline(f"'{HALTS}'")))
        .returning(jobs.c.id)
    )
