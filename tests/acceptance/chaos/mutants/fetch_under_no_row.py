"""Jobs are fetched under a producer's row that is gone, and nobody looks for those."""

from __future__ import annotations

from typing import Any

from sqlalchemy import true

from oban_sa.runner.lifeline import Lifeline
from oban_sa.sql import fetching

PROMISES = ("P2",)
KIND = "stalls"


def _always() -> Any:
    return true()


async def _restore(_self: Lifeline, _transaction: Any) -> None:
    pass


fetching.registered = _always
Lifeline._restore = _restore  # type: ignore[method-assign]
