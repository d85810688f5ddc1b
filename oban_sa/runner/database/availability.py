"""Whether the database is there and can write: told once when it is not and once when it is again."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import asyncpg

from oban_sa.describe.exceptions import describe
from oban_sa.runner.database.errors import POOLED, unwrapped, wanting
from oban_sa.schedule import clock

logger = logging.getLogger("oban_sa.runner")

CROWDED_EVERY: Final = 300.0
"""Seconds between two warnings that the server has no connection left."""

OVER_AFTER: Final = 30.0
"""Seconds without an error of a shortage after which the shortage is over: twice the longest pause between tries."""

_WORDS: Final[dict[type[BaseException], tuple[str, str]]] = {
    asyncpg.DiskFullError: (
        "the disk of the database is full",
        "make room on it; outcomes are kept here and written then, and no job begins meanwhile",
    ),
    asyncpg.ReadOnlySQLTransactionError: (
        "the database takes no writes, as a standby does or a server with default_transaction_read_only",
        "let the URL lead to the primary (target_session_attrs=read-write finds it); outcomes are kept until then",
    ),
    asyncpg.OutOfMemoryError: (
        "the database is out of memory, or its table of locks is full",
        "lower work_mem or max_connections, or raise max_locks_per_transaction; work goes on once it has some",
    ),
    asyncpg.ConfigurationLimitExceededError: (
        "the database has reached a limit of its configuration",
        "raise the limit it names; work goes on then",
    ),
    asyncpg.exceptions.InsufficientResourcesError: (
        "the database lacks resources",
        "work goes on once it has them",
    ),
}
"""What is wrong and what to do, by the class of the error; the first class that fits counts."""


class Availability:
    """What a runner's connections have met, all together.

    Nothing of it is repeated for each statement that fails: a database that is away makes many fail.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        """With `quiet` it is logged for debugging alone: another object of this runner warns."""
        self.heard_again: list[Callable[[], None]] = []
        """Called, on the loop, when the database answers again."""
        self.queues = 0
        """How many queues the runner serves, each on a connection of its own."""
        self.troubled = False
        """Whether something was wrong and is not known to be over; `came_back` is for then alone."""
        self._level = logging.DEBUG if quiet else logging.WARNING
        self._away_since: float | None = None
        self._misled = False
        self._crowded_at: float | None = None
        self._shortages = Shortages(self._level)

    def went_away(self, error: BaseException) -> None:
        """Take note that the database could not be reached, or could not do what it was asked for."""
        if isinstance(unwrapped(error), asyncpg.TooManyConnectionsError):
            # Others of this runner's connections may work meanwhile, which would say each time that it's back.
            self._crowded(error)
            return
        self.troubled = True
        if not self._shortages.began(error) and self._away_since is None:
            self._away_since = clock.monotonic()
            logger.log(self._level, "the database is away (%s); work goes on once it is back", describe(error))

    def came_back(self) -> None:
        """Take note that the database has answered."""
        if self._away_since is not None:
            logger.log(self._level, "the database is back after %.1f s", clock.monotonic() - self._away_since)
            self._away_since = None
            self._call()
        if self._shortages and self._shortages.over():
            self._call()
        self.troubled = bool(self._shortages)

    def misled(self, error: BaseException) -> None:
        """Take note that a prepared statement got lost on the way to the database."""
        if not self._misled:
            self._misled = True
            logger.error("the database is behind %s (%s)", POOLED, describe(error))

    def _crowded(self, error: BaseException) -> None:
        if self._crowded_at is None or clock.monotonic() - self._crowded_at > CROWDED_EVERY:
            self._crowded_at = clock.monotonic()
            logger.log(
                self._level,
                "the server has no connection left (%s); %s",
                describe(error),
                wanting(self.queues),
            )

    def _call(self) -> None:
        for heard in self.heard_again:
            heard()


class Shortages:
    """Logs once when a shortage begins and once when it is over, however often a statement fails and another one works.

    Reads work while the disk is full, so an answer does not mean that it is over.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._told: dict[str, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def began(self, error: BaseException) -> bool:
        """Whether an error means a shortage; logged where that is new."""
        original = unwrapped(error)
        words = next((said for kind, said in _WORDS.items() if isinstance(original, kind)), None)
        if words is None:
            return False
        what, advice = words
        now = clock.monotonic()
        since, last = self._told.get(what, (now, now))
        if what not in self._told or now - last > OVER_AFTER:
            since = now
            logger.log(self._level, "%s (%s); %s", what, describe(error), advice)
        self._told[what] = (since, now)
        return True

    def over(self) -> bool:
        """Whether a shortage is over, now that the database has answered; then that is logged."""
        now = clock.monotonic()
        ended = [what for what, (_, last) in self._told.items() if now - last > OVER_AFTER]
        for what in ended:
            since, last = self._told.pop(what)
            logger.log(self._level, "no longer: %s, as it was for %.0f s", what, last - since)
        return bool(ended)
