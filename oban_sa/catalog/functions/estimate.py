"""The function that guesses how many jobs of a queue have a state.

oban-py and Oban Met call it instead of counting from 50,000 jobs on. Met's leader replaces it by its own, so name and
types are Met's.
"""

from __future__ import annotations

from typing import Final

from oban_sa.catalog.functions.function import Function
from oban_sa.catalog.names import literal


def _estimated(schema: str) -> str:
    return f"""
        DECLARE
            explained json;
        BEGIN
            EXECUTE format(
                'EXPLAIN (FORMAT JSON) SELECT FROM %1$I.oban_jobs'
                ' WHERE state = %2$L::%1$I.oban_job_state AND queue = %3$L',
                {literal(schema)}, $1, $2
            ) INTO explained;
            RETURN least(CAST(explained #>> '{{0,Plan,Plan Rows}}' AS numeric), 2147483647);
        END
    """


COUNT_ESTIMATE: Final = Function("oban_count_estimate", (("state", "text"), ("queue", "text")), "integer", _estimated)
