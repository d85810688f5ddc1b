"""Histograms of durations, in the form that Oban Web merges and draws."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

_ERROR: Final = 0.02
_WIDTH: Final = math.log((1 + _ERROR) / (1 - _ERROR))
_LAST: Final = 1_500
"""A bin above all durations there are (a year is bin 949), and below what no float can hold."""


def bin_of(seconds: float) -> int:
    """Return the bin of a duration, by the rule of `Sketch`."""
    return math.ceil(math.log(max(int(seconds * 1_000_000_000), 1)) / _WIDTH)


def seconds_of(number: int) -> float:
    """Return the duration in seconds that stands for all of a bin: none of them is further from it than 2 %."""
    return (1 - _ERROR) * math.exp(min(number, _LAST) * _WIDTH) / 1_000_000_000


def quantiles(bins: Mapping[int, int], shares: Sequence[float]) -> list[float | None]:
    """Return of each share (0 to 1, ascending) the seconds below which it lies of what was counted in bins.

    None where that is nothing.
    """
    total = sum(bins.values())
    if not total:
        return [None] * len(shares)
    found: list[float | None] = []
    numbers = iter(sorted(bins))
    number = next(numbers)
    below = bins[number]
    for share in shares:
        rank = share * (total - 1)
        while below <= rank and (after := next(numbers, None)) is not None:
            number, below = after, below + bins[after]
        found.append(seconds_of(number))
    return found


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
        self._bins[bin_of(seconds)] += 1
        self._size += 1

    def value(self) -> dict[str, dict[str, int] | int]:
        """Return the JSON object for Oban Web: `{"data": {"<bin>": count}, "size": n}`."""
        return {"data": {str(number): count for number, count in sorted(self._bins.items())}, "size": self._size}
