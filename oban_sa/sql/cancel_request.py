"""The request to cancel a running job, in its meta: only its attempt can end it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ColumnElement, func

from oban_sa.sql.expressions import inline
from oban_sa.sql.fetch import jobs

MARK: Final = "cancel_attempted_at"
"""The key in a job's meta; its value is the database's now as ISO 8601, without zone, as the family writes it."""


def marked() -> ColumnElement[bool]:
    """Whether the job's cancellation was requested during its present attempt."""
    mark = jobs.c.meta.op("->>")(inline(f"'{MARK}'"))
    # Both texts are ISO 8601 of the same form, without trailing zeros, and compare as the moments do. As texts, since
    # what stands in meta may be anything, and a cast that fails would hold up every outcome of the statement.
    began = func.to_jsonb(jobs.c.attempted_at).op("#>>")(inline("'{}'"))
    return func.coalesce(mark >= began, inline("false"))
