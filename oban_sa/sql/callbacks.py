"""When the events of a batch happen, whose jobs a settler makes: expressions of its statement (`oban_sa.sql.settle`).

There `f` is the row of a flow, and `a` what is booked of it: how much each counter changes, and `anew`, whether members
of it are retried with their callbacks.
"""

from __future__ import annotations

from typing import Final

COUNTERS: Final = ("total", "unfinished", "completed", "cancelled", "discarded", "attempted")
"""What is counted of the members of a flow."""


def by(count: str, change: str) -> str:
    """A counter and its change. No row may fail the statement, since the lane would never be booked again."""
    return f"CAST(greatest(least(CAST({count} AS bigint) + {change}, 2147483647), -2147483648) AS integer)"


def now(counter: str) -> str:
    """A counter of a flow as it is booked."""
    return by(f"f.{counter}", f"a.{counter}")


OVER: Final = f"{now('unfinished')} = 0 AND (f.completed_at IS NOT NULL OR f.id IN (SELECT id FROM closable))"  # noqa: S608
"""Whether a flow is over."""

_SUCCESS: Final = f"{now('completed')} = {now('total')}"

_HAPPENS: Final = {
    "on_success": f"{OVER} AND {_SUCCESS}",
    "on_discard": f"{now('discarded')} > 0",
    "on_complete": OVER,
    "on_attempt": f"{now('attempted')} >= {now('total')}",
    "on_cancel": f"{now('cancelled')} > 0",
    "on_exhausted": f"{OVER} AND NOT {_SUCCESS}",
}
"""When an event of a batch happens, by its counters."""

EVENTS: Final = f"(VALUES {', '.join(f'({name!r}, {when})' for name, when in _HAPPENS.items())}) AS e(name, happens)"
"""Rows of all events."""

FIRED: Final = f"""CASE WHEN a.anew THEN ARRAY(
            SELECT was.name FROM unnest(f.fired) WITH ORDINALITY AS was(name, place)
            WHERE NOT EXISTS (SELECT FROM {EVENTS} WHERE e.name = was.name AND NOT e.happens) ORDER BY was.place
        ) ELSE f.fired END"""  # noqa: S608 - all of it is written here
"""The events whose jobs are made already, and not again.

After a retry with callbacks these are the events that have happened still, as where another member stays discarded.
"""
