"""How processes end, in words."""

from __future__ import annotations

import signal


def described(code: int | None) -> str:
    """Say how a process ended, as what follows its name; negative codes are signals, None is unknown."""
    if code is None:
        return "ended, nobody knows how,"
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}{' (out of memory?)' if name == 'SIGKILL' else ''}"
