"""Names and texts in SQL, and the mark that oban_sa leaves on what it makes."""

from __future__ import annotations

import re
from typing import Final

from oban_sa.errors import InvalidOption

OURS: Final = "oban_sa"
"""The comment on tables, types, indexes and functions that oban_sa made."""

_LONGEST_SCHEMA: Final = 48
"""Bytes; a notification's channel is `<schema>.oban_cronitor`, and PostgreSQL allows it 63 bytes."""


def quoted(name: str) -> str:
    """Quote the name of a schema for SQL; raises InvalidOption for one that is too long for notifications."""
    if not name.strip() or len(name.encode()) > _LONGEST_SCHEMA or re.search(r"[\x00-\x1f\x7f]", name):
        raise InvalidOption(
            f"the schema {name!r} can't be used; write a name of 1 to {_LONGEST_SCHEMA} characters, such as 'jobs'"
        )
    return '"' + name.replace('"', '""') + '"'


def in_text(name: str) -> str:
    """Quote the name of a schema for SQLAlchemy's `text()`, in which a colon begins a parameter."""
    return quoted(name).replace(":", "\\:")


def literal(value: str) -> str:
    """Quote a text for SQL, in a form that does not depend on `standard_conforming_strings`."""
    written = "'" + value.replace("'", "''") + "'"
    return f" E{written}".replace("\\", "\\\\") if "\\" in value else written
