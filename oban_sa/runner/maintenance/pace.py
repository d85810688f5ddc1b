"""How long notes of members of flows gather before they are booked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

FEW: Final = 2
"""Notes that are no load: they are booked at once, as where each job of a chain leaves one."""

SHARE: Final = 4
"""How many times as long as a booking takes it is waited before the next one, under load."""

LEAST: Final = 0.001
"""Seconds: a shorter pause is none."""

MOST: Final = 0.025
"""Seconds between two bookings, at most."""

ASIDE: Final = 0.1
"""Seconds between two looks of a node beside another one that books, at most."""


class Found(NamedTuple):
    """The notes of a lane that are to be booked: how many of those that a look counts, and their first and last ids."""

    lane: int
    notes: int
    first: int
    last: int


class Pace:
    """Says when to book: a lone note at once, and under load many at once, whichever node they are from.

    A booking of one note costs nearly as much as one of twenty. So after a booking of more than a `FEW` the next one
    waits, for as long as to spend a fifth of the time with booking. Where other nodes book as well, notes that no look
    has seen before are left until the next look, which comes later each time: most of the time they are booked by
    another node until then. So one of the nodes books nearly everything, and the others cost little.
    """

    def __init__(self) -> None:
        self.pause = 0.0
        """Seconds from a booking to the next one."""
        self._booked_to = 0
        """The highest id of a note that this node has booked, or was there then."""
        self._seen: dict[int, int] = {}
        """By lane, the highest id of a note that was there at the last look."""

    def leaves(self, found: Sequence[Found]) -> bool:
        """Whether these notes are left until the next look."""
        count = sum(each.notes for each in found)
        last = max((each.last for each in found), default=0)
        # Ids are given one after another, so as many notes came since then, and some are not there any more.
        by_others = last - self._booked_to > count
        seen = any(each.first <= self._seen.get(each.lane, 0) for each in found)
        self._seen = {each.lane: each.last for each in found}
        left = bool(found) and self.pause > 0 and by_others and not seen
        if left:
            self.pause = min(2 * self.pause, ASIDE)
        return left

    def booked(self, count: int, seconds: float, last: int) -> None:
        """Note that so many notes were booked in so many seconds; `last` is the highest id that was found."""
        self._booked_to = max(self._booked_to, last)
        if count > FEW:
            self.pause = min(max(SHARE * seconds, LEAST), MOST)
        elif not count and last:
            # Another node is booking just now.
            self.pause = min(max(2 * self.pause, 2 * LEAST), ASIDE)
        else:
            self.pause = self.pause / 2 if self.pause > LEAST else 0.0
