"""OpenTelemetry with its figures and spans in memory, and a runner that is instrumented."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from oban_sa.otel import ObanInstrumentor
from tests.runner.conftest import harness, registry

__all__ = ["harness", "registry"]


class Traced:
    """What was told to OpenTelemetry."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.tracer = self.tracers.get_tracer("the program")

    def spans(self, name: str | None = None) -> list[ReadableSpan]:
        """The spans that have ended."""
        return [span for span in self.exporter.get_finished_spans() if name is None or span.name == name]

    def span(self, name: str) -> ReadableSpan:
        """The one that has this name."""
        [found] = self.spans(name)
        return found

    def points(self, name: str) -> list[Any]:
        """The data points of a metric."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in ([] if data is None else data.resource_metrics)
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.fixture
def instrument(traced: Traced) -> Iterator[Callable[..., None]]:
    """Switch it on with these options; it is switched off again after the test."""

    def on(**options: Any) -> None:
        ObanInstrumentor().instrument(tracer_provider=traced.tracers, meter_provider=traced.meters, **options)

    yield on
    ObanInstrumentor().uninstrument()
