"""What a schema lacks of the tables that oban_sa uses, in sentences; and the migration that makes it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy import Connection, text

from oban_sa.catalog import version
from oban_sa.catalog.functions.function import DIGEST
from oban_sa.catalog.names import quoted

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
"""The columns of `oban_jobs` and the types that members of the Oban family give them; ours is the first."""

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
    "oban_sa_uniques": {"key": ("uuid",), **dict.fromkeys(("job_id", "version"), ("bigint",))},
    "oban_sa_rates": {
        **dict.fromkeys(("name", "key"), _TEXT),
        "width": ("double precision",),
        "newest": ("bigint",),
        "counts": ("integer[]",),
        "full_at": _MOMENT,
    },
    "oban_sa_leases": {
        "id": ("bigint",),
        **dict.fromkeys(("name", "key"), _TEXT),
        "holder": ("uuid",),
        **dict.fromkeys(("taken_at", "expires_at"), _MOMENT),
    },
    "oban_sa_flows": {
        **dict.fromkeys(("id", "root_id"), ("uuid",)),
        "path": ("uuid[]",),
        **dict.fromkeys(("kind", "name", "unique_name"), _TEXT),
        "lane": _WHOLE,
        **dict.fromkeys(("total", "unfinished", "completed", "cancelled", "discarded"), _WHOLE),
        **dict.fromkeys(("context", "callbacks", "meta"), _JSON),
        "fired": _LIST,
        **dict.fromkeys(("inserted_at", "started_at", "completed_at"), _MOMENT),
    },
    "oban_sa_members": {
        "job_id": ("bigint",),
        "flow_id": ("uuid",),
        **dict.fromkeys(("name", "doomed", "settled"), _TEXT),
        **dict.fromkeys(("waiting", "retried"), _WHOLE),
    },
    "oban_sa_edges": {**dict.fromkeys(("parent_id", "child_id"), ("bigint",)), "forgives": _WHOLE},
    "oban_sa_gates": {"flow_id": ("uuid",), "child_id": ("bigint",), "forgives": _WHOLE},
    "oban_sa_endings": {
        "lane": _WHOLE,
        **dict.fromkeys(("id", "job_id"), ("bigint",)),
        "flow_id": ("uuid",),
        "recount": ("boolean",),
    },
    "oban_sa_journal": {
        "job_id": ("bigint",),
        **dict.fromkeys(("name", "code"), _TEXT),
        "value": _JSON,
        **dict.fromkeys(("until", "recorded_at"), _MOMENT),
        "done": ("boolean",),
        "attempt": _WHOLE,
    },
    "oban_sa_signals": {
        **dict.fromkeys(("id", "job_id"), ("bigint",)),
        "name": _TEXT,
        "payload": _JSON,
        "sent_at": _MOMENT,
    },
    "oban_sa_metrics": {
        "step": _WHOLE,
        **dict.fromkeys(("queue", "worker", "node"), _TEXT),
        "at": _MOMENT,
        **dict.fromkeys(("outcomes", "failures", "run", "wait"), _JSON),
        "backlog": _WHOLE,
        "oldest": ("double precision",),
        "flush": ("uuid",),
    },
    "oban_sa_cron_pauses": {"name": _TEXT, "paused_at": _MOMENT},
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
    "oban_jobs_partition_index",
    "oban_jobs_running_index",
    "oban_jobs_sequence_index",
    "oban_jobs_sequence_running_index",
    "oban_jobs_halting_index",
)

FOUND: Final = text(
    f"""
    SELECT 'column' AS kind, CAST(c.relname AS text) AS name, a.attname AS detail,
        pg_catalog.format_type(a.atttypid, NULL) AS value
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE n.nspname = CAST(:schema AS text) AND c.relname LIKE 'oban~_%' ESCAPE '~' AND c.relkind IN ('r', 'p', 'v')
    UNION ALL
    SELECT 'state', e.enumlabel, NULL, NULL
    FROM pg_catalog.pg_enum e
    JOIN pg_catalog.pg_type t ON t.oid = e.enumtypid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE n.nspname = CAST(:schema AS text) AND t.typname = 'oban_job_state'
    UNION ALL
    SELECT 'index', c.relname, NULL, CASE WHEN i.indisvalid THEN 'valid' END
    FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
    JOIN pg_catalog.pg_class j ON j.oid = i.indrelid AND j.relname = 'oban_jobs'
    JOIN pg_catalog.pg_namespace n ON n.oid = j.relnamespace
    WHERE n.nspname = CAST(:schema AS text)
    UNION ALL
    SELECT 'function', p.proname || '(' || pg_catalog.oidvectortypes(p.proargtypes) || ')', NULL,
        CASE WHEN p.proname LIKE 'oban~_sa~_%' ESCAPE '~' THEN {DIGEST} END
    FROM pg_catalog.pg_proc p
    JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = CAST(:schema AS text) AND p.proname LIKE 'oban~_%' ESCAPE '~'
    UNION ALL
    SELECT 'comment', c.relname, NULL, pg_catalog.obj_description(c.oid, 'pg_class')
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = CAST(:schema AS text) AND c.relname = 'oban_sa_queues'
    """  # noqa: S608 - an expression of ours
)
"""All that is to be known of `schema`, in one round trip; `found` reads the rows."""


class Found(NamedTuple):
    """What a schema has of the tables that oban_sa uses, made by any program."""

    version: int
    """The version of our migrations that it is at; 0 where there is none."""
    columns: dict[str, dict[str, str]]
    """By the name of the table, the types of its columns."""
    states: frozenset[str]
    indexes: dict[str, bool]
    """Of `oban_jobs`; False for one that a failed build left invalid."""
    functions: dict[str, str | None]
    """By name and types of the parameters, as in `oban_sa_free(text, integer)`: of ours, a digest of the body."""


def found(rows: Iterable[Any]) -> Found:
    """Read the rows of `FOUND`."""
    columns: dict[str, dict[str, str]] = {}
    states: set[str] = set()
    indexes: dict[str, bool] = {}
    functions: dict[str, str | None] = {}
    recorded = 0
    for kind, name, detail, value in rows:
        if kind == "column":
            columns.setdefault(name, {})[detail] = value
        elif kind == "state":
            states.add(name)
        elif kind == "index":
            indexes[name] = value is not None
        elif kind == "function":
            functions[name] = value
        else:
            recorded = version.recorded(value)
    return Found(recorded, columns, frozenset(states), indexes, functions)


def inspect(connection: Connection, schema: str) -> Found:
    """Return what a schema has; raises InvalidOption for a name that no schema of ours may have."""
    quoted(schema)
    return found(connection.execute(FOUND, {"schema": schema}))


def missing(connection: Connection, schema: str = "public", *, enqueueing: bool = False) -> list[str]:
    """Return what a schema lacks, a sentence each; an empty list means that everything is there.

    Tables of another Oban are accepted as they are. With `enqueueing` only what writing jobs needs is checked:
    `oban_jobs` and its states.
    """
    has = inspect(connection, schema)
    return _missing_jobs(has, schema) if enqueueing else outdated(has, schema)


def outdated(has: Found, schema: str, *, limits: bool = True) -> list[str]:
    """Return what keeps clients and runners from working, a sentence each: `lacking`, or an old version.

    Only runners with `limits` need the functions.
    """
    sentences = lacking(has, schema)
    if limits and has.columns:
        sentences += about_functions(has, schema)
    if has.version < version.LATEST and version.RECORD in has.columns:
        sentences.append(f"the tables are at version {has.version}; this release works with version {version.LATEST}")
    return sentences


def lacking(has: Found, schema: str) -> list[str]:
    """Return what a schema lacks of what clients and runners use, by its catalog and not by its recorded version."""
    if not has.columns:
        return [_no_jobs(schema)]
    sentences = [*_about_table("oban_jobs", JOBS, has.columns), *_about_states(has.states)]
    for table, expected in OTHERS.items():
        sentences += _about_table(table, expected, has.columns)
    if "oban_jobs" in has.columns:
        sentences += _about_indexes(has.indexes)
    return sentences


def unfinished(connection: Connection, schema: str) -> list[str]:
    """Return what a schema lacks of what our migrations make: also what only limits and other Obans use."""
    has = inspect(connection, schema)
    sentences = [*lacking(has, schema), *about_functions(has, schema)]
    if "oban_count_estimate(text, text)" not in has.functions:
        sentences.append("the function oban_count_estimate is missing")
    return sentences


def about_functions(has: Found, schema: str) -> list[str]:
    """Return which functions that limits call are missing, or are not those of this release, a sentence each."""
    from oban_sa.catalog.functions.limits import FUNCTIONS  # a runner without limits does without

    sentences: list[str] = []
    for function in FUNCTIONS:
        if function.signature not in has.functions:
            sentences.append(f"the function {function.signature} is missing")
        # A newer release may have other code, which works for this one as well: its nodes and ours run side by side.
        elif has.version <= version.LATEST and has.functions[function.signature] != function.digest(schema):
            sentences.append(f"the function {function.signature} is not the one that this release makes")
    return sentences


def unfit(has: Found, schema: str) -> list[str]:
    """Return why a table `oban_jobs` that exists can't be used, a sentence each; an empty list where there is none."""
    return _missing_jobs(has, schema) if "oban_jobs" in has.columns else []


