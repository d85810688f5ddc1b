"""What was decided about queues at run time, and what nodes say of the queues they work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import (
    BigInteger,
    Double,
    Executable,
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

from oban_sa.jobs.attempted_by import OURS
from oban_sa.models import Queue
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import inline, parameter, seconds_between, seconds_earlier, utc_clock, utc_now
from oban_sa.sql.fetch import HOLDER, jobs
from oban_sa.sql.producers import LIMITS, producers

queues: Table = Queue.metadata.tables["public.oban_sa_queues"]


def decide(settings: Mapping[str, bool | int]) -> Insert:
    """Keep settings of a queue for one ident, each with the moment it was decided: `paused` and `paused_at`.

    Parameters: `queue`, and `ident`, which is an instance's name or `<instance>.<node>`.
    """
    return _keep({name: inline(str(value).lower()) for name, value in settings.items()})


def decide_as_json(settings: Iterable[str]) -> Insert:
    """Keep settings whose values are any JSON. Parameters: those of `decide`, and by each name its value as JSON."""
    return _keep({name: cast(parameter(name, Text()), JSONB) for name in settings})


def _keep(settings: Mapping[str, object]) -> Insert:
    moment = utc_clock()
    ident = parameter("ident", Text())
    parts: list[object] = []
    for name, value in settings.items():
        parts += [_literal(name), value, _literal(f"{name}_at"), moment]
    decided: object = func.jsonb_build_object(*parts, type_=JSONB())
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


def decisions() -> Executable:
    """All that was decided about queues: rows of `name`, and `meta` as text."""
    return select(queues.c.name, cast(queues.c.meta, Text).label("meta"))


def decided() -> Executable:
    """What was decided about one queue for one ident: a row of `kept`, as text or NULL, and `now`, this moment.

    Parameters: those of `decide`.
    """
    kept = queues.c.meta.op("->>", return_type=Text())(parameter("ident", Text()))
    return select(kept.label("kept"), utc_clock().label("now")).where(queues.c.name == bindparam("queue", type_=Text()))


def observed() -> Executable:
    """What nodes of ours observe on one queue: rows of `limits`, JSON or NULL.

    Parameters: `name`, `queue`, and `lately`, in seconds of silence.
    """
    return select(producers.c.meta.op("->")(_literal(LIMITS)).label("limits")).where(
        producers.c.name == bindparam("name", type_=Text()),
        producers.c.queue == bindparam("queue", type_=Text()),
        cast(producers.c.uuid, String).op("~", is_comparison=True)(_literal(OURS)),
        producers.c.updated_at > seconds_earlier(utc_now(), bindparam("lately", type_=Double())),
    )


def nodes() -> Executable:
    """Who is there: the `name` of the instance and the `node` of every registered node, of all instances."""
    return select(producers.c.name, producers.c.node).distinct().order_by(producers.c.name, producers.c.node)


def check() -> Executable:
    """What every node of an instance says of its queues, by node and queue, and which jobs it holds.

    Rows of `uuid`, `node`, `queue`, `meta`, `started_at`, `silent_for` in seconds, `running` as ids or NULL.
    Parameter: `name`.
    """
    held = (
        select(HOLDER.label("uuid"), func.array_agg(jobs.c.id, type_=ARRAY(BigInteger())).label("ids"))
        .where(jobs.c.state == literal_column("'executing'"))
        .group_by(HOLDER)
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


def elsewhere() -> Executable:
    """Who else takes jobs from these tables: rows of `queue`, `node`, and `running` as ids or NULL, by queue and node.

    Nodes of other instances, by their rows; and those that have none, as Elixir's, by the jobs that they hold. Nodes of
    ours without a row are given one soon. Parameter: `name`, the instance's.
    """
    node = func.coalesce(type_coerce(jobs.c.attempted_by, ARRAY(Text()))[literal_column("1")], _literal("unknown"))
    row = select(producers.c.uuid).where(cast(producers.c.uuid, String) == HOLDER)
    held = (
        select(jobs.c.queue, node.label("node"), func.array_agg(jobs.c.id, type_=ARRAY(BigInteger())).label("running"))
        .where(
            jobs.c.state == literal_column("'executing'"),
            ~row.exists(),
            func.coalesce(HOLDER.op("!~", is_comparison=True)(literal_column(f"'{OURS}'")), literal_column("true")),
        )
        .group_by(jobs.c.queue, node)
    )
    others = select(producers.c.queue, producers.c.node, cast(null(), ARRAY(BigInteger())).label("running")).where(
        producers.c.name != bindparam("name", type_=Text())
    )
    found = union_all(held, others).subquery("found")
    return select(found.c.queue, found.c.node, found.c.running).order_by(found.c.queue, found.c.node)


def _literal(name: str) -> Expression:
    return literal_column(f"'{name}'")
