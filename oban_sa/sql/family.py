"""Whether other members of the family are at work in these tables: Oban for Elixir, Oban for Python."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Executable, Table, Text, bindparam, cast, exists, func, or_, select

from oban_sa.jobs.attempted_by import OURS
from oban_sa.models.leader import Peer
from oban_sa.sql.expressions import array, inline, parameter, utc_clock
from oban_sa.sql.lease import leaders, lease_name
from oban_sa.sql.producers import producers

peers: Table = Peer.metadata.tables["public.oban_peers"]

_OUR_LEASES = lease_name("")


def others_seen() -> Executable:
    """One row: the database's `now`, aware; whether nodes of `others` have rows; and whether `peers` is a table.

    Elixir's table of peers may be missing, as after its own migration went down, so it has a question of its own.
    Parameter: `peers`, the table's name as `to_regclass` takes it.
    """
    leases = exists(select(leaders.c.name).where(~leaders.c.name.startswith(_OUR_LEASES, autoescape=True)))
    beats = exists(
        select(producers.c.uuid).where(cast(producers.c.uuid, Text).op("!~", is_comparison=True)(inline(f"'{OURS}'")))
    )
    return select(
        func.clock_timestamp().label("now"),
        or_(leases, beats).label("others"),
        func.to_regclass(bindparam("peers", type_=Text())).is_not(None).label("peers"),
    )


def peers_lead() -> Executable:
    """One row: whether an Elixir node `leads`, of any instance or of that called `name`. Parameter: `name`, or null."""
    name = parameter("name", Text())
    alive = peers.c.expires_at > utc_clock()
    named: ColumnElement[bool] = (name.is_(None)) | (peers.c.name == name)
    return select(exists(select(peers.c.name).where(alive, named)).label("leads"))


def our_nodes() -> Executable:
    """Those of some nodes that are ours: rows of `node`. Parameter: `nodes`, an array of names."""
    ours = cast(producers.c.uuid, Text).op("~", is_comparison=True)(inline(f"'{OURS}'"))
    named = producers.c.node == func.any(array("nodes", Text()))
    return select(producers.c.node).where(named, ours).distinct()
