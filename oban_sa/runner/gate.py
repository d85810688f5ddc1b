"""How many attempts may hold a connection at once."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Final

PATIENCE: Final = 0.1
"""Seconds of waiting after which a place beyond the usual ones is taken, where there are such places."""


class Gate:
    """Places for those who hold a connection, given in the order in which they were asked for.

    `beyond` are further places, for which connections have to be opened that nobody keeps. They are worth that only
    where those who hold the others hold them for long, so they are given to whoever has waited for a while.
    """

    def __init__(self, places: int, beyond: int = 0) -> None:
        self.places = places
        self.beyond = beyond
        self.taken = 0
        self._waiting: deque[tuple[asyncio.Future[None], float]] = deque()

    @property
    def waiting(self) -> int:
        """How many wait for a place."""
        return sum(not given.done() for given, _ in self._waiting)

    def enter_now(self) -> bool:
        """Take a place if one is free and nobody waits for it."""
        if self.taken < self.places and not self._waiting:
            self.taken += 1
            return True
        return False

    async def enter(self) -> None:
        """Take a place, after those who asked before."""
        if self.enter_now():
            return
        loop = asyncio.get_running_loop()
        given: asyncio.Future[None] = loop.create_future()
        self._waiting.append((given, loop.time() + PATIENCE))
        timer = loop.call_later(PATIENCE, self._give) if self.beyond else None
        try:
            await given
        except asyncio.CancelledError:
            if given.done() and not given.cancelled():
                self.leave()  # it was given just as nobody wanted it any more
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def leave(self) -> None:
        """Give a place back: to whoever waits longest."""
        self.taken -= 1
        self._give()

    def _give(self) -> None:
        while self._waiting:
            given, patient_until = self._waiting[0]
            if not given.done():
                has_waited = given.get_loop().time() >= patient_until
                if self.taken >= self.places + (self.beyond if has_waited else 0):
                    return
                self.taken += 1
                given.set_result(None)
            self._waiting.popleft()
