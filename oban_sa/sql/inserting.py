"""Jobs made of rows by the database itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy import ColumnElement, FromClause, Integer, Select, Text, case, cast, func, insert, literal, select
from sqlalchemy.dialects.postgresql import ARRAY

from oban_sa.sql.fetching import jobs
from oban_sa.sql.moments import utc_clock, utc_now
from oban_sa.states import JobState

COLUMNS: Final = ("worker", "queue", "state", "args", "meta", "tags", "max_attempts", "priority", "scheduled_at")
"""What a job that was never tried consists of; defaults fill the rest, whoever made the table."""


def inserting(rows: FromClause, columns: Mapping[str, ColumnElement[Any]]) -> Select[Any]:
    """Insert a job for each of `rows`, in their order; answer by `queue` the `number`, and if any is `available`.

    `columns` are those of `COLUMNS` without `state`. Where `scheduled_at` is NULL, or missing, it is now. Jobs
    scheduled for later are scheduled, all others available.
    """
    now: Any = utc_now()
    available, scheduled = (cast(text(state), jobs.c.state.type) for state in (JobState.AVAILABLE, JobState.SCHEDULED))
    chosen = {**columns, "scheduled_at": now, "state": available}
    if "scheduled_at" in columns:
        chosen["scheduled_at"] = moment = func.coalesce(columns["scheduled_at"], now)
        # The clock, because spans are counted by it: a span of nothing must not be later than the transaction's now.
        chosen["state"] = case((moment > utc_clock(), scheduled), else_=available)
    made = (
        insert(jobs)
        .from_select(list(COLUMNS), select(*(chosen[name].label(name) for name in COLUMNS)).select_from(rows))
        .returning(jobs.c.queue, jobs.c.state)
        .cte("made")
    )
    found: Any = func.bool_or(made.c.state == available)
    counted: Any = select(made.c.queue, func.count().label("number"), found.label("available"))
    return counted.group_by(made.c.queue)  # type: ignore[no-any-return]


def text(value: str) -> ColumnElement[Any]:
    """A text whose type the database is told by every driver."""
    return cast(literal(str(value), Text), Text)


def integer(value: int) -> ColumnElement[Any]:
    """A whole number whose type the database is told by every driver."""
    return cast(literal(value, Integer), Integer)


def labels(tags: Iterable[str]) -> ColumnElement[Any]:
    """A list of texts; as one text, because drivers differ in how they send lists."""
    quoted = ('"' + tag.replace("\\", "\\\\").replace('"', '\\"') + '"' for tag in tags)
    return cast(text("{" + ",".join(quoted) + "}"), ARRAY(Text))
