"""The commands for people with the plans of their statements, as counted by the server: for `full` and for tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine

from oban_sa.cli import _database


@contextmanager
def explaining(seen: Callable[[str, dict[str, Any]], None]) -> Iterator[None]:
    """Inside the block call `seen` with each statement about our tables that a command runs, and its plan.

    A statement is explained on the command's own connection before it runs, with EXPLAIN (ANALYZE, BUFFERS), and what
    that did is undone.
    """
    create = _database.create_engine  # type: ignore[attr-defined]

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "oban_" not in statement or "pg_catalog" in statement or statement.startswith("EXPLAIN"):
            return
        alone = connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
        cursor = connection.connection.cursor()
        cursor.execute("BEGIN" if alone else "SAVEPOINT explained")
        cursor.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters)
        answer = cursor.fetchall()[0][0]
        cursor.execute("ROLLBACK" if alone else "ROLLBACK TO SAVEPOINT explained")
        seen(statement, (json.loads(answer) if isinstance(answer, str) else answer)[0]["Plan"])

    def create_engine(*given: Any, **options: Any) -> AsyncEngine:
        engine = create(*given, **options)
        event.listen(engine.sync_engine, "before_cursor_execute", explain)
        return engine

    _database.create_engine = create_engine  # type: ignore[attr-defined]
    try:
        yield
    finally:
        _database.create_engine = create  # type: ignore[attr-defined]


def buffers(plan: dict[str, Any]) -> int:
    """Pages that a plan read, from memory or from disk."""
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])
