"""An outcome is written where the number of the attempt is right, which a snooze or a give-back makes repeat."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, Text, bindparam, cast, func

from oban_sa.runner import settling
from oban_sa.sql import acking
from oban_sa.sql.fetching import jobs
from oban_sa.sql.literals import inline

PROMISES = ("P3", "P5")
KIND = "connections"


def _of_that_number(job_id: Any, attempt: Any, attempted_at: Any) -> Any:
    holder = cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text()))
    held = (jobs.c.id == job_id) & (cast(jobs.c.state, Text) == inline("'executing'")) & (jobs.c.attempt == attempt)
    # Named all the same: a statement takes no parameter that it has no use for.
    return held & (jobs.c.attempted_by == holder) & (attempted_at.is_(None) | attempted_at.is_not(None))


acking.still_held = _of_that_number
# The one of sessions is made when its module is imported.
settling.ACKING_ONE = acking.acking_one().returning(func.txid_current().label("xid"))  # type: ignore[misc]
