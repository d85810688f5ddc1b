"""Tell Oban Web what this node does: gossip, metrics and the crontab, exactly as its own nodes do.

All three are off unless asked for: each costs a notification per second and node, and a NOTIFY serializes commits.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

from oban_sa import telemetry
from oban_sa.jobs import values
from oban_sa.runner.cluster.oban_web_counts import FullCounts
from oban_sa.runner.database.database import Database
from oban_sa.schedule import clock
from oban_sa.sql.notify import NOTIFY
from oban_sa.wire import messages
from oban_sa.wire.sketches import Sketch

logger = logging.getLogger("oban_sa.runner")

EVERY: Final = 1.0
CRONTAB_EVERY: Final = 30.0
_IDENTITY: Final = ("name", "timezone")

_AT_ONCE: Final = 60
"""Series in one message, at most."""


class Checked(Protocol):
    """A queue, as gossip describes it."""

    uuid: UUID
    queue: str
    limit: int
    paused: bool
    started_at: datetime

    @property
    def running(self) -> Iterable[int]: ...


class Metrics:
    """Gathers how jobs ended, and sends it every second."""

    def __init__(
        self,
        database: Database,
        *,
        source: telemetry.Source,
        queues: Callable[[], Iterable[Checked]],
        leading: Callable[[], bool],
        crontab: Sequence[list[Any]] = (),
    ) -> None:
        """`queues` returns the queues of this node; `crontab` is that of the scheduler, as `Scheduler.told` has it."""
        self._line = database.shared
        self._source = source
        self._queues = queues
        self._crontab = crontab
        self._full_counts = FullCounts(database, source=source, leading=leading)
        self._notifying = database.prepare(NOTIFY)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._sketches: dict[tuple[str, str, str, str], Sketch] = {}
        self._crontab_at = 0.0
        self._too_long: set[str] = set()
        self._detach = telemetry.attach(self._job_ended, telemetry.JobStop, telemetry.JobException)

    def hear(self, message: Mapping[str, object]) -> None:
        """Take note of a message on `metrics`; raises for one of an unknown form."""
        self._full_counts.hear(message)

    async def tick(self) -> float:
        """Send gossip and metrics, and the crontab now and then."""
        began = clock.monotonic()
        await self._gossip()
        await self._tell_metrics()
        if self._crontab and began - self._crontab_at >= CRONTAB_EVERY:
            await self._send("cronitor", "crontab", self._fitting(), **self._me())
            self._crontab_at = began
        return max(EVERY - (clock.monotonic() - began), 0.05)

    async def close(self) -> None:
        """Stop listening to events."""
        self._detach()
        await self._line.close()

    async def _gossip(self) -> None:
        checks = [
            {
                "uuid": str(queue.uuid),
                **self._me(),
                "queue": queue.queue,
                "local_limit": queue.limit,
                "paused": queue.paused,
                "running": sorted(queue.running),
                "started_at": queue.started_at.isoformat(),
            }
            for queue in self._queues()
        ]
        for some in _chunks(checks, 10):
            await self._send("gossip", "checks", some)

    async def _tell_metrics(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
            sketches, self._sketches = self._sketches, {}
        series: list[dict[str, Any]] = [
            {"series": "exec_count", "state": state, "queue": queue, "worker": worker, "value": {"data": [count]}}
            for (state, queue, worker), count in counts.items()
        ]
        series += [
            {"series": name, "state": state, "queue": queue, "worker": worker, "value": sketch.value()}
            for (name, state, queue, worker), sketch in sketches.items()
        ]
        series += await self._full_counts.series()
        now = int(clock.now().timestamp())
        for some in _chunks(series, _AT_ONCE):
            await self._send("metrics", "metrics", some, **self._me(), time=now)

    def _job_ended(self, event: telemetry.JobEvent) -> None:
        if event.runner is not self._source or not isinstance(event, (telemetry.JobStop, telemetry.JobException)):
            return
        state = event.state.value
        with self._lock:
            self._counts[state, event.queue, event.worker] += 1
            for name, seconds in (("exec_time", event.duration), ("wait_time", event.queue_time)):
                key = (name, state, event.queue, event.worker)
                sketch = self._sketches.get(key)
                if sketch is None:
                    sketch = self._sketches[key] = Sketch()
                sketch.add(seconds)

    def _fitting(self) -> list[list[Any]]:
        """The crontab, without the jobs' options where it is too long with them."""
        entries = list(self._crontab)
        try:
            messages.encode({"crontab": entries, **self._me()})
        except ValueError:
            if "options" not in self._too_long:
                self._too_long.add("options")
                logger.warning("the crontab is too long for dashboards; they are told of it without its options")
            return [[at, worker, {name: options[name] for name in _IDENTITY}] for at, worker, options in entries]
        return entries

    async def _send(self, short: str, key: str, items: list[Any], **rest: object) -> None:
        """Send items in as many messages as it takes; an item that is too long for one is left out, with a warning."""
        try:
            text = messages.encode({key: items, **rest})
        except ValueError as error:
            # A dashboard keeps the last crontab it got, so half of one would be worse than none.
            if len(items) > 1 and short != "cronitor":
                for half in (items[: len(items) // 2], items[len(items) // 2 :]):
                    await self._send(short, key, half, **rest)
            elif short not in self._too_long:
                self._too_long.add(short)
                logger.warning("dashboards miss something of this node: on %r %s", short, error)
            return
        channel = messages.channel(self._source.schema, short)
        await self._line.fetch(self._notifying, channel=channel, payloads=values.dumps([text]))

    def _me(self) -> dict[str, str]:
        return {"name": self._source.name, "node": self._source.node}


def _chunks(items: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
