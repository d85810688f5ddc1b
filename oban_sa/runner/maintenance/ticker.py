"""Call a part again and again, after errors too."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Protocol

from oban_sa import telemetry
from oban_sa.describe.exceptions import describe
from oban_sa.jobs import backoff
from oban_sa.runner.concurrency.wait import cancelled
from oban_sa.runner.database.errors import is_away, is_locked
from oban_sa.schedule import clock

logger = logging.getLogger("oban_sa.runner")


class Part(Protocol):
    """A part of a runner that does one thing again and again, until it is closed."""

    async def tick(self) -> float:
        """Do what is due and return the seconds until there may be more; may be repeated after any error."""
        ...

    async def close(self) -> None:
        """Let go of everything; never raises because the database is away."""
        ...


class Ticker:
    """Owns the task that ticks a part; a failed tick is repeated with jittered backoff until one succeeds."""

    def __init__(self, name: str, part: Part, *, source: telemetry.Source) -> None:
        self.name = name
        self._part = part
        self._source = source
        self._wake = asyncio.Event()
        self._nudging: asyncio.TimerHandle | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.failing: tuple[float, str] | None = None
        """Since when no tick has succeeded, by `clock.monotonic`, and what the last one raised."""

    def nudge(self) -> None:
        """Tick as soon as possible."""
        self._wake.set()

    def nudge_within(self, seconds: float) -> None:
        """Tick in so many seconds at the latest; however often this is said meanwhile, it ticks once for all."""
        if self._nudging is None:
            self._nudging = asyncio.get_running_loop().call_later(seconds, self._nudged)

    def _nudged(self) -> None:
        self._nudging = None
        self._wake.set()

    async def start(self) -> None:
        """Begin to tick, at once for the first time."""
        self._task = asyncio.create_task(self._run(), name=f"oban_sa {self.name}")

    async def stop(self) -> None:
        """Let a tick that is under way end, for five seconds at most."""
        self._stopping = True
        self._wake.set()
        if self._nudging is not None:
            self._nudging.cancel()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=5)
            await cancelled(self._task)
        await self._part.close()

    async def _run(self) -> None:
        failures, since = 0, 0.0
        while not self._stopping:
            self._wake.clear()
            try:
                rest = await self._part.tick()
            except Exception as error:
                failures += 1
                since = since if failures > 1 else clock.monotonic()
                rest = backoff.retrying(failures)
                self.failing = since, describe(error)
                self._tell(error, failures, rest)
            else:
                if failures:
                    telemetry.emit(
                        telemetry.RunnerRecover(
                            runner=self._source, part=self.name, attempts=failures, duration=clock.monotonic() - since
                        )
                    )
                    failures = 0
                    self.failing = None
            with suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._wake.wait()

    def _tell(self, error: Exception, failures: int, rest: float) -> None:
        telemetry.emit(
            telemetry.RunnerRetry(
                runner=self._source,
                part=self.name,
                attempt=failures,
                retry_in=rest,
                error=error,
                database_away=is_away(error),
            )
        )
        # That the database is away is said once for all parts, where its connections are kept.
        if failures == 1 and is_locked(error):
            logger.warning("the %s waits for a lock that somebody holds, and tries again", self.name)
        elif failures == 1 and not is_away(error):
            logger.error("the %s failed and tries again: %s", self.name, describe(error), exc_info=error)
