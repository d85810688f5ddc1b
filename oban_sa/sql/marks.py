"""The mark that a cancel leaves on a running job, whose attempt alone can end it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import ColumnElement, func

from oban_sa.sql.fetching import jobs
from oban_sa.sql.literals import inline

MARK: Final = "cancel_attempted_at"
"""The key in a job's meta; its value is the database's now as ISO 8601, without zone, as the family writes it."""


def marked() -> ColumnElement[bool]:
    """Whether somebody asked for the job to be cancelled during the attempt that it is in."""
    mark: ColumnElement[Any] = jobs.c.meta.op("->>")(inline(f"'{MARK}'"))
    # Both texts are ISO 8601 of the same form, without trailing zeros, and compare as the moments do. As texts, since
    # what stands in meta may be anything, and a cast that fails would hold up every outcome of the statement.
    began: ColumnElement[Any] = func.to_jsonb(jobs.c.attempted_at).op("#>>")(inline("'{}'"))
    return func.coalesce(mark >= began, inline("false"))
