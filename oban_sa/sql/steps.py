"""The journal of a job: read it, and write it, fenced as an ack is: only the attempt that holds the job may."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import BigInteger, Boolean, DateTime, Double, Integer, Text, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.types import TypeEngine

from oban_sa.catalog.names import in_text
from oban_sa.jobs.durable import JOURNAL

Row = tuple[int, int, datetime, str, str, int, str, str, str | None, float | None, bool]
"""One entry for `write`, as `_SAID` has it."""

_SAID: Final[Mapping[str, tuple[str, TypeEngine[Any]]]] = {
    "job_id": ("bigint", BigInteger()),
    "attempt": ("integer", Integer()),
    "moment": ("timestamp", DateTime()),
    "node": ("text", Text()),
    "producer": ("text", Text()),
    "number": ("integer", Integer()),
    "name": ("text", Text()),
    "code": ("text", Text()),
    "value": ("text", Text()),
    "delay": ("double precision", Double()),
    "done": ("boolean", Boolean()),
}
"""What is said of an entry. `moment` is the attempt's `attempted_at`, naive, in UTC; `number` tells entries apart."""

_HELD: Final = (
    "CAST(j.state AS text) = 'executing' AND j.attempt = {x}.attempt AND j.attempted_at = {x}.moment "
    "AND CAST(j.attempted_by AS text[]) = ARRAY[{x}.node, {x}.producer]"
)
"""The fence of `oban_sa.sql.fence`, of the job `j`, for a row of `_SAID`."""

_LEFT: Final = (
    "CAST(extract(epoch FROM {x}.until - timezone('UTC', clock_timestamp())) AS double precision) AS seconds, "
    "CAST(extract(epoch FROM {x}.until) * 1000 AS bigint) AS ms"
)


@lru_cache(maxsize=16)
def read(schema: str) -> TextClause:
    """The journal of a job: rows of `name`, `code`, `value` (JSON as text), `done`, `seconds`, `ms`.

    `seconds` are left of a sleep or a wait, and `ms` is when it's over, in unix milliseconds; both NULL for others.
    Parameter: `job_id`.
    """
    return text(
        f"SELECT e.name, e.code, CAST(e.value AS text) AS value, e.done, {_LEFT.format(x='e')} "  # noqa: S608
        f"FROM {in_text(schema)}.oban_sa_journal e WHERE e.job_id = CAST(:job_id AS bigint) ORDER BY e.recorded_at"
    ).bindparams(bindparam("job_id", type_=BigInteger()))


@lru_cache(maxsize=16)
def write(schema: str) -> TextClause:
    """Write entries of several jobs: for each a row of `number`, `held`, and the columns of `read`.

    Where there is a done entry of that name already, that one comes back, and nothing is written; `written` tells which
    it was. An attempt that has lost its job, which is not `held`, writes nothing. One that is held and has no `name`
    has met an entry that another transaction has just committed: it is to be asked about again. Where it is not sure by
    which moment the job is held, an entry stands there once for each, under the same number. Parameters: those of
    `as_arrays`.
    """
    arrays = ", ".join(f"CAST(:{name}s AS {type_}[])" for name, (type_, _) in _SAID.items())
    s, held = in_text(schema), _HELD.format(x="x")
    return text(
        f"""
        WITH said AS MATERIALIZED (SELECT * FROM unnest({arrays}) AS x({", ".join(_SAID)})),
        asked AS MATERIALIZED (
            SELECT x.*, j.id IS NOT NULL AS held FROM said x LEFT JOIN {s}.oban_jobs j ON j.id = x.job_id AND {held}
        ),
        written AS (
            INSERT INTO {s}.oban_sa_journal AS e (job_id, name, code, value, until, done, attempt, recorded_at)
            SELECT job_id, name, code, CAST(value AS jsonb),
                timezone('UTC', clock_timestamp()) + delay * interval '1 second', done, attempt,
                timezone('UTC', clock_timestamp())
            FROM asked WHERE held
            ON CONFLICT (job_id, name) DO UPDATE SET value = excluded.value, done = excluded.done,
                attempt = excluded.attempt, recorded_at = excluded.recorded_at
            WHERE NOT e.done
            RETURNING job_id, name, code, value, done, until
        )
        SELECT a.number, a.held, w.name IS NOT NULL AS written,
            coalesce(w.name, e.name) AS name, coalesce(w.code, e.code) AS code,
            CAST(CASE WHEN w.name IS NULL THEN e.value ELSE w.value END AS text) AS value,
            coalesce(w.done, e.done) AS done,
            CAST(extract(epoch FROM coalesce(w.until, e.until) - timezone('UTC', clock_timestamp()))
                AS double precision) AS seconds,
            CAST(extract(epoch FROM coalesce(w.until, e.until)) * 1000 AS bigint) AS ms
        FROM asked a
        LEFT JOIN written w ON w.job_id = a.job_id AND w.name = a.name
        LEFT JOIN {s}.oban_sa_journal e ON e.job_id = a.job_id AND e.name = a.name
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(*(bindparam(f"{name}s", type_=ARRAY(type_)) for name, (_, type_) in _SAID.items()))


def as_arrays(rows: Sequence[Row]) -> dict[str, object]:
    """The parameters of `write`: an array for each column of `Row`."""
    return {f"{name}s": [row[place] for row in rows] for place, name in enumerate(_SAID)}


ONE_ATTEMPT: Final = (
    bindparam("job_id", type_=BigInteger()),
    bindparam("attempt", type_=Integer()),
    bindparam("node", type_=Text()),
    bindparam("producer", type_=Text()),
    bindparam("moments", type_=ARRAY(DateTime())),
)
"""The parameters of `held_by_one`; `moments` are naive, in UTC: what the row may have as `attempted_at`."""


def held_by_one() -> str:
    """Whether an attempt holds its job, `j`: the fence of one."""
    return (
        "j.id = CAST(:job_id AS bigint) AND CAST(j.state AS text) = 'executing' "
        "AND j.attempt = CAST(:attempt AS integer) AND j.attempted_at = ANY (CAST(:moments AS timestamp[])) "
        "AND CAST(j.attempted_by AS text[]) = ARRAY[CAST(:node AS text), CAST(:producer AS text)]"
    )


@lru_cache(maxsize=16)
def mark(schema: str) -> TextClause:
    """Say in a job's meta that it has a journal, so that its next attempt reads it first: a row of `held`, `marked`.

    A row that another transaction has locked is passed over: `held`, and not `marked`. Parameters: `ONE_ATTEMPT`.
    """
    s, held = in_text(schema), held_by_one()
    return text(
        rf"""
        WITH mine AS MATERIALIZED (SELECT j.id FROM {s}.oban_jobs j WHERE {held} FOR NO KEY UPDATE SKIP LOCKED),
        marked AS (
            UPDATE {s}.oban_jobs j
            SET meta = coalesce(j.meta, CAST('{{}}' AS jsonb)) || CAST('{{"{JOURNAL}"\: true}}' AS jsonb)
            WHERE j.id = ANY (ARRAY(SELECT id FROM mine)) RETURNING 1
        )
        SELECT EXISTS (SELECT FROM {s}.oban_jobs j WHERE {held}) AS held, EXISTS (SELECT FROM marked) AS marked
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(*ONE_ATTEMPT)
