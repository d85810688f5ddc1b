"""Which lanes of flows have notes that are not booked yet."""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, TextClause, bindparam, text
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.catalog.names import in_text, literal, quoted
from oban_sa.jobs.durable import WAKING

_SIZED: Final = {"members": "oban_sa_members", "jobs": "oban_jobs"}

MANY: Final = 100
"""Notes of a lane that are counted."""


def lanes(schema: str) -> TextClause:
    """The lanes that have notes: rows of `lane`; the last one is that of `oban_sa.sql.signals.wake`.

    Each row also says how many notes there are in `notes`, up to `MANY`; the ids of the `first` and the `last` of
    these; and how large two tables are, in bytes: `members` and `jobs`.
    """
    # As subqueries, which are run once and not for each lane: the size of a table is asked of the file system.
    sizes = ", ".join(f"(SELECT pg_relation_size({_named(schema, table)})) AS {name}" for name, table in _SIZED.items())
    return text(
        f"""
        SELECT each.lane, n.notes, n.first, n.last, {sizes}
        FROM generate_series(0, {WAKING}) AS each(lane)
        CROSS JOIN LATERAL (
            SELECT count(*) AS notes, min(x.id) AS first, max(x.id) AS last FROM (
                SELECT e.id FROM {in_text(schema)}.oban_sa_endings e WHERE e.lane = each.lane ORDER BY e.id LIMIT {MANY}
            ) AS x
        ) AS n
        WHERE n.notes > 0
        """  # noqa: S608 - all of it is written here, but for the name of the schema, which is quoted
    )


def _named(schema: str, table: str) -> str:
    name = literal(f"{quoted(schema)}.{table}").replace(":", "\\:")
    return f"to_regclass({name})"


_BOOKING: Final = {
    # If the server crashes before the commit is on disk, the notes are there again. What was done because of it, such
    # as a fetch of a job that it released, is lost too: nothing that is committed later is on disk before it.
    "synchronous_commit": "off",
    # Each row of a table is found by its key. For a table that looks small the planner would rather read all of it.
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


def lock_free() -> TextClause:
    """Lock those lanes that nobody is booking, for this transaction: rows of `key`. Parameter: `keys`, of all wanted.

    The transaction's commit does not wait until it is on disk.
    """
    settings = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in _BOOKING.items())
    return text(
        f"SELECT key, {settings} FROM unnest(CAST(:keys AS bigint[])) AS key "  # noqa: S608 - all of it is written here
        "WHERE pg_try_advisory_xact_lock(key)"
    ).bindparams(bindparam("keys", type_=ARRAY(BigInteger())))
