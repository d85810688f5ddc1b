"""What each kind of program may do in the database: the GRANTs that give it, and the question what is not granted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, TypeAlias

from sqlalchemy import Text, TextClause, bindparam, text

from oban_sa.jobs import values

Tables: TypeAlias = Mapping[str, tuple[str, ...]]

_LIMITS: Final = ("oban_sa_uniques", "oban_sa_rates", "oban_sa_leases")
_FLOWS: Final = ("oban_sa_flows", "oban_sa_members", "oban_sa_edges", "oban_sa_gates", "oban_sa_endings")
_STEPS: Final = ("oban_sa_journal", "oban_sa_signals")

_LOOKING: Final[Tables] = dict.fromkeys(
    (
        *("oban_jobs", "oban_producers", "oban_leaders", "oban_peers", "oban_sa_queues", "oban_sa_crons"),
        *_LIMITS,
        *_FLOWS,
        *_STEPS,
        *("oban_sa_metrics", "oban_sa_cron_pauses"),
    ),
    ("SELECT",),
)
_ALL: Final = ("SELECT", "INSERT", "UPDATE", "DELETE")


class Role(NamedTuple):
    """A kind of program: what it is for, and its privileges on the tables."""

    what: str
    tables: Tables
    inserts: bool = False
    """Whether it needs the sequence of `oban_jobs.id`, where another Oban made that a default."""
    creates: bool = False
    """Whether it makes tables in the schema."""
    limits: bool = False
    """Whether it calls the functions of limits."""


ROLES: Final[Mapping[str, Role]] = {
    "application": Role(
        "enqueues, cancels, retries and changes jobs",
        {
            "oban_jobs": ("SELECT", "INSERT", "UPDATE"),
            "oban_sa_uniques": ("SELECT", "INSERT", "UPDATE"),
            "oban_sa_rates": ("SELECT", "INSERT", "UPDATE"),
            "oban_sa_leases": _ALL,
            **dict.fromkeys((*_FLOWS, "oban_sa_signals"), ("SELECT", "INSERT")),
            "oban_sa_journal": ("SELECT",),
        },
        inserts=True,
        limits=True,
    ),
    "operator": Role(
        "looks at everything, cancels, retries and deletes jobs, pauses and scales queues",
        {
            **_LOOKING,
            "oban_jobs": ("SELECT", "UPDATE", "DELETE"),
            "oban_sa_queues": ("SELECT", "INSERT", "UPDATE"),
            "oban_sa_uniques": ("SELECT", "INSERT", "UPDATE"),
            "oban_sa_endings": ("SELECT", "INSERT"),
            "oban_sa_signals": ("SELECT", "INSERT"),
            "oban_sa_cron_pauses": ("SELECT", "INSERT", "DELETE"),
        },
    ),
    "runner": Role(
        "works on jobs",
        {
            "oban_jobs": _ALL,
            "oban_producers": _ALL,
            "oban_leaders": _ALL,
            "oban_peers": ("SELECT",),
            "oban_sa_queues": ("SELECT",),
            "oban_sa_crons": ("SELECT", "INSERT", "UPDATE"),
            "oban_sa_cron_pauses": ("SELECT", "DELETE"),
            "oban_sa_metrics": _ALL,
            **dict.fromkeys((*_LIMITS, *_FLOWS, *_STEPS), _ALL),
        },
        inserts=True,
        limits=True,
    ),
    "reader": Role("looks at everything and changes nothing", _LOOKING),
    "migrator": Role("makes the tables and owns them", {}, creates=True),
}


def grants(role: str, to: str, *, schema: str = "public") -> str:
    """Return the statements that give a database role what one of `ROLES` needs; for the owner of the tables to run.

    Run again they change nothing. The tables have to be there, but for the migrator.
    """
    granted, grantee, where = ROLES[role], _quoted(to), _quoted(schema)
    lines = [f"GRANT {'USAGE, CREATE' if granted.creates else 'USAGE'} ON SCHEMA {where} TO {grantee};"]
    lines += [
        f"GRANT {', '.join(privileges)} ON TABLE {where}.{table} TO {grantee};"
        for table, privileges in granted.tables.items()
    ]
    if granted.inserts:
        lines.append(f"GRANT USAGE ON SEQUENCE {where}.oban_jobs_id_seq TO {grantee};")
    if granted.limits:
        from oban_sa.catalog.functions.limits import FUNCTIONS  # a runner does without that text

        # PUBLIC has it by default, unless ALTER DEFAULT PRIVILEGES took it away.
        lines += [f"GRANT EXECUTE ON FUNCTION {function.named(schema)} TO {grantee};" for function in FUNCTIONS]
    return "\n".join(lines) + "\n"


def runner_needs(*, crontab: bool, prune: bool) -> dict[str, list[str]]:
    """Return the privileges, by table, without which a runner with these features can't do its work."""
    needs = {table: list(privileges) for table, privileges in ROLES["runner"].tables.items()}
    del needs["oban_sa_metrics"]  # no job depends on it
    if not prune:
        needs["oban_jobs"].remove("DELETE")
    if not crontab:  # a worker that enqueues needs it, too, but whether there is one can't be known
        needs["oban_jobs"].remove("INSERT")
        del needs["oban_sa_crons"], needs["oban_sa_cron_pauses"]
    return needs


