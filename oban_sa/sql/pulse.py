"""Whether anything that a dashboard shows has changed: one row, read by a few looks into indexes."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Executable, Integer, Text, cast, func, literal_column, select
from sqlalchemy.dialects.postgresql import aggregate_order_by

from oban_sa.jobs.states import JobState
from oban_sa.models import Cron, Producer, Queue
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline
from oban_sa.sql.fetch import jobs

_producers: Final = Producer.metadata.tables["public.oban_producers"]
_queues: Final = Queue.metadata.tables["public.oban_sa_queues"]
_crons: Final = Cron.metadata.tables["public.oban_sa_crons"]

CAP: Final = 501
"""Jobs of a state that are counted; where there are more, other columns tell of changes."""


def pulse() -> Executable:
    """One row of texts and numbers, any of which differs once something has changed."""
    columns: list[Expression] = [select(func.max(jobs.c.id)).scalar_subquery()]
    for state in JobState:
        some = select(_ONE).where(jobs.c.state == inline(f"'{state.value}'")).limit(literal_column(str(CAP), Integer()))
        columns.append(select(func.count()).select_from(some.subquery(f"some_{state.value}")).scalar_subquery())
    for ended, moment in (
        ("completed", jobs.c.completed_at),
        ("cancelled", jobs.c.cancelled_at),
        ("discarded", jobs.c.discarded_at),
    ):
        last = select(cast(func.max(moment), Text)).where(jobs.c.state == inline(f"'{ended}'"))
        columns.append(last.scalar_subquery())
    described = cast(_producers.c.uuid, Text) + cast(_producers.c.meta, Text)
    together = func.string_agg(described, aggregate_order_by(inline("','"), _producers.c.uuid))
    columns.append(select(func.md5(together)).scalar_subquery())
    columns.append(select(cast(func.max(_queues.c.updated_at), Text)).scalar_subquery())
    columns.append(select(cast(func.max(_crons.c.last_at), Text)).scalar_subquery())
    return select(*(column.label(f"c{number}") for number, column in enumerate(columns)))


_ONE: Expression = literal_column("1")
