"""What a rate has left, told from its row without touching it.

The function `oban_sa_rate` of the migrations decides about starts: it locks the row, and writes it. People who only
look must do neither, and may have no right to. So the same sums are here once more; a test compares both.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from oban_sa.jobs.limits import Rate

SLICES: Final = {"sliding": 61, "fixed": 1, "bucket": 0}
"""How many slices of starts are kept."""

_FARTHEST: Final = 2**52
"""Numbers of slices that are farther from 1970 are none of ours."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A row of `oban_sa_rates`; `full_at` is seconds since 1970, None where nothing was spent yet."""

    width: float = 0.0
    newest: int = 0
    counts: Sequence[int] = ()
    full_at: float | None = None

    @classmethod
    def read(cls, width: float | None, newest: int, counts: Sequence[object] | None, full_at: float | None) -> Kept:
        """Return what columns say; nothing where there is no row, and for what another program wrote.

        `counts` is None for an array that begins elsewhere than at 1.
        """
        if width is None or counts is None or not -_FARTHEST <= newest <= _FARTHEST:
            return cls()
        if full_at is not None and not math.isfinite(full_at):
            return cls()
        starts = [each for each in counts if isinstance(each, int) and each >= 0]
        return cls(width, newest, starts, full_at) if len(starts) == len(counts) else cls()


def left(rate: Rate, kept: Kept, *, now: float, wants: int = 1) -> tuple[int, float | None]:
    """Return how many starts are left, and where `wants` are not, from when on they are; both moments since 1970."""
    debt = max((kept.full_at or 0.0) - now, 0.0)
    if rate.algorithm == "bucket":
        return _of_bucket(rate, kept, debt, now=now, wants=wants)
    keep = SLICES[rate.algorithm]
    slots, latest, width = _slots(rate, kept, debt, now=now)
    used = sum(slots)
    over = used + min(wants, rate.n) - rate.n
    until = None
    for place in range(1, keep + 1):
        if over <= 0:
            break
        over -= slots[place - 1]
        if over <= 0:
            until = max((latest + place) * width, now)
    return max(rate.n - used, 0), until


def weight(rate: Rate, args: object, meta: object) -> int:
    """Return how many starts a job counts for: the whole number where `rate.weight` says, at most all there ever are.

    One where there is none.
    """
    found: object = {"args": args, "meta": meta}
    for name in rate.weight.split(".") if rate.weight is not None else ():
        found = cast("Mapping[str, object]", found).get(name) if isinstance(found, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, (int, float)) or found != found // 1:
        return 1
    return int(min(max(found, 1), rate.n if rate.burst is None else rate.burst))


def _of_bucket(rate: Rate, kept: Kept, debt: float, *, now: float, wants: int) -> tuple[int, float | None]:
    cost, room = rate.span / rate.n, rate.n if rate.burst is None else rate.burst
    if kept.counts and debt > 0:
        debt = sum(kept.counts) * cost
    debt = min(debt, room * cost)
    over = debt - (room - min(wants, room)) * cost
    return math.floor((room * cost - debt) / cost), now + over if over > 0 else None


def _slots(rate: Rate, kept: Kept, debt: float, *, now: float) -> tuple[list[int], int, float]:
    """Return the starts in each slice, the number of the last one, and how many seconds a slice has."""
    keep = SLICES[rate.algorithm]
    width = rate.span / 60 if rate.algorithm == "sliding" else rate.span
    latest = math.floor(now / width)
    passed = latest - kept.newest
    if kept.width == width and len(kept.counts) == keep and passed >= -keep:
        if passed <= 0:
            return list(kept.counts), kept.newest, width
        return [*kept.counts[passed:], *([0] * min(passed, keep))], latest, width
    # It was another rate: what was spent lately counts as if it had all been spent now.
    lately = sum(kept.counts) if debt > 0 and kept.counts else math.ceil(debt / (rate.span / rate.n))
    return [*([0] * (keep - 1)), min(lately, rate.n)], latest, width