def needed(schema: str, needs: Mapping[str, Iterable[str]], *, limits: bool = False) -> dict[str, str]:
    """Return the parameters with which `NOT_GRANTED` asks for privileges by table, and for functions of `limits`."""
    wanted = {table: list(each) for table, each in needs.items()}
    return {"schema": schema, "needs": values.dumps(wanted), **functions(limits=limits)}


def functions(*, limits: bool) -> dict[str, str]:
    """Return the parameter with which `NOT_GRANTED` asks for the functions that `limits` call, or for none."""
    if not limits:
        return {"functions": "[]"}
    from oban_sa.catalog.functions.limits import FUNCTIONS

    return {"functions": values.dumps([function.name for function in FUNCTIONS])}


# No to_regclass: it fails where the schema may not be used, which is one of the answers.
NOT_GRANTED: Final[TextClause] = text(
    """
    WITH namespace AS MATERIALIZED (
        SELECT oid FROM pg_catalog.pg_namespace WHERE nspname = CAST(:schema AS text)
    ),
    relation AS MATERIALIZED (
        SELECT c.oid, c.relname FROM pg_catalog.pg_class c JOIN namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p', 'v') AND c.relname LIKE 'oban~_%' ESCAPE '~'
    ),
    need AS (
        SELECT r.oid, r.relname, privilege
        FROM json_each(CAST(CAST(:needs AS text) AS json)) AS wanted(relname, privileges)
        JOIN relation r ON r.relname = wanted.relname
        CROSS JOIN LATERAL json_array_elements_text(wanted.privileges) AS each(privilege)
    )
    SELECT 'USAGE on the schema' AS lacking FROM namespace WHERE NOT has_schema_privilege(oid, 'USAGE')
    UNION ALL
    SELECT privilege || ' on ' || relname FROM need WHERE NOT has_table_privilege(oid, privilege)
    UNION ALL
    SELECT 'USAGE on the sequence ' || s.relname
    FROM need
    JOIN pg_catalog.pg_depend d ON d.refobjid = need.oid AND d.refclassid = CAST('pg_catalog.pg_class' AS regclass)
        AND d.classid = d.refclassid AND d.deptype = 'a'
    JOIN pg_catalog.pg_class s ON s.oid = d.objid
    WHERE need.privilege = 'INSERT' AND CASE WHEN s.relkind = 'S' THEN NOT has_sequence_privilege(s.oid, 'USAGE') END
    UNION ALL
    SELECT CASE WHEN p.oid IS NULL THEN 'the function ' || wanted.name || ', which a migration makes'
        ELSE 'EXECUTE on ' || wanted.name END
    FROM json_array_elements_text(CAST(CAST(:functions AS text) AS json)) AS wanted(name)
    CROSS JOIN namespace n
    LEFT JOIN pg_catalog.pg_proc p ON p.pronamespace = n.oid AND p.proname = wanted.name
    WHERE p.oid IS NULL OR NOT has_function_privilege(p.oid, 'EXECUTE')
    UNION ALL
    SELECT 'EXECUTE on pg_notify(text, text)'
    WHERE NOT has_function_privilege('pg_catalog.pg_notify(text, text)', 'EXECUTE')
    UNION ALL
    SELECT 'writing: ' || CASE WHEN pg_is_in_recovery() THEN 'the server is a standby' ELSE 'it is read-only' END
    WHERE current_setting('transaction_read_only') = 'on'
    """
).bindparams(bindparam("schema", type_=Text()), bindparam("needs", type_=Text()), bindparam("functions", type_=Text()))
"""A row, `lacking`, for each thing that the current role may not do; `needed()` gives the parameters.

Tables that are not there give none; the check of the tables says that they are missing.
"""


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
