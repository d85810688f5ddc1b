"""Traces and metrics by OpenTelemetry: the context of who enqueued a job reaches the code that works on it.

    from oban_sa.otel import ObanInstrumentor

    ObanInstrumentor().instrument()

`opentelemetry-instrument` does this by itself. Needs `pip install 'oban-sa[otel]'`.
"""

from __future__ import annotations

from oban_sa.errors import InvalidOption

try:
    from oban_sa.otel.instrumentor import ObanInstrumentor
    from oban_sa.otel.metrics import observe
except ImportError as missing:
    if (missing.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise InvalidOption("traces need OpenTelemetry's API; install it: pip install 'oban-sa[otel]'") from missing

__all__ = ["ObanInstrumentor", "observe"]
