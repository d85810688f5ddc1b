"""What is counted while a runner works: how attempts ended and how long they took, from the events of telemetry."""

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


class Counts:
    """Counts what the events of one runner tell of, until it is closed; a job costs some microseconds."""

    def __init__(self, source: telemetry.Source) -> None:
        self._source = source
        self._lock = threading.Lock()
        self._found: Snapshot = {}
        self._detach = telemetry.attach(
            self._take,
            telemetry.JobStop,
            telemetry.JobException,
            telemetry.ProducerFetch,
            telemetry.ProducerAck,
            telemetry.LifelineRescue,
            telemetry.PrunerPrune,
            telemetry.SchedulerTick,
        )

    def snapshot(self) -> Snapshot:
        """Return what was counted so far."""
        with self._lock:
            return {
                name: {labels: value.copy() if isinstance(value, list) else value for labels, value in metrics.items()}
                for name, metrics in self._found.items()
            }

    def close(self) -> None:
        """Count no more."""
        self._detach()

    def _take(self, event: telemetry.Event) -> None:
        if event.runner is not self._source:
            return
        with self._lock:
            match event:
                case telemetry.JobStop() | telemetry.JobException():
                    self._add(families.RUNS, (event.queue, event.worker, event.state.value), 1)
                    self._observe(families.RUN_SECONDS, (event.queue, event.worker), event.duration)
                    self._observe(families.WAIT_SECONDS, (event.queue, event.worker), event.queue_time)
                case telemetry.ProducerFetch():
                    self._observe(families.FETCH_SECONDS, (event.queue,), event.duration)
                case telemetry.ProducerAck():
                    queue = event.queue or OTHER
                    self._observe(families.ACK_SECONDS, (queue,), event.duration)
                    self._add(families.STALE, (queue,), event.stale)
                case telemetry.LifelineRescue():
                    self._add(families.RESCUED, (), event.count)
                case telemetry.PrunerPrune():
                    self._add(families.PRUNED, (), event.count)
                case telemetry.SchedulerTick():
                    self._add(families.TICKS, (), event.count)
                case _:
                    pass

    def _add(self, family: Family, labels: Labels, count: float) -> None:
        metrics = self._found.setdefault(family.name, {})
        labels = _known(metrics, labels)
        before = metrics.get(labels, 0.0)
        metrics[labels] = count if isinstance(before, list) else before + count

    def _observe(self, family: Family, labels: Labels, seconds: float) -> None:
        metrics = self._found.setdefault(family.name, {})
        labels = _known(metrics, labels)
        found = metrics.get(labels)
        if not isinstance(found, list):
            found = metrics[labels] = distribution()
        found[bisect_left(SECONDS, seconds)] += 1
        found[-1] += seconds


def _known(metrics: Mapping[Labels, Value], labels: Labels) -> Labels:
    """Return these labels, or those that stand for all others where there are too many different ones."""
    return labels if labels in metrics or len(metrics) < MOST else (OTHER,) * len(labels)
