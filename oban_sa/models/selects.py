"""What SQLAlchemy knows of a SELECT under names that begin with an underscore; it has no others for it."""

from __future__ import annotations


def is_distinct(statement: object) -> bool:
    """Whether it is a SELECT DISTINCT."""
    return bool(getattr(statement, "_distinct", False))


def is_grouped(statement: object) -> bool:
    """Whether it has a GROUP BY."""
    return bool(getattr(statement, "_group_by_clauses", ()))


def is_ordered(statement: object) -> bool:
    """Whether it has an ORDER BY."""
    return bool(getattr(statement, "_order_by_clauses", ()))
