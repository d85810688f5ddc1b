"""The runners of a run: real processes, each behind a proxy of its own; one that ends is replaced."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.chaos import ledger
from tests.acceptance.chaos.nursery import Child, Nursery
from tests.acceptance.chaos.proxy import CuttingProxy
from tests.support import plain_url

DEAD_AFTER = 2.0
"""Seconds of silence after which a node is dead."""

FLAGS = (
    *("--heartbeat-every", "0.4", "--dead-after", str(DEAD_AFTER), "--grace", "0.5", "--prune", "never"),
    *("--poll-every", "0.5", "--stage-every", "0.5", "--log-level", "info", "--log-format", "json"),
    *("--keep-young-after", "0.4"),  # which is with every beat, where it is done at all
    *("--process-pool", "2"),
)


LAG = 0.2
"""Seconds by which this process wakes late where the machine stands still."""


@dataclass(slots=True)
class Life:
    """One process of a slot; `told` is what it was told: nothing, "term", or "kill"."""

    node: str
    slot: int
    process: Child
    proxy: CuttingProxy
    told: str = ""
    up: bool = False
    """Whether it has begun to work: what is done to one that starts teaches nothing."""
    over: bool = False


@dataclass
class Herd:
    """Starts, kills and replaces runners, and writes each of that into the ledger."""

    slots: int
    nursery: Nursery
    proxied: Callable[[str], Awaitable[CuttingProxy]]
    logs: Path
    queues: Mapping[str, int]
    imported: str
    """The module that has the jobs."""
    mutants: Sequence[str] = ()
    lives: list[Life] = field(default_factory=list)
    resting: dict[int, float] = field(default_factory=dict)
    replacing: bool = True

    async def start(self, slot: int) -> Life:
        """Start the next process of a slot."""
        node = f"n{slot}.{sum(life.slot == slot for life in self.lives)}"
        proxy = await self.proxied(node)
        url = plain_url(proxy.url) + "?sslmode=disable"
        imports = [word for name in self.mutants for word in ("--import", f"tests.acceptance.chaos.mutants.{name}")]
        queues = ",".join(f"{queue}:{limit}" for queue, limit in self.queues.items())
        words = ["--database-url", url, "--node", node, "--queues", queues, "--import", self.imported, *imports, *FLAGS]
        life = Life(node, slot, await self.nursery.start(words, log=self.logs / f"{node}.log"), proxy)
        self.lives.append(life)
        ledger.write("started", node=node, slot=slot, process=life.process.pid)
        return life

    def current(self, slot: int) -> Life | None:
        """The newest process of a slot, where it runs and was told nothing."""
        found = [life for life in self.lives if life.slot == slot and not life.over and not life.told]
        return found[-1] if found else None

    @property
    def working(self) -> list[Life]:
        """Those that work and were told nothing."""
        return [life for life in self.lives if life.up and not life.over and not life.told]

    def chosen(self, slot: int) -> Life | None:
        """The process of a slot or, where that is only starting, one of those that work."""
        working = self.working
        return next((life for life in working if life.slot == slot), working[slot % len(working)] if working else None)

    async def watch(self) -> None:
        """Take note of those that end, and replace them, for as long as this is not cancelled."""
        before = time.monotonic()
        while True:
            now = time.monotonic()
            if now - before > LAG:
                # The machine stood still, or nearly so: who was silent meanwhile need not have been at fault.
                ledger.write("lag", seconds=now - before)
            before = now
            self.look()
            if self.replacing:
                for slot in range(self.slots):
                    # One that fails to start is not started at once again: the database is away.
                    if self.current(slot) is None and self.resting.get(slot, 0) <= asyncio.get_running_loop().time():
                        await self.start(slot)
            await asyncio.sleep(0.05)

    def look(self) -> None:
        """Take note of those that have ended."""
        for life in self.lives:
            if not life.up and not life.over and '"oban.runner.start"' in life.process.output:
                life.up = True
                ledger.write("up", node=life.node)
            if not life.over and (code := life.process.returncode) is not None:
                life.over = True
                if not life.told:
                    self.resting[life.slot] = asyncio.get_running_loop().time() + 0.3
                ledger.write("exited", node=life.node, slot=life.slot, code=code, told=life.told)

    def kill(self, life: Life, rest: float = 0.0) -> None:
        """Kill a process (SIGKILL); another one starts after `rest` seconds."""
        if life.over or life.told:
            return
        self.resting[life.slot] = asyncio.get_running_loop().time() + rest
        life.told = "kill"
        ledger.write("killing", node=life.node)
        life.process.send(signal.SIGKILL)

    def term(self, life: Life) -> None:
        """Tell a process to stop (SIGTERM); another one starts beside it."""
        if life.over or life.told:
            return
        life.told = "term"
        ledger.write("stopping", node=life.node)
        life.process.send(signal.SIGTERM)

    async def freeze(self, life: Life, seconds: float) -> None:
        """Stop a process (SIGSTOP), and let it go on (SIGCONT)."""
        life.process.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            life.process.send(signal.SIGCONT)

    async def end(self, within: float) -> None:
        """Tell all to stop and wait for it; those that do not are killed."""
        self.replacing = False
        for life in self.lives:
            self.term(life)
        until = asyncio.get_running_loop().time() + within
        while any(not life.over for life in self.lives) and asyncio.get_running_loop().time() < until:
            self.look()
            await asyncio.sleep(0.05)
        for life in self.lives:
            if not life.over:
                ledger.write("stuck", node=life.node)
                life.process.send(signal.SIGKILL)
        while any(not life.over for life in self.lives):
            self.look()
            await asyncio.sleep(0.05)
