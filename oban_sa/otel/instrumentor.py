"""What `opentelemetry-instrument` and programs switch on."""

from __future__ import annotations

from collections.abc import Collection
from importlib.metadata import version
from typing import Any, cast

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]
from opentelemetry.metrics import MeterProvider, get_meter
from opentelemetry.trace import TracerProvider, get_tracer

from oban_sa.errors import InvalidOption, nearest
from oban_sa.otel.metrics import Metrics
from oban_sa.otel.spans import Creating, Links, Spans

_LINKS = ("late", "always", "never")
_OPTIONS = ("tracer_provider", "meter_provider", "create_spans", "links", "metrics")
_CREATING = (False, True, "each")


class ObanInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Takes the context of traces along with jobs, makes a span of each attempt, and measures attempts.

        ObanInstrumentor().instrument(tracer_provider=None, meter_provider=None, create_spans=False, links="late",
                                      metrics=True)

    Call it before runners are made: those there are go on without. With `create_spans` the jobs of a queue that are
    written together have a span `send`, with "each" every job has one `create` of its own, which costs some 90 µs a
    job; else a job knows the span in which it was written, which costs 7. An attempt goes on with the trace of its job,
    or begins one with a link to it: with `links` "late" where the job was made an hour ago or longer, or "always" or
    "never". Raises `InvalidOption` for other values.
    """

    _spans: Spans | None = None
    _metrics: Metrics | None = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """What must be installed for this to make sense."""
        return ("oban-sa",)

    def _instrument(self, **given: Any) -> None:
        for name in given.keys() - _OPTIONS:  # the launcher gives some of its own
            if hint := nearest(name, _OPTIONS):
                raise InvalidOption(f"there is no option {name!r}{hint}")
        links: Links = given.get("links", "late")
        if links not in _LINKS:
            raise InvalidOption(f"links: {links!r} is not one of {', '.join(_LINKS)}")
        creating: Creating = given.get("create_spans", False)
        if creating not in _CREATING:
            raise InvalidOption(f"create_spans: {creating!r} is not one of {', '.join(map(repr, _CREATING))}")
        tracers = cast("TracerProvider | None", given.get("tracer_provider"))
        meters = cast("MeterProvider | None", given.get("meter_provider"))
        ours = version("oban-sa")
        self._spans = Spans(
            get_tracer("oban_sa", ours, tracer_provider=tracers),
            creating=creating,
            links=links,
        )
        if given.get("metrics", True):
            self._metrics = Metrics(get_meter("oban_sa", ours, meter_provider=meters))

    def _uninstrument(self, **_: Any) -> None:
        if self._spans is not None:
            self._spans.close()
        if self._metrics is not None:
            self._metrics.close()
        self._spans = self._metrics = None
