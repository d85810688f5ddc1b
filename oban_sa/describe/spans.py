"""Spans of time, moments and numbers, as people read them: "3 min 20 s", "2 h ago", "1,234 jobs"."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Final

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def span(seconds: float) -> str:
    """Return a span of time in its two largest units: "3 min 20 s"; "0.4 s" below a second."""
    if math.isinf(seconds):  # counted from 'infinity' or '-infinity' in a row
        return "for ever" if seconds > 0 else span(0)
    seconds = max(0.0, seconds)
    if seconds < 1:
        return f"{seconds:.1f} s"
    rest, parts = int(seconds), list[str]()
    for size, unit in _UNITS:
        if rest >= size:
            parts.append(f"{rest // size} {unit}")
            rest %= size
        elif parts:
            break
    return " ".join(parts[:2])


def duration(seconds: float) -> str:
    """Return how long something lasted, in milliseconds where that is short: "12 ms", "3 min 20 s"."""
    return f"{seconds * 1000:,.0f} ms" if 0 <= seconds < 1 else span(seconds)


def ago(moment: datetime | None, now: datetime) -> str:
    """Return how long ago a moment was, or how far ahead it is: "3 min ago", "in 2 h"; "-" for None."""
    if moment is None:
        return "-"
    seconds = (now - moment).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def exact(value: datetime) -> str:
    """Return a moment in UTC to the second; as it is where UTC has no year for it."""
    try:
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:  # in UTC it is outside of the years 1 to 9999
        return value.isoformat()


def moment(value: datetime | None, now: datetime) -> str:
    """Return a moment in UTC to the second, and how long ago it was; "-" for None."""
    if value is None:
        return "-"
    try:
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC  ({ago(value, now)})"
    except OverflowError:
        return value.isoformat()


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 job`, `1,234 jobs`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
