"""Figures as Prometheus reads them, by its own client library."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate
from typing import Final, Protocol

from oban_sa.errors import InvalidOption
from oban_sa.prometheus.families import FAMILIES, SECONDS, Family
from oban_sa.prometheus.snapshot import RUNNER, Labels, Snapshot, Value

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
    from prometheus_client.exposition import generate_latest
    from prometheus_client.registry import Collector as _Collector
    from prometheus_client.registry import CollectorRegistry
except ImportError as missing:
    raise InvalidOption(
        "metrics for Prometheus need its client library; install it: pip install 'oban-sa[prometheus]'"
    ) from missing

__all__ = ["CONTENT_TYPE", "Collector", "text"]

BOUNDS: Final = (*(f"{bound:g}" for bound in SECONDS), "+Inf")
"""The labels `le` of buckets."""


class Measured(Protocol):
    """What has figures, such as a `Runner(prometheus=True)`."""

    def metrics(self) -> Snapshot:
        """The figures of now."""
        ...


class Collector(_Collector):
    """Collects the figures of runners for a registry of the program's own, beside the program's other metrics.

    REGISTRY.register(Collector(runner))
    """

    def __init__(self, *runners: Measured) -> None:
        self._runners = runners

    def collect(self) -> Iterator[Metric]:
        """Called by the registry at each scrape."""
        for runner in self._runners:
            yield from _metrics(runner.metrics())


def text(snapshot: Snapshot) -> bytes:
    """Return figures in the text format, whose type is `CONTENT_TYPE`."""

    class Once(_Collector):
        def collect(self) -> Iterable[Metric]:
            return _metrics(snapshot)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Once())
    return generate_latest(registry)


def _metrics(snapshot: Snapshot) -> Iterator[Metric]:
    for family in FAMILIES.values():
        if metrics := snapshot.get(family.name):
            several = len(next(iter(metrics))) > len(family.labels)
            names = [*family.labels, RUNNER] if several else [*family.labels]
            yield _MADE[family.kind](family, names, metrics.items())


def _single(
    kind: type[CounterMetricFamily | GaugeMetricFamily],
    family: Family,
    names: list[str],
    metrics: Iterable[tuple[Labels, Value]],
) -> Metric:
    made = kind(family.name, family.text, labels=names)
    for labels, value in metrics:
        if not isinstance(value, list):
            made.add_metric(labels, value)
    return made


def _histogram(family: Family, names: list[str], metrics: Iterable[tuple[Labels, Value]]) -> Metric:
    made = HistogramMetricFamily(family.name, family.text, labels=names)
    for labels, value in metrics:
        if isinstance(value, list):
            *buckets, total = value
            made.add_metric(labels, list(zip(BOUNDS, accumulate(buckets), strict=True)), total)
    return made


_MADE: Final[dict[str, Callable[[Family, list[str], Iterable[tuple[Labels, Value]]], Metric]]] = {
    "counter": partial(_single, CounterMetricFamily),
    "gauge": partial(_single, GaugeMetricFamily),
    "histogram": _histogram,
}
