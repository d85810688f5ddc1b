"""One of several runners, as its supervisor sees it: start the process, stop it, start it again when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
from collections.abc import Iterable
from typing import Final

from oban_sa.errors import RunnerError
from oban_sa.jobs import backoff
from oban_sa.runner.concurrency.processes.exit_status import described
from oban_sa.schedule import clock
from oban_sa.schedule.periods import describe
from oban_sa.service.member_main import packed
from oban_sa.settings.options import default_node
from oban_sa.settings.settings import Settings

logger = logging.getLogger("oban_sa.runner")

MODULE: Final = "oban_sa.service.member_main"

STEADY: Final = 30.0
"""Seconds of life after which the death of a runner counts as the first one, so that the pause starts small again."""

PATIENCE: Final = 20.0
"""Seconds beyond the grace period for a runner to write the outcomes of its jobs."""

AT_ONCE: Final = 1.0
"""Seconds that it has after a second signal."""


class Unusable(RunnerError):
    """A runner can't start with its settings; it has said why."""


class Member:
    """One runner in a process of its own; `clean` is false once it had to be killed, or failed while it stopped."""

    def __init__(
        self, settings: Settings, *, queues: Iterable[str], stopping: asyncio.Event, at_once: asyncio.Event
    ) -> None:
        """`queues` are those of all members."""
        self.settings = settings
        self.node = settings.node
        self.pid: int | None = None
        self.clean = True
        self.started = False
        self.health: tuple[str, int] | None = None
        self._packed = packed(settings, queues)
        self._stopping = stopping
        self._at_once = at_once

    async def live(self) -> None:
        """Keep the runner running until asked to stop, or with `until_idle` until it has nothing left to do.

        Raises `Unusable` where it refuses its settings.
        """
        failures = 0
        while not self._stopping.is_set():
            began = clock.monotonic()
            code = await self._life()
            if self._stopping.is_set():
                # One that had only begun to start knows no better way to end.
                if code != 0 and (self.started or code != -signal.SIGTERM):
                    self.clean = False
                    logger.warning("the runner %s %s", self.node, described(code))
                return
            if code == 0 and self.settings.until_idle:
                return
            if code == 2 and not self.started:
                raise Unusable
            failures = 1 if clock.monotonic() - began > STEADY else failures + 1
            rest = backoff.retrying(failures + 2)
            logger.warning("the runner %s %s; it is started again in %s", self.node, described(code), describe(rest))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._stopping.wait()

    async def _life(self) -> int:
        """Start the process once and return how it ended."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.started, self.health = False, None
        with theirs:
            # In a group of its own: Ctrl-C at a terminal is for the supervisor, which passes it on once.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", MODULE, stdin=theirs.fileno(), process_group=0
            )
        self.pid = process.pid
        self.node = self.settings.node or f"{default_node().rpartition('.')[0]}.{process.pid}"
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        writer.write(self._packed)
        listening = asyncio.create_task(self._listen(reader))
        ended = asyncio.create_task(process.wait())
        try:
            if not await _first(ended, self._stopping):
                self._signal(process, signal.SIGTERM)
                if not await _first(ended, self._at_once, within=self.settings.grace + PATIENCE):
                    if self._at_once.is_set():
                        self._signal(process, signal.SIGINT)
                        await asyncio.wait([ended], timeout=AT_ONCE)
                    self._signal(process, signal.SIGKILL)
            return await ended
        finally:
            self.pid, self.health = None, None
            listening.cancel()
            writer.close()
            if not ended.done():
                self._signal(process, signal.SIGKILL)
                await ended

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                told = json.loads(line)
                self.started = True
                if told["health"] is not None:
                    self.health = (told["health"][0], told["health"][1])

    def _signal(self, process: asyncio.subprocess.Process, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)


async def _first(ended: asyncio.Task[int], event: asyncio.Event, *, within: float | None = None) -> bool:
    """Wait for the end of a process or the event, for so many seconds at most; return whether the process has ended."""
    waiting = asyncio.create_task(event.wait())
    await asyncio.wait([ended, waiting], timeout=within, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    return ended.done()
