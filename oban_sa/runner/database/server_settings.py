"""What the runner sets on each of its connections: how the server plans its statements, and how long they may take."""

from __future__ import annotations

from typing import Final

WITHIN: Final = 30.0
"""Seconds that one of the runner's statements may take; all of them are short."""

_PLANNING: Final = {
    # A plan that is made once and kept, when the table is still empty, reads the whole table once it is full.
    "plan_cache_mode": "force_custom_plan",
    # Every row is found by an index, in the order of that index. Statistics from before the last ten thousand jobs
    # must not make the planner read and sort all of them.
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_sort": "off",
    # The little that is read without an index looks so expensive now that it would be compiled first.
    "jit": "off",
}

PLANNING: Final = "SELECT " + ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _PLANNING.items())
"""How the server plans the runner's own statements, on connections of its own."""

LOCK_WITHIN: Final = 2.0
"""Seconds that a statement waits for a lock: longer than the server takes to find a deadlock."""

_LIMITS: Final = {
    # The server gives up by itself, and the connection stays usable. A statement that is given up here alone would go
    # on waiting there, and each new try would add one more connection.
    "lock_timeout": f"{LOCK_WITHIN * 1000:.0f}",
    # For statements whose cancellation never arrives, as where the network is cut.
    "statement_timeout": f"{(WITHIN + 5) * 1000:.0f}",
    # The role's own limits, meant for applications, would end connections that stay: one that listens is idle.
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "idle_in_transaction_session_timeout": f"{2 * WITHIN * 1000:.0f}",
    # A node that stands still, or that the network has cut off, must not keep what its statement has locked, such as a
    # queue with a global limit, until the operating system gives up: that takes a quarter of an hour.
    "tcp_user_timeout": f"{WITHIN * 1000:.0f}",
    # The role's own default may be another one, in which rows that others lock or change fail a statement, and limits
    # of queues do not hold.
    "default_transaction_isolation": "read committed",
}

LIMITS: Final = (
    "SELECT set_config(name, value, false) FROM (VALUES "  # noqa: S608 - all of it is written here
    + ", ".join(f"('{name}', '{value}')" for name, value in _LIMITS.items())
    # Not every version of PostgreSQL knows all of them.
    + ") AS limits (name, value) WHERE current_setting(name, true) IS NOT NULL AND"
)
"""How long the server lets the runner's own statements wait and run."""

JOINING: Final = "SELECT set_config('enable_nestloop', 'off', false)"
"""How it joins jobs with the arrays of a statement: never by reading the whole array for each job."""

_PLAN_ANEW: Final = """DISCARD PLANS;
SELECT set_config('plan_cache_mode',
    CASE WHEN pg_relation_size(oid) >= {enough} AND (reltuples <> 0 OR relpages = 0)
         THEN 'force_generic_plan' ELSE 'force_custom_plan' END,
    false)
FROM pg_class WHERE oid = to_regclass({table}) AND pg_backend_pid() = {pid}"""

ENOUGH: Final = 16_384
"""Bytes of a table from which on plans are kept. For one that is empty, or that a vacuum found empty, all indexes cost
the same, and a plan made then may read a whole index once the table is full."""


def on_connect(pid: int, *, keeps_plans: bool) -> str:
    """Return the statements to run on a new connection to the server process `pid`, in one round trip.

    A pooler, in any mode, tells its clients the pid of another process than the one that answers. Behind it the
    settings would stay on the server's connection for its next user, the application's queries; so there they do
    nothing.
    """
    statements = [LIMITS, f"{PLANNING} WHERE"]
    if keeps_plans:
        statements.append(f"{JOINING} WHERE")
    return ";\n".join(f"{each} pg_backend_pid() = {pid}" for each in statements)


def planning_anew(table: str, pid: int, *, enough: int = ENOUGH) -> str:
    """Return the statements that drop the plans of the server process `pid`, and keep the next if `table` is large.

    `table` is the name of the table, a literal of SQL as `to_regclass` takes it, and `enough` its size in bytes.
    """
    return _PLAN_ANEW.format(enough=enough, table=table, pid=pid)
