"""What else a statement that changes jobs does, as to count those that ended or to release what waits for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from sqlalchemy import CTE, Text, cast

from oban_sa.models.base import Expression
from oban_sa.sql.fetch import S, jobs

Follower: TypeAlias = Callable[[CTE], CTE]
"""Makes a data-modifying CTE out of the CTE `acked`.

`acked` has a row of `id`, `state`, `queue` and `meta` for each job whose state was changed. The state is text: what the
job has become, so also `retryable` or `scheduled`; `deleted` for one that was deleted before it had ended. A statement
that comes too late for a job has no row of it; a job that ended and was retried ends once more.

All parts of a statement see the tables as they were before it, and PostgreSQL changes no row twice in one statement
(its manual, "Data-Modifying Statements in WITH"). So a follower writes other tables than that of the jobs, and what it
needs to know of the changed jobs it takes from `acked`. A CTE that only selects is never run where nothing refers to
it. The values of a follower's parameters come with it, as `bindparam(name, value)`; a list is bound as one array, and
not by `in_()`, whose parameters only SQLAlchemy itself expands. Statements are cached by their followers, so each is a
function that is made once.
"""


FOLLOWED: Final = ("id", "state", "queue", "meta")
"""The columns of `acked`."""


def changed_columns() -> Sequence[Expression]:
    """What an UPDATE of jobs returns, so that followers can read it."""
    return jobs.c.id, cast(jobs.c.state, Text).label("state"), jobs.c.queue, jobs.c.meta


def follow(statement: S, acked: CTE, followers: Sequence[Follower]) -> S:
    """Add what follows to a statement that has changed jobs."""
    return statement.add_cte(*(follower(acked) for follower in followers)) if followers else statement
