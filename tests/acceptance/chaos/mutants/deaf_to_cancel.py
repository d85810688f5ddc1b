"""A job that was cancelled while it ran is made again where its attempt failed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import false

from oban_sa.runner.queues import Queues
from oban_sa.sql import acking, rescuing

PROMISES = ("cancel",)
KIND = "mixed"


def _never() -> Any:
    return false()


acking.marked = rescuing.marked = _never


def _ignore(_self: Queues, _job_id: int) -> None:
    pass


Queues.cancel = _ignore  # type: ignore[method-assign]
