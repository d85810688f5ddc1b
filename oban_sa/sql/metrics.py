"""What runners did by minute, hour and day: add to it, forget the oldest, read it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import BindParameter, Double, Integer, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text

MINUTE: Final = 60
HOUR: Final = 3_600
DAY: Final = 86_400

KEPT: Final[Mapping[int, int]] = {MINUTE: 6 * HOUR, HOUR: 15 * DAY, DAY: 100 * DAY}
"""The steps there are, and the seconds for which rows of each are kept."""

ALL: Final = "*"
"""Stands for all workers of a queue together."""

_MAPS: Final = ("outcomes", "failures", "run", "wait")


def _sums(column: str) -> str:
    """The sum of a column as it was and as it is given, key by key; what is no count in it is none."""
    return f"""(
                SELECT coalesce(jsonb_object_agg(k, n), '{{}}') FROM (
                    SELECT k, sum(CASE WHEN v ~ '^[0-9]{{1,15}}$' THEN CAST(v AS bigint) ELSE 0 END) AS n
                    FROM (
                        SELECT * FROM jsonb_each_text({_object(f"m.{column}")})
                        UNION ALL SELECT * FROM jsonb_each_text(excluded.{column})
                    ) AS e(k, v) GROUP BY k
                ) AS s
            )"""  # noqa: S608 - the columns are ours


def _object(column: str) -> str:
    """A column, or an empty object where another program has written something else."""
    return f"CASE jsonb_typeof({column}) WHEN 'object' THEN {column} ELSE '{{}}' END"


@lru_cache(maxsize=16)
def add(schema: str) -> TextClause:
    """Add counts to rows of a node, those of a batch once however often it is sent; a row of `now`.

    `now` is the database's clock in seconds since 1970. Parameters: `rows`, a JSON array of objects with `step`, `at`
    (seconds since 1970), `queue`, `worker`, `outcomes`, `failures`, `run`, `wait`, `backlog` and `oldest`; `node`; and
    `flush`, which tells batches apart.
    """
    merged = ",\n            ".join(f"{column} = {_sums(column)}" for column in _MAPS)
    return text(
        f"""
        WITH written AS (
            INSERT INTO {in_text(schema)}.oban_sa_metrics AS m
                (step, queue, worker, at, node, {", ".join(_MAPS)}, backlog, oldest, flush)
            SELECT g.step, g.queue, g.worker, timezone('UTC', to_timestamp(g.at)), CAST(:node AS text),
                {", ".join(f"g.{column}" for column in _MAPS)}, g.backlog, g.oldest, CAST(:flush AS uuid)
            FROM jsonb_to_recordset(CAST(CAST(:rows AS text) AS jsonb)) AS g(
                step integer, at bigint, queue text, worker text, {", ".join(f"{column} jsonb" for column in _MAPS)},
                backlog integer, oldest double precision
            )
            ORDER BY g.step, g.queue, g.worker, g.at
            ON CONFLICT (step, queue, worker, at, node) DO UPDATE SET
            {merged},
            backlog = greatest(m.backlog, excluded.backlog), oldest = greatest(m.oldest, excluded.oldest),
            flush = excluded.flush
            WHERE m.flush IS DISTINCT FROM excluded.flush
        )
        SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS now
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("rows", type_=Text()), bindparam("node", type_=Text()), bindparam("flush", type_=Uuid()))


def now() -> TextClause:
    """The database's clock: a row of `now`, seconds since 1970."""
    return text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision) AS now")


