"""The jobs of dead nodes are rescued, and their rows stay for ever."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, Text, bindparam, cast, select

from oban_sa.runner.maintenance import lifeline

PROMISES = ("rows",)
KIND = "mixed"


def _bury() -> Any:
    return select(cast(bindparam("uuids", type_=ARRAY(Text())), ARRAY(Text())))


lifeline.bury = _bury
