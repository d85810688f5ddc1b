"""How many attempts ended in each of the last minutes, by queue: from `oban_sa_metrics`, by its primary key."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Executable, Integer, Table, Text, func, literal, literal_column, select, true, type_coerce
from sqlalchemy.types import DateTime

from oban_sa.models import Metric
from oban_sa.sql.expressions import array, seconds_between, utc_clock, utc_now

metrics: Table = Metric.metadata.tables["public.oban_sa_metrics"]

MINUTES: Final = 30
"""The last minutes that are read, the present one included."""
MOST: Final = 1_000
"""Rows that are read of a queue; each node writes one a minute."""


def ended() -> Executable:
    """Attempts that ended of each queue, the latest minute first: rows of `queue`, `ago` in minutes, and `outcomes`.

    There is a row for each node; `outcomes` is JSON, counts by state. Parameter: `queues`, an array.
    """
    queue = func.unnest(array("queues", Text())).table_valued("queue", name="queues").render_derived()
    ago = func.floor(seconds_between(metrics.c.at, utc_clock()) / literal_column("60")).label("ago")
    latest = (
        select(ago, metrics.c.outcomes)
        .where(
            metrics.c.step == literal_column("60"),
            metrics.c.queue == queue.c.queue,
            metrics.c.worker == literal_column("'*'"),
            # The transaction's time: by the clock, which goes on, no index can be asked, and all that is kept is read.
            type_coerce(metrics.c.at, DateTime()) > utc_now() - literal_column(f"interval '{MINUTES} minutes'"),
        )
        .order_by(metrics.c.at.desc())
        .limit(literal(MOST, Integer()))
        .lateral("latest")
    )
    return select(queue.c.queue, latest.c.ago, latest.c.outcomes).select_from(queue.join(latest, true()))
