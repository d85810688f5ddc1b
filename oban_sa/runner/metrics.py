"""Tell Oban Web what this node does: gossip, metrics and the crontab, exactly as its own nodes do.

All three are off unless asked for: each costs a notification per second and node, and a NOTIFY serializes commits.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Final, Protocol
from uuid import UUID

import orjson

from oban_sa import clock, messages, telemetry, values
from oban_sa.cronentry import CronEntry
from oban_sa.runner.database import Database
from oban_sa.runner.sketches import Sketch
from oban_sa.sql.counting import counting, estimate, estimating
from oban_sa.sql.notifying import NOTIFY

logger = logging.getLogger("oban_sa.runner")

EVERY: Final = 1.0
CRONTAB_EVERY: Final = 30.0
EXACT_UP_TO: Final = 50_000
"""Jobs of one state and queue up to which they are counted; beyond it the planner's estimate is told."""

_AT_ONCE: Final = 60
"""Series in one message; what is left over goes into the next."""


class Checked(Protocol):
    """A queue as it is told of in gossip."""

    uuid: UUID
    queue: str
    limit: int
    paused: bool
    started_at: datetime

    @property
    def running(self) -> Iterable[int]: ...


class Metrics:
    """Gathers what jobs did since it last spoke, and speaks every second."""

    def __init__(
        self,
        database: Database,
        *,
        source: telemetry.Source,
        queues: Callable[[], Iterable[Checked]],
        leading: Callable[[], bool],
        crontab: Sequence[CronEntry] = (),
    ) -> None:
        self._line = database.house
        self._source = source
        self._queues = queues
        self._leading = leading
        self._crontab = crontab
        self._counting = database.prepare(counting())
        self._estimating = database.prepare(estimating())
        self._notifying = database.prepare(NOTIFY)
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str, str]] = Counter()
        self._sketches: dict[tuple[str, str, str, str], Sketch] = {}
        self._crontab_at = 0.0
        self._too_long: set[str] = set()
        self._detach = telemetry.attach(self._job_ended, telemetry.JobStop, telemetry.JobException)

    async def tick(self) -> float:
        """Say what there is to say."""
        began = clock.monotonic()
        await self._gossip()
        await self._tell_metrics()
        if self._crontab and began - self._crontab_at >= CRONTAB_EVERY:
            await self._send("cronitor", "crontab", [self._cron(entry) for entry in self._crontab], **self._me())
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
        if self._leading():
            series += [
                {"series": "full_count", "state": state, "queue": queue, "value": {"data": [count]}}
                for state, queue, count in await self._full_counts()
            ]
        now = int(clock.now().timestamp())
        for some in _chunks(series, _AT_ONCE):
            await self._send("metrics", "metrics", some, **self._me(), time=now)

    async def _full_counts(self) -> list[tuple[str, str, int]]:
        counted: list[tuple[str, str, int]] = []
        for row in await self._line.fetch(self._counting, limit=EXACT_UP_TO):
            count = row["count"]
            if count >= EXACT_UP_TO:
                plan = await self._line.fetch(self._estimating, state=row["state"], queue=row["queue"])
                count = max(count, estimate(_parsed(plan[0][0])))
            counted.append((row["state"], row["queue"], count))
        return counted

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

    async def _send(self, short: str, key: str, items: list[Any], **rest: Any) -> None:
        """Say it in as many messages as it takes; what is too long by itself is left out, with one word about it."""
        try:
            text = messages.encode({key: items, **rest})
        except ValueError as error:
            # Of a crontab the last message counts, so half of one would be worse than none.
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

    def _cron(self, entry: CronEntry) -> list[Any]:
        return [entry.expression, str(entry.worker), {"name": entry.name, "timezone": entry.timezone}]


def _chunks(items: list[dict[str, Any]], size: int) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _parsed(plan: Any) -> Any:
    return orjson.loads(plan) if isinstance(plan, (str, bytes)) else plan
