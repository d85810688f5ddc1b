"""What is counted while a program works, from the events of telemetry: jobs enqueued, and how attempts ended."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Mapping
from typing import Final

from oban_sa import telemetry
from oban_sa.prometheus import families
from oban_sa.prometheus.families import SECONDS, Family
from oban_sa.prometheus.snapshot import Labels, Snapshot, Value, distribution

MOST: Final = 2_000
"""Different labels of one family, at most: what comes after is counted as `OTHER`, so that no program that makes up
names of queues fills the memory here and in Prometheus."""

OTHER: Final = "(other)"


class _Figures:
    """Counters and histograms, safe to be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: Snapshot = {}

    def snapshot(self) -> Snapshot:
        with self._lock:
            return {
                name: {labels: value.copy() if isinstance(value, list) else value for labels, value in metrics.items()}
                for name, metrics in self._found.items()
            }

    def add(self, family: Family, labels: Labels, count: float) -> None:
        with self._lock:
            metrics = self._found.setdefault(family.name, {})
            labels = _known(metrics, labels)
            before = metrics.get(labels, 0.0)
            metrics[labels] = count if isinstance(before, list) else before + count

    def observe(self, family: Family, labels: Labels, seconds: float) -> None:
        with self._lock:
            metrics = self._found.setdefault(family.name, {})
            labels = _known(metrics, labels)
            found = metrics.get(labels)
            if not isinstance(found, list):
                found = metrics[labels] = distribution()
            found[bisect_left(SECONDS, seconds)] += 1
            found[-1] += seconds


class Enqueued:
    """Counts the jobs that this program enqueues, from its making until it is closed; for a `Collector`.

    For programs that have no runner that counts: `Runner(prometheus=True)` counts those of its schema itself.
    """

    def __init__(self) -> None:
        self._figures = _Figures()
        self._detach = telemetry.attach(self._take, telemetry.JobsEnqueued)

    def metrics(self) -> Snapshot:
        """Return what was counted so far."""
        return self._figures.snapshot()

    def close(self) -> None:
        """Count no more."""
        self._detach()

    def _take(self, event: telemetry.JobsEnqueued) -> None:
        self._figures.add(families.ENQUEUED, (event.queue, event.worker), event.count)


class Counts:
    """Counts what the events of one runner tell of, until it is closed; a job costs some microseconds.

    Of several in one process the first counts the jobs that are enqueued there, for its schema.
    """

    def __init__(self, source: telemetry.Source) -> None:
        self._source = source
        self._figures = _Figures()
        _open.append(self)
        self._detach = telemetry.attach(
            self._take,
            telemetry.JobsEnqueued,
            telemetry.JobStop,
            telemetry.JobException,
            telemetry.ProducerFetch,
            telemetry.ProducerAck,
            telemetry.LifelineRescue,
            telemetry.PrunerPrune,
            telemetry.SchedulerTick,
        )

    @property
    def schema(self) -> str:
        """The schema that the runner's tables are in."""
        return self._source.schema

    def snapshot(self) -> Snapshot:
        """Return what was counted so far."""
        return self._figures.snapshot()

    def close(self) -> None:
        """Count no more."""
        self._detach()
        if self in _open:
            _open.remove(self)

    def _take(self, event: telemetry.Event) -> None:
        add, observe = self._figures.add, self._figures.observe
        if isinstance(event, telemetry.JobsEnqueued):
            # By whatever enqueues in this process, so by no runner.
            schema = event.runner.schema
            if self is next((each for each in _open if each.schema == schema), None):
                add(families.ENQUEUED, (event.queue, event.worker), event.count)
            return
        if event.runner is not self._source:
            return
        match event:
            case telemetry.JobStop() | telemetry.JobException():
                add(families.RUNS, (event.queue, event.worker, event.state.value), 1)
                observe(families.RUN_SECONDS, (event.queue, event.worker), event.duration)
                observe(families.WAIT_SECONDS, (event.queue, event.worker), event.queue_time)
            case telemetry.ProducerFetch():
                observe(families.FETCH_SECONDS, (event.queue,), event.duration)
            case telemetry.ProducerAck():
                queue = event.queue or OTHER
                observe(families.ACK_SECONDS, (queue,), event.duration)
                add(families.STALE, (queue,), event.stale)
            case telemetry.LifelineRescue():
                add(families.RESCUED, (), event.count)
            case telemetry.PrunerPrune():
                add(families.PRUNED, (), event.count)
            case telemetry.SchedulerTick():
                add(families.TICKS, (), event.count)
            case _:
                pass


_open: Final[list[Counts]] = []
"""Those that count in this process, the first one first."""


def _known(metrics: Mapping[Labels, Value], labels: Labels) -> Labels:
    """Return these labels, or those that stand for all others where there are too many different ones."""
    return labels if labels in metrics or len(metrics) < MOST else (OTHER,) * len(labels)
