"""One contender's turn at one scenario, in a process of its own: what it is told, and what it answers.

It is started with a JSON object of options, prepares its tables and jobs, says that it is ready, waits for the word,
does the work that is measured and says what it took; then it checks that the work was really done. Whatever fails ends
the process with a message instead of a figure. Nothing but the standard library is imported here, since other queues
run in environments of their own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from importlib import metadata
from typing import Any


class Turn:
    """The options of this turn, and the clock that runs while it is measured."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.options = options
        self.url: str = options["url"]
        self.jobs: int = options.get("jobs", 0)
        self.concurrency: int = options.get("concurrency", 0)
        self._began: float | None = None
        self._cpu = 0.0

    def ready(self, *, nodes: Sequence[int] = ()) -> None:
        """Wait until the server is at rest and may be measured; the clock runs from then on.

        `nodes` are the ids of processes whose CPU and memory are looked at when the clock starts and stops.
        """
        gc.collect()
        say({"ready": True, "nodes": list(nodes)})
        if sys.stdin.readline().strip() != "go":
            raise SystemExit("the run that started this turn has ended")
        _forget_peak()
        self.start()

    def start(self) -> None:
        """Run the clock from now on."""
        self._cpu, self._began = cpu(), time.perf_counter()

    def done(self, *, jobs: int | None = None, seconds: float | None = None, **found: Any) -> None:
        """Stop the clock, and say what was found; `seconds` for who measured them closer."""
        ended = time.perf_counter()
        assert self._began is not None, "a turn is ready before it is done"
        taken = ended - self._began if seconds is None else seconds
        answer = {"jobs": self.jobs if jobs is None else jobs, "seconds": taken, "cpu": cpu() - self._cpu}
        say({"done": {"memory_mb": peak(), **answer, **found}})

    def measured(self) -> None:
        """After `done`, wait until the nodes have been looked at; until then none may end."""
        sys.stdin.readline()

    def check(self, what: str, found: Any, wanted: Any) -> None:
        """Refuse the figure where the work was not done."""
        if found != wanted:
            raise SystemExit(f"{what}: {found} instead of {wanted}; nothing is counted")

    def once(self, executed: Sequence[int]) -> None:
        """Refuse the figure where not every job ran exactly once."""
        self.check("jobs that ran", len(set(executed)), self.jobs)
        self.check("executions", len(executed), self.jobs)


def queue_names(options: Mapping[str, Any]) -> list[str]:
    """The names of so many queues: "bench", or several that begin so."""
    count = options.get("queues", 1)
    return ["bench"] if count == 1 else [f"bench{number}" for number in range(count)]


async def until(holds: Callable[[], bool], *, within: float, every: float = 0.01) -> None:
    """Return once `holds()` is true, which is asked each `every` seconds; raises `TimeoutError` after `within`."""
    async with asyncio.timeout(within):
        while not holds():  # noqa: ASYNC110 - nothing is measured by it, and the work takes seconds
            await asyncio.sleep(every)


def play(
    kinds: Mapping[str, Callable[[Turn], Coroutine[Any, Any, None]]], *packages: str, loop: str = "uvloop"
) -> None:
    """Take the turn that this process was started for; `packages` are those whose versions are worth knowing."""
    options = json.loads(sys.argv[1])
    kind = options["kind"]
    if kind not in kinds:
        raise SystemExit(f"there is no {kind!r} here; there are {', '.join(kinds)}")
    say({"versions": {"Python": platform.python_version(), **versions(*packages)}})
    with asyncio.Runner(loop_factory=loop_factory(loop)) as runner:
        runner.run(kinds[kind](Turn(options)))


def say(message: Mapping[str, Any]) -> None:
    """Send one line to the process that started this one."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def versions(*packages: str) -> dict[str, str]:
    """The versions of those packages that are installed."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def loop_factory(name: str = "uvloop") -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where it is wanted and installed, else asyncio's own."""
    if name == "uvloop":
        try:
            import uvloop
        except ImportError:
            return None
        made: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
        return made
    return None


def cpu() -> float:
    """Seconds of CPU that this process and its ended children took, in user and system code."""
    spent = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in spent)


def peak() -> float:
    """Megabytes of memory that this process held at most since it was ready."""
    if found := _status("VmHWM"):
        return found
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def memory() -> float:
    """Megabytes of memory that this process holds now; 0 where that can't be known."""
    return _status("VmRSS")


def _status(name: str) -> float:
    try:
        with open("/proc/self/status", encoding="ascii") as lines:
            [line] = [line for line in lines if line.startswith(name + ":")]
    except (OSError, ValueError):
        return 0.0
    return int(line.split()[1]) * 1024 / 1e6


def _forget_peak() -> None:
    if os.path.exists("/proc/self/clear_refs"):
        try:
            with open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
                refs.write("5")
        except OSError:
            return


def percentile(values: Sequence[float], part: float) -> float:
    """The value that `part` of them do not exceed."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * part), len(ordered) - 1)]
