"""Whether a dependency is met, or failed: expressions of a settler's statement (`oban_sa.sql.settle`).

A state is that of `oban_sa_members.settled`, or NULL for what has not ended.
"""

from __future__ import annotations


def met(state: str, forgives: str) -> str:
    """Whether a dependency that is in a state is met: it was completed, or that it ended otherwise is forgiven."""
    bit = f"CASE {state} WHEN 'x' THEN 1 WHEN 'd' THEN 2 WHEN 'g' THEN 4 ELSE 0 END"
    return f"coalesce({state} = 'c' OR ({forgives} & {bit}) > 0, false)"


def failure(state: str, forgives: str, what: str) -> str:
    """The words for a dependency that failed; NULL where it is met, or may yet be."""
    word = f"CASE {state} WHEN 'x' THEN ' was cancelled' WHEN 'd' THEN ' was discarded' ELSE ' was deleted' END"
    return f"CASE WHEN {state} IS NOT NULL AND NOT {met(state, forgives)} THEN {what} || {word} END"


def of_flow(completed_at: str, flow: str) -> str:
    """How a flow ended, as members say it; NULL while it is not over."""
    return (
        f"CASE WHEN {completed_at} IS NULL THEN NULL WHEN {flow}.discarded > 0 THEN 'd' "
        f"WHEN {flow}.cancelled > 0 THEN 'x' ELSE 'c' END"
    )
