"""Which lanes of flows have notes that are not booked yet."""

from __future__ import annotations

from typing import Final

from sqlalchemy import TextClause, text

from oban_sa.catalog.names import in_text, literal, quoted
from oban_sa.jobs.durable import WAKING

_SIZED: Final = {"members": "oban_sa_members", "jobs": "oban_jobs"}


def lanes(schema: str) -> TextClause:
    """The lanes that have notes: rows of `lane`; the last one is that of `oban_sa.sql.signals.wake`.

    Each row also says how large two tables are, in bytes: `members` and `jobs`.
    """
    noted = f"SELECT FROM {in_text(schema)}.oban_sa_endings e WHERE e.lane = each.lane"
    sizes = ", ".join(f"pg_relation_size({_named(schema, table)}) AS {name}" for name, table in _SIZED.items())
    return text(f"SELECT lane, {sizes} FROM generate_series(0, {WAKING}) AS each(lane) WHERE EXISTS ({noted})")  # noqa: S608


def _named(schema: str, table: str) -> str:
    name = literal(f"{quoted(schema)}.{table}").replace(":", "\\:")
    return f"to_regclass({name})"
