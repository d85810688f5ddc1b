"""An outcome is written whichever attempt holds the job."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, Text, bindparam, cast

from oban_sa.sql import ack
from oban_sa.sql.expressions import inline
from oban_sa.sql.fetch import jobs

PROMISES = ("P3", "P4", "P5")
KIND = "stalls"


def _anybodys(job_id: Any, attempt: Any, attempted_at: Any) -> Any:
    holder = cast(bindparam("holder", type_=ARRAY(Text())), ARRAY(Text()))
    # Named all the same: a statement takes no parameter that it has no use for.
    named = holder.is_not(None) & attempt.is_not(None) & (attempted_at.is_(None) | attempted_at.is_not(None))
    return (jobs.c.id == job_id) & (cast(jobs.c.state, Text) == inline("'executing'")) & named


ack.still_held = _anybodys
