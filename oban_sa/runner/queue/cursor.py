"""From which position in the order of its jobs a queue's next fetch begins."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import MAXYEAR
from typing import Final

import asyncpg

from oban_sa.schedule import clock
from oban_sa.sql.fetch import BEGINNING, Position

REWIND_EVERY: Final = 0.02
"""Seconds after which a fetch begins at the beginning again."""

SHARE: Final = 9
"""A fetch from the beginning is repeated after SHARE times its own duration, where that is longer."""


class Cursor:
    """While there are more jobs than can be taken, each fetch begins where the last one ended.

    Jobs are found in the order of an index, in which those that were taken leave their entries until a vacuum removes
    them. In a table of millions that may be hundreds of thousands later, and to pass them all again costs each fetch
    more than everything else it does. Jobs that come to stand before the cursor meanwhile, of a higher priority, given
    back, or from a transaction that took long to commit, are found by the next fetch from the beginning: after a while,
    and always before the queue counts as empty.
    """

    def __init__(self) -> None:
        self.full_fetches = 0
        """Fetches one after another that found as many jobs as they asked for."""
        self._position = BEGINNING
        self._rewind_at = 0.0

    def position(self, now: float) -> Position:
        """Return where the next fetch begins, at the moment `now` of this machine's monotonic clock."""
        return BEGINNING if now >= self._rewind_at else self._position

    def advance(self, begun: Position, fetched: Sequence[asyncpg.Record], demand: int, *, duration: float) -> None:
        """Move past what was fetched from the position `begun` on, in order, where `demand` was asked for."""
        if begun is BEGINNING:
            self._rewind_at = clock.monotonic() + max(REWIND_EVERY, SHARE * duration)
        self.full_fetches = self.full_fetches + 1 if len(fetched) >= demand else 0
        # Not after one full fetch: on a queue that runs one job at a time, a lone job is all that was asked for.
        # Nor past the year 9999, which stands for all later moments too: the driver sends it as infinity.
        if self.full_fetches > 1 and (last := fetched[-1])["scheduled_at"].year < MAXYEAR:
            self._position = Position(last["priority"], last["scheduled_at"].replace(tzinfo=None), last["id"])
        else:
            self._position = BEGINNING
