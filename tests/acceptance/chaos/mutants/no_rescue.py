"""The jobs of dead nodes are left to them."""

from __future__ import annotations

from typing import Any

from oban_sa.runner.maintenance.lifeline import Lifeline

PROMISES = ("P2",)
KIND = "mixed"


async def _rescue(_self: Lifeline, _transaction: Any) -> list[Any]:
    return []


Lifeline._rescue = _rescue  # type: ignore[method-assign]
