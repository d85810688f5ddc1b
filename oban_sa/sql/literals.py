"""Constants that stand in the text of a statement."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, literal_column


def inline(sql: str) -> ColumnElement[Any]:
    """Write a constant into the statement instead of binding it: even a generic plan knows its value then."""
    return literal_column(sql)
