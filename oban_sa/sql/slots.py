"""Slots of limits outside of jobs: take one or a place among those that wait, keep them, give them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Boolean,
    Double,
    Integer,
    Table,
    Text,
    Uuid,
    bindparam,
    cast,
    column,
    delete,
    func,
    select,
    update,
)
from sqlalchemy.sql import ClauseElement
from sqlalchemy.types import TypeEngine

from oban_sa.models.limit import Lease
from oban_sa.sql.expressions import array, seconds_later, utc_clock
from oban_sa.sql.functions import call

_leases: Final[Table] = Lease.metadata.tables["public.oban_sa_leases"]

_Type: TypeAlias = TypeEngine[int] | TypeEngine[float] | TypeEngine[str] | TypeEngine[bool] | TypeEngine[UUID]

TAKE: Final[Mapping[str, _Type]] = {
    "of_name": Text(),
    "of_key": Text(),
    "at_most": Integer(),
    "ticket": BigInteger(),
    "of_holder": Uuid(),
    "holds": Double(),
    "waits": Double(),
    "n": Integer(),
    "per": Double(),
    "algorithm": Text(),
    "burst": Integer(),
}
"""The parameters of `take`, in their order; `oban_sa.catalog.functions.slots` says what they mean."""

TAKEN: Final[Mapping[str, _Type]] = {
    "slot": BigInteger(),
    "granted": Boolean(),
    "held": Integer(),
    "ahead": Integer(),
    "held_for": Double(),
    "rate_in": Double(),
}


def take() -> ClauseElement:
    """Take a slot, or a place among those that wait: one row of `TAKEN`. Parameters: those of `TAKE`."""
    asked = call("oban_sa_slot", Text(), *(cast(bindparam(name, type_=type_), type_) for name, type_ in TAKE.items()))
    answer = asked.table_valued(*(column(name, type_) for name, type_ in TAKEN.items())).alias("answer")
    return select(*(answer.c[name] for name in TAKEN))


def keep() -> ClauseElement:
    """Keep slots for `holds` seconds from now: the ids of those that are still held.

    Parameters: `ids`, an array, `of_holder`, `holds`.
    """
    expires_at = seconds_later(utc_clock(), bindparam("holds", type_=Double()))
    mine = (_leases.c.id == func.any(array("ids", BigInteger()))) & (
        _leases.c.holder == bindparam("of_holder", type_=Uuid())
    )
    return update(_leases).where(mine).values(expires_at=expires_at).returning(_leases.c.id)


def give_back() -> ClauseElement:
    """Give a slot back, or a place among those that wait: its id, or no row where it was lost.

    Parameters: `slot`, `of_holder`.
    """
    return (
        delete(_leases)
        .where(
            _leases.c.id == bindparam("slot", type_=BigInteger()),
            _leases.c.holder == bindparam("of_holder", type_=Uuid()),
        )
        .returning(_leases.c.id)
    )
