"""The codes that PostgreSQL gives its errors."""

from __future__ import annotations

from typing import cast

from sqlalchemy.exc import DBAPIError


def sqlstate(error: DBAPIError) -> str | None:
    """Return the code of an error, wherever its driver keeps it; None where it has none, as when a connection broke."""
    original = error.orig
    for name in ("sqlstate", "pgcode"):
        if code := getattr(original, name, None):
            return str(code)
    details: object = original.args[0] if original is not None and original.args else None
    fields = cast("dict[str, object]", details) if isinstance(details, dict) else {}  # pg8000
    return str(fields["C"]) if "C" in fields else None
