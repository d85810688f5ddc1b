"""This machine's clocks.

What other nodes can see is timed by the database's clock. This one only measures durations, and stamps what stays in
this process.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final


def now() -> datetime:
    """Return the time by this machine's clock, aware and in UTC."""
    return datetime.now(UTC)


monotonic: Final = time.monotonic
"""Returns seconds on a clock that never jumps; only differences have a meaning."""
