"""A job that was cancelled while it ran is made again where its attempt failed."""

from __future__ import annotations

from typing import Any

from sqlalchemy import false

from oban_sa.runner.queue.queues import Queues
from oban_sa.sql import ack, rescue

PROMISES = ("cancel",)
KIND = "mixed"


def _never() -> Any:
    return false()


ack.marked = rescue.marked = _never


def _ignore(_self: Queues, _job_id: int, **_more: Any) -> None:
    pass


Queues.cancel = _ignore  # type: ignore[method-assign]
