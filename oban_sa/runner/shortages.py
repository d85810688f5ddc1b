"""What keeps a database that is there from writing: a full disk, too little memory, a server that only reads."""

from __future__ import annotations

import logging
from typing import Final

import asyncpg

from oban_sa import clock
from oban_sa.failures import describe
from oban_sa.runner.disconnects import unwrapped

logger = logging.getLogger("oban_sa.runner")

OVER_AFTER: Final = 30.0
"""Seconds without such an error after which it is over: twice the longest pause between two tries."""

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
"""What is the matter, and what to do about it, by the class of the error; the first that fits."""


class Shortages:
    """Tells once when one begins and once when it is over, however often a statement fails and another one works.

    Reads work while the disk is full, and would each time seem to say that the database is back.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._told: dict[str, tuple[float, float]] = {}

    def __bool__(self) -> bool:
        return bool(self._told)

    def began(self, error: BaseException) -> bool:
        """Whether an error is of this kind; told where it is the first one of its spell."""
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
        """Whether one is over by now, the database having answered; then that is told."""
        now = clock.monotonic()
        ended = [what for what, (_, last) in self._told.items() if now - last > OVER_AFTER]
        for what in ended:
            since, last = self._told.pop(what)
            logger.log(self._level, "no longer: %s, as it was for %.0f s", what, last - since)
        return bool(ended)
