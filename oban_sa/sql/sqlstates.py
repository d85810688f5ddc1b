"""The codes that PostgreSQL gives its errors."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.exc import DBAPIError


def sqlstate(error: DBAPIError) -> str | None:
    """Return the code of an error, wherever its driver keeps it; None where it has none, as when a connection broke."""
    original: Any = error.orig
    for name in ("sqlstate", "pgcode"):
        if code := getattr(original, name, None):
            return str(code)
    details: Any = original.args[0] if isinstance(original, Exception) and original.args else None
    return str(details["C"]) if isinstance(details, _DICT) and "C" in details else None  # pg8000


# As type[Any], because strict checkers know nothing of the values of a dict that was Any before.
_DICT: Final[type[Any]] = dict
