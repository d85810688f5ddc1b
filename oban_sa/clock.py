"""The one place that asks this machine for the time.

What another node can see is decided by the database's clock; this one only measures how long something took here,
and stamps what stays in this process.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime


def now() -> datetime:
    """Return this machine's idea of the present moment, aware and in UTC."""
    return datetime.now(UTC)


def monotonic() -> float:
    """Return seconds on a clock that never jumps; only differences mean anything."""
    return time.monotonic()
