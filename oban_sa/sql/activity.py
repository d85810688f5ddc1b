"""Find connections that do nothing, and keep a transaction open all the same."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    Double,
    Executable,
    Integer,
    TextClause,
    bindparam,
    cast,
    column,
    func,
    select,
    table,
    text,
)

from oban_sa.sql.expressions import inline

_activity = table(
    "pg_stat_activity", column("pid", Integer()), column("state"), column("state_change"), schema="pg_catalog"
)


def idle() -> Executable:
    """`pid` and the seconds for which it has been `idle`, of each that waits in a transaction for its client.

    Parameter: `pids`.
    """
    idle = cast(func.date_part(inline("'epoch'"), func.clock_timestamp() - _activity.c.state_change), Double)
    return select(_activity.c.pid, idle.label("idle")).where(
        _activity.c.pid == func.any(bindparam("pids", type_=ARRAY(Integer()))),
        _activity.c.state.in_([inline("'idle in transaction'"), inline("'idle in transaction (aborted)'")]),
    )


def idle_limits() -> TextClause:
    """After how many seconds the server ends sessions of this user by itself: rows of `name`, `seconds`.

    What the session began with, and not what it has set for itself since.
    """
    return text(
        "SELECT name, CASE unit WHEN 'ms' THEN reset_val::float / 1000 END AS seconds FROM pg_settings "
        "WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout') AND reset_val <> '0'"
    )
