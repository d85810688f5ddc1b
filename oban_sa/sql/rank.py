"""Where nodes stand among those that work on a queue, as all of them see it alike."""

from __future__ import annotations

from sqlalchemy import Double, Executable, Text, Uuid, bindparam, func, select

from oban_sa.sql.expressions import array, inline, seconds_earlier, utc_clock
from oban_sa.sql.producers import producers
from oban_sa.sql.unknown_workers import NOTED


def rank() -> Executable:
    """Number the producers of each queue from 0, in the order of their uuids: rows of `uuid`, `number`, `nodes`.

    Those count that have beaten lately, are not paused, and know all workers of the queue's jobs. Rows of other members
    of the family don't: their nodes fetch at every message. Parameters: `uuids`, of which there are rows, `queues`,
    theirs, and `lately`, in seconds.
    """
    meta, queue = producers.c.meta, producers.c.queue
    number = func.row_number().over(partition_by=queue, order_by=producers.c.uuid) - inline("1")
    nodes = func.count().over(partition_by=queue)
    ranked = (
        select(producers.c.uuid, number.label("number"), nodes.label("nodes"))
        .where(
            queue == func.any(array("queues", Text())),
            producers.c.updated_at > seconds_earlier(utc_clock(), bindparam("lately", type_=Double())),
            meta.op("->")(inline("'dead_after'")).is_not(None),
            meta.op("->")(inline(f"'{NOTED}'")).is_(None),
            meta.op("->>")(inline("'paused'")).is_distinct_from(inline("'true'")),
        )
        .subquery("ranked")
    )
    return select(ranked).where(ranked.c.uuid == func.any(array("uuids", Uuid())))
