"""The rows of dead nodes are removed although they still hold jobs, of which nobody hears again."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, Text, bindparam, cast, delete, func

from oban_sa.runner.maintenance import lifeline
from oban_sa.sql.producers import producers

PROMISES = ("P2",)
KIND = "mixed"


def _bury() -> Any:
    uuids = cast(bindparam("uuids", type_=ARRAY(Text())), ARRAY(Text()))
    return delete(producers).where(cast(producers.c.uuid, Text) == func.any(uuids))


async def _rescue(self: lifeline.Lifeline, transaction: Any) -> list[Any]:
    gone = await transaction.fetch(self._dead)
    if gone:
        await transaction.fetch(self._bury, uuids=[str(row["uuid"]) for row in gone])
    return []


lifeline.bury = _bury
lifeline.Lifeline._rescue = _rescue  # type: ignore[method-assign]
