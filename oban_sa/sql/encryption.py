"""Find jobs whose args an older key has sealed, and write them sealed anew."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from sqlalchemy import BigInteger, Integer, Text, TextClause, Uuid, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text
from oban_sa.jobs.encryption import DATA
from oban_sa.jobs.hidden import ENCRYPTED

_OLD: Final = (
    f"j.meta @> CAST('{{\"{ENCRYPTED}\": true}}' AS jsonb) "
    f"AND coalesce(split_part(j.args ->> '{DATA}', ':', 1), '') <> CAST(:key AS text)"
)
"""Whether the args of a job are to be sealed anew: those that stand in the clear too, though they should not."""


_OLD_CALLBACK: Final = f"""CASE WHEN jsonb_typeof(f.callbacks) = 'object' THEN EXISTS (
    SELECT FROM jsonb_each(f.callbacks) AS made(event, job)
    WHERE made.job -> 'meta' @> CAST('{{"{ENCRYPTED}": true}}' AS jsonb)
        AND coalesce(split_part(made.job -> 'args' ->> '{DATA}', ':', 1), '') <> CAST(:key AS text)
) ELSE false END"""
"""Whether the args of a callback of a batch are to be sealed anew."""


@lru_cache(maxsize=16)
def find_callbacks(schema: str) -> TextClause:
    """Find the next batches, by their ids, with callbacks to be sealed anew: rows of `id`.

    Parameters: `after`, an id, `limit` and `key`.
    """
    return text(
        f"""
        SELECT f.id FROM {in_text(schema)}.oban_sa_flows f
        WHERE f.id > CAST(:after AS uuid) AND f.callbacks IS NOT NULL AND {_OLD_CALLBACK}
        ORDER BY f.id LIMIT CAST(:limit AS integer)
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("after", type_=Uuid()), bindparam("limit", type_=Integer()), bindparam("key", type_=Text()))


@lru_cache(maxsize=16)
def lock_callbacks(schema: str) -> TextClause:
    """Lock such batches: rows of `id` and `callbacks`, as text. Those that are locked are left out.

    Parameters: `ids` and `key`.
    """
    return text(
        f"""
        SELECT f.id, CAST(f.callbacks AS text) AS callbacks FROM {in_text(schema)}.oban_sa_flows f
        WHERE f.id = ANY (CAST(:ids AS uuid[])) AND {_OLD_CALLBACK}
        ORDER BY f.id FOR NO KEY UPDATE SKIP LOCKED
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(Uuid())), bindparam("key", type_=Text()))


@lru_cache(maxsize=16)
def reseal_callbacks(schema: str) -> TextClause:
    """Write callbacks of batches. Parameters: `ids`, and `callbacks`, texts of JSON in the same order."""
    return text(
        f"""
        UPDATE {in_text(schema)}.oban_sa_flows f SET callbacks = CAST(n.callbacks AS jsonb)
        FROM unnest(CAST(:ids AS uuid[]), CAST(:callbacks AS text[])) AS n(id, callbacks) WHERE f.id = n.id
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(Uuid())), bindparam("callbacks", type_=ARRAY(Text())))


@lru_cache(maxsize=16)
def find(schema: str) -> TextClause:
    """Look through the next jobs by their ids: one row of `last`, the highest, and `ids` of those to be sealed anew.

    `last` is NULL where none is left to look at. Parameters: `after`, an id, `limit`, and `key`, the id of the key.
    """
    return text(
        f"""
        SELECT max(j.id) AS last, array_agg(j.id ORDER BY j.id) FILTER (WHERE {_OLD}) AS ids FROM (
            SELECT id, meta, args FROM {in_text(schema)}.oban_jobs
            WHERE id > CAST(:after AS bigint) ORDER BY id LIMIT CAST(:limit AS integer)
        ) AS j
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(
        bindparam("after", type_=BigInteger()), bindparam("limit", type_=Integer()), bindparam("key", type_=Text())
    )


@lru_cache(maxsize=16)
def lock(schema: str) -> TextClause:
    """Lock jobs that are to be sealed anew: rows of `id`, `worker` and `args`, as text.

    Those that are executing, or locked, are left out, so that nothing waits. Parameters: `ids` and `key`.
    """
    return text(
        f"""
        SELECT j.id, j.worker, CAST(j.args AS text) AS args FROM {in_text(schema)}.oban_jobs j
        WHERE j.id = ANY (CAST(:ids AS bigint[])) AND CAST(j.state AS text) <> 'executing' AND {_OLD}
        ORDER BY j.id FOR UPDATE SKIP LOCKED
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(BigInteger())), bindparam("key", type_=Text()))


@lru_cache(maxsize=16)
def reseal(schema: str) -> TextClause:
    """Write args of jobs. Parameters: `ids`, and `args`, texts of JSON in the same order."""
    return text(
        f"""
        UPDATE {in_text(schema)}.oban_jobs j SET args = CAST(n.args AS jsonb)
        FROM unnest(CAST(:ids AS bigint[]), CAST(:args AS text[])) AS n(id, args) WHERE j.id = n.id
        """  # noqa: S608 - the name of the schema is quoted
    ).bindparams(bindparam("ids", type_=ARRAY(BigInteger())), bindparam("args", type_=ARRAY(Text())))
