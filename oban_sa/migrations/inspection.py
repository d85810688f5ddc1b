"""What a database lacks of what oban_sa works with, in sentences; and the migration that brings it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, TypeAlias

from sqlalchemy import Connection, text

from oban_sa.migrations import ddl, history

Columns: TypeAlias = dict[str, tuple[str, ...]]

_MOMENT: Final = ("timestamp without time zone",)
_TEXT: Final = ("text", "character varying")
_WHOLE: Final = ("integer", "smallint", "bigint")
_LIST: Final = ("text[]", "character varying[]")
_JSON: Final = ("jsonb",)

JOBS: Final[Columns] = {
    "id": ("bigint", "integer"),
    "state": ("oban_job_state",),
    "queue": _TEXT,
    "worker": _TEXT,
    "args": _JSON,
    "meta": _JSON,
    "tags": _LIST,
    "errors": ("jsonb[]", "jsonb"),
    "attempt": _WHOLE,
    "max_attempts": _WHOLE,
    "priority": _WHOLE,
    "attempted_by": _LIST,
    "inserted_at": _MOMENT,
    "scheduled_at": _MOMENT,
    "attempted_at": _MOMENT,
    "cancelled_at": _MOMENT,
    "completed_at": _MOMENT,
    "discarded_at": _MOMENT,
}
"""The columns of `oban_jobs` and the types that any Oban gives them."""

OTHERS: Final[dict[str, Columns]] = {
    "oban_producers": {
        "uuid": ("uuid",),
        **dict.fromkeys(("name", "node", "queue"), _TEXT),
        "meta": _JSON,
        **dict.fromkeys(("started_at", "updated_at"), _MOMENT),
    },
    "oban_leaders": {
        **dict.fromkeys(("name", "node"), _TEXT),
        **dict.fromkeys(("elected_at", "expires_at"), _MOMENT),
    },
    "oban_peers": {
        **dict.fromkeys(("name", "node"), _TEXT),
        **dict.fromkeys(("started_at", "expires_at"), _MOMENT),
    },
    "oban_sa_queues": {"name": _TEXT, "meta": _JSON, "updated_at": _MOMENT},
    "oban_sa_crons": {
        **dict.fromkeys(("name", "expression", "worker", "timezone"), _TEXT),
        "opts": _JSON,
        **dict.fromkeys(("last_at", "inserted_at", "updated_at"), _MOMENT),
    },
}
"""The tables that only a runner and a client need."""

STATES: Final = (
    "available",
    "suspended",
    "scheduled",
    "executing",
    "retryable",
    "completed",
    "discarded",
    "cancelled",
)
INDEXES: Final = (
    "oban_jobs_state_queue_priority_scheduled_at_id_index",
    "oban_jobs_staging_index",
    "oban_jobs_completed_at_index",
    "oban_jobs_cancelled_at_index",
    "oban_jobs_discarded_at_index",
)

_COLUMNS: Final = text(
    """
    SELECT c.relname, a.attname, pg_catalog.format_type(a.atttypid, NULL)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname = CAST(:schema AS text) AND c.relname LIKE 'oban~_%' ESCAPE '~' AND c.relkind IN ('r', 'p', 'v')
    """
)
_LABELS: Final = text(
    """
    SELECT e.enumlabel
    FROM pg_catalog.pg_enum e
    JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = CAST(:schema AS text) AND t.typname = 'oban_job_state'
    """
)
_INDEXES: Final = text(
    """
    SELECT c.relname, i.indisvalid
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_class j ON j.oid = i.indrelid AND j.relname = 'oban_jobs'
    JOIN pg_catalog.pg_namespace n ON n.oid = j.relnamespace
    WHERE n.nspname = CAST(:schema AS text)
    """
)
_FUNCTION: Final = text("SELECT to_regprocedure(CAST(:name AS text))")


def missing(connection: Connection, schema: str = "public", *, enqueueing: bool = False) -> list[str]:
    """Return what a schema lacks, a sentence each; an empty list means that everything is there.

    Tables that another Oban made count as they are. With `enqueueing` only what putting jobs into them needs is
    looked at: `oban_jobs` and its states.
    """
    if enqueueing:
        return _missing_jobs(connection, schema)
    found = lacking(connection, schema)
    recorded = history.installed(connection, schema)
    if recorded < history.LATEST and present(connection, schema, history.RECORD):
        found.append(f"the tables are at version {recorded}; this release works with version {history.LATEST}")
    return found


def lacking(connection: Connection, schema: str) -> list[str]:
    """Return what a schema lacks of what clients and runners work with, whichever version it says it has."""
    columns = _columns(connection, schema)
    if not columns:
        return [_no_jobs(schema)]
    found = [*_about_table("oban_jobs", JOBS, columns), *_about_states(connection, schema)]
    for table, expected in OTHERS.items():
        found += _about_table(table, expected, columns)
    if "oban_jobs" in columns:
        found += _about_indexes(connection, schema)
    return found


def unfinished(connection: Connection, schema: str) -> list[str]:
    """Return what a schema lacks of what our migrations make: beside the above also what others alone need."""
    found = lacking(connection, schema)
    if connection.scalar(_FUNCTION, {"name": f"{ddl.quoted(schema)}.oban_count_estimate(text, text)"}) is None:
        found.append("the function oban_count_estimate is missing")
    return found


def unfit(connection: Connection, schema: str) -> list[str]:
    """Return what speaks against a table of jobs that is there; an empty list where there is none."""
    return _missing_jobs(connection, schema) if present(connection, schema, "oban_jobs") else []


def present(connection: Connection, schema: str, *tables: str) -> list[str]:
    """Return those of `tables`, or of all that we work with, which a schema has; whoever made them."""
    columns = _columns(connection, schema)
    return [table for table in (tables or ("oban_jobs", *OTHERS)) if table in columns]


def _missing_jobs(connection: Connection, schema: str) -> list[str]:
    columns = _columns(connection, schema)
    if "oban_jobs" not in columns:
        return [_no_jobs(schema)]
    return [*_about_table("oban_jobs", JOBS, columns), *_about_states(connection, schema)]


def _no_jobs(schema: str) -> str:
    return f"the schema {schema!r} has no table oban_jobs"


def _columns(connection: Connection, schema: str) -> dict[str, dict[str, str]]:
    columns: dict[str, dict[str, str]] = {}
    for table, column, type_ in connection.execute(_COLUMNS, {"schema": schema}):
        columns.setdefault(table, {})[column] = type_
    return columns


def instructions(schema: str = "public", *, found: int = 0) -> str:
    """Return the migration to write for a schema whose tables are at version `found`, ready to paste."""
    where = "" if schema == "public" else f", schema={schema!r}"
    ddl.quoted(schema)
    return (
        "Add a migration to your Alembic history (alembic revision -m 'Add oban') with\n"
        "\n"
        "    import oban_sa.migrations\n"
        "\n"
        "    def upgrade() -> None:\n"
        f"        op.upgrade_oban(version={history.LATEST}{where})\n"
        "\n"
        "    def downgrade() -> None:\n"
        f"        op.downgrade_oban(version={found}{where})\n"
        "\n"
        "and run: alembic upgrade head\n"
        "Without an Alembic history of your own, run: python -m oban_sa migrate"
        + ("" if schema == "public" else f" --schema {schema}")
    )


def _about_table(table: str, expected: Columns, columns: dict[str, dict[str, str]]) -> Iterator[str]:
    if table not in columns:
        yield f"the table {table} is missing"
        return
    for column, types in expected.items():
        actual = columns[table].get(column)
        if actual is None:
            yield f"the table {table} has no column {column}"
        # A type in a schema off the search path is written with it.
        elif actual.rpartition(".")[2] not in types:
            yield f"the column {table}.{column} is {actual}, not {types[0]}"


def _about_states(connection: Connection, schema: str) -> Iterator[str]:
    labels = set(connection.scalars(_LABELS, {"schema": schema}))
    if not labels:
        yield "the type oban_job_state is missing"
    elif lacking := [state for state in STATES if state not in labels]:
        yield (
            f"the type oban_job_state lacks {_listed(lacking)}; "
            "run the newest migration of the Oban that made it (version 14 of Oban for Elixir)"
        )


def _about_indexes(connection: Connection, schema: str) -> Iterator[str]:
    validity = {name: valid for name, valid in connection.execute(_INDEXES, {"schema": schema})}  # noqa: C416 - rows
    for index in INDEXES:
        if index not in validity:
            yield f"the index {index} is missing"
        elif not validity[index]:
            yield f"the index {index} was left invalid when building it failed; run the migration again"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(repr(word) for word in words)
