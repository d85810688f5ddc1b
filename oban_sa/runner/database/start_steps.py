"""The steps of a start: a step is tried again while the database is away, once it was reached before."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakSet

from sqlalchemy import Pool, event

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.jobs import backoff
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.errors import is_away, is_passing
from oban_sa.schedule.periods import describe as span

logger = logging.getLogger("oban_sa.runner")

T = TypeVar("T")

_watched: Final[WeakSet[Pool]] = WeakSet()
_reached: Final[WeakSet[Pool]] = WeakSet()


class StoppedEarly(Exception):
    """The runner was asked to stop before it had started."""


def watch(pool: Pool) -> None:
    """Note from now on whether a connection of this pool was ever made."""
    if pool not in _watched:
        _watched.add(pool)
        # Before the engine's own, which asks a first connection what server this is.
        event.listen(pool, "connect", lambda *_: _reached.add(pool), insert=True)


def copied(pool: Pool) -> Pool:
    """Return a pool of its own that makes the same connections; it counts as reached where `pool` was."""
    copy = pool.recreate()
    if reached(pool):
        _reached.add(copy)
    return copy


def reached(pool: Pool) -> bool:
    """Whether a connection of a watched pool was made: its address, user, password and database are right."""
    return pool in _reached


async def taken(
    step: Callable[[], Awaitable[T]],
    *,
    pool: Pool,
    stopped: asyncio.Event | None = None,
    source: telemetry.Source | None = None,
) -> T:
    """Take a step and return its answer, again and again while the database is away, with growing pauses.

    Raises what the step raises where the database was never reached, since settings may be wrong, and for every error
    that trying again can't mend. Raises `StoppedEarly` as soon as `stopped` is set; the step is cancelled.
    """
    watch(pool)
    failures = 0
    stopped = stopped or asyncio.Event()
    while True:
        try:
            return await _unless_stopped(step, stopped)
        except Exception as error:
            if not reached(pool) or not is_passing(error):
                raise
            failures += 1
            rest = backoff.retrying(failures)
            if failures == 1:
                logger.warning(
                    "the database went away while the runner starts (%s); it is tried again until it is back",
                    describe(error),
                )
            logger.debug("the start is tried again in %s", span(rest))
            if source is not None:
                telemetry.emit(
                    telemetry.RunnerRetry(
                        runner=source,
                        part="start",
                        attempt=failures,
                        retry_in=rest,
                        error=error,
                        database_away=is_away(error),
                    )
                )
        await _unless_stopped(partial(asyncio.sleep, rest), stopped)


async def _unless_stopped(step: Callable[[], Awaitable[T]], stopped: asyncio.Event) -> T:
    working: asyncio.Future[T] = asyncio.ensure_future(step())
    stopping = asyncio.ensure_future(stopped.wait())
    both: list[asyncio.Future[Any]] = [working, stopping]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise StoppedEarly
    finally:
        stopping.cancel()
        if not working.done():
            await cancelled(working)
