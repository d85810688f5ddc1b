"""Where a producer's walk from partition to partition goes on, and when there is nothing to walk for."""

from __future__ import annotations

from typing import Final

LAPS_END: Final = 25
"""Fetches one after another that found nothing, after which a producer waits until it is woken, or polls."""


class Ring:
    """What a producer remembers of the ring of its queue's keys, from one fetch to the next.

    The cursor is as the database told it (`oban_sa.catalog.functions.partitions`): the key that had its turn last,
    how much of its turn it has used, and where the last walk ended that was not finished. Each producer has its own, so
    where several take jobs of a queue each of them lets the keys take turns.
    """

    def __init__(self) -> None:
        self.cursor: str | None = None
        self._in_vain = 0

    def hear(self, cursor: str | None, *, skipped: int, taken: int) -> int:
        """Take note of an answer: how many keys were skipped that are worth another fetch at once.

        A key that another fetch has locked is free in a moment, and where very many keys have no job to be taken, the
        next fetch goes on behind those that this one has passed. Both come to an end: a lock that stays is held by a
        server process that hangs, and a ring of which nothing can be taken is looked at again with the next poll.
        """
        self.cursor = cursor or self.cursor
        self._in_vain = 0 if taken or not skipped else self._in_vain + 1
        if self._in_vain <= LAPS_END:
            return skipped
        self._in_vain = 0
        return 0
