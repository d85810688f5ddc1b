"""How the server treats the runner's own statements: what it tells the server on each of its connections."""

from __future__ import annotations

from typing import Final

WITHIN: Final = 30.0
"""Seconds that one of the runner's statements may take; all of them are short."""

_PLANNING: Final = {
    # A plan that is made once and kept, when the table is still empty, reads the whole table once it is full.
    "plan_cache_mode": "force_custom_plan",
    # Every row is found by an index, in the order of that index. Statistics that are older than the last ten
    # thousand jobs must not talk anybody into reading and sorting all of them.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    # The little that is read without an index would look so expensive now that it would be compiled first.
    "jit": "off",
}

PLANNING: Final = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _PLANNING.items())
"""How the server plans the runner's own statements, on connections that nobody else uses."""

LOCK_WITHIN: Final = 2.0
"""Seconds that a statement waits for a lock: longer than the server takes to find a deadlock."""

_LIMITS: Final = {
    # The server gives up by itself, and the connection stays usable. What is given up here alone would go on waiting
    # there, and with each new try there would be one connection more.
    "lock_timeout": f"{LOCK_WITHIN * 1000:.0f}",
    # For those whose cancellation never arrives, as where the network is cut.
    "statement_timeout": f"{(WITHIN + 5) * 1000:.0f}",
    # Limits that the role has for others would end what is meant to stay: a connection that listens is idle.
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": f"{2 * WITHIN * 1000:.0f}",
}

LIMITS: Final = (
    "SELECT set_config(name, value, false) FROM (VALUES "  # noqa: S608 - all of it is written here
    + ", ".join(f"('{name}', '{value}')" for name, value in _LIMITS.items())
    # Not every version of PostgreSQL knows all of them.
    + ") AS limits (name, value) WHERE current_setting(name, true) IS NOT NULL AND"
)
"""How long the server lets the runner's own statements wait and run."""

JOINING: Final = "SELECT set_config('enable_nestloop', 'off', false)"
"""How it joins rows with what is said of them: never by going through all that is said for each of them."""

_PLAN_ANEW: Final = """DISCARD PLANS;
SELECT set_config('plan_cache_mode',
    CASE WHEN pg_relation_size(oid) >= {enough} AND (reltuples <> 0 OR relpages = 0)
         THEN 'force_generic_plan' ELSE 'force_custom_plan' END,
    false)
FROM pg_class WHERE oid = to_regclass({table}) AND pg_backend_pid() = {pid}"""

ENOUGH: Final = 16_384
"""Bytes of a table whose plans may be kept. For one that is empty, or is thought to be because a vacuum found no row in
its pages, all indexes are alike, and what is planned then may read all of an index once the table is full."""


def on_connect(pid: int, *, keeps_plans: bool) -> list[str]:
    """Return what to run on a new connection to the server process `pid`.

    A pooler, in whatever mode, tells its clients another process than the one that answers. Behind it the settings
    would stay with the next user of the server's connection, the application's own queries; so nothing is set there.
    """
    statements = [LIMITS, f"{PLANNING} WHERE"]
    if keeps_plans:
        statements.append(f"{JOINING} WHERE")
    return [f"{each} pg_backend_pid() = {pid}" for each in statements]


def planning_anew(table: str, pid: int) -> str:
    """Return what makes the server process `pid` forget its plans, and keep the next ones if `table` is large enough.

    `table` is the name of the table, a literal of SQL as `to_regclass` takes it.
    """
    return _PLAN_ANEW.format(enough=ENOUGH, table=table, pid=pid)
