"""The figures of a runner for Prometheus: what was counted so far, and how it stands now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

import orjson

from oban_sa import telemetry
from oban_sa.prometheus import families
from oban_sa.prometheus.counts import Counts
from oban_sa.prometheus.snapshot import Snapshot, dumped
from oban_sa.runner.cluster.notifier import Notifier
from oban_sa.runner.health.http import JSON
from oban_sa.runner.health.loop_lag import Watch
from oban_sa.runner.health.server import Page
from oban_sa.runner.maintenance.backlog import MOST, Backlog


class Served(Protocol):
    """A queue of the runner."""

    queue: str
    limit: int
    paused: bool

    @property
    def running(self) -> Iterable[int]: ...


class Metrics:
    """Counts from its making until it is closed."""

    def __init__(
        self,
        source: telemetry.Source,
        *,
        producers: Callable[[], Iterable[Served]],
        notifier: Notifier,
        watch: Watch | None,
        backlog: Backlog,
        leading: Callable[[], bool],
    ) -> None:
        self._counts = Counts(source)
        self._producers = producers
        self._notifier = notifier
        self._watch = watch
        self._backlog = backlog
        self._leading = leading

    def snapshot(self) -> Snapshot:
        """Return the figures of now."""
        found = self._counts.snapshot()
        producers = list(self._producers())
        found |= {
            families.RUNNING.name: {(each.queue,): float(len(list(each.running))) for each in producers},
            families.LIMIT.name: {(each.queue,): float(each.limit) for each in producers},
            families.PAUSED.name: {(each.queue,): float(each.paused) for each in producers},
            families.LEADER.name: {(): float(self._leading())},
            families.NOTIFIER.name: {(): float(self._notifier.proven)},
        }
        if self._watch is not None:
            found[families.LAG.name] = {(): self._watch.lag}
        if (backlog := self._backlog.found) is not None:
            found |= {
                families.JOBS.name: {key: float(count) for key, count in backlog.jobs.items()},
                families.CAPPED.name: {key: 1.0 for key, count in backlog.jobs.items() if count >= MOST},
                families.OLDEST.name: {(queue,): seconds for queue, seconds in backlog.oldest.items()},
                families.NODES.name: {(queue,): float(nodes) for queue, nodes in backlog.nodes.items()},
            }
        return found

    def close(self) -> None:
        """Count no more."""
        self._counts.close()


def pages(snapshot: Callable[[], Snapshot]) -> dict[str, Page]:
    """Return what is served of figures, by its path: for Prometheus, and for the supervisor of several processes.

    Raises `InvalidOption` where Prometheus' client library is missing.
    """

    async def now() -> Snapshot:
        return snapshot()

    async def figures() -> tuple[bytes, str]:
        return orjson.dumps(dumped(snapshot())), JSON

    return {**merged_pages(now), "/metrics.json": figures}


def merged_pages(snapshot: Callable[[], Awaitable[Snapshot]]) -> dict[str, Page]:
    """Return what a supervisor serves; raises as `pages` does."""
    from oban_sa.prometheus.exposition import CONTENT_TYPE, text

    async def metrics() -> tuple[bytes, str]:
        return text(await snapshot()), CONTENT_TYPE

    return {"/metrics": metrics}
