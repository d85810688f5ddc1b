"""What was decided about queues at run time, and what nodes say of the queues they work on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    String,
    Table,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    null,
    select,
    type_coerce,
    union_all,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, Insert, insert

from oban_sa.holders import OURS
from oban_sa.models import Queue
from oban_sa.sql.fetching import jobs
from oban_sa.sql.moments import seconds_between, utc_clock, utc_now
from oban_sa.sql.producing import producers

queues: Table = Queue.metadata.tables["public.oban_sa_queues"]


def deciding(settings: Mapping[str, bool | int]) -> Insert:
    """Keep settings of a queue for one ident, each with the moment it was decided: `paused` and `paused_at`.

    Parameters: `queue`, and `ident`, which is an instance's name or `<instance>.<node>`.
    """
    moment = utc_clock()
    ident = cast(bindparam("ident", type_=Text()), Text)
    parts: list[Any] = []
    for name, value in settings.items():
        parts += [_literal(name), literal_column(str(value).lower()), _literal(f"{name}_at"), moment]
    decided: Any = func.jsonb_build_object(*parts, type_=JSONB())
    row = insert(queues).values(
        name=bindparam("queue", type_=Text()),
        meta=func.jsonb_build_object(ident, decided),
        updated_at=moment,
    )
    # One key is put in place of itself, so that decisions about other nodes are never overwritten.
    before = func.coalesce(queues.c.meta.op("->")(ident), literal_column("'{}'::jsonb"), type_=JSONB())
    after = func.jsonb_build_object(ident, before.op("||")(decided), type_=JSONB())
    return row.on_conflict_do_update(
        index_elements=[queues.c.name],
        set_={"meta": queues.c.meta.op("||")(after), "updated_at": row.excluded.updated_at},
    )


def decided() -> Any:
    """All that was decided about queues: rows of `name`, and `meta` as text."""
    return select(queues.c.name, cast(queues.c.meta, Text).label("meta"))


def gathering() -> Any:
    """Who is there: the `name` of the instance and the `node` of every registered node, of all instances."""
    return select(producers.c.name, producers.c.node).distinct().order_by(producers.c.name, producers.c.node)


def checking() -> Any:
    """What every node of an instance says of its queues, by node and queue, and which jobs it holds.

    Rows of `uuid`, `node`, `queue`, `meta`, `started_at`, `silent_for` in seconds, `running` as ids or NULL.
    Parameter: `name`.
    """
    holder: Any = type_coerce(jobs.c.attempted_by, ARRAY(Text()))[literal_column("2")]
    held = (
        select(
            holder.label("uuid"),
            func.array_agg(jobs.c.id, type_=ARRAY(BigInteger())).label("ids"),
        )
        .where(jobs.c.state == literal_column("'executing'"))
        .group_by(holder)
        .subquery("held")
    )
    return (
        select(
            producers.c.uuid,
            producers.c.node,
            producers.c.queue,
            producers.c.meta,
            producers.c.started_at,
            seconds_between(producers.c.updated_at, utc_now()).label("silent_for"),
            held.c.ids.label("running"),
        )
        .select_from(producers.outerjoin(held, held.c.uuid == cast(producers.c.uuid, String)))
        .where(producers.c.name == bindparam("name", type_=Text()))
        .order_by(producers.c.node, producers.c.queue, producers.c.uuid)
    )


def elsewhere() -> Any:
    """Who else takes jobs from these tables: rows of `queue`, `node`, and `running` as ids or NULL, by queue and node.

    Nodes of other instances, by their rows; and those that have none, as Elixir's, by the jobs that they hold. Nodes of
    ours without a row are given one soon. Parameter: `name`, the instance's.
    """
    holder: Any = type_coerce(jobs.c.attempted_by, ARRAY(Text()))
    uuid = holder[literal_column("2")]
    node = func.coalesce(holder[literal_column("1")], literal_column("'unknown'"))
    row = select(producers.c.uuid).where(cast(producers.c.uuid, String) == uuid)
    held = (
        select(jobs.c.queue, node.label("node"), func.array_agg(jobs.c.id, type_=ARRAY(BigInteger())).label("running"))
        .where(
            jobs.c.state == literal_column("'executing'"),
            ~row.exists(),
            func.coalesce(uuid.op("!~", is_comparison=True)(literal_column(f"'{OURS}'")), literal_column("true")),
        )
        .group_by(jobs.c.queue, node)
    )
    others = select(producers.c.queue, producers.c.node, cast(null(), ARRAY(BigInteger())).label("running")).where(
        producers.c.name != bindparam("name", type_=Text())
    )
    found = union_all(held, others).subquery("found")
    return select(found.c.queue, found.c.node, found.c.running).order_by(found.c.queue, found.c.node)


def _literal(name: str) -> ColumnElement[Any]:
    return literal_column(f"'{name}'")
