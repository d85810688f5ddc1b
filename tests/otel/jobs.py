"""Work for a process, which is instrumented where it is imported there."""

from __future__ import annotations

import multiprocessing

from opentelemetry import trace

from oban_sa import Record, job
from oban_sa.otel import ObanInstrumentor

if multiprocessing.parent_process() is not None:
    ObanInstrumentor().instrument()


@job(executor="process")
def current_trace() -> Record:
    """The trace and the span that are current in the code."""
    context = trace.get_current_span().get_span_context()
    return Record([f"{context.trace_id:032x}", f"{context.span_id:016x}"])