@lru_cache(maxsize=16)
def forget(schema: str) -> TextClause:
    """Delete rows that are older than is kept of their step, `batch` of each step at most: a row of `count`."""
    s = in_text(schema)
    kept = ", ".join(f"({step}, interval '{seconds} seconds')" for step, seconds in KEPT.items())
    return text(
        f"""
        WITH gone AS (
            DELETE FROM {s}.oban_sa_metrics WHERE ctid = ANY (ARRAY(
                SELECT o.ctid FROM (VALUES {kept}) AS k(step, kept) CROSS JOIN LATERAL (
                    SELECT m.ctid FROM {s}.oban_sa_metrics m
                    WHERE m.step = k.step AND m.at < timezone('UTC', now()) - k.kept
                    ORDER BY m.at LIMIT CAST(:batch AS integer) FOR UPDATE SKIP LOCKED
                ) AS o
            ))
            RETURNING 1
        )
        SELECT count(*) AS count FROM gone
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("batch", type_=Integer()))


_WALK: Final = """
        WITH RECURSIVE walk AS (
            (SELECT m.queue FROM {table} m WHERE m.step = CAST(:step AS integer) ORDER BY m.queue LIMIT 1)
            UNION ALL
            SELECT (
                SELECT m.queue FROM {table} m WHERE m.step = CAST(:step AS integer) AND m.queue > w.queue
                ORDER BY m.queue LIMIT 1
            ) FROM walk w WHERE w.queue IS NOT NULL
        ),
        queues AS MATERIALIZED (
            SELECT queue FROM (SELECT queue FROM walk LIMIT CAST(:queues_at_most AS integer)) AS w
            WHERE queue IS NOT NULL AND (CAST(:queues AS text[]) IS NULL OR queue = ANY (CAST(:queues AS text[])))
        ),
        clock AS (SELECT timezone('UTC', clock_timestamp()) AS now)"""
"""The queues there are rows of, from one to the next along the index: a DISTINCT would read all of it."""

_SINCE: Final = "timezone('UTC', to_timestamp(CAST(:since AS double precision)))"

_LARGEST: Final = 65_536
"""Bytes of a column of counts that is read; ours are a tenth of that, and another program may write anything."""


def _together(column: str, *, where: str = "true") -> str:
    """The objects of a column in a group, as the text of a JSON array; NULL where there are none.

    They are added up by the reader: to take them apart here and put the sums together costs the server several times
    as much as to send them.
    """
    fit = f"{where} AND pg_column_size(m.{column}) <= {_LARGEST} AND m.{column} <> '{{}}'"
    return f"'[' || string_agg(CAST(m.{column} AS text), ',') FILTER (WHERE {fit}) || ']' AS {column}"


_PARAMETERS: Final[tuple[BindParameter[Any], ...]] = (
    bindparam("step", type_=Integer()),
    bindparam("queues", type_=ARRAY(Text())),
    bindparam("queues_at_most", type_=Integer()),
    bindparam("at_most", type_=Integer()),
)

_OF_TIME: Final[tuple[BindParameter[Any], ...]] = (
    bindparam("since", type_=Double()),
    bindparam("worker", type_=Text()),
)

_MOMENTS: Final[ARRAY[float]] = ARRAY(Double())

_OF_WORKERS: Final[tuple[BindParameter[Any], ...]] = (
    bindparam("worker", type_=Text()),
    bindparam("measured", type_=Integer()),
    bindparam("steps", type_=ARRAY(Integer())),
    bindparam("begins", type_=_MOMENTS),
    bindparam("ends", type_=_MOMENTS),
)


@lru_cache(maxsize=16)
def by_time(schema: str) -> TextClause:
    """What was written of queues, by moment: rows of `at` in seconds since 1970, counts, and what waited.

    `outcomes`, `run` and `wait` are arrays of objects, as JSON text, or NULL. `queues`, `backlogs` and `oldests` are
    arrays side by side, of one entry for each row that was read. Of each queue the newest `at_most` rows are read.
    Parameters: `step`; `since`, seconds since 1970; `worker`, `ALL` for all; `queues`, NULL for all, and
    `queues_at_most`.
    """
    table = f"{in_text(schema)}.oban_sa_metrics"
    return text(
        f"""{_WALK.format(table=table)}
        SELECT CAST(extract(epoch FROM m.at) AS bigint) AS at, {_together("outcomes")}, {_together("run")},
            {_together("wait")}, array_agg(q.queue) AS queues, array_agg(m.backlog) AS backlogs,
            array_agg(m.oldest) AS oldests
        FROM queues q CROSS JOIN clock c CROSS JOIN LATERAL (
            SELECT m.at, m.outcomes, m.run, m.wait, m.backlog, m.oldest FROM {table} m
            WHERE m.step = CAST(:step AS integer) AND m.queue = q.queue AND m.worker = CAST(:worker AS text)
                AND m.at >= {_SINCE} AND m.at <= c.now
            ORDER BY m.at DESC LIMIT CAST(:at_most AS integer)
        ) AS m
        GROUP BY m.at
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(*_PARAMETERS, *_OF_TIME)


@lru_cache(maxsize=16)
def by_worker(schema: str) -> TextClause:
    """What was written of workers: rows of `queue`, `worker`, counts, `looked_at`, `first` and `first_measured`.

    `outcomes`, `failures`, `run` and `wait` are arrays of objects, as JSON text, or NULL. `looked_at` rows were read of
    it, the oldest of them of the moment `first`, in seconds since 1970; together the newest `at_most`. Of `run` and
    `wait`, which have most of the counts, only those of the newest `measured` rows are there; `first_measured` is the
    same of them, or NULL. Parameters: those of `by_time`, of which `worker` is NULL for all; `measured`; and instead of
    `since` the parts of the time, as arrays of their `steps`, and where each `begins` and `ends`.
    """
    table = f"{in_text(schema)}.oban_sa_metrics"
    measured = "m.number <= CAST(:measured AS integer)"
    return text(
        f"""{_WALK.format(table=table)}
        SELECT m.queue, m.worker, {_together("outcomes")}, {_together("failures")},
            {_together("run", where=measured)}, {_together("wait", where=measured)}, count(*) AS looked_at,
            CAST(extract(epoch FROM min(m.at)) AS bigint) AS first,
            CAST(extract(epoch FROM min(m.at) FILTER (WHERE {measured})) AS bigint) AS first_measured
        FROM (
            SELECT m.*, row_number() OVER (ORDER BY m.at DESC) AS number
            FROM unnest(CAST(:steps AS integer[]), CAST(:begins AS double precision[]),
                CAST(:ends AS double precision[])) AS part(step, begins, ends)
            CROSS JOIN LATERAL (
                SELECT m.queue, m.worker, m.at, {", ".join(f"m.{kind}" for kind in _MAPS)} FROM {table} m
                WHERE m.step = part.step AND m.at >= timezone('UTC', to_timestamp(part.begins))
                    AND m.at < timezone('UTC', to_timestamp(part.ends)) AND m.at <= (SELECT now FROM clock)
                    AND m.queue = ANY (ARRAY(SELECT queue FROM queues)) AND m.worker <> '{ALL}'
                    AND (CAST(:worker AS text) IS NULL OR m.worker = CAST(:worker AS text))
                ORDER BY m.at DESC LIMIT CAST(:at_most AS integer)
            ) AS m
            ORDER BY m.at DESC LIMIT CAST(:at_most AS integer)
        ) AS m
        GROUP BY m.queue, m.worker
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(*_PARAMETERS, *_OF_WORKERS)
