"""How long to wait before another attempt; all jitter lives here."""

from __future__ import annotations

import random
from typing import Final

_SHORTEST: Final = 15
_CLAMPED: Final = 20
_HIGHEST_EXPONENT: Final = 30  # 34 years; an attempt beyond its maximum must still give a moment that a timestamp holds

REFUSED_WAITS: Final = 60.0
"""Seconds that a job waits which a rule of the database keeps from being available, before it is tried again."""


def exponential(attempt: int, *, max_attempts: int = 20) -> float:
    """Return `15 + 2**attempt` seconds, without jitter.

    With more than 20 attempts the exponent is clamped proportionally, so that the last wait is that of the twentieth
    of 20: about twelve days. The rule is the one of the Oban family.
    """
    exponent = attempt if max_attempts <= _CLAMPED else round(attempt / max_attempts * _CLAMPED)
    return float(_SHORTEST + 2 ** min(exponent, _HIGHEST_EXPONENT))


def jittered(seconds: float, *, ratio: float = 0.1) -> float:
    """Return `seconds` lengthened at random by at most `ratio` of them, never shortened."""
    return seconds * (1 + random.random() * ratio)


def default(attempt: int, max_attempts: int) -> float:
    """Return how many seconds a job waits after its failed `attempt` when its worker doesn't say."""
    return jittered(exponential(attempt, max_attempts=max_attempts))


def retrying(attempt: int) -> float:
    """Return how many seconds a runner waits before it repeats a query of its own that failed `attempt` times.

    From a tenth of a second after the first failure, doubling, to fifteen seconds at most; each is shortened at random
    by up to half, so that many runners don't come back to a recovering database all at once.
    """
    whole = min(0.1 * float(2 ** min(max(attempt - 1, 0), 10)), 15.0)
    return max(0.1, whole * (0.5 + random.random() / 2))