def present(has: Found) -> list[str]:
    """Return which of the tables that oban_sa uses a schema has, made by any program."""
    return [table for table in ("oban_jobs", *OTHERS) if table in has.columns]


def _missing_jobs(has: Found, schema: str) -> list[str]:
    if "oban_jobs" not in has.columns:
        return [_no_jobs(schema)]
    return [*_about_table("oban_jobs", JOBS, has.columns), *_about_states(has.states)]


def _no_jobs(schema: str) -> str:
    return f"the schema {schema!r} has no table oban_jobs"


def instructions(schema: str = "public", *, found: int = 0) -> str:
    """Return the migration to write for a schema whose tables are at version `found`, ready to paste."""
    where = "" if schema == "public" else f", schema={schema!r}"
    quoted(schema)  # raises InvalidOption
    return (
        "Add a migration to your Alembic history (alembic revision -m 'Add oban') with\n"
        "\n"
        "    import oban_sa.migrations\n"
        "\n"
        "    def upgrade() -> None:\n"
        f"        op.upgrade_oban(version={version.LATEST}{where})\n"
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
        # format_type() qualifies a type whose schema is not on the search path.
        elif actual.rpartition(".")[2] not in types:
            yield f"the column {table}.{column} is {actual}, not {types[0]}"


def _about_states(states: Collection[str]) -> Iterator[str]:
    if not states:
        yield "the type oban_job_state is missing"
    elif unknown := [state for state in STATES if state not in states]:
        yield (
            f"the type oban_job_state lacks {_listed(unknown)}; "
            "run the newest migration of the Oban that made it (version 14 of Oban for Elixir)"
        )


def _about_indexes(validity: Mapping[str, bool]) -> Iterator[str]:
    for index in INDEXES:
        if index not in validity:
            yield f"the index {index} is missing"
        elif not validity[index]:
            yield f"the index {index} was left invalid when building it failed; run the migration again"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(repr(word) for word in words)
