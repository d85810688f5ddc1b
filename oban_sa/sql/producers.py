"""The rows of running producers, one per queue and node: their heartbeat."""

from __future__ import annotations

from datetime import datetime
from typing import Final, TypedDict
from uuid import UUID

from sqlalchemy import (
    Boolean,
    ColumnElement,
    DateTime,
    Delete,
    Double,
    Executable,
    Table,
    Text,
    Update,
    Uuid,
    bindparam,
    cast,
    exists,
    func,
    literal_column,
    select,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.sql.dml import ReturningInsert

from oban_sa.models import Producer
from oban_sa.sql.expressions import array, seconds_earlier, utc_clock, utc_now


class ProducerRow(TypedDict):
    """The parameters of `register`; `meta` is JSON text."""

    uuid: UUID
    name: str
    node: str
    queue: str
    meta: str


producers: Table = Producer.metadata.tables["public.oban_producers"]

LIMITS: Final = "limits"
"""The key of a row's meta with the limits that its producer observes with all others."""

_UUIDS = array("uuids", Uuid())


def register() -> ReturningInsert[bool]:
    """Add a producer's row, or bring it up to date where it stands already: one row, `fresh` where it was added.

    Parameters: those of `ProducerRow`.
    """
    fresh = literal_column("(xmax = 0)", Boolean).label("fresh")  # no transaction has replaced a version of it before
    row = insert(producers).values(
        uuid=bindparam("uuid", type_=Uuid()),
        name=bindparam("name", type_=Text()),
        node=bindparam("node", type_=Text()),
        queue=bindparam("queue", type_=Text()),
        meta=cast(bindparam("meta", type_=Text()), JSONB),
        started_at=utc_now(),
        updated_at=utc_now(),
    )
    return row.on_conflict_do_update(
        index_elements=[producers.c.uuid],
        set_={"meta": row.excluded.meta, "updated_at": _beat()},
    ).returning(fresh)


def registered() -> ColumnElement[bool]:
    """Whether a producer has its row. Parameter: `producer`, its uuid."""
    return exists(select(producers.c.uuid).where(producers.c.uuid == bindparam("producer", type_=Uuid())))


def beat() -> Update:
    """Mark producers as alive: their uuids; one that is missing from the answer has lost its row.

    Parameter: `uuids`.
    """
    return (
        producers.update()
        .where(producers.c.uuid == func.any(_UUIDS))
        .values(updated_at=_beat())
        .returning(producers.c.uuid)
    )


def _beat() -> ColumnElement[datetime]:
    """The moment of a beat: of two that change places on their way, the later one stays."""
    # Else a beat that was delayed would make a node look silent that has beaten since. A moment in the future, which no
    # beat has written, doesn't stay.
    return func.greatest(func.least(producers.c.updated_at, utc_clock()), utc_now())


def namesakes() -> Executable:
    """Producers of a node's name that are not its own: rows of `uuid`, `queue`, `updated_at`.

    Parameters: `name` and `node`, and `uuids`, its own.
    """
    return select(producers.c.uuid, producers.c.queue, type_coerce(producers.c.updated_at, DateTime())).where(
        producers.c.name == bindparam("name", type_=Text()),
        producers.c.node == bindparam("node", type_=Text()),
        producers.c.uuid != func.all(_UUIDS),
    )


def leave() -> Delete:
    """Remove producers' rows. Parameter: `uuids`."""
    return producers.delete().where(producers.c.uuid == func.any(_UUIDS))


def living() -> Executable:
    """How many nodes work on each queue: rows of `queue`, `nodes`. Parameter: `lately`, in seconds of silence."""
    lately = seconds_earlier(utc_clock(), bindparam("lately", type_=Double()))
    return (
        select(producers.c.queue, func.count(producers.c.node.distinct()).label("nodes"))
        .where(producers.c.updated_at > lately)
        .group_by(producers.c.queue)
    )
