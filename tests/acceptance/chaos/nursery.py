"""Starts the runners of a run quickly, each a process of its own with a log of its own.

A run kills dozens of them, and on a busy machine nearly all of its time would be spent on importing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests import nursery
from tests.support import ROOT, environment


class Child:
    """A runner; what it says is in its `log`."""

    def __init__(self, forked: nursery.Forked, log: Path) -> None:
        self._forked = forked
        self.pid = forked.pid
        self.log = log

    @property
    def returncode(self) -> int | None:
        """None while it runs; minus the signal's number where a signal ended it."""
        return self._forked.poll()

    @property
    def output(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def send(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        self._forked.send_signal(number)


class Nursery:
    """The process that the others are forked from; entered once, and all of them end with it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self._env = environment(env)
        self._nursery: nursery.Nursery | None = None

    async def __aenter__(self) -> Self:
        self._nursery = nursery.Nursery(self._env, ROOT)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._nursery is not None
        await asyncio.to_thread(self._nursery.close)

    async def start(self, arguments: Sequence[str], *, log: Path) -> Child:
        """Start the runner command with these arguments."""
        return await asyncio.to_thread(self._start, ["-m", "oban_sa.runner", *arguments], log)

    def _start(self, command: Sequence[str], log: Path) -> Child:
        assert self._nursery is not None
        with log.open("ab") as said:
            return Child(self._nursery.start(command, env=self._env, cwd=ROOT, log=said), log)
