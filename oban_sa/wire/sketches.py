"""Histograms of durations, in the form that Oban Web merges and draws."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

_ERROR: Final = 0.02
_WIDTH: Final = math.log((1 + _ERROR) / (1 - _ERROR))


class Sketch:
    """A histogram with bins of exponential width (a DDSketch), so that any quantile is right within 2 %.

    The bins are those of Oban Met, which dashboards read: a duration of v nanoseconds, at least 1, counts in bin
    `ceil(ln(v) / ln(1.02 / 0.98))`.
    """

    __slots__ = ("_bins", "_size")

    def __init__(self) -> None:
        self._bins: Counter[int] = Counter()
        self._size = 0

    def add(self, seconds: float) -> None:
        """Count a duration."""
        nanoseconds = max(int(seconds * 1_000_000_000), 1)
        self._bins[math.ceil(math.log(nanoseconds) / _WIDTH)] += 1
        self._size += 1

    def value(self) -> dict[str, dict[str, int] | int]:
        """Return the JSON object for Oban Web: `{"data": {"<bin>": count}, "size": n}`."""
        return {"data": {str(number): count for number, count in sorted(self._bins.items())}, "size": self._size}
