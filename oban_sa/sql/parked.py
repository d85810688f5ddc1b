"""Give back the starts of jobs that were fetched before their turn in a sequence, and whose code never began."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Double,
    Executable,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    func,
    select,
)

from oban_sa.jobs.keys import PARTITION
from oban_sa.models.base import Expression
from oban_sa.sql.expressions import array, inline, materialized, parameter
from oban_sa.sql.fetch import jobs
from oban_sa.sql.functions import call
from oban_sa.sql.rates import weight_of
from oban_sa.sql.sequences import is_parked


def give_back() -> Executable:
    """Give back what the rate of a queue, or of each partition, has spent for parked jobs: a row for each moment.

    What is lost of it, as where the connection breaks before this, is counted as started: never too few are.
    Parameters: `ids`, `by_key`, `rate_name`, `rate_n`, `rate_per`, `rate_algorithm`, `rate_burst` and `rate_weight`,
    which is an empty path where all count 1.
    """
    key = case(
        (parameter("by_key", Boolean()), func.coalesce(jobs.c.meta.op("->>")(inline(f"'{PARTITION}'")), inline("''"))),
        else_=inline("''"),
    )
    spent = materialized(
        select(
            key.label("key"),
            jobs.c.attempted_at.label("at"),
            cast(func.sum(weight_of(jobs.c.args, jobs.c.meta)), BigInteger).label("count"),
        )
        .where(jobs.c.id == func.any(array("ids", BigInteger())), is_parked(jobs))
        .group_by(key, jobs.c.attempted_at)
        .cte("spent")
    )
    back: Expression = -spent.c.count
    given: ColumnElement[float] = call(
        "oban_sa_rate",
        Double(),
        bindparam("rate_name", type_=Text()),
        spent.c.key,
        parameter("rate_n", Integer()),
        parameter("rate_per", Double()),
        bindparam("rate_algorithm", type_=Text()),
        parameter("rate_burst", Integer()),
        back,
        inline("1"),
        spent.c.at,
    )
    return select(given.label("given")).select_from(spent)
