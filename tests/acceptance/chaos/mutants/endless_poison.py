"""The rescue of a job whose node died spends no attempt."""

from __future__ import annotations

from typing import Any

from sqlalchemy import cast

from oban_sa.sql import rescuing
from oban_sa.sql.fetching import jobs
from oban_sa.sql.literals import inline

PROMISES = ("P7",)
KIND = "mixed"


def _given_on() -> dict[str, Any]:
    return {"state": cast(inline("'available'"), jobs.c.state.type), "attempt": jobs.c.attempt - inline("1")}


rescuing._given_on = _given_on
