"""Tells open pages that something has changed: one look at the tables for all of them, while there are any."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Final

from sqlalchemy import Row

from oban_sa.client import Oban
from oban_sa.client.read import read_session
from oban_sa.schedule import clock
from oban_sa.sql.pulse import pulse

logger = logging.getLogger("oban_sa.web")

EVERY: Final = 1.0
"""Seconds between two looks, where each takes no time to speak of."""
SLOWEST: Final = 10.0
"""Seconds between two looks at most."""
SHARE: Final = 20
"""A look is followed by a pause of so many times as long as it took."""
AT_LEAST: Final = 10.0
"""Seconds after which pages are told even if nothing has changed, since ages are on them too."""
MOST_VIEWERS: Final = 1_000


class Live:
    """The poller of one process; it runs while there are viewers, and ends with the last of them."""

    def __init__(self, reader: Oban) -> None:
        self._reader = reader
        self._viewers: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self.number = 0
        """How often something has changed so far."""
        self.looks = 0
        """How often the tables were looked at."""

    @property
    def viewers(self) -> int:
        """How many pages are open."""
        return len(self._viewers)

    @property
    def running(self) -> bool:
        """Whether the tables are looked at."""
        return self._task is not None

    async def watch(self) -> AsyncGenerator[int]:
        """Yield a number whenever something has changed, from now on until the generator is closed."""
        changed = asyncio.Event()
        self._viewers.add(changed)
        if self._task is None:
            self._task = asyncio.create_task(self._poll(), name="oban_sa dashboard")
        try:
            while True:
                await changed.wait()
                changed.clear()
                yield self.number
        finally:
            self._viewers.discard(changed)
            if not self._viewers:
                self._stop()

    def _stop(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()

    async def _poll(self) -> None:
        last: Row[tuple[object, ...]] | None = None
        found: Row[tuple[object, ...]] | None
        told_at = clock.monotonic()
        while True:
            began = clock.monotonic()
            try:
                found = await self._look()
            except Exception as error:
                # The pages themselves say what is wrong with the database, as soon as somebody asks for one.
                logger.debug("the dashboard could not look for changes: %s", error)
                found = last
                await asyncio.sleep(SLOWEST / 2)
            ended = clock.monotonic()
            if (last is not None and found != last) or ended - told_at >= AT_LEAST:
                self.number += 1
                told_at = ended
                for viewer in self._viewers:
                    viewer.set()
            last = found
            await asyncio.sleep(min(SLOWEST, max(EVERY, SHARE * (ended - began))))

    async def _look(self) -> Row[tuple[object, ...]]:
        self.looks += 1
        async with read_session(self._reader) as session:
            return (await session.execute(pulse())).one()


async def events(live: Live, *, every: float = 15.0) -> AsyncGenerator[bytes]:
    """Yield server-sent events: `hello` at once, `pulse` at each change, and a comment now and then."""
    yield b"retry: 2000\nevent: hello\ndata: 0\n\n"
    watch = live.watch()
    following = asyncio.ensure_future(anext(watch))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=every)
            if not done:
                yield b": still here\n\n"
                continue
            yield b"event: pulse\ndata: %d\n\n" % following.result()
            following = asyncio.ensure_future(anext(watch))
    finally:
        following.cancel()
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            await following
        await watch.aclose()
