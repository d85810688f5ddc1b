"""Metrics by OpenTelemetry: how long attempts take, and how many jobs there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter

from oban_sa import telemetry
from oban_sa.describe import exceptions
from oban_sa.otel import names
from oban_sa.prometheus import families
from oban_sa.prometheus.families import SECONDS, Family

if TYPE_CHECKING:
    from oban_sa.prometheus.exposition import Measured

OBSERVED: Final = (
    ("oban.jobs.running", families.RUNNING, "{job}"),
    ("oban.queue.limit", families.LIMIT, "{job}"),
    ("oban.jobs", families.JOBS, "{job}"),
    ("oban.queue.oldest", families.OLDEST, "s"),
    ("oban.nodes", families.NODES, "{node}"),
)
"""What `observe` tells: the name, the family that it comes from, and the unit."""

_LABELS: Final = {"queue": names.QUEUE, "worker": names.WORKER, "state": names.STATE}


class Metrics:
    """Measures attempts, and counts jobs that are enqueued, from its making until it is closed."""

    def __init__(self, meter: Meter) -> None:
        self._duration = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="How long attempts took",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._waited = meter.create_histogram(
            "oban.job.wait",
            unit="s",
            description="How long jobs had been due when they were fetched",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._consumed = meter.create_counter(
            "messaging.client.consumed.messages", unit="{message}", description="Attempts that ended"
        )
        self._sent = meter.create_counter(
            "messaging.client.sent.messages", unit="{message}", description="Jobs that were enqueued and committed"
        )
        self._detach = (
            telemetry.attach(self._ended, telemetry.JobStop, telemetry.JobException),
            telemetry.attach(self._enqueued, telemetry.JobsEnqueued),
        )

    def close(self) -> None:
        """Measure no more."""
        for detach in self._detach:
            detach()

    def _enqueued(self, event: telemetry.JobsEnqueued) -> None:
        attributes = {
            names.SYSTEM: names.OBAN,
            names.OPERATION: "send",
            names.QUEUE: event.queue,
            names.WORKER: event.worker,
        }
        self._sent.add(event.count, attributes)

    def _ended(self, event: telemetry.JobEvent) -> None:
        if not isinstance(event, (telemetry.JobStop, telemetry.JobException)):
            return
        attributes = {
            names.SYSTEM: names.OBAN,
            names.OPERATION: "process",
            names.QUEUE: event.queue,
            names.WORKER: event.worker,
        }
        self._waited.record(event.queue_time, attributes)
        attributes[names.STATE] = event.state.value
        if isinstance(event, telemetry.JobException):
            attributes[names.ERROR] = "_OTHER" if event.error is None else exceptions.kind(event.error)
        self._duration.record(event.duration, attributes)
        self._consumed.add(1, attributes)


def observe(*runners: Measured, meter_provider: MeterProvider | None = None) -> None:
    """Tell OpenTelemetry how many jobs run and wait, each time that it asks.

    `runners` count, as `Runner(..., prometheus=True)` does. Jobs that wait are told of by the node that leads, so take
    the maximum over all nodes.
    """
    meter = get_meter("oban_sa", meter_provider=meter_provider)
    for name, family, unit in OBSERVED:
        meter.create_observable_gauge(name, [_observing(runners, family)], unit=unit, description=family.text)


def _observing(runners: Iterable[Measured], family: Family) -> Callable[[CallbackOptions], Iterable[Observation]]:
    keys = [_LABELS[label] for label in family.labels]

    def observing(_: CallbackOptions) -> Iterable[Observation]:
        for runner in runners:
            for labels, value in runner.metrics().get(family.name, {}).items():
                if not isinstance(value, list):
                    yield Observation(value, dict(zip(keys, labels, strict=False)))

    return observing
