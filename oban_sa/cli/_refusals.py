"""Errors of the database, explained for the user of a command: what the server said, and what to do."""

from __future__ import annotations

from typing import Final

from sqlalchemy.exc import DBAPIError

from oban_sa.errors import RunnerError
from oban_sa.runner.database.failures import explained
from oban_sa.sql.errors import sqlstate

_WHAT_TO_DO: Final = {
    # Whole codes before the classes that they begin with.
    "23505": "a unique index of the table already has such a row; nothing was changed",
    "23": "a rule of the tables does not allow it; nothing was changed",
    "22": "the database can't take a value that was given; nothing was changed",
    "25006": "this database is read-only, as a standby is; name the primary with --database-url",
    "40": "others changed the same rows at the same time; nothing was changed, so try again",
    "42": "the tables are not as this version needs them; bring them up to date: python -m oban_sa migrate",
    "53100": "the server's disk is full",
    "53": "the server has no more room for this now; try again later",
    "54": "this is more than the server can do at once; ask for less",
    "55P03": "others hold a lock on these rows; nothing was changed, so try again",
    "57014": "the server ended the statement, which took too long or was cancelled; nothing was changed",
    "P0": "a trigger of the tables does not allow it; nothing was changed",
}

_PRIVILEGE: Final = "42501"
"""A missing right; `explained` names the role that lacks it."""


def explain(error: BaseException, url: str) -> RunnerError | None:
    """Return the error to show for what the database refused, or None for a failure of another kind.

    Its first line is what the server said, the second what it means. The codes are SQLSTATEs and, of two characters,
    their classes (PostgreSQL's documentation, appendix A).
    """
    # `_statement` comes first: `explained` takes every other DBAPIError for a broken connection.
    if (known := _statement(error) or explained(error, url)) or not isinstance(error, DBAPIError):
        return known
    return RunnerError(f"the database refused this: {_said(error)}")


def _statement(error: BaseException) -> RunnerError | None:
    if not isinstance(error, DBAPIError) or error.statement is None:
        return None
    code = sqlstate(error) or ""
    meaning = next((text for start, text in _WHAT_TO_DO.items() if code.startswith(start)), None)
    if meaning is None or code == _PRIVILEGE:
        return None
    return RunnerError(f"the database refused this: {_said(error)} [{code}]\n{meaning[0].upper()}{meaning[1:]}")


def _said(error: DBAPIError) -> str:
    cause = error.orig if error.orig is not None else error
    first, *rest = str(cause.__cause__ or cause).strip().splitlines() or ["it did not say why"]
    return f"{first} ({rest[0].strip()})" if rest else first
