"""Where in the order of its jobs a queue is looked at next."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import MAXYEAR
from typing import Final

import asyncpg

from oban_sa import clock
from oban_sa.sql.fetching import BEGINNING, Place

LOOKS_BACK_EVERY: Final = 0.02
"""Seconds after which a burst is looked at from its beginning again."""

SHARE: Final = 9
"""How many times as long as a look from the beginning takes it is looked from elsewhere before the next one."""


class Burst:
    """While there are more jobs than can be taken, each fetch begins where the last one ended.

    Jobs are found in the order of an index, in which those that were taken leave their entries until a vacuum cleans
    them away. In a table of millions that may be hundreds of thousands later, and to pass them all again costs each
    fetch more than everything else it does. What comes to stand before that place meanwhile, of a higher priority or
    from a transaction that took its time, is found when the queue is looked at from its beginning again: after a while,
    and always before the burst counts as over.
    """

    def __init__(self) -> None:
        self._place = BEGINNING
        self._full = 0
        self._looks_back_at = 0.0

    def place(self, now: float) -> Place:
        """Return where the next fetch begins, at the moment `now` of this machine's monotonic clock."""
        return BEGINNING if now >= self._looks_back_at else self._place

    def looked(self, place: Place, fetched: Sequence[asyncpg.Record], demand: int, *, duration: float) -> None:
        """Take note of what was fetched from `place` on, in order, where `demand` was asked for."""
        if place is BEGINNING:
            self._looks_back_at = clock.monotonic() + max(LOOKS_BACK_EVERY, SHARE * duration)
        self._full = self._full + 1 if len(fetched) >= demand else 0
        # Not after one: on a queue that runs one job at a time, a lone job is all that was asked for.
        # And not after a moment that may have been later still, nor is the last one: the driver sends it as infinity.
        if self._full > 1 and (last := fetched[-1])["scheduled_at"].year < MAXYEAR:
            self._place = Place(last["priority"], last["scheduled_at"].replace(tzinfo=None), last["id"])
        else:
            self._place = BEGINNING
