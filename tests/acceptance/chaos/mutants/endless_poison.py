"""The rescue of a job whose node died spends no attempt."""

from __future__ import annotations

from typing import Any

from sqlalchemy import cast

from oban_sa.sql import rescue
from oban_sa.sql.expressions import inline
from oban_sa.sql.fetch import jobs

PROMISES = ("P7",)
KIND = "mixed"


def _given_on(again: str = "'available'") -> dict[str, Any]:
    return {"state": cast(inline(again), jobs.c.state.type), "attempt": jobs.c.attempt - inline("1")}


rescue._given_on = _given_on
