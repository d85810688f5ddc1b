"""The lease of the one node that does what must be done once."""

from __future__ import annotations

from sqlalchemy import (
    ColumnElement,
    DateTime,
    Delete,
    Double,
    Executable,
    Table,
    Text,
    bindparam,
    case,
    delete,
    exists,
    select,
)
from sqlalchemy.dialects.postgresql import insert

from oban_sa.models import Leader
from oban_sa.models.readable import strange
from oban_sa.sql.expressions import seconds_later, utc_clock

leaders: Table = Leader.metadata.tables["public.oban_leaders"]


def lease_name(instance: str) -> str:
    """Return the name of the lease of an instance.

    It is not the instance's own name, which the family's other Python nodes lead under: each kind of node has work of
    its own that only its leader does, so each needs a leader of its own.
    """
    return f"oban_sa.{instance}"


def elect() -> Executable:
    """Take the lease if it is free, or renew one's own: a row of `elected_at` for the leader, none for the others.

    A lease is one's own where both node and `elected_at` are: two processes that were given one node name stay two.
    One that lasts for ever was written by no node, and is free.
    Parameters: `lease`, `holder`, `held_since` (what the last election answered, or None), `lasts` (seconds).
    """
    now = utc_clock()
    row = insert(leaders).values(
        name=bindparam("lease", type_=Text()),
        node=bindparam("holder", type_=Text()),
        elected_at=now,
        expires_at=seconds_later(now, bindparam("lasts", type_=Double())),
    )
    own = _own()
    return row.on_conflict_do_update(
        index_elements=[leaders.c.name],
        set_={
            "node": row.excluded.node,
            "elected_at": case((own, leaders.c.elected_at), else_=row.excluded.elected_at),
            "expires_at": row.excluded.expires_at,
        },
        where=own | (leaders.c.expires_at <= now) | strange(leaders.c.expires_at),
    ).returning(leaders.c.elected_at)


def resign() -> Delete:
    """Give the lease up. Parameters: `lease`, `holder`, `held_since`."""
    return delete(leaders).where(leaders.c.name == bindparam("lease", type_=Text()), _own())


def leads() -> ColumnElement[bool]:
    """Whether the lease is held at this moment, for the transaction that does what only a leader may do.

    Parameters: `lease`, `holder`, `held_since`.
    """
    held = select(leaders.c.name).where(
        leaders.c.name == bindparam("lease", type_=Text()), _own(), leaders.c.expires_at > utc_clock()
    )
    return exists(held)


def lock_lease() -> Executable:
    """One row where the lease is held, locked against a change of leader until the transaction ends."""
    return (
        select(leaders.c.name)
        .where(leaders.c.name == bindparam("lease", type_=Text()), _own(), leaders.c.expires_at > utc_clock())
        .with_for_update(read=True)
    )


def _own() -> ColumnElement[bool]:
    return (leaders.c.node == bindparam("holder", type_=Text())) & (
        leaders.c.elected_at == bindparam("held_since", type_=DateTime())
    )
