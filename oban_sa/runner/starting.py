"""The steps of a start: each is tried again where the database, which was reached before, goes away in between."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakSet

from sqlalchemy import Pool, event

from oban_sa import backoff, telemetry
from oban_sa.failures import describe
from oban_sa.periods import describe as span
from oban_sa.runner.disconnects import is_passing
from oban_sa.runner.waiting import cancelled

logger = logging.getLogger("oban_sa.runner")

T = TypeVar("T")

_watched: Final[WeakSet[Pool]] = WeakSet()
_reached: Final[WeakSet[Pool]] = WeakSet()


class StoppedEarly(Exception):
    """The runner was asked to stop before it had started."""


def watch(pool: Pool) -> None:
    """Take note from now on whether a connection of this pool was ever made."""
    if pool not in _watched:
        _watched.add(pool)
        # Before the engine's own, which asks a first connection what server this is.
        event.listen(pool, "connect", lambda *_: _reached.add(pool), insert=True)


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
    that trying again can't mend. Raises `StoppedEarly` once `stopped` is set, whatever the step still waits for.
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
                    telemetry.RunnerRetry(runner=source, part="start", attempt=failures, retry_in=rest, error=error)
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
