"""How many jobs of a queue execute at once in the whole cluster."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from sqlalchemy import CTE, Integer, Text, bindparam, select

from oban_sa.sql import partitions
from oban_sa.sql.fetch import Filter
from oban_sa.sql.functions import call
from oban_sa.sql.rates import RATE, WEIGHTED, name_of

if TYPE_CHECKING:
    from oban_sa.jobs.limits import Limits


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a queue, as filters of its fetches and the values of their parameters.

    The filters always stand in this order, in which their looks take locks: the global limit, the rate of the queue,
    partitions.
    """

    filters: tuple[Filter, ...]
    parameters: Mapping[str, object] = field(default_factory=dict[str, object])

    @classmethod
    def of(cls, limits: Limits, queue: str) -> Bounds:
        """Return the filters for the limits of a queue."""
        filters: list[Filter] = []
        parameters: dict[str, object] = {}
        if limits.global_limit is not None:
            filters.append(GLOBAL)
            parameters["global_limit"] = limits.global_limit
        rate = limits.rate
        if rate is not None and (limits.by is None or rate.shared):
            filters.append(RATE if rate.weight is None else WEIGHTED)
            parameters |= {
                "rate_name": name_of(queue),
                "rate_key": "",
                "rate_n": rate.n,
                "rate_per": rate.span,
                "rate_algorithm": rate.algorithm,
                "rate_burst": rate.burst,
            }
            if rate.weight is not None:
                parameters["rate_weight"] = rate.weight.split(".")
        if limits.by is not None:
            by_key, given = partitions.bound(limits, queue)
            filters.append(by_key)
            parameters |= given
        return cls(tuple(filters), parameters)


def _free(before: CTE) -> CTE:
    queue, limit = bindparam("queue", type_=Text()), bindparam("global_limit", type_=Integer())
    return select(call("oban_sa_free", Integer(), queue, limit).label("at_most")).select_from(before).cte("free")


GLOBAL: Final = Filter(looks=(_free,))
"""At most `global_limit` jobs of the queue execute at once; a parameter.

A slot is an executing row, of any program, and nothing else is kept. So a slot is free again with the same commit that
ends a job, and those of a dead node are with its rescue. The function locks the queue, until the fetch has committed,
and counts with a snapshot of its own.
"""
