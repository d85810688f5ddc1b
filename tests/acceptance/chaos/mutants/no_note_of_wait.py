"""A job that is suspended for a signal leaves no note, so that one that came meanwhile wakes it never."""

from __future__ import annotations

from sqlalchemy import CTE, select

from oban_sa.runner.queue import exchange

PROMISES = ("P2",)
KIND = "flows"


def _silent(acked: CTE) -> CTE:
    return select(acked.c.id).cte("noted_wait")


exchange.note_wait = _silent
