"""Which nodes look for jobs at once where a message tells of a few, and which of them look after those."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple

from oban_sa.schedule import clock
from oban_sa.wire.messages import News

FEW: Final = 2
"""Nodes that are called at least."""

LOOK_AFTER: Final = (0.015, 0.025)
"""Seconds after which each of the next nodes looks whether the job is still there: those called may be dead."""

PASS_ON_AFTER: Final = 0.015
"""Seconds after which a node that was called, and does not take all that there may be, calls all others."""

PASS_ON_EVERY: Final = 0.05
"""Seconds in which all nodes of a queue are called once at most, where all are full."""


class Rank(NamedTuple):
    """Where a node stands among those that work on a queue, which all see alike; `until` is by the monotonic clock."""

    number: int
    nodes: int
    until: float


def called(rank: Rank, news: News) -> float | None:
    """Return after how many seconds a node looks for the jobs that a message tells of; None where it need not.

    As many nodes are called at once as there are jobs, `FEW` at least. The turn says with which of them it begins.
    """
    at_once = max(FEW, news.jobs or 0)
    position = (rank.number - news.turn) % rank.nodes - at_once
    if position < 0:
        return 0
    return LOOK_AFTER[position] if position < len(LOOK_AFTER) else None


class Election:
    """Decides for the producer of one queue on one node what a message on `insert` makes it do.

    A job that is alone needs one node. Were all of them to fetch, each job would cost as many statements as there are
    nodes, and all but one would find nothing. So a message calls a few, and calls others each time:

        called ──────────> fetches at once ── takes all that there are: done
                                           └─ there may be others that it can't take: calls all nodes
        next in line ────> fetches a moment later, unless it has found since that no jobs are left; then as above
        not called ──────> waits for the next message, or poll

    A node that does not know its rank fetches at once, and so do all at a message that does not say how many jobs there
    are: those of other members of the family, and of nodes that call all.
    """

    def __init__(
        self,
        *,
        fetch: Callable[[], None],
        emptied_at: Callable[[], float],
        is_fetching: Callable[[], bool],
        leaves_some: Callable[[], bool],
        call_all: Callable[[], None],
    ) -> None:
        """None of these waits.

        `emptied_at` is when the last fetch began that found less than it asked for, by the monotonic clock.
        `is_fetching` says whether a fetch is still to be sent or answered, after which it is known what it leaves.
        `leaves_some` says whether there may be jobs that this node does not take, for want of room or of their worker.
        """
        self.rank: Rank | None = None
        self._counted_until = 0.0
        self._fetch = fetch
        self._emptied_at = emptied_at
        self._is_fetching = is_fetching
        self._leaves_some = leaves_some
        self._call_all = call_all
        self._heard_at = 0.0
        self._all_called_at = 0.0
        self._looking: asyncio.TimerHandle | None = None
        self._passing: asyncio.TimerHandle | None = None

    def ranked(self, rank: Rank | None) -> None:
        """Take note of this node's rank; None where it has none, as where it is paused."""
        if self.rank is not None and rank is None:
            self._counted_until = self.rank.until  # at most: others may not have seen it yet, and count on this node
        self.rank = rank

    def hear(self, news: News) -> None:
        """Do what a message asks for."""
        if news.jobs == 0:
            return
        now = clock.monotonic()
        rank = self.rank
        if news.jobs is None:
            self._all_called_at = now
            self.close()
        elif rank is not None and now < rank.until and max(FEW, news.jobs) < rank.nodes:
            self._heard_at = now
            after = called(rank, news)
            if after == 0:
                self._look()
            elif after is not None and self._looking is None:
                self._looking = asyncio.get_running_loop().call_later(after, self._look_after)
            return
        elif rank is None and now < self._counted_until:
            self._look()
            return
        self._fetch()

    def close(self) -> None:
        """Forget what was to be done later."""
        for timer in (self._looking, self._passing):
            if timer is not None:
                timer.cancel()
        self._looking = self._passing = None

    def _look_after(self) -> None:
        self._looking = None
        if self._emptied_at() < self._heard_at:
            self._look()

    def _look(self) -> None:
        self._fetch()
        if self._passing is None:
            after = max(PASS_ON_AFTER, self._all_called_at + PASS_ON_EVERY - clock.monotonic())
            self._passing = asyncio.get_running_loop().call_later(after, self._pass_on)

    def _pass_on(self) -> None:
        self._passing = None
        if self._is_fetching():  # on a busy server it takes longer than that
            self._passing = asyncio.get_running_loop().call_later(PASS_ON_AFTER, self._pass_on)
        elif self._leaves_some():
            self._all_called_at = clock.monotonic()
            self._call_all()
